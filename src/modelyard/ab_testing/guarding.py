"""The guard of a test that runs on an endpoint: the serving processes watch its treatments and take them back by themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from modelyard.ab_testing.corrections import Corrections
from modelyard.ab_testing.experiments import ABTest, TestStatus
from modelyard.ab_testing.planning import known
from modelyard.core.events import EventSeverity, EventType
from modelyard.core.traffic import ArmCounts, Guard, GuardTrip, Traffic, TrafficCounts


def guards_of(test: ABTest) -> tuple[Guard, ...]:
    """A guard for each treatment, which share the test's alpha; none for shares that move, or where alpha is 0.

    A treatment is compared with the control alone: of what the two of them get, it gets its share over theirs.
    """
    if not test.guard_alpha or test.ramp_seconds or test.adaptive:
        return ()
    return tuple(
        Guard(
            rollout_id=test.test_id,
            step=0,
            arm=one.name,
            control=test.control.name,
            share=one.share / (one.share + test.control.share),
            alpha=float(f"{test.guard_alpha / len(test.treatments):.12g}"),
            latency_margin=test.latency_margin,
            latency_floor_ms=test.latency_floor_ms,
        )
        for one in test.treatments
    )


def timed(traffic: Traffic, latency_ms: Mapping[str, float]) -> Traffic:
    """The traffic with guards that judge latency too, by these quantiles of the control."""
    return replace(traffic, guards=tuple(replace(one, latency_ms=dict(latency_ms)) for one in traffic.guards))


def next_step(traffic: Traffic, counts: TrafficCounts, latency_ms: Mapping[str, float]) -> Traffic:
    """The same with guards that go on from where the tests are: what was evidence stays it, and counts once."""
    carried = [dict(counts.arms.get(one.arm, ArmCounts()).tests) for one in traffic.guards]
    guards = zip(timed(traffic, latency_ms).guards, carried, strict=True)
    return replace(traffic, guards=tuple(replace(one, step=one.step + 1, carried=tests) for one, tests in guards))


class GuardedTests(Corrections):
    """Ends a test that its guard has taken from its endpoint."""

    def record_trip(self, trip: GuardTrip) -> ABTest:
        """The test after the serving processes have taken a treatment back; telling it again changes nothing.

        It is stopped, with what they counted as evidence. One that somebody has ended meanwhile stays as it was ended.

        >>> from modelyard.ab_testing import ABTestManager
        >>> from modelyard.core.traffic import GuardTrip, TrafficCounts
        >>> manager = ABTestManager(folder)
        >>> test = manager.create_test("New model", control_variant="fraud:v1.0.0", treatment_variant="fraud:v2.0.0")
        >>> _ = manager.run_test(test.test_id, "fraud")
        >>> counts = TrafficCounts(endpoint="fraud", generation=2)
        >>> where = {"endpoint": "fraud", "generation": 2, "rollout_id": test.test_id, "step": 0, "arm": "treatment"}
        >>> found = {"metric": "errors", "e_value": 1300.0, "threshold": 1000.0, "reason": "8 of 20 failed.", "at": 0.0}
        >>> manager.record_trip(GuardTrip(**where, **found, counts=counts)).conclusion
        'The guard took treatment (fraud:v2.0.0) back on fraud: 8 of 20 failed.'
        """
        self._recorder.fold()
        with self.store.work("guard") as work:
            test = known(work.rows, trip.rollout_id)
            if test.status is not TestStatus.RUNNING:
                return test
            model = next((one.model for one in test.treatments if one.name == trip.arm), "")
            ended = replace(
                test,
                status=TestStatus.STOPPED,
                ended_at=work.now,
                taken_back=trip.arm,
                conclusion=f"The guard took {trip.arm} ({model}) back on {trip.endpoint}: {trip.reason}",
            )
            self._change(
                work, ended, EventType.AB_TEST_STOPPED, severity=EventSeverity.ERROR, taken_back=_evidence(trip)
            )
        return ended


def _evidence(trip: GuardTrip) -> dict[str, Any]:
    """What a guard's decision rests on, as plain values."""
    arms = {
        name: {"requests": arm.requests, "units": arm.units, "errors": arm.errors, "slower": dict(arm.slower)}
        for name, arm in trip.counts.arms.items()
    }
    return {
        "variant": trip.arm,
        "endpoint": trip.endpoint,
        "metric": trip.metric,
        "e_value": trip.e_value,
        "threshold": trip.threshold,
        "share": trip.share,
        "evidence": dict(trip.evidence),
        "arms": arms,
        "at": trip.at,
    }
