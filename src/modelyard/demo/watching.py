"""Chapters of watching and proving: drift, an explanation, bias, controls, and the audit log."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

from modelyard.core.instants import Instant
from modelyard.data.census import COLUMNS, FEATURES, LABEL, YEARS
from modelyard.demo.scene import MODEL, PEOPLE, Scene, features_of
from modelyard.demo.story import Chapter
from modelyard.engines.loading import load_model
from modelyard.governance import BiasReport, ComplianceFramework
from modelyard.governance.controls import load_framework
from modelyard.monitoring.values import DriftReport, LoggedPrediction
from modelyard.ui.pages import number, percent

MEANINGS = {column.name: column for column in COLUMNS}
SENSITIVE = ("SEX", "RAC1P", "DIS")
WINDOW = 10_000  # records of a year that are compared with the reference


def performance(scene: Scene, chapter: Chapter) -> None:
    """What v2 predicted live is joined with what turned out to be true, and compared with the year it was trained on."""
    monitor = scene.yard.monitoring.monitor(f"{MODEL}:v2.0.0")
    held = scene.held_back
    predicted = load_model(scene.packages["v2.0.0"]).predict(held[list(FEATURES)])
    monitor.set_reference_data(held[list(FEATURES)], predictions=predicted.tolist(), ground_truth=held[LABEL].tolist())
    live = [(answer, body, label) for answer, body, label in scene.outcomes if answer.version == "v2.0.0"]
    now = scene.yard.store.clock.now()
    monitor.log_predictions(
        LoggedPrediction(
            request_id=answer.request_id or f"live-{answer.index}",
            at=now,
            prediction=answer.prediction,
            features=body["features"],
            outcome=label,
            latency_ms=answer.latency_ms,
        )
        for answer, body, label in live
    )
    found = monitor.get_performance_metrics(window_minutes=60)
    changes = {m.name: m for m in monitor.check_performance(window_minutes=60)}
    health = monitor.get_monitoring_dashboard()["health_score"]
    chapter.facts |= {
        "predictions": found.prediction_count,
        "labelled": found.labelled_count,
        "accuracy": found.accuracy,
        "f1": found.f1,
        "latency_p95_ms": found.latency_p95,
        "health": health,
        "changes": {
            name: {"value": m.value, "low": m.low, "high": m.high, "p_value": m.p_value} for name, m in changes.items()
        },
    }
    chapter.say(
        f"{found.labelled_count} live predictions of v2 joined with their outcomes: accuracy {percent(found.accuracy)}, "
        f"answered within {found.latency_p95:.1f} ms at the 95th percentile."
    )
    for name, m in changes.items():
        if m.value is not None and m.low is not None and m.high is not None:
            chapter.say(
                f"{name.replace('_', ' ')} against 2015: {m.value:+.4f}, interval {m.low:+.4f} to {m.high:+.4f}."
            )
    if health is not None:
        chapter.say(f"Health score {health:.0f} of 100.")


def drift(scene: Scene, chapter: Chapter) -> None:
    """No alarm on held-back records, the real drift of the later years by feature, and a unit error named."""
    monitor = scene.yard.monitoring.monitor(f"{MODEL}:v2.0.0")
    reference = scene.year(2015)[list(FEATURES)]
    chapter.doing("profiling 2015")
    held = scene.held_back[list(FEATURES)]
    monitor.set_reference_data(reference.loc[reference.index.difference(held.index)], sensitivity=0.05)
    quiet = monitor.drift_report(held)
    chapter.say(f"{number(len(held))} held-back records of 2015: {_names(quiet) or 'no drift'}.")
    years = {}
    for year in YEARS[1:]:
        chapter.doing(f"checking {year}")
        report = monitor.drift_report(scene.year(year)[list(FEATURES)])
        years[str(year)] = _year(report)
        chapter.say(f"{year}, {number(report.rows)} records: drift in {_names(report) or 'nothing'}.")
    fault = scene.year(2018)[list(FEATURES)].sample(WINDOW, random_state=1)
    fault["AGEP"] = fault["AGEP"] * 12
    found = next(alert for alert in monitor.drift_report(fault).alerts if alert.feature_name == "AGEP")
    chapter.say(f"Ages sent in months: {found.message}")
    chapter.facts |= {
        "held_back": _year(quiet),
        "years": years,
        "unit_error": found.message,
        "magnitude_name": "Jensen-Shannon distance",
    }


def _names(report: DriftReport) -> str:
    ordered = sorted(report.alerts, key=lambda alert: -alert.magnitude)
    return ", ".join(f"{alert.feature_name} ({alert.magnitude:.3f})" for alert in ordered)


def _year(report: DriftReport) -> dict[str, Any]:
    magnitudes = {
        name: next((m.value for m in found if m.name == "jensen_shannon"), None)
        for name, found in report.columns.items()
    }
    alerts = [
        {
            "feature": alert.feature_name,
            "test": alert.test,
            "adjusted_p": alert.adjusted_p_value,
            "magnitude": alert.magnitude,
            "message": alert.message,
        }
        for alert in report.alerts
    ]
    return {
        "rows": report.rows,
        "drifted": [alert["feature"] for alert in alerts],
        "magnitudes": magnitudes,
        "alerts": alerts,
    }


def explanation(scene: Scene, chapter: Chapter) -> None:
    """One prediction, taken apart by the model's own contributions."""
    model = load_model(scene.packages["v2.0.0"])
    monitor = scene.yard.monitoring.monitor(f"{MODEL}:v2.0.0")
    monitor.set_explainer(model, list(FEATURES), model_type="tree")
    row = features_of(scene.year(2018).iloc[2018])
    told = monitor.explain_prediction(row)
    parts = told["feature_importance"]
    largest = sorted(parts, key=lambda name: -abs(parts[name]))[:3]
    probability = float(model.predict_proba([row])[0][-1])
    chapter.facts |= {
        "row": row,
        "contributions": {f"{_shown(name, row[name])}": value for name, value in parts.items()},
        "base": float(told["base_value"]),
        "total": float(told["output"]),
        "probability": probability,
        "method": told["method"],
        "scale": "log-odds of being employed",
    }
    chapter.say(
        f"Probability of being employed {percent(probability)}: moved most by {', '.join(_shown(n, row[n]) for n in largest)}."
    )
    chapter.say(
        f"Base {told['base_value']:+.3f} and contributions add up to {told['output']:+.3f} log-odds, as the model answers."
    )


