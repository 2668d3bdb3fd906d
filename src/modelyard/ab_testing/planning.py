"""Planning experiments: how large, on whom, and when they begin and end."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from modelyard.ab_testing import metrics as measured
from modelyard.ab_testing import sizing, store
from modelyard.ab_testing.experiments import (
    CONTROL,
    TREATMENT,
    ABTest,
    Held,
    Inference,
    Round,
    TestStatus,
    TrafficSplitStrategy,
    Variant,
)
from modelyard.ab_testing.metrics import Kind, Role
from modelyard.ab_testing.recording import Recorder
from modelyard.ab_testing.sizing import Sizing
from modelyard.core.area import Area
from modelyard.core.canonical import plain
from modelyard.core.errors import Conflict, Invalid, NotFound, nearest
from modelyard.core.events import EventType
from modelyard.core.ids import checked_name, new_id
from modelyard.core.instants import SYSTEM_CLOCK
from modelyard.core.operations import operation
from modelyard.core.ports import Clock, Connection
from modelyard.core.refs import ModelRef, Resource
from modelyard.core.work import Store, Work

FEWEST = 100  # units of a round of Thompson sampling: its comparison rests on the normal law


@dataclass(slots=True)
class Remembered:
    """A test as recording remembers it, until when, and how records of its arms begin, by variant and success."""

    test: ABTest
    until: float
    heads: dict[tuple[str, bool], bytes] = field(default_factory=dict)


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
        description: str = "",
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
        created_by: str = "system",
    ) -> ABTest:
        """A new test of one or several treatments (model versions as name:version) against a control, not yet started.

        `traffic_split` is each treatment's share of the units. With `planned_units`, the largest sample in all, analyses
        are looks of a group-sequential test; without, they are read off a confidence sequence that is narrowest at
        `horizon` units. A ramp reaches the split in `ramp_seconds`. Running tests of one `exclusive_group` share no unit:
        each takes `group_share` of them. Several treatments are called treatment, treatment_2, and so on.

        `metrics` name what is looked at beside the success rate: mappings with `name`, `kind` (mean, ratio, average,
        quantile), `role` (goal, guardrail with a `margin`, secondary), `direction` (up, down), and `numerator`,
        `denominator`, `covariate`, `strata`, `quantile` as the kind needs them. `inference` bayesian decides by posteriors
        from `prior` (a, b of a Beta law, or mean and deviation of a normal one) once a choice is expected to lose at most
        `tolerated_loss` of the control's value; thompson moves new units to the likely best in rounds of `round_units`.

        >>> from modelyard.ab_testing import ABTestManager
        >>> manager = ABTestManager(folder)
        >>> test = manager.create_test("New model", control_variant="fraud:v1.0.0", treatment_variant="fraud:v2.0.0")
        >>> test.status.value, dict(test.shares)
        ('draft', {'control': 0.5, 'treatment': 0.5})
        """
        strategy, inference = TrafficSplitStrategy(strategy), Inference(inference)
        planned = measured.parsed(metrics or [])
        _check_plan(planned_units, horizon, strategy, ramp_seconds)
        if not 0 < group_share <= 1 or (group_share < 1 and not exclusive_group):
            raise Invalid(
                f"group_share is {group_share}; give a part of 1 together with the name of an exclusive_group."
            )
        with self.store.work(created_by) as work:
            test = ABTest(
                test_id=new_id("test"),
                name=name,
                description=description,
                strategy=strategy,
                status=TestStatus.DRAFT,
                variants=_variants(control_variant, treatment_variant, traffic_split),
                created_by=created_by,
                created_at=work.now,
                planned_units=planned_units,
                horizon=horizon,
                ramp_seconds=ramp_seconds,
                exclusive_group=checked_name(exclusive_group, "group") if exclusive_group else "",
                group_share=group_share,
                metrics=planned,
                inference=inference,
                prior=None if prior is None else _pair(prior),
                tolerated_loss=tolerated_loss,
                round_units=round_units,
                holdouts=tuple(store.find_holdouts(work.rows, ended=False)),
            )
            _check_inference(test)
            store.insert_test(work.rows, test)
            emit(work, EventType.AB_TEST_CREATED, test, plain(test))
        return test

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
            if any(name == other.name for other in store.find_holdouts(work.rows, ended=True)):
                raise Conflict(f"There is a holdout {name} already, and names are not used again. Choose another.")
            store.insert_holdout(work.rows, held, work.now, created_by)
            work.emit(EventType.AB_HOLDOUT_CREATED, Resource("ab_holdout", name), plain(held))
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

    def _change(self, work: Work, test: ABTest, event: EventType) -> None:
        store.set_status(work.rows, test)
        told = {"status": test.status.value, "winner": test.winner, "conclusion": test.conclusion}
        emit(work, event, test, {**told, "holdouts": plain(test.holdouts)})
        self._tests.pop(test.test_id, None)


def emit(work: Work, event: EventType, test: ABTest, details: Mapping[str, Any]) -> None:
    """Tell what became of a test."""
    models = {variant.name: variant.model for variant in test.variants}
    work.emit(event, Resource("ab_test", test.test_id), {"name": test.name, "models": models, **details})


def known(rows: Connection, test_id: str) -> ABTest:
    """The test; NotFound where there is none."""
    test = store.find_test(rows, test_id)
    if test is None:
        raise NotFound(f"There is no test {test_id!r}. {nearest(test_id, store.test_ids(rows))}")
    return test


def _variants(control: str, treatments: str | list[str], split: float | list[float]) -> tuple[Variant, ...]:
    """The control and the treatments with their shares; Invalid for shares that leave nothing for the control."""
    models = [treatments] if isinstance(treatments, str) else list(treatments)
    shares = [split] * len(models) if isinstance(split, (int, float)) else list(split)
    if not models or len(models) != len(shares):
        raise Invalid(f"{len(shares)} shares do not fit {len(models)} treatments. Give each treatment one.")
    if any(not 0 < share < 1 for share in shares) or not 0 < math.fsum(shares) < 1:
        raise Invalid(f"traffic_split {split} must leave each arm a share: parts above 0 with a sum below 1.")
    names = [TREATMENT, *(f"{TREATMENT}_{number}" for number in range(2, len(models) + 1))]
    for model in (control, *models):
        ModelRef.parse(model)
    rest = Variant(name=CONTROL, model=control, share=1 - math.fsum(shares))
    return rest, *(Variant(name=n, model=m, share=float(s)) for n, m, s in zip(names, models, shares, strict=True))


def _check_plan(planned: int | None, horizon: int, strategy: TrafficSplitStrategy, ramp_seconds: float) -> None:
    if planned is not None and planned < 2:
        raise Invalid(
            f"planned_units is {planned}; a test compares at least two units. Leave it out to look at any time."
        )
    if horizon < 2:
        raise Invalid(f"horizon is {horizon}; give the number of units at which the answer matters most, 2 or more.")
    if (strategy is TrafficSplitStrategy.RAMP) != (ramp_seconds > 0) or not math.isfinite(ramp_seconds):
        raise Invalid("ramp_seconds above 0 and the strategy ramp go together: give both or neither.")


def _pair(prior: list[float]) -> tuple[float, float]:
    if len(prior) != 2 or not all(math.isfinite(number) for number in prior):
        raise Invalid(f"The prior {prior} is not two numbers: [a, b] for a rate, [mean, deviation] otherwise.")
    return float(prior[0]), float(prior[1])


def _check_inference(test: ABTest) -> None:
    """Invalid for settings that do not go with the inference."""
    prior, asked = test.prior, test.inference.value
    if test.inference is Inference.FREQUENTIST:
        if prior is not None:
            raise Invalid("A prior goes with the inference bayesian or thompson. Leave it out, or choose one of them.")
        return
    goal = test.goals[0]
    if len(test.goals) != 1 or goal.kind is Kind.QUANTILE:
        raise Invalid(f"The inference {asked} decides on one goal that is no quantile. Make the others secondary.")
    if test.planned_units is not None:
        raise Invalid(f"planned_units does not go with the inference {asked}, which may end at any time.")
    if prior is not None and not (prior[1] > 0 and (goal.kind is not Kind.RATE or prior[0] > 0)):
        raise Invalid(
            f"The prior {prior} must be [a, b] above 0 for a rate, or [mean, deviation] with a deviation above 0."
        )
    if not 0 < test.tolerated_loss < 1:
        raise Invalid(f"tolerated_loss is {test.tolerated_loss}; give a part of the control's value between 0 and 1.")
    if test.adaptive and any(metric.role is Role.GUARDRAIL for metric in test.metrics):
        raise Invalid(
            "Thompson sampling cannot hold a guardrail: no sound relative interval is known while shares move. Make the "
            "metric secondary, or choose another inference."
        )
    if test.adaptive and (test.round_units < FEWEST or test.strategy is not TrafficSplitStrategy.HASH_BASED):
        raise Invalid(f"Thompson sampling needs rounds of {FEWEST} units or more and the strategy hash_based.")


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
