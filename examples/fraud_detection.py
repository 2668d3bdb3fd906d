"""Card fraud from transactions to an explanation: features as they were known, a threshold, bias by a group.

    python examples/fraud_detection.py

Writes into ./yard. The transactions are synthetic: fraud is likelier for amounts far above a card's own average.
"""

from __future__ import annotations

import asyncio

import numpy as np
import pandas as pd
from sklearn.metrics import precision_recall_curve

from modelyard import Yard, load_model
from modelyard.features import FeatureType
from modelyard.pipeline import PipelineConfig

INPUTS = ["average_amount", "payments_last_day", "amount", "hour"]
PRECISION = 0.8


def transactions(count: int = 12_000, cards: int = 600) -> pd.DataFrame:
    """Payments of 60 days in order of time, with the label that came later."""
    rng = np.random.default_rng(7)
    usual = rng.lognormal(3.5, 0.6, cards)
    card = rng.integers(0, cards, count)
    at = pd.Timestamp("2026-01-01", tz="UTC") + pd.to_timedelta(np.sort(rng.uniform(0, 60 * 86_400, count)), unit="s")
    fraud = rng.random(count) < 0.04
    amount = usual[card] * rng.lognormal(0, 0.4, count) * np.where(fraud, rng.uniform(2, 8, count), 1)
    region = np.where(card % 3 == 0, "north", "south")
    names = np.array([f"card-{number}" for number in card])
    return pd.DataFrame(
        {
            "card": names,
            "event_timestamp": at,
            "amount": amount,
            "hour": at.hour,
            "region": region,
            "fraud": fraud.astype(int),
        }
    )


def histories(frame: pd.DataFrame) -> pd.DataFrame:
    """What is known of a card after each of its payments: true from that moment on, and not before."""
    by_card = frame.groupby("card")
    average = by_card["amount"].expanding().mean().reset_index(level=0, drop=True)
    recent = by_card.rolling("1D", on="event_timestamp")["amount"].count().reset_index(level=0, drop=True)
    known = frame[["card", "event_timestamp"]].assign(average_amount=average, payments_last_day=recent.to_numpy())
    return known.assign(event_timestamp=known["event_timestamp"] + pd.Timedelta(seconds=1))


def main() -> None:
    """The whole example."""
    frame = transactions()
    with Yard("./yard") as yard:
        for name in ("average_amount", "payments_last_day"):
            yard.features.define_feature(name, "card", FeatureType.FLOAT, owner="ana@example.org")
        yard.features.write_features(histories(frame), entity_type="card")

        # Each payment gets its card's features as they were just before it: nothing from the future.
        joined = yard.features.get_offline_features(frame, ["average_amount", "payments_last_day"])
        joined = joined.sort_values("event_timestamp").fillna({"average_amount": 0.0, "payments_last_day": 0.0})
        train, check, newest = joined[:8_000], joined[8_000:10_000], joined[10_000:]
        config = PipelineConfig(
            name="fraud",
            target_column="fraud",
            model_type="lightgbm",
            model_params={"n_estimators": 80},
            cross_validation_folds=0,
            threads=1,
        )
        run = yard.pipelines.train(config, frame=train[[*INPUTS, "fraud"]], created_by="ana@example.org")
        model = load_model(run.artifacts["model"])
        print(f"AUC {run.metrics['test_auc_roc']:.3f}, the export answers like the model: {run.parity.passed}")

        # The lowest threshold that is precise enough on payments that the model has not seen.
        chance = model.predict_proba(check[INPUTS])[:, 1]
        precision, recall, thresholds = precision_recall_curve(check["fraud"], chance)
        place = int(np.argmax(precision[:-1] >= PRECISION))
        threshold = float(thresholds[place])
        print(f"threshold {threshold:.3f}: precision {precision[place]:.2f}, recall {recall[place]:.2f}")

        yard.registry.register_model(
            "fraud",
            "v1.0.0",
            run.artifacts["model"],
            "lightgbm",
            "ana@example.org",
            metrics={**run.metrics, "precision": float(precision[place]), "recall": float(recall[place])},
            parameters={"threshold": threshold},
        )
        flagged = (model.predict_proba(newest[INPUTS])[:, 1] >= threshold).astype(int)
        reports = asyncio.run(
            yard.governance.assess_bias(
                "fraud:v1.0.0",
                newest["fraud"].to_numpy(),
                flagged,
                {"region": newest["region"].to_numpy()},
                user="ben@example.org",
            )
        )
        for report in reports[:4]:
            print(f"{report.bias_type.value} by region: {report.bias_score:.3f}, {report.verdict.value}")

        monitor = yard.monitoring.monitor("fraud:v1.0.0")
        monitor.set_explainer(model, INPUTS)
        worst = newest.iloc[int(np.argmax(model.predict_proba(newest[INPUTS])[:, 1]))]
        parts = monitor.explain_prediction(worst[INPUTS].to_dict())["feature_importance"]
        largest = sorted(parts, key=lambda name: -abs(parts[name]))[:2]
        print(
            "most suspicious payment:", ", ".join(f"{name} {worst[name]:.1f} ({parts[name]:+.2f})" for name in largest)
        )


if __name__ == "__main__":
    main()
