"""An experiment from a file: applied as often as one likes, watched until it has an answer, and what may change of it.

    python examples/declared_experiment.py

Writes into ./yard. The users are simulated: they spend a tenth more where prices are lower.
"""

from __future__ import annotations

import random
from pathlib import Path

from modelyard.ab_testing import ABTestManager
from modelyard.core.errors import Conflict

FILE = Path(__file__).with_name("experiment.yaml")
SPENT = {"control": 1.0, "cheaper": 1.1, "dearer": 0.95}
DAILY = 500


def day(tests: ABTestManager, test_id: str, number: int, draw: random.Random) -> None:
    """A day's users, who were assigned and then spent something."""
    results = []
    for user in range(number * DAILY, (number + 1) * DAILY):
        variant = tests.get_variant(test_id, f"user-{user}")
        before = draw.gammavariate(2, 10)
        spent = (before * 0.8 + draw.gammavariate(2, 2)) * SPENT[variant]
        told = {"variant": variant, "success": True, "latency": draw.lognormvariate(-3, 0.3), "unit_id": f"user-{user}"}
        results.append({**told, "custom_metrics": {"spent": spent, "spent_before": before}})
    tests.record_many(test_id, results)


def main() -> None:
    """The whole example."""
    tests, draw = ABTestManager("./yard"), random.Random(1)
    for change in tests.diff(FILE).changes:
        print(f"{FILE.name} line {change.line}, {change.key}: {change.wanted}")
    test = tests.apply(FILE, created_by="ana@example.org")
    assert tests.apply(FILE) == test  # the same again changes nothing

    stands = tests.look(test.test_id)
    while not stands.over:  # what `modelyard ab-testing watch` does
        day(tests, test.test_id, stands.units // DAILY, draw)
        tests.analyze_test(test.test_id)  # spends a look of the plan
        stands = tests.look(test.test_id)
        print(f"{stands.units} of {test.planned_units} users: {stands.analysis['conclusion']}")

    changed = Path("changed.yaml")
    changed.write_text(FILE.read_text().replace("margin: 25%", "margin: 90%"))
    try:
        tests.apply(changed)
    except Conflict as refused:
        print(refused)
    tests.conclude_test(test.test_id, winner=stands.analysis["winner"], conclusion=stands.analysis["conclusion"])
    print(tests.diff(FILE).verdict, tests.get_variant(test.test_id, "user-1"))


if __name__ == "__main__":
    main()
