"""A service of two registered models: the small one answers, and the large one is asked where the small one is unsure.

    python examples/composed_service.py

Writes into ./yard. The payments are synthetic; the service is the class `Cascade` in this file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import lightgbm
import numpy as np

from modelyard import Yard
from modelyard.core.errors import Invalid
from modelyard.core.models import FeatureSpec, Signature
from modelyard.core.ports import Output

NAMES = ["amount_ratio", "payments_last_day", "hour"]
RATES = {"EUR": 1.0, "USD": 0.9, "TRY": 0.03}
ME = "ana@example.org"


class Cascade:
    """Fraud by a small model, and by a large one where that says between 0.2 and 0.8."""

    signature = Signature(
        inputs=(
            FeatureSpec(name="amount"),
            FeatureSpec(name="currency", kind="string", categories=tuple(RATES)),
            FeatureSpec(name="average_amount"),
            FeatureSpec(name="payments_last_day", kind="int"),
            FeatureSpec(name="hour", kind="int"),
        ),
        task="binary",
        classes=("honest", "fraud"),
    )
    example = {"amount": 25.0, "currency": "EUR", "average_amount": 20.0, "payments_last_day": 1, "hour": 12}  # noqa: RUF012

    def __init__(self, quick: Any, careful: Any) -> None:
        self.quick, self.careful = quick, careful

    def predict_columns(self, columns: dict[str, np.ndarray]) -> Output:
        """Pre-processing, the models, post-processing: columns of n rows in, n answers out."""
        if (columns["average_amount"] <= 0).any():
            raise Invalid("average_amount must be above 0. Leave out cards without a payment.")
        euros = columns["amount"] * [RATES[currency] for currency in columns["currency"]]
        rows = {**columns, "amount_ratio": euros / columns["average_amount"]}
        fraud = self.quick.predict(rows).probabilities[:, 1]
        unsure = (fraud > 0.2) & (fraud < 0.8)
        if unsure.any():
            harder = {name: values[unsure] for name, values in rows.items()}
            fraud[unsure] = self.careful.predict(harder).probabilities[:, 1]
        labels = np.where(fraud > 0.5, "fraud", "honest").astype(object)
        return Output(predictions=labels, probabilities=np.column_stack([1 - fraud, fraud]))


def train(path: Path, trees: int) -> Path:
    """A booster on synthetic payments."""
    rng = np.random.default_rng(3)
    rows = np.column_stack([rng.lognormal(0, 0.8, 4000), rng.poisson(2, 4000), rng.integers(0, 24, 4000)])
    fraud = rng.random(4000) < 1 / (1 + np.exp(3 - rows[:, 0] - 0.3 * (rows[:, 2] < 6)))
    data = lightgbm.Dataset(rows, fraud.astype(int), feature_name=NAMES)
    settings = {"objective": "binary", "verbose": -1, "num_threads": 1, "seed": 1}
    lightgbm.train(settings, data, trees).save_model(path)
    return path


def main() -> None:
    """The whole example."""
    with Yard("./yard") as yard:
        for name, trees in (("fraud_quick", 5), ("fraud_careful", 80)):
            yard.registry.register_model(name, "v1.0.0", train(Path(f"{name}.txt"), trees), "lightgbm", ME)
        yard.serving.configure("fraud", {"trusted_code": True})
        uses = {"quick": "fraud_quick:v1.0.0", "careful": "fraud_careful:v1.0.0"}
        yard.provide_service("fraud", "v1.0.0", f"{Path(__file__).absolute()}:Cascade", uses=uses)
        yard.deployments.start("fraud", "v1.0.0", strategy="direct", created_by=ME)
        plane = yard.serve(workers=1)
        try:
            row = {"amount": 900.0, "currency": "TRY", "average_amount": 20.0, "payments_last_day": 3, "hour": 2}
            with httpx.Client(base_url=plane.url) as http:
                print(http.post("/predict/fraud", json={"features": row}).json())
                print(http.post("/predict/fraud", json={"features": {**row, "currency": "TYR"}}).json())
                print(http.post("/predict/fraud", json={"features": {**row, "average_amount": 0.0}}).json())
                print(http.get("/v2/models/fraud").json()["parameters"]["uses"])
        finally:
            plane.stop()


if __name__ == "__main__":
    main()
