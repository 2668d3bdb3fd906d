"""Results of experiments: recording them, and correcting what was counted wrongly."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from modelyard.ab_testing import assignment, journal, store
from modelyard.ab_testing.counting import Counting
from modelyard.ab_testing.experiments import ABTest, TestStatus
from modelyard.ab_testing.journal import Result
from modelyard.ab_testing.metrics import Kind
from modelyard.ab_testing.planning import Plans, Remembered, emit, known
from modelyard.core.canonical import dumps, plain
from modelyard.core.errors import Conflict, Invalid, NotFound, nearest
from modelyard.core.events import EventType
from modelyard.core.operations import operation
from modelyard.core.work import Work
from modelyard.stats.sketch import bucket

REMEMBERED = 1.0  # seconds that another process's start or stop may take to be noticed by recording
RESULT = frozenset({"variant", "success", "latency", "custom_metrics", "unit_id", "result_id"})
LAST_BUCKET = bucket(journal.LARGEST * 1e6)
Amend = Callable[[ABTest, Result], "Result | None"]
Change = tuple[Result, "Result | None"]  # what a result said, and what it says now; None: withdrawn


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """What a counted result said and what it says now (None where it was withdrawn), each as it was recorded."""

    test_id: str
    result_id: str
    variant: str
    before: Mapping[str, Any]
    after: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """What became of results told by id: how many were new, corrected or repeated, and why others were refused."""

    new: int = 0
    corrected: int = 0
    repeated: int = 0
    refused: Mapping[str, str] = field(default_factory=dict)


class Results(Plans):
    """Takes results and corrections."""

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
        if unit_id is None and result_id is None and not custom_metrics:
            head = taking.heads.get((variant, success)) or self._head(taking, variant, success)
            told = b"" if latency is None else journal.packed((latency,))
            self._recorder.append(head + told + journal.ALONE + b"\n")
            return
        record = self._record(
            taking.test,
            variant=variant,
            success=success,
            latency=latency,
            custom_metrics=custom_metrics,
            unit_id=unit_id,
            result_id=result_id,
        )
        self._recorder.append(record + b"\n")

    def record_many(self, test_id: str, results: Iterable[Mapping[str, Any]]) -> int:
        """How many results were recorded: mappings with the arguments of `record_request`, kept all or none.

        >>> from modelyard.ab_testing import ABTestManager
        >>> manager = ABTestManager(folder)
        >>> test = manager.create_test("New model", control_variant="fraud:v1.0.0", treatment_variant="fraud:v2.0.0")
        >>> _ = manager.start_test(test.test_id)
        >>> manager.record_many(test.test_id, [{"variant": "control", "success": True}] * 3)
        3
        """
        test, alike, records, count = self._taking(test_id).test, defaultdict(list), [], 0
        for result in results:
            count += 1
            try:
                if len(result) == 2 + ("latency" in result):
                    alike[result["variant"], result["success"]].append(result.get("latency"))
                    continue
                names = result.keys()
            except (TypeError, KeyError, AttributeError):
                raise _no_result(result) from None
            if not {"variant", "success"} <= names <= RESULT:
                raise _no_result(result)
            records.append(self._record(test, **result))
        for (variant, success), latencies in alike.items():
            number = self._check_arm(test, variant, None)
            told = journal.packed([latency for latency in latencies if latency is not None])
            records.append(journal.head(test_id, variant, number, success, len(latencies)) + told + journal.ALONE)
        if records:
            self._recorder.append(journal.BETWEEN.join(records) + b"\n", count)
        return count

    @operation("POST", "/ab-tests/{test_id}/corrections", needs="ab_testing.write")
    def correct_result(
        self,
        test_id: str,
        result_id: str,
        *,
        success: bool | None = None,
        latency: float | None = None,
        custom_metrics: dict[str, float] | None = None,
        reason: str,
        user: str = "system",
    ) -> Correction:
        """The change of a result that was counted and turned out otherwise: a payment that was charged back, say.

        What is left out stays as it was told. The old numbers are taken out of every sum and histogram exactly, so that an
        analysis is as if the result had been told so at once; only looks that are spent stay spent. Works in ended tests
        too. NotFound for a result that was never counted, or was told without a result_id. Emits AB_RESULTS_CORRECTED.

        >>> from modelyard.ab_testing import ABTestManager
        >>> manager = ABTestManager(folder)
        >>> test = manager.create_test("New model", control_variant="fraud:v1.0.0", treatment_variant="fraud:v2.0.0")
        >>> _ = manager.start_test(test.test_id)
        >>> manager.record_request(test.test_id, "control", success=True, result_id="order-7")
        >>> manager.correct_result(test.test_id, "order-7", success=False, reason="charged back").after["success"]
        False
        >>> manager.analyze_test(test.test_id)["control"]["successes"]
        0
        """
        if success is None and latency is None and not custom_metrics:
            raise Invalid(
                "Nothing is corrected. Pass success, latency or custom_metrics as they ought to have been told."
            )

        return self._corrected(
            test_id,
            result_id,
            lambda test, before: _amended(test, before, success, latency, custom_metrics or {}),
            reason,
            user,
        )

    @operation("POST", "/ab-tests/{test_id}/withdrawals", needs="ab_testing.write")
    def withdraw_result(self, test_id: str, result_id: str, *, reason: str, user: str = "system") -> Correction:
        """The result that ought not to have been counted at all, and is not any more; its id is not counted again.

        >>> from modelyard.ab_testing import ABTestManager
        >>> manager = ABTestManager(folder)
        >>> test = manager.create_test("New model", control_variant="fraud:v1.0.0", treatment_variant="fraud:v2.0.0")
        >>> _ = manager.start_test(test.test_id)
        >>> manager.record_request(test.test_id, "control", success=True, result_id="order-7")
        >>> _ = manager.withdraw_result(test.test_id, "order-7", reason="an employee's order")
        >>> manager.analyze_test(test.test_id)["control"]["requests"]
        0
        """
        return self._corrected(test_id, result_id, lambda *_: None, reason, user)

    def settle_results(
        self, test_id: str, results: Iterable[Mapping[str, Any]], *, reason: str, user: str = "system"
    ) -> Settled:
        """What became of results that may be known already, by their result_id, without the way over a journal.

        A running test counts the new ones; one that says otherwise than it was counted is corrected, in an ended test too.
        """
        test, told, refused = self.get_test(test_id), {}, {}
        for one in results:
            try:
                result = journal.parsed(self._record(test, **one).decode())
                told[result.result_id] = result
            except (Invalid, NotFound) as error:
                refused[str(one["result_id"])] = str(error)
        self._recorder.fold()
        with self.store.work(user) as work:
            known_ones = store.results_of(work.rows, test_id, told)
            new = [one for name, one in told.items() if name not in known_ones]
            if known(work.rows, test_id).status is not TestStatus.RUNNING:
                refused |= {one.result_id: f"{test_id} is {test.status.value}." for one in new}
                new = []
            changes = _differing(known_ones, told)
            counting = Counting(work.rows)
            counting.add(new)
            _change(work, counting, test, changes, reason)
        repeated = len(known_ones) - len(changes)
        return Settled(new=len(new), corrected=len(changes), repeated=repeated, refused=refused)

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
        """A test as it was within the last second."""
        found = self._tests.get(test_id)
        if found is None or time.monotonic() > found.until:
            found = self._tests[test_id] = Remembered(self.get_test(test_id), time.monotonic() + REMEMBERED)
        return found

    def _head(self, taking: Remembered, variant: str, success: bool) -> bytes:
        """How the record begins of a result of a unit of its own, kept for the next one alike."""
        number = self._check_arm(taking.test, variant, None)
        head = journal.head(taking.test.test_id, variant, number, success)
        taking.heads[variant, success] = head
        return head

    def _record(
        self,
        test: ABTest,
        *,
        variant: str,
        success: bool,
        latency: float | None = None,
        custom_metrics: Mapping[str, float] | None = None,
        unit_id: str | None = None,
        result_id: str | None = None,
    ) -> bytes:
        """A result as a record of the journal, checked against the test."""
        unit = None if unit_id is None else str(unit_id)
        if unit is not None:
            journal.check_id(unit)
        text = journal.record(
            test.test_id,
            variant,
            self._check_arm(test, variant, unit),
            success,
            latency,
            unit=unit,
            result_id=None if result_id is None else str(result_id),
            metrics=custom_metrics,
        )
        if custom_metrics:
            _check_quantiled(test, custom_metrics)
        return text

    def _corrected(self, test_id: str, result_id: str, amended: Amend, reason: str, user: str) -> Correction:
        if not reason.strip():
            raise Invalid("A correction needs a reason, which is kept with it. Pass reason.")
        self._recorder.fold()
        with self.store.work(user) as work:
            test = known(work.rows, test_id)
            found = store.results_of(work.rows, test_id, [str(result_id)])
            if not found:
                raise NotFound(
                    f"{test_id} has counted no result {result_id!r}. Only what was told with a result_id can be corrected; "
                    "another machine's results are known once it has folded them."
                )
            ((name, before),) = found.items()
            if before is None:
                raise Conflict(
                    f"The result {name!r} was withdrawn from {test_id}. Tell it anew under another result_id."
                )
            after = amended(test, before)
            if after != before:
                _change(work, Counting(work.rows), test, [(before, after)], reason)
        return _correction(before, after)

    def _check_arm(self, test: ABTest, variant: str, unit: str | None) -> int:
        """The round that a result counts for; an error for a variant that its unit does not have."""
        for one in test.variants:  # the quickest way, and every result takes it
            if one.name == variant:
                break
        else:
            raise NotFound(f"{test.test_id} has no variant {variant!r}. {nearest(str(variant), list(test.shares))}")
        if unit is None:
            if test.adaptive:
                raise Invalid(f"{test.test_id} assigns units in rounds: pass unit_id with every result.")
            return 0
        if not assignment.takes_part(test, unit):
            raise Invalid(
                f"{unit!r} was never assigned: it is in a holdout, or outside {test.test_id}'s part of its group."
            )
        if test.adaptive:
            return self._round_of(test, variant, unit)
        if not test.strategy.sticky:
            return 0
        assigned = assignment.variant_at(test, assignment.place(test.test_id, unit))
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


def _amended(test: ABTest, before: Result, success: Any, latency: float | None, told: Mapping[str, float]) -> Result:
    """The result with other numbers, checked as when it is recorded."""
    metrics = {**(before.metrics or {}), **told}
    text = journal.record(
        test.test_id,
        before.variant,
        before.number,
        bool(before.success) if success is None else success,
        before.latency if latency is None else latency,
        unit=before.unit or None,
        result_id=before.result_id,
        metrics=metrics,
    )
    _check_quantiled(test, metrics)
    return journal.parsed(text.decode())


def _change(work: Work, counting: Counting, test: ABTest, changes: Sequence[Change], reason: str) -> None:
    """Write what is counted, with these changes, and tell of them."""
    for before, after in changes:
        counting.change(before, after)
    counting.write()
    if changes:
        told = [_correction(before, after) for before, after in changes]
        details = {"reason": reason, "results": [plain(one) for one in told]}
        emit(work, EventType.AB_RESULTS_CORRECTED, test, details)


def _differing(known_ones: Mapping[str, Result | None], told: Mapping[str, Result]) -> list[Change]:
    """Those that say otherwise than before. Whose they are stays; a withdrawn one stays withdrawn."""
    whose = {
        name: replace(told[name], variant=was.variant, number=was.number, unit=was.unit)
        for name, was in known_ones.items()
        if was is not None
    }
    return [(was, whose[name]) for name, was in known_ones.items() if was is not None and was != whose[name]]


def _correction(before: Result, after: Result | None) -> Correction:
    return Correction(
        test_id=before.test_id,
        result_id=before.result_id,
        variant=before.variant,
        before=_said(before),
        after=None if after is None else _said(after),
    )


def _said(result: Result) -> dict[str, Any]:
    return {"success": bool(result.success), "latency": result.latency, "custom_metrics": result.metrics or {}}


def _no_result(given: Any) -> Invalid:
    names = sorted(map(str, given)) if isinstance(given, Mapping) else repr(given)[:80]
    return Invalid(
        f"A result needs variant and success, and knows latency, unit_id, result_id and custom_metrics; got {names}."
    )


def _histogram(told: Mapping[str, int]) -> dict[int, int]:
    """Counts by bucket; Invalid for buckets or counts that cannot be."""
    try:
        found = {int(index): int(count) for index, count in told.items()}
    except (TypeError, ValueError):
        found = {-1: 0}
    if any(not 0 <= index <= LAST_BUCKET or count < 0 for index, count in found.items()):
        raise Invalid(f"latency is no histogram: give counts of 0 or more by buckets from 0 to {LAST_BUCKET}.")
    return found


def _check_quantiled(test: ABTest, numbers: Mapping[str, float]) -> None:
    for metric in test.metrics:
        if metric.kind is Kind.QUANTILE and not numbers.get(metric.numerator, 0) >= 0:
            raise Invalid(f"{metric.numerator} is {numbers[metric.numerator]}; quantiles are of numbers of 0 or more.")
