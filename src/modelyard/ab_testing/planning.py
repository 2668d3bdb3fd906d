"""Planning experiments: how large, on whom, and when they begin and end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from modelyard.ab_testing import plans, sizing, store
from modelyard.ab_testing.experiments import ABTest, Held, Inference, Round, TestStatus, TrafficSplitStrategy
from modelyard.ab_testing.recording import Recorder
from modelyard.ab_testing.sizing import Sizing
from modelyard.core.area import Area
from modelyard.core.canonical import plain
from modelyard.core.errors import Conflict, Invalid, NotFound, nearest
from modelyard.core.events import EventSeverity, EventType
from modelyard.core.ids import checked_name, new_id
from modelyard.core.instants import SYSTEM_CLOCK
from modelyard.core.operations import operation
from modelyard.core.ports import Clock, Connection
from modelyard.core.refs import Resource
from modelyard.core.work import Store, Work


@dataclass(slots=True)
class Remembered:
    """A test as recording remembers it, until when, and how records of its arms begin, by variant and success."""

    test: ABTest
    until: float
    heads: dict[tuple[str, bool], bytes] = field(default_factory=dict)
    needs_units: bool = field(init=False)

    def __post_init__(self) -> None:
        self.needs_units = self.test.needs_units


class Plans(Area):
    """Tests and holdouts as they are planned, begun and ended."""

    def __init__(self, storage_path: str | Path | Store, *, clock: Clock = SYSTEM_CLOCK) -> None:
        super().__init__(storage_path, clock=clock)
        self._recorder = Recorder(self.store)
        self._tests: dict[str, Remembered] = {}

    @operation("POST", "/ab-tests", needs="ab_testing.write")
    def create_test(
        self,
        name: str,
        *,
        control_variant: str,
        treatment_variant: str | list[str],
        treatment_names: list[str] | None = None,
        description: str = "",
        unit: str = "unit",
        traffic_split: float | list[float] = 0.5,
        strategy: TrafficSplitStrategy = TrafficSplitStrategy.HASH_BASED,
        planned_units: int | None = None,
        horizon: int = 10_000,
        ramp_seconds: float = 0.0,
        exclusive_group: str = "",
        group_share: float = 1.0,
        metrics: list[dict[str, Any]] | None = None,
        inference: Inference = Inference.FREQUENTIST,
        prior: list[float] | None = None,
        tolerated_loss: float = 0.001,
        round_units: int = 500,
        guard_alpha: float = 0.001,
        latency_margin: float = 1.0,
        latency_floor_ms: float = 2.0,
        created_by: str = "system",
    ) -> ABTest:
        """A new test of one or several treatments (model versions as name:version) against a control, not yet started.

        `traffic_split` is each treatment's share of the units. With `planned_units`, the largest sample in all, analyses
        are looks of a group-sequential test; without, they are read off a confidence sequence that is narrowest at
        `horizon` units. A ramp reaches the split in `ramp_seconds`. Running tests of one `exclusive_group` share no unit:
        each takes `group_share` of them. Treatments are called treatment, treatment_2, and so on, unless `treatment_names` says
        otherwise. `unit` tells people what a unit is: user, session, card.

        `metrics` name what is looked at beside the success rate: mappings with `name`, `kind` (mean, ratio, average,
        quantile), `role` (goal, guardrail with a `margin`, secondary), `direction` (up, down), and `numerator`,
        `denominator`, `covariate`, `strata`, `quantile` as the kind needs them. `inference` bayesian decides by posteriors
        from `prior` (a, b of a Beta law, or mean and deviation of a normal one) once a choice is expected to lose at most
        `tolerated_loss` of the control's value; thompson moves new units to the likely best in rounds of `round_units`.

        On an endpoint (`run_test`) the serving processes take the treatments back by themselves once one fails more often
        than the control, or is slower than `latency_margin` more of its latency and than `latency_floor_ms` more; for
        treatments that are not that happens with a probability of `guard_alpha` at most, and never with one of 0.

        >>> from modelyard.ab_testing import ABTestManager
        >>> manager = ABTestManager(folder)
        >>> test = manager.create_test("New model", control_variant="fraud:v1.0.0", treatment_variant="fraud:v2.0.0")
        >>> test.status.value, dict(test.shares)
        ('draft', {'control': 0.5, 'treatment': 0.5})
        """
        asked = {name: value for name, value in locals().items() if name not in ("self", "created_by")}
        one = plans.wanted(**asked)  # all of them: one that were left out would be taken and not heeded
        with self.store.work(created_by) as work:
            return self._created(work, one)

    @operation("POST", "/ab-tests/{test_id}/start", needs="ab_testing.write")
    def start_test(self, test_id: str, *, user: str = "system") -> ABTest:
        """The running test. Conflict for one that has ended, or whose exclusive group has no room left.

        >>> from modelyard.ab_testing import ABTestManager
        >>> manager = ABTestManager(folder)
        >>> test = manager.create_test("New model", control_variant="fraud:v1.0.0", treatment_variant="fraud:v2.0.0")
        >>> manager.start_test(test.test_id).status.value
        'running'
        """
        with self.store.work(user) as work:
            test = known(work.rows, test_id)
            return test if test.status is TestStatus.RUNNING else self._begun(work, test)

    @operation("POST", "/ab-tests/{test_id}/stop", needs="ab_testing.write")
    def stop_test(self, test_id: str, *, reason: str = "", user: str = "system") -> ABTest:
        """The stopped test: units get the control, results are no longer taken, the analysis stays.

        >>> from modelyard.ab_testing import ABTestManager
        >>> manager = ABTestManager(folder)
        >>> test = manager.create_test("New model", control_variant="fraud:v1.0.0", treatment_variant="fraud:v2.0.0")
        >>> _ = manager.start_test(test.test_id)
        >>> manager.stop_test(test.test_id, reason="enough").status.value
        'stopped'
        """
        return self._end(test_id, TestStatus.STOPPED, "", reason, user)

    @operation("POST", "/ab-tests/{test_id}/conclude", needs="ab_testing.write")
    def conclude_test(self, test_id: str, *, winner: str, conclusion: str = "", user: str = "system") -> ABTest:
        """The ended test with the variant that a person chose, and why.

        >>> from modelyard.ab_testing import ABTestManager
        >>> manager = ABTestManager(folder)
        >>> test = manager.create_test("New model", control_variant="fraud:v1.0.0", treatment_variant="fraud:v2.0.0")
        >>> _ = manager.start_test(test.test_id)
        >>> manager.conclude_test(test.test_id, winner="treatment").winner
        'treatment'
        """
        return self._end(test_id, TestStatus.CONCLUDED, winner, conclusion, user)

    @operation("GET", "/ab-tests/{test_id}", needs="ab_testing.read")
    def get_test(self, test_id: str) -> ABTest:
        """One test.

        >>> from modelyard.ab_testing import ABTestManager
        >>> manager = ABTestManager(folder)
        >>> test = manager.create_test("New model", control_variant="fraud:v1.0.0", treatment_variant="fraud:v2.0.0")
        >>> manager.get_test(test.test_id) == test
        True
        """
        with self.store.reading() as rows:
            return known(rows, test_id)

    @operation("GET", "/ab-tests", needs="ab_testing.read")
    def list_tests(self, *, status: TestStatus | None = None) -> list[ABTest]:
        """The tests, oldest first.

        >>> from modelyard.ab_testing import ABTestManager
        >>> ABTestManager(folder).list_tests()
        []
        """
        with self.store.reading() as rows:
            return store.find_tests(rows, TestStatus(status).value if status else "")

    @operation("POST", "/ab-test-plans", needs="ab_testing.read", scope="anywhere")
    def plan_test(
        self,
        *,
        lift: float,
        base_rate: float | None = None,
        mean: float | None = None,
        deviation: float | None = None,
        traffic_split: float = 0.5,
        treatments: int = 1,
        goals: int = 1,
        looks: int = 1,
        power: float = 0.8,
        confidence_level: float = 0.95,
        covariate_correlation: float = 0.0,
        units_per_day: float | None = None,
    ) -> Sizing:
        """How many units a test needs to find a relative `lift` (0.05 is 5 %), and how many days that takes.

        Of a success rate that is now `base_rate`, or of a mean over units with its standard `deviation` (a ratio's is that
        of numerator less ratio times denominator, over the mean denominator). `traffic_split` is one treatment's share.
        `looks` even ones cost a few percent; looking at any time costs more. A covariate that correlates by r with the
        metric saves r squared of the units.

        >>> from modelyard.ab_testing import ABTestManager
        >>> sizing = ABTestManager(folder).plan_test(lift=0.05, base_rate=0.10, looks=5, units_per_day=20_000)
        >>> sizing.units_of_one_look, round(sizing.units / sizing.units_of_one_look, 3), sizing.days
        (115520, 1.025, 6)
        """
        return sizing.sized(
            lift=lift,
            base_rate=base_rate,
            mean=mean,
            deviation=deviation,
            share=traffic_split,
            treatments=treatments,
            goals=goals,
            looks=looks,
            power=power,
            confidence_level=confidence_level,
            correlation=covariate_correlation,
            units_per_day=units_per_day,
        )

    @operation("POST", "/ab-holdouts", needs="ab_testing.write")
    def hold_out(self, name: str, share: float, *, created_by: str = "system") -> Held:
        """Units that no test started from now on takes in: `share` of all, by a hash of the name, until it is ended.

        They get None as their variant, and results for them are refused. Compare them with the others to see what all
        the tests together have brought. Tests that run already keep the units that they have: stop them first.

        >>> from modelyard.ab_testing import ABTestManager
        >>> ABTestManager(folder).hold_out("2026", 0.05)
        Held(name='2026', share=0.05)
        """
        held = Held(name=checked_name(name, "holdout"), share=share)
        if not 0 < share < 1:
            raise Invalid(f"The share {share} of a holdout must lie between 0 and 1.")
        with self.store.work(created_by) as work:
            return self._hold_out(work, held)

    def _hold_out(self, work: Work, held: Held) -> Held:
        if any(held.name == other.name for other in store.find_holdouts(work.rows, ended=True)):
            raise Conflict(f"There is a holdout {held.name} already, and names are not used again. Choose another.")
        store.insert_holdout(work.rows, held, work.now, work.actor)
        work.emit(EventType.AB_HOLDOUT_CREATED, Resource("ab_holdout", held.name), plain(held))
        return held

    @operation("GET", "/ab-holdouts", needs="ab_testing.read")
    def list_holdouts(self) -> list[Held]:
        """The holdouts that hold for tests started from now on, by name.

        >>> from modelyard.ab_testing import ABTestManager
        >>> ABTestManager(folder).list_holdouts()
        []
        """
        with self.store.reading() as rows:
            return store.find_holdouts(rows, ended=False)

    @operation("DELETE", "/ab-holdouts/{name}", needs="ab_testing.write")
    def end_holdout(self, name: str, *, user: str = "system") -> Held:
        """The holdout, which tests started from now on take no notice of. Those that run go on leaving its units out.

        >>> from modelyard.ab_testing import ABTestManager
        >>> manager = ABTestManager(folder)
        >>> _ = manager.hold_out("2026", 0.05)
        >>> manager.end_holdout("2026").name, manager.list_holdouts()
        ('2026', [])
        """
        with self.store.work(user) as work:
            active = {held.name: held for held in store.find_holdouts(work.rows, ended=False)}
            if name not in active:
                raise NotFound(f"There is no holdout {name!r} that could end. {nearest(name, list(active))}")
            store.end_holdout(work.rows, name, work.now)
            work.emit(EventType.AB_HOLDOUT_ENDED, Resource("ab_holdout", name), plain(active[name]))
        return active[name]

    def _created(self, work: Work, one: ABTest) -> ABTest:
        """The test that is asked for, as a draft."""
        test = replace(
            one,
            test_id=new_id("test"),
            created_by=work.actor,
            created_at=work.now,
            holdouts=tuple(store.find_holdouts(work.rows, ended=False)),
        )
        store.insert_test(work.rows, test)
        emit(work, EventType.AB_TEST_CREATED, test, plain(test))
        return test

    def _begun(self, work: Work, test: ABTest) -> ABTest:
        """The test that was a draft, running."""
        if test.status is not TestStatus.DRAFT:
            raise Conflict(f"{test.test_id} cannot be started: it is {test.status.value}. Create a new test.")
        running = store.running_in_group(work.rows, test.exclusive_group) if test.exclusive_group else []
        begun = replace(
            test,
            status=TestStatus.RUNNING,
            started_at=work.now,
            group_start=_room(test, running),
            holdouts=tuple(store.find_holdouts(work.rows, ended=False)),
        )
        if test.adaptive:
            first = Round(number=1, shares=test.shares, assigned=0, started_at=work.now)
            store.add_round(work.rows, test.test_id, first)
        self._change(work, begun, EventType.AB_TEST_STARTED)
        return begun

    def _end(self, test_id: str, status: TestStatus, winner: str, words: str, user: str) -> ABTest:
        self._recorder.fold()
        with self.store.work(user) as work:
            test = known(work.rows, test_id)
            if test.status is status and test.winner == winner:
                return test
            if test.status in (TestStatus.DRAFT, TestStatus.CONCLUDED):
                raise Conflict(f"{test_id} is {test.status.value}, so it cannot become {status.value}.")
            if winner not in ("", *test.shares):
                raise NotFound(f"{test_id} has no variant {winner!r}. {nearest(winner, list(test.shares))}")
            ended = replace(test, status=status, ended_at=test.ended_at or work.now, winner=winner, conclusion=words)
            self._change(work, ended, EventType.AB_TEST_STOPPED)
        return ended

    def _change(
        self, work: Work, test: ABTest, event: EventType, severity: EventSeverity = EventSeverity.INFO, **more: object
    ) -> None:
        store.set_status(work.rows, test)
        told = {"status": test.status.value, "winner": test.winner, "conclusion": test.conclusion}
        emit(work, event, test, {**told, "holdouts": plain(test.holdouts), **more}, severity)
        self._tests.pop(test.test_id, None)


def emit(
    work: Work,
    event: EventType,
    test: ABTest,
    details: Mapping[str, Any],
    severity: EventSeverity = EventSeverity.INFO,
) -> None:
    """Tell what became of a test."""
    models = {variant.name: variant.model for variant in test.variants}
    told = {"name": test.name, "models": models, **details}
    work.emit(event, Resource("ab_test", test.test_id), told, severity=severity)


def known(rows: Connection, test_id: str) -> ABTest:
    """The test; NotFound where there is none."""
    test = store.find_test(rows, test_id)
    if test is None:
        raise NotFound(f"There is no test {test_id!r}. {nearest(test_id, store.test_ids(rows))}")
    return test


def _room(test: ABTest, running: list[ABTest]) -> float:
    """Where the test's part of its exclusive group begins: the first gap that is wide enough."""
    start = 0.0
    for other in running:
        if other.group_start - start >= test.group_share - 1e-12:
            break
        start = other.group_start + other.group_share
    if start + test.group_share > 1 + 1e-12:
        taken = ", ".join(other.test_id for other in running)
        raise Conflict(
            f"{test.exclusive_group} has no room for {test.group_share:.0%} of its units beside {taken}. Stop one first."
        )
    return start
