"""ABTestManager: experiments that may be looked at at any time without lying."""

from __future__ import annotations

import math
import random
import secrets
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from modelyard.ab_testing import allocating, assignment, journal, rules, store
from modelyard.ab_testing.experiments import (
    CONTROL,
    TREATMENT,
    ABTest,
    Round,
    TestStatus,
    TrafficSplitStrategy,
    Variant,
)
from modelyard.ab_testing.recording import Recorder
from modelyard.ab_testing.tally import Tally
from modelyard.core.area import Area
from modelyard.core.canonical import dumps, plain
from modelyard.core.errors import Conflict, Invalid, NotFound, nearest
from modelyard.core.events import EventSeverity, EventType
from modelyard.core.ids import checked_name, new_id
from modelyard.core.instants import SYSTEM_CLOCK
from modelyard.core.operations import operation
from modelyard.core.ports import Clock, Connection
from modelyard.core.refs import ModelRef, Resource
from modelyard.core.traffic import Arm, Traffic
from modelyard.core.work import Store, Work

REMEMBERED = 1.0  # seconds that another process's start or stop may take to be noticed by recording


class ABTestManager(Area):
    """Creates tests, assigns variants, records results and analyses them."""

    def __init__(self, storage_path: str | Path | Store, *, clock: Clock = SYSTEM_CLOCK) -> None:
        super().__init__(storage_path, clock=clock)
        self._recorder = Recorder(self.store)
        self._tests: dict[str, tuple[float, ABTest]] = {}
        self._even = (secrets.randbits(64), 0)
        self._random = random.Random(secrets.randbits(128))  # noqa: S311 - draws variants, no secrets

    def close(self) -> None:
        """Fold what was recorded and give connections back. Not closing loses nothing."""
        self._recorder.close()
        self._recorder.fold()
        super().close()

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
        created_by: str = "system",
    ) -> ABTest:
        """A new test of one or several treatments (model versions as name:version) against a control, not yet started.

        `traffic_split` is each treatment's share of the units. With `planned_units`, the largest sample in all, analyses
        are looks of a group-sequential test; without, they are read off a confidence sequence that is narrowest at
        `horizon` units. A ramp reaches the split in `ramp_seconds`. Running tests of one `exclusive_group` share no unit:
        each takes `group_share` of them. Several treatments are called treatment, treatment_2, and so on.

        >>> from modelyard.ab_testing import ABTestManager
        >>> manager = ABTestManager(folder)
        >>> test = manager.create_test("New model", control_variant="fraud:v1.0.0", treatment_variant="fraud:v2.0.0")
        >>> test.status.value, dict(test.shares)
        ('draft', {'control': 0.5, 'treatment': 0.5})
        """
        strategy = TrafficSplitStrategy(strategy)
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
            )
            store.insert_test(work.rows, test)
            _emit(work, EventType.AB_TEST_CREATED, test, plain(test))
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
            test = _known(work.rows, test_id)
            if test.status is TestStatus.RUNNING:
                return test
            if test.status is not TestStatus.DRAFT:
                raise Conflict(f"{test_id} cannot be started: it is {test.status.value}. Create a new test.")
            running = store.running_in_group(work.rows, test.exclusive_group) if test.exclusive_group else []
            begun = replace(test, status=TestStatus.RUNNING, started_at=work.now, group_start=_room(test, running))
            self._change(work, begun, EventType.AB_TEST_STARTED)
        return begun

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
            return _known(rows, test_id)

    @operation("GET", "/ab-tests", needs="ab_testing.read")
    def list_tests(self, *, status: TestStatus | None = None) -> list[ABTest]:
        """The tests, oldest first.

        >>> from modelyard.ab_testing import ABTestManager
        >>> ABTestManager(folder).list_tests()
        []
        """
        with self.store.reading() as rows:
            return store.find_tests(rows, TestStatus(status).value if status else "")

    @operation("GET", "/ab-tests/{test_id}/variant", needs="ab_testing.read")
    def get_variant(self, test_id: str, user_id: str | None = None) -> str | None:
        """The name of the variant that a unit gets, None for a unit outside the test's part of its exclusive group.

        Sticky strategies need `user_id` (a user, a session, a card: whatever is the unit) and always answer alike. A
        stopped test answers with the control, or with the winner once it is concluded. Takes microseconds.

        >>> from modelyard.ab_testing import ABTestManager
        >>> manager = ABTestManager(folder)
        >>> test = manager.create_test("New model", control_variant="fraud:v1.0.0", treatment_variant="fraud:v2.0.0")
        >>> _ = manager.start_test(test.test_id)
        >>> manager.get_variant(test.test_id, user_id="user7") == manager.get_variant(test.test_id, user_id="user7")
        True
        """
        test = self._remembered(test_id)
        if test.status is not TestStatus.RUNNING:
            return test.winner or test.control.name
        if user_id is None:
            if test.strategy.sticky or test.exclusive_group:
                raise Invalid(
                    f"{test_id} assigns units: pass user_id, the unit that should always get the same variant."
                )
            return assignment.variant_at(test, self._drawn(test))
        unit = str(user_id)
        if not assignment.in_group_part(test, unit):
            return None
        if not test.strategy.sticky:
            return assignment.variant_at(test, self._drawn(test))
        ramped = assignment.ramped_at(test, self.store.clock.now()) if test.ramp_seconds else 1.0
        return assignment.variant_at(test, assignment.place(test_id, unit), ramped)

    @operation("POST", "/ab-tests/{test_id}/results", needs="ab_testing.write")
    def traffic(self, test_id: str, endpoint: str, *, generation: int = 1) -> Traffic:
        """The routing that carries a test out on an endpoint: units get the variant that `get_variant` names.

        Variants are written `model:version`. A ramp and an exclusive group are not in it: they hold while traffic is
        assigned by `get_variant`.

        >>> from modelyard.ab_testing import ABTestManager
        >>> manager = ABTestManager(folder)
        >>> test = manager.create_test("New", control_variant="fraud:v1.0.0", treatment_variant="fraud:v2.0.0")
        >>> [(arm.name, arm.version, arm.weight) for arm in manager.traffic(test.test_id, "fraud").arms]
        [('treatment', 'v2.0.0', 0.5), ('control', 'v1.0.0', 0.5)]
        """
        test = self.get_test(test_id)
        arms = []
        for variant in (*test.treatments, test.control):  # the order of the ranges in assignment.variant_at
            ref = ModelRef.parse(variant.model)
            arms.append(Arm(name=variant.name, model=ref.name, version=ref.version, weight=variant.share))
        return Traffic(endpoint=endpoint, generation=generation, arms=tuple(arms), salt=test_id)

    def record_request(
        self,
        test_id: str,
        variant: str,
        *,
        success: bool,
        latency: float | None = None,
        custom_metrics: dict[str, float] | None = None,
        unit_id: str | None = None,
    ) -> None:
        """Count one result: whether it succeeded, its latency in seconds, and any named numbers.

        Give `unit_id` where a unit makes several requests: units are what was assigned, so they are what is compared.
        The result outlives the process once this returns, and a power cut once an analysis or the next fold (every 8192
        results) has run. Conflict for a test that does not run, Invalid for a unit that is assigned elsewhere.

        >>> from modelyard.ab_testing import ABTestManager
        >>> manager = ABTestManager(folder)
        >>> test = manager.create_test("New model", control_variant="fraud:v1.0.0", treatment_variant="fraud:v2.0.0")
        >>> _ = manager.start_test(test.test_id)
        >>> manager.record_request(test.test_id, "control", success=True, latency=0.05)
        >>> manager.analyze_test(test.test_id)["control"]["requests"]
        1
        """
        test = self._recording(test_id)
        self._check_arm(test, variant, unit_id)
        self._recorder.append(
            journal.line(test_id, variant, success, latency=latency, unit=unit_id or "", metrics=custom_metrics)
        )

    def record_many(self, test_id: str, results: Iterable[Mapping[str, Any]]) -> int:
        """How many results were recorded: mappings with the arguments of `record_request`, kept all or none.

        >>> from modelyard.ab_testing import ABTestManager
        >>> manager = ABTestManager(folder)
        >>> test = manager.create_test("New model", control_variant="fraud:v1.0.0", treatment_variant="fraud:v2.0.0")
        >>> _ = manager.start_test(test.test_id)
        >>> manager.record_many(test.test_id, [{"variant": "control", "success": True}] * 3)
        3
        """
        test, lines = self._recording(test_id), []
        for result in results:
            unknown = set(result) - {"variant", "success", "latency", "custom_metrics", "unit_id"}
            if unknown or not {"variant", "success"} <= set(result):
                raise Invalid(
                    f"A result needs variant and success, and knows latency, unit_id and custom_metrics; got {sorted(result)}."
                )
            variant, unit = result["variant"], result.get("unit_id")
            self._check_arm(test, variant, unit)
            metrics, latency = result.get("custom_metrics"), result.get("latency")
            lines.append(
                journal.line(test_id, variant, result["success"], latency=latency, unit=unit or "", metrics=metrics)
            )
        if lines:
            self._recorder.append(b"".join(lines), len(lines))
        return len(lines)

    @operation("PUT", "/ab-tests/{test_id}/counts", needs="ab_testing.write")
    def record_counts(
        self,
        test_id: str,
        variant: str,
        *,
        source: str,
        generation: int,
        requests: int,
        errors: int,
        latency: dict[str, int] | None = None,
    ) -> None:
        """Take over the running totals of an arm that serving counts, by source and generation.

        Telling the same totals again, or older ones late, changes nothing. `latency` is a log-bucket histogram in
        microseconds (stats.sketch).

        >>> from modelyard.ab_testing import ABTestManager
        >>> manager = ABTestManager(folder)
        >>> test = manager.create_test("New model", control_variant="fraud:v1.0.0", treatment_variant="fraud:v2.0.0")
        >>> for _ in range(2):
        ...     manager.record_counts(test.test_id, "control", source="web", generation=1, requests=100, errors=3)
        >>> manager.analyze_test(test.test_id)["control"]["requests"]
        100
        """
        if not 0 <= errors <= requests:
            raise Invalid(f"{errors} errors in {requests} requests cannot be.")
        with self.store.work() as work:
            test = _known(work.rows, test_id)
            self._check_arm(test, variant, None)
            histogram = dumps({int(bucket): int(count) for bucket, count in (latency or {}).items()})
            values = {"test_id": test_id, "variant": variant, "source": source, "generation": generation}
            totals = {"requests": requests, "errors": errors, "latency": histogram}
            store.save_source(work.rows, {**values, **totals})

    @operation("POST", "/ab-tests/{test_id}/analysis", needs="ab_testing.read")
    def analyze_test(self, test_id: str, confidence_level: float = 0.95) -> dict[str, Any]:
        """Whether the arms differ, by how much, and what to do next; takes the same time for any number of results.

        `statistically_significant` keeps its meaning however often this is called. `p_value` is that of a single look
        (pooled score test, Fisher's mid-p under ten events); intervals are as wide as the design needs them:
        `absolute_interval` of the difference of success rates (Newcombe), `relative_interval` of the lift in percent
        (log ratio). Latencies are in seconds. `conclusion` is a sentence.

        >>> from modelyard.ab_testing import ABTestManager
        >>> manager = ABTestManager(folder)
        >>> test = manager.create_test("New model", control_variant="fraud:v1.0.0", treatment_variant="fraud:v2.0.0")
        >>> manager.analyze_test(test.test_id)["conclusion"]
        'Not enough evidence: no results yet for control, treatment. Go on recording.'
        """
        self._recorder.fold()
        with self.store.work() as work:
            test = _known(work.rows, test_id)
            rounds = _rounds(work.rows, test)
            tallies = (
                allocating.merged(test, rounds)
                if test.adaptive
                else {variant.name: _tally(work.rows, test_id, variant.name) for variant in test.variants}
            )
            looks = store.find_looks(work.rows, test_id)
            found, look = rules.analyze(test, tallies, looks, confidence_level=confidence_level, rounds=rounds)
            if look is not None:
                store.add_look(work.rows, test_id, len(looks), look, work.now)
            severity = EventSeverity.WARNING if found["sample_ratio"]["mismatch"] else EventSeverity.INFO
            work.emit(EventType.AB_TEST_ANALYZED, Resource("ab_test", test_id), found, severity=severity)
        return found

    def _recording(self, test_id: str) -> ABTest:
        test = self._remembered(test_id)
        if test.status is not TestStatus.RUNNING:
            raise Conflict(f"{test_id} takes no results: it is {test.status.value}. Start it, or create a new test.")
        return test

    def _remembered(self, test_id: str) -> ABTest:
        known = self._tests.get(test_id)
        if known is not None and time.monotonic() < known[0]:
            return known[1]
        test = self.get_test(test_id)
        self._tests[test_id] = (time.monotonic() + REMEMBERED, test)
        return test

    def _check_arm(self, test: ABTest, variant: str, unit: str | None) -> None:
        if not any(variant == known.name for known in test.variants):
            raise NotFound(f"{test.test_id} has no variant {variant!r}. {nearest(str(variant), list(test.shares))}")
        if unit is None or not test.strategy.sticky:
            return
        if not assignment.in_group_part(test, unit):
            raise Invalid(
                f"{unit!r} was never assigned: it is outside {test.test_id}'s part of {test.exclusive_group}."
            )
        assigned = assignment.variant_at(test, assignment.place(test.test_id, unit))
        early = test.ramp_seconds and variant == test.control.name  # met the control before the ramp reached it
        if assigned != variant and not early:
            raise Invalid(f"{unit!r} is assigned to {assigned}, not to {variant}. Record what get_variant answered.")

    def _drawn(self, test: ABTest) -> float:
        if test.strategy is TrafficSplitStrategy.PERCENTAGE:
            start, counter = self._even
            self._even = (start, counter + 1)
            return assignment.even_place(counter, start)
        return self._random.random()

    def _end(self, test_id: str, status: TestStatus, winner: str, words: str, user: str) -> ABTest:
        self._recorder.fold()
        with self.store.work(user) as work:
            test = _known(work.rows, test_id)
            if test.status is status and test.winner == winner:
                return test
            if test.status in (TestStatus.DRAFT, TestStatus.CONCLUDED):
                raise Conflict(f"{test_id} is {test.status.value}, so it cannot become {status.value}.")
            if winner:
                self._check_arm(test, winner, None)
            ended = replace(test, status=status, ended_at=test.ended_at or work.now, winner=winner, conclusion=words)
            self._change(work, ended, EventType.AB_TEST_STOPPED)
        return ended

    def _change(self, work: Work, test: ABTest, event: EventType) -> None:
        store.set_status(work.rows, test)
        _emit(work, event, test, {"status": test.status.value, "winner": test.winner, "conclusion": test.conclusion})
        self._tests.pop(test.test_id, None)


def _emit(work: Work, event: EventType, test: ABTest, details: Mapping[str, Any]) -> None:
    models = {variant.name: variant.model for variant in test.variants}
    work.emit(event, Resource("ab_test", test.test_id), {"name": test.name, "models": models, **details})


def _known(rows: Connection, test_id: str) -> ABTest:
    test = store.find_test(rows, test_id)
    if test is None:
        raise NotFound(f"There is no test {test_id!r}. {nearest(test_id, store.test_ids(rows))}")
    return test


def _tally(rows: Connection, test_id: str, variant: str) -> Tally:
    tally = store.arm_tally(rows, test_id, variant)
    tally.merge(store.source_tally(rows, test_id, variant))
    return tally


def _rounds(rows: Connection, test: ABTest) -> list[tuple[Round, dict[str, Tally]]]:
    """The rounds of Thompson sampling with what each variant has shown in them."""
    return [
        (one, {v.name: store.arm_tally(rows, test.test_id, v.name, one.number) for v in test.variants})
        for one in store.find_rounds(rows, test.test_id)
    ]


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