def _shown(name: str, value: Any) -> str:
    column = MEANINGS[name]
    return f"{column.name} = {column.codes.get(int(value), value)}"


def bias(scene: Scene, chapter: Chapter) -> None:
    """Four methods by sex, race and disability on the newest year, with intervals."""
    rows = scene.year(2018)
    chapter.doing("predicting for 2018")
    model = load_model(scene.packages["v2.0.0"])
    predicted = model.predict(rows[list(FEATURES)])
    sensitive = {name: _groups(rows[name], name) for name in SENSITIVE}
    chapter.doing("resampling the counts")
    found = asyncio.run(
        scene.yard.governance.assess_bias(
            f"{MODEL}:v2.0.0", rows[LABEL].to_numpy(), predicted, sensitive, max_gap=0.1, user=PEOPLE["ben"]
        )
    )
    four = [r for r in found if r.bias_type.value in _FOUR]
    chapter.facts |= {
        "threshold": 0.1,
        "attributes": {name: [_bias_row(r) for r in four if r.attribute == name] for name in sensitive},
        "groups": {
            r.attribute: [{"group": g.group, "n": g.n, "selection_rate": g.selection_rate} for g in r.groups]
            for r in four
            if r.bias_type.value == "statistical_parity"
        },
    }
    for name in sensitive:
        verdicts = ", ".join(
            f"{r.bias_type.value.replace('_', ' ')} {_value(r)} ({r.verdict.value})"
            for r in four
            if r.attribute == name
        )
        chapter.say(f"{MEANINGS[name].meaning.capitalize()}: {verdicts}.")


_FOUR = ("statistical_parity", "disparate_impact", "equal_opportunity", "equalized_odds")


def _groups(values: Any, name: str) -> Any:
    codes = MEANINGS[name].codes
    return values.map(lambda code: codes.get(int(code), str(code))).to_numpy(dtype=object)


def _value(report: BiasReport) -> str:
    return "undefined" if report.bias_score is None else f"{report.bias_score:.3f}"


def _bias_row(report: BiasReport) -> dict[str, Any]:
    low, high = report.interval or (None, None)
    return {
        "metric": report.bias_type.value,
        "value": report.bias_score,
        "low": low,
        "high": high,
        "shown": _value(report),
        "interval": "–" if low is None else f"{low:.3f} to {high:.3f}",
        "verdict": report.verdict.value,
        "biased": report.is_biased,
        "reason": report.reason,
    }


