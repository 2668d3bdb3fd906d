"""Recording the results of experiments."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from modelyard.ab_testing import assignment, journal, store
from modelyard.ab_testing.experiments import ABTest, TestStatus
from modelyard.ab_testing.gathering import check_quantiled, gathered
from modelyard.ab_testing.planning import Plans, Remembered, known
from modelyard.core.assignment import position
from modelyard.core.canonical import dumps
from modelyard.core.errors import Conflict, Invalid, NotFound, Unavailable, nearest
from modelyard.core.operations import operation
from modelyard.stats.sketch import bucket

REMEMBERED = 1.0  # seconds that another process's start or stop may take to be noticed by recording
AWAY = 10.0  # seconds until a database that cannot be reached is asked again
LAST_BUCKET = bucket(journal.LARGEST * 1e6)


class Results(Plans):
    """Takes results."""

    @operation("POST", "/ab-tests/{test_id}/results", needs="ab_testing.write")
    def record_request(
        self,
        test_id: str,
        variant: str,
        *,
        success: bool,
        latency: float | None = None,
        custom_metrics: dict[str, float] | None = None,
        unit_id: str | None = None,
        result_id: str | None = None,
    ) -> None:
        """Count one result: whether it succeeded, its latency in seconds, and any named numbers.

        Give `unit_id` where a unit makes several requests: units are what was assigned, so they are what is compared. Give
        `result_id` where a result may be told twice, or corrected later: it counts once. Covariates are told among
        `custom_metrics`. The result outlives the process once this returns, and a power cut once an analysis or the next
        fold (every 8192 results, or a minute) has run. Conflict for a test that does not run, Invalid for a unit that is
        assigned elsewhere.

        >>> from modelyard.ab_testing import ABTestManager
        >>> manager = ABTestManager(folder)
        >>> test = manager.create_test("New model", control_variant="fraud:v1.0.0", treatment_variant="fraud:v2.0.0")
        >>> _ = manager.start_test(test.test_id)
        >>> manager.record_request(test.test_id, "control", success=True, latency=0.05)
        >>> manager.analyze_test(test.test_id)["control"]["requests"]
        1
        """
        taking = self._taking(test_id)
        if unit_id is None and result_id is None and custom_metrics is None:
            told = b"" if latency is None else journal.packed((latency,))
            self._recorder.append(self._head(taking, variant, success) + told + journal.ALONE + b"\n")
            return
        record = self._record(
            taking,
            variant=variant,
            success=success,
            latency=latency,
            custom_metrics=custom_metrics,
            unit_id=unit_id,
            result_id=result_id,
        )
        self._recorder.append(record + b"\n")

    @operation("POST", "/ab-tests/{test_id}/result-batches", needs="ab_testing.write")
    def record_many(self, test_id: str, results: list[dict[str, Any]]) -> int:
        """How many results were recorded: mappings with the arguments of `record_request`, kept all or none.

        >>> from modelyard.ab_testing import ABTestManager
        >>> manager = ABTestManager(folder)
        >>> test = manager.create_test("New model", control_variant="fraud:v1.0.0", treatment_variant="fraud:v2.0.0")
        >>> _ = manager.start_test(test.test_id)
        >>> manager.record_many(test.test_id, [{"variant": "control", "success": True}] * 3)
        3
        """
        records, count = gathered(self._taking(test_id).test, self._rounds_of, list(results))
        if records:
            self._recorder.append(journal.BETWEEN.join(records) + b"\n", count)
        return count

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
        microseconds (stats.sketch): how many lie in each bucket, by its number.

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
            test = known(work.rows, test_id)
            if test.adaptive:
                raise Conflict(f"{test_id} moves shares in rounds, which totals do not tell apart. Record each result.")
            self._check_arm(test, variant, None)
            histogram = dumps(_histogram(latency or {}))
            values = {"test_id": test_id, "variant": variant, "source": source, "generation": generation}
            totals = {"requests": requests, "errors": errors, "latency": histogram}
            store.save_source(work.rows, {**values, **totals})

    def forget_counts(self, test_id: str, *, source: str) -> int:
        """How many totals of a source were let go of: what it counted is told by results from now on."""
        with self.store.work() as work:
            return store.drop_source(work.rows, test_id, source)

    def _taking(self, test_id: str) -> Remembered:
        """A running test."""
        found = self._tests.get(test_id)
        if found is None or time.monotonic() > found.until:
            found = self._remembered(test_id)
            self._recorder.fold_late()
        if found.test.status is not TestStatus.RUNNING:
            status = found.test.status.value
            raise Conflict(f"{test_id} takes no results: it is {status}. Start it, or create a new test.")
        return found

    def _remembered(self, test_id: str) -> Remembered:
        """A test as it was within the last second, or when the database could be reached last."""
        found = self._tests.get(test_id)
        if found is None or time.monotonic() > found.until:
            try:
                test, lasting = self.get_test(test_id), REMEMBERED
            except Unavailable:
                if found is None:
                    raise
                test, lasting = found.test, AWAY
            found = self._tests[test_id] = Remembered(test, time.monotonic() + lasting)
        return found

    def _head(self, taking: Remembered, variant: str, success: bool) -> bytes:
        """How the record of a result begins that counts for no round, kept for the next one alike."""
        try:
            return taking.heads[variant, success]
        except (KeyError, TypeError):
            number, judged = self._check_arm(taking.test, variant, None), journal.judged(success)
            head = taking.heads[variant, judged] = journal.head(taking.test.test_id, variant, number, judged)
            return head

    def _record(
        self,
        taking: Remembered,
        *,
        variant: str,
        success: bool,
        latency: float | None = None,
        custom_metrics: Mapping[str, float] | None = None,
        unit_id: str | None = None,
        result_id: str | None = None,
    ) -> bytes:
        """A result as a record of the journal, checked against the test."""
        test_id = taking.test.test_id
        unit = "" if unit_id is None else journal.key(test_id, unit_id)
        if taking.needs_units:
            number = self._check_arm(taking.test, variant, unit_id, unit)
            begin = journal.head(test_id, variant, number, success)
        else:
            begin = self._head(taking, variant, success)
        numbers = {} if custom_metrics is None else journal.named(custom_metrics)
        key = "" if result_id is None else journal.key(test_id, result_id)
        found = journal.single(begin, latency, unit, key, numbers)
        if numbers:
            check_quantiled(taking.test, numbers)
        return found

    def _rounds_of(self, test: ABTest, variant: str, units: Sequence[Any], keys: Sequence[str]) -> list[int]:
        """The rounds that results of an arm count for, none where it is 0 for all; an error as of `_check_arm`."""
        if not units or not test.needs_units:
            self._check_arm(test, variant, units[0] if units else None)
            return []
        if not (test.adaptive or test.holdouts or test.exclusive_group or test.ramp_seconds):
            places = [position(int(key[:16], 16)) for key in keys]
            if all(assignment.variant_at(test, place) == variant for place in places):
                return []
        return [self._check_arm(test, variant, unit, key) for unit, key in zip(units, keys, strict=True)]

    def _check_arm(self, test: ABTest, variant: str, unit: Any, key: str = "") -> int:
        """The round that a result counts for; an error for a variant that its unit does not have."""
        if not isinstance(variant, str) or not any(one.name == variant for one in test.variants):
            name = variant if isinstance(variant, str) else journal.shown(variant)
            raise NotFound(f"{test.test_id} has no variant {name!r:.80}. {nearest(name, list(test.shares))}")
        if unit is None:
            if test.adaptive:
                raise Invalid(f"{test.test_id} assigns units in rounds: pass unit_id with every result.")
            return 0
        if (test.holdouts or test.exclusive_group) and not assignment.takes_part(test, str(unit)):
            raise Invalid(
                f"{unit!r} was never assigned: it is in a holdout, or outside {test.test_id}'s part of its group."
            )
        if test.adaptive:
            return self._round_of(test, variant, str(unit))
        if not test.strategy.sticky:
            return 0
        assigned = assignment.variant_at(test, position(int(key[:16], 16)))  # as assignment.place
        early = test.ramp_seconds and variant == test.control.name  # met the control before the ramp reached it
        if assigned != variant and not early:
            raise Invalid(f"{unit!r} is assigned to {assigned}, not to {variant}. Record what get_variant answered.")
        return 0

    def _round_of(self, test: ABTest, variant: str, unit: str) -> int:
        with self.store.reading() as rows:
            given = store.assignment(rows, test.test_id, unit)
        if given is None:
            raise Invalid(
                f"{unit!r} was never assigned by {test.test_id}. Ask get_variant before a result is recorded."
            )
        if given[0] != variant:
            raise Invalid(f"{unit!r} is assigned to {given[0]}, not to {variant}. Record what get_variant answered.")
        return given[1]


def _histogram(told: Mapping[str, int]) -> dict[int, int]:
    """Counts by bucket; Invalid for buckets or counts that cannot be."""
    try:
        found = {int(index): int(count) for index, count in told.items()}
    except (TypeError, ValueError):
        found = {-1: 0}
    if any(not 0 <= index <= LAST_BUCKET or count < 0 for index, count in found.items()):
        raise Invalid(f"latency is no histogram: give counts of 0 or more by buckets from 0 to {LAST_BUCKET}.")
    return found
