"""Two rankers, one A/B test: sticky units over HTTP, clicks that come later, and a sentence at the end.

    python examples/recommendation_ab.py

Writes into ./yard. The users are simulated: the second ranker pleases a few more of them.
"""

from __future__ import annotations

from pathlib import Path

import httpx
import lightgbm
import numpy as np

from modelyard import Yard
from modelyard.core.traffic import Arm, Traffic

INPUTS = ["age_of_item", "seen_before", "price"]
USERS = 2_000
CLICKS = {"control": 0.20, "treatment": 0.30}


def ranker(path: Path, seed: int) -> Path:
    """A small ranking model as a LightGBM text file."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(2_000, len(INPUTS)))
    relevance = -rows[:, 0] - seed * rows[:, 1] + rng.normal(size=2_000)
    data = lightgbm.Dataset(rows, relevance, feature_name=INPUTS)
    lightgbm.train({"objective": "regression", "verbose": -1, "num_threads": 1}, data, 20).save_model(path)
    return path


def main() -> None:
    """The whole example."""
    rng = np.random.default_rng(1)
    with Yard("./yard") as yard:
        for version, seed in (("v1.0.0", 1), ("v2.0.0", 2)):
            yard.registry.register_model(
                "ranker", version, ranker(Path(f"{version}.txt"), seed), "lightgbm", "ana@example.org"
            )
            yard.registry.request_promotion("ranker", version, "production", "ana@example.org")
            yard.registry.approve_promotion("ranker", version, "ben@example.org")
            yard.provide("ranker", version)

        test = yard.ab_tests.create_test(
            "Second ranker",
            control_variant="ranker:v1.0.0",
            treatment_variant="ranker:v2.0.0",
            traffic_split=0.5,
            planned_units=USERS,
            created_by="ana@example.org",
        )
        yard.ab_tests.start_test(test.test_id)
        # Treatments first and the test's id as the salt: so serving places a user where the test does.
        arms = (
            Arm(name="treatment", model="ranker", version="v2.0.0", weight=0.5),
            Arm(name="control", model="ranker", version="v1.0.0", weight=0.5),
        )
        yard.serving.apply(Traffic(endpoint="recommend", generation=1, arms=arms, salt=test.test_id))

        with yard.serve(workers=1) as plane, httpx.Client(base_url=plane.url) as http:
            items = [dict(zip(INPUTS, row, strict=True)) for row in rng.normal(size=(5, len(INPUTS))).tolist()]
            for user in range(USERS):
                unit = f"user-{user}"
                answer = http.post("/predict/recommend", json={"features": items, "unit_id": unit}).json()
                assert answer["arm"] == yard.ab_tests.get_variant(test.test_id, unit)
                clicked = bool(rng.random() < CLICKS[answer["arm"]])
                yard.ab_tests.record_request(test.test_id, answer["arm"], success=clicked, unit_id=unit)

        found = yard.ab_tests.analyze_test(test.test_id)
        for name in ("control", "treatment"):
            print(f"{name}: {found[name]['success_rate']:.1%} of {found[name]['requests']} users clicked")
        print(found["conclusion"])
        winner = "treatment" if found["statistically_significant"] else "control"
        ended = yard.ab_tests.conclude_test(
            test.test_id, winner=winner, conclusion=found["conclusion"], user="ana@example.org"
        )
        print(
            "everybody gets", yard.ab_tests.get_variant(test.test_id, "user-1"), "now; the test is", ended.status.value
        )


if __name__ == "__main__":
    main()