def controls(scene: Scene, chapter: Chapter) -> None:
    """What the log proves about GDPR and the AI Act, what people state, and what is missing."""
    governance = scene.yard.governance
    model = f"{MODEL}:v2.0.0"
    for framework, control, statement in _STATEMENTS:
        governance.attest(model, framework, control, statement=statement, attested_by=PEOPLE["ben"])
    asyncio.run(governance.export_governance_report(model, scene.folder / "governance-report.json", user=PEOPLE["ben"]))
    tables = {}
    for framework, title in ((ComplianceFramework.GDPR, "GDPR"), (ComplianceFramework.EU_AI_ACT, "EU AI Act")):
        titles = {control.id: f"{control.title} ({control.article})" for control in load_framework(framework).controls}
        report = asyncio.run(
            governance.assess_compliance(model, framework, {"use_case": "employment"}, user=PEOPLE["ben"])
        )
        rows = [
            {
                "control": row.control,
                "title": titles.get(row.control, ""),
                "statement": row.statement,
                "status": row.status.value,
                "evidence": f"event {row.event_id}" if row.event_id else (f"{row.person}" if row.person else "–"),
                "digest": row.digest,
            }
            for row in report.evidence
        ]
        tables[title] = rows
        counts = {status: sum(row["status"] == status for row in rows) for status in ("proved", "attested", "missing")}
        chapter.say(
            f"{title}: "
            + ", ".join(f"{count} {status}" for status, count in counts.items())
            + f" of {len(rows)} controls."
        )
    chapter.facts |= {"frameworks": tables}
    chapter.say(
        "Employment is a high-risk use under Annex III of the AI Act. Whether a law is met is for a person to say."
    )


_STATEMENTS = (
    (
        ComplianceFramework.GDPR,
        "purpose_limitation",
        "Shows how a model is looked after; no decision about a person rests on it.",
    ),
    (
        ComplianceFramework.GDPR,
        "lawful_basis",
        "Published census microdata without names; used for research under Art. 6(1)(f).",
    ),
    (
        ComplianceFramework.EU_AI_ACT,
        "risk_classification",
        "High risk if used to select people: Annex III, point 4 (employment).",
    ),
    (
        ComplianceFramework.EU_AI_ACT,
        "human_oversight",
        "The operator on duty may pause, abort or roll back any rollout.",
    ),
)


def audit(scene: Scene, chapter: Chapter) -> None:
    """The log is verified, and one event's inclusion is proved and checked without the database."""
    logger = scene.yard.audit
    checked = logger.verify()
    events = logger.query_events(limit=1000)
    rollback = next((e for e in events if e.event_type.value == "deployment_rolled_back"), events[-1])
    proof = logger.prove(rollback.event_id)
    proof_file, key_file = scene.folder / "event.tlog-proof", scene.folder / "audit.pub"
    proof_file.write_text(proof)
    key_file.write_bytes(Path(logger.keys.public_file).read_bytes())
    offline = _checked_offline(proof_file, key_file)
    checkpoint = logger.checkpoint()
    chapter.facts |= {
        "ok": checked.ok,
        "size": int(checkpoint.splitlines()[1]),
        "root": checkpoint.splitlines()[2],
        "checkpoint": checkpoint,
        "proof": proof,
        "public_key": key_file.read_text(),
        "proved_event": rollback.event_id,
        "offline": offline,
        "events": [
            _event(e.occurred_at, e.event_type.value, e.actor, f"{e.resource_type} {e.resource_id}") for e in events
        ],
    }
    state = "verified" if checked.ok else "DAMAGED"
    chapter.say(f"{chapter.facts['size']} events in the Merkle tree, {state}: root {chapter.facts['root']}")
    chapter.say(f"Inclusion of '{rollback.event_type.value.replace('_', ' ')}' ({rollback.event_id}) proved:")
    for line in proof.strip().splitlines():
        chapter.say(
            f"  {line}"
            if not line.startswith("extra")
            else f"  {line[:60]}… ({len(line)} characters: the event itself)"
        )
    chapter.say(f"Checked in a process of its own with the proof and the public key alone: {offline}")


def _event(at: Instant, event: str, actor: str, resource: str) -> dict[str, str]:
    return {
        "at": at.strftime("%H:%M:%S.%f")[:-3],
        "event": event.replace("_", " "),
        "actor": actor,
        "resource": resource,
    }


_OFFLINE = """
import sys
from pathlib import Path
from modelyard.audit import check_proof
found = check_proof(Path(sys.argv[1]).read_text(), Path(sys.argv[2]).read_text())
print(f"leaf {found.index} of {found.size}: {found.record['event_type']} by {found.record['actor']}")
"""


def _checked_offline(proof: Path, key: Path) -> str:
    """What a process without the yard says about the proof."""
    call = [sys.executable, "-c", _OFFLINE, str(proof), str(key)]
    return subprocess.run(call, capture_output=True, text=True, check=True).stdout.strip()
