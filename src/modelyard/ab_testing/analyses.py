"""What a test has shown: analyses, which are kept, and looks between them, which are not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from modelyard.ab_testing import allocating, rules, store
from modelyard.ab_testing.allocating import ByRound
from modelyard.ab_testing.experiments import ABTest, Round, TestStatus
from modelyard.ab_testing.planning import Plans, known
from modelyard.ab_testing.tally import Tally
from modelyard.core.events import EventSeverity, EventType
from modelyard.core.operations import operation
from modelyard.core.ports import Connection
from modelyard.core.refs import Resource

DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where a test stands: what an analysis would say, how many units have come, and how many days are left.

    `due` says that an analysis would spend a look now; what this one shows was decided at those before. `over` says that
    waiting brings nothing more: there is an answer, all planned units have come, or there can be no answer.
    """

    test: ABTest
    analysis: Mapping[str, Any]
    units: int
    units_left: int | None
    days: float
    days_left: float | None
    due: bool
    over: bool


class Analyses(Plans):
    """Analyses tests."""

    @operation("POST", "/ab-tests/{test_id}/analysis", needs="ab_testing.read")
    def analyze_test(self, test_id: str, confidence_level: float = 0.95) -> dict[str, Any]:
        """Whether the arms differ, by how much, and what to do next; takes the same time for any number of results.

        `statistically_significant`, `sequential_p_value` and the p values adjusted over several metrics (Holm; Benjamini
        and Hochberg) keep their meaning however often this is called; `p_value` is that of a single look (pooled score
        test, Fisher's mid-p under ten events; Welch). Intervals are as wide as the design needs them:
        `absolute_interval` of the difference of success rates (Newcombe), `relative_interval` of the lift in percent
        (Koopman; Fieller of means), None for an end that there is not. Latencies are in seconds. `conclusion` is a
        sentence that says what it means and what to do next.

        >>> from modelyard.ab_testing import ABTestManager
        >>> manager = ABTestManager(folder)
        >>> test = manager.create_test("New model", control_variant="fraud:v1.0.0", treatment_variant="fraud:v2.0.0")
        >>> manager.analyze_test(test.test_id)["conclusion"]
        'Not enough evidence: no results yet for control, treatment. Start the test.'
        """
        self._recorder.fold()
        with self.store.work() as work:
            test, looks = known(work.rows, test_id), store.find_looks(work.rows, test_id)
            tallies, rounds = _shown(work.rows, test)
            found, look = rules.analyze(test, tallies, looks, confidence_level=confidence_level, rounds=rounds)
            if look is not None:
                store.add_look(work.rows, test_id, len(looks), look, work.now)
            severity = EventSeverity.WARNING if found["sample_ratio"]["mismatch"] else EventSeverity.INFO
            work.emit(EventType.AB_TEST_ANALYZED, Resource("ab_test", test_id), found, severity=severity)
        return found

    @operation("GET", "/ab-tests/{test_id}/look", needs="ab_testing.read")
    def look(self, test_id: str) -> Standing:
        """Where a test stands at 95 % confidence. Nothing is kept: no look of a planned sample is spent, and no event told.

        >>> from modelyard.ab_testing import ABTestManager
        >>> manager = ABTestManager(folder)
        >>> test = manager.create_test("New", control_variant="fraud:v1.0.0", treatment_variant="fraud:v2.0.0")
        >>> manager.look(test.test_id).over, manager.look(test.test_id).units
        (False, 0)
        """
        self._recorder.fold()
        with self.store.reading() as rows:
            test, looks = known(rows, test_id), store.find_looks(rows, test_id)
            tallies, rounds = _shown(rows, test)
        found, due = rules.glance(test, tallies, looks, rounds=rounds)
        units = sum(arm["units"] for arm in found["variants"].values())
        days = 0.0 if test.started_at is None else ((test.ended_at or self.store.clock.now()) - test.started_at) / DAY
        reached = min(1.0, found["information"])  # in a ramp not as many as the units are
        left = None if test.planned_units is None else round(test.planned_units * (1 - reached))
        return Standing(
            test=test,
            analysis=found,
            units=units,
            units_left=left,
            days=days,
            days_left=left * days / units if left is not None and units and test.status is TestStatus.RUNNING else None,
            due=due,
            over=_over(test, found, due),
        )


def _over(test: ABTest, found: Mapping[str, Any], due: bool) -> bool:
    """Whether waiting brings nothing more."""
    if test.ended_at is not None or found["sample_ratio"]["mismatch"] or found["covariate_mismatch"]:
        return True
    planned = test.planned_units is not None and found["information"] >= 1 and not due
    return found["winner"] is not None or planned


def _shown(rows: Connection, test: ABTest) -> tuple[dict[str, Tally], ByRound]:
    """What each arm has shown, and in Thompson sampling what it has shown in each round."""
    rounds = rounds_of(rows, test)
    if test.adaptive:
        return allocating.merged(test, rounds), rounds
    return {variant.name: _tally(rows, test.test_id, variant.name) for variant in test.variants}, rounds


def _tally(rows: Connection, test_id: str, variant: str) -> Tally:
    tally = store.arm_tally(rows, test_id, variant)
    tally.merge(store.source_tally(rows, test_id, variant))
    return tally


def rounds_of(rows: Connection, test: ABTest) -> list[tuple[Round, dict[str, Tally]]]:
    """The rounds of Thompson sampling with what each variant has shown in them."""
    return [
        (one, {v.name: store.arm_tally(rows, test.test_id, v.name, one.number) for v in test.variants})
        for one in store.find_rounds(rows, test.test_id)
    ]
