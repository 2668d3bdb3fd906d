"""ABTestManager: experiments that may be looked at at any time without lying."""

from __future__ import annotations

import math
import random
import secrets
from dataclasses import replace
from pathlib import Path

from modelyard.ab_testing import allocating, assignment, store
from modelyard.ab_testing.analyses import Analyses, rounds_of
from modelyard.ab_testing.declared import DeclaredTests
from modelyard.ab_testing.experiments import ABTest, Round, TestStatus, TrafficSplitStrategy
from modelyard.ab_testing.guarding import GuardedTests, guards_of
from modelyard.ab_testing.planning import emit, known
from modelyard.core.errors import Conflict, Invalid
from modelyard.core.events import EventType
from modelyard.core.ids import checked_name
from modelyard.core.instants import SYSTEM_CLOCK
from modelyard.core.operations import operation
from modelyard.core.ports import Clock
from modelyard.core.refs import ModelRef, Resource
from modelyard.core.traffic import Arm, Traffic
from modelyard.core.work import Store, Work

REMEMBERED = 1.0  # seconds that another process's start or stop may take to be noticed by recording
RESULT = ("variant", "success", "latency", "custom_metrics", "unit_id", "result_id")


class ABTestManager(GuardedTests, Analyses, DeclaredTests):
    """Creates tests, assigns variants, records results and analyses them."""

    def __init__(self, storage_path: str | Path | Store, *, clock: Clock = SYSTEM_CLOCK) -> None:
        super().__init__(storage_path, clock=clock)
        self._even = (secrets.randbits(64), 0)
        self._random = random.Random(secrets.randbits(128))  # noqa: S311 - draws variants, no secrets

    def close(self) -> None:
        """Fold what was recorded and give connections back. Not closing loses nothing."""
        self._recorder.close()
        self._recorder.fold()
        super().close()

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
        test = self._remembered(test_id).test
        if test.status is not TestStatus.RUNNING:
            return test.winner or test.control.name
        if user_id is None:
            if test.needs_units:
                raise Invalid(
                    f"{test_id} assigns units: pass user_id, the unit that should always get the same variant."
                )
            return assignment.variant_at(test, self._drawn(test))
        unit = str(user_id)
        if not assignment.takes_part(test, unit):
            return None
        if test.adaptive:
            return self._given(test, unit)[0]
        if not test.strategy.sticky:
            return assignment.variant_at(test, self._drawn(test))
        ramped = assignment.ramped_at(test, self.store.clock.now()) if test.ramp_seconds else 1.0
        return assignment.variant_at(test, assignment.place(test_id, unit), ramped)

    @operation("GET", "/ab-tests/{test_id}/traffic", needs="ab_testing.read")
    def traffic(self, test_id: str, endpoint: str, *, generation: int = 1) -> Traffic:
        """The routing that carries a test out on an endpoint: units get the variant that `get_variant` names.

        Variants are written `model:version`. Of a ramp it is the part reached now: take it again as the ramp goes on. Shares
        that stand still are guarded, as `create_test` says.
        Conflict for what a split by ranges cannot carry: Thompson sampling, a part of an exclusive group, a holdout, and a
        ramp of several treatments. Units of those are assigned by `get_variant`.

        >>> from modelyard.ab_testing import ABTestManager
        >>> manager = ABTestManager(folder)
        >>> test = manager.create_test("New", control_variant="fraud:v1.0.0", treatment_variant="fraud:v2.0.0")
        >>> [(arm.name, arm.version, arm.weight) for arm in manager.traffic(test.test_id, "fraud").arms]
        [('treatment', 'v2.0.0', 0.5), ('control', 'v1.0.0', 0.5)]
        """
        return self._carried(self.get_test(test_id), endpoint, generation)

    def _carried(self, test: ABTest, endpoint: str, generation: int = 1) -> Traffic:
        """The routing of a test; Conflict for one that no endpoint can carry out."""
        if test.adaptive or test.group_share < 1 or test.holdouts or (test.ramp_seconds and len(test.treatments) > 1):
            raise Conflict(
                f"{test.test_id} leaves units out or moves shares as no endpoint can. Assign by get_variant."
            )
        ramped = assignment.ramped_at(test, self.store.clock.now()) if test.ramp_seconds else 1.0
        left = 1 - math.fsum(variant.share * ramped for variant in test.treatments)
        arms = []
        for variant in (*test.treatments, test.control):  # the order of the ranges in assignment.variant_at
            ref = ModelRef.parse(variant.model)
            share = left if variant is test.control else variant.share * ramped
            arms.append(Arm(name=variant.name, model=ref.name, version=ref.version, weight=share))
        guards = guards_of(test)
        return Traffic(endpoint=endpoint, generation=generation, arms=tuple(arms), guards=guards, salt=test.test_id)

    @operation("POST", "/ab-tests/{test_id}/endpoint", needs="ab_testing.write")
    def run_test(self, test_id: str, endpoint: str, *, user: str = "system") -> ABTest:
        """The running test, which the serving processes of its Yard carry out on an endpoint until it ends.

        It is started, unless it runs already. The control is the version that answers the endpoint now. Once the test is
        stopped, by a person or by its guard, the control answers everything again, and so does the winner that it is
        concluded with. Conflict for an endpoint where something else answers, a rollout is under way or another test runs,
        for a test of another endpoint, and for what `traffic` cannot carry, ramps included; Forbidden for a treatment that
        may not have live traffic.

        >>> from modelyard.ab_testing import ABTestManager
        >>> manager = ABTestManager(folder)
        >>> test = manager.create_test("New model", control_variant="fraud:v1.0.0", treatment_variant="fraud:v2.0.0")
        >>> manager.run_test(test.test_id, "fraud").status.value
        'running'
        """
        with self.store.work(user) as work:
            return self._run(work, known(work.rows, test_id), endpoint)

    def _run(self, work: Work, test: ABTest, endpoint: str) -> ABTest:
        """The test, running on an endpoint."""
        checked_name(endpoint, "endpoint")
        if test.ramp_seconds:
            raise Conflict(f"{test.test_id} moves its shares, and an endpoint's stand still. Assign by get_variant.")
        if test.endpoint not in ("", endpoint):
            raise Conflict(f"{test.test_id} is for {test.endpoint}. Plan another test for {endpoint}.")
        if test.status is not TestStatus.RUNNING:
            test = self._begun(work, test)
        self._carried(test, endpoint)  # as it is now that the holdouts are known
        test = replace(test, endpoint=endpoint)
        store.set_status(work.rows, test)
        emit(work, EventType.AB_TEST_ROUTED, test, {"endpoint": endpoint, "shares": dict(test.shares)})
        return test

    @operation("POST", "/ab-test-units/forget", needs="ab_testing.write")
    def forget_units(self, units: list[str], *, reason: str, user: str = "system") -> int:
        """How many rows about units were removed, in every test: what each has brought, was given, and its single results.

        The sums that they are part of stay, so no analysis changes. A unit that comes back is a new one, and its results
        from before can neither be corrected nor recognised. Emits AB_UNITS_FORGOTTEN, which names nobody.

        >>> from modelyard.ab_testing import ABTestManager
        >>> ABTestManager(folder).forget_units(["user7"], reason="Art. 17", user="dpo@example.org")
        0
        """
        self._recorder.fold()
        with self.store.work(user) as work:
            removed = sum(store.forget_assignments(work.rows, unit) for unit in units)
            removed += self._recorder.counting(work.rows).forget(units)
            self._recorder.blank(work.rows)
            if removed:
                told = {"rows": removed, "reason": reason}
                work.emit(EventType.AB_UNITS_FORGOTTEN, Resource("ab_test", "all"), told)
        return removed

    def _given(self, test: ABTest, unit: str) -> tuple[str, int]:
        """The variant and round of a unit, for good: the ones it has, or those of the round that runs now."""
        with self.store.reading() as rows:
            given = store.assignment(rows, test.test_id, unit)
        while given is None:
            with self.store.work() as work:
                given = store.assignment(work.rows, test.test_id, unit)  # another process may have been quicker
                now = store.last_round(work.rows, test.test_id)
                if given is None and now.assigned < test.round_units:
                    place = assignment.place(f"{test.test_id}:{now.number}", unit)
                    given = (assignment.within(now.shares, place), now.number)
                    store.assign(work.rows, test.test_id, unit, *given)
            if given is None:
                self._next_round(test)
        return given

    def _next_round(self, test: ABTest) -> None:
        """Begin a round with shares from all that is known, unless another process has."""
        self._recorder.fold()
        with self.store.work() as work:
            rounds = rounds_of(work.rows, test)
            last = rounds[-1][0]
            if last.assigned < test.round_units:
                return
            shares = allocating.next_shares(test, allocating.merged(test, rounds))
            begun = Round(number=last.number + 1, shares=shares, assigned=0, started_at=work.now)
            store.add_round(work.rows, test.test_id, begun)
            emit(work, EventType.AB_TEST_REALLOCATED, test, {"round": begun.number, "shares": shares})

    def _drawn(self, test: ABTest) -> float:
        if test.strategy is TrafficSplitStrategy.PERCENTAGE:
            start, counter = self._even
            self._even = (start, counter + 1)
            return assignment.even_place(counter, start)
        return self._random.random()
