"""Correcting results that were counted and turned out otherwise."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from modelyard.ab_testing import journal
from modelyard.ab_testing.experiments import ABTest, TestStatus
from modelyard.ab_testing.gathering import check_quantiled
from modelyard.ab_testing.journal import Result
from modelyard.ab_testing.planning import Remembered, emit, known
from modelyard.ab_testing.results import Results
from modelyard.core.canonical import plain
from modelyard.core.errors import Conflict, Invalid, NotFound
from modelyard.core.events import EventType
from modelyard.core.operations import operation
from modelyard.core.work import Work

if TYPE_CHECKING:
    from modelyard.ab_testing.counting import Counting

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


class Corrections(Results):
    """Takes results, and corrections of them."""

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
        test, told, refused, names = self.get_test(test_id), {}, {}, {}
        for one in results:
            try:
                key = journal.key(test_id, one.get("result_id"))
                told[key] = self._record(Remembered(test, 0.0), **one)
                names[key] = str(one["result_id"])
            except (Invalid, NotFound) as error:
                refused[str(one.get("result_id"))] = str(error)
        self._recorder.fold()
        with self.store.work(user) as work:
            counting = self._recorder.counting(work.rows)
            known_ones = counting.results(test_id, list(told))
            new = [key for key in told if key not in known_ones]
            if known(work.rows, test_id).status is not TestStatus.RUNNING:
                refused |= {names[key]: f"{test_id} is {test.status.value}." for key in new}
                new = []
            changes = _differing(known_ones, {key: journal.parsed(one.decode()) for key, one in told.items()})
            counting.add(counting.read(b"".join([told[key] + b"\n" for key in new])))
            _change(work, counting, test, {names[key]: one for key, one in changes.items()}, reason)
        repeated = len(known_ones) - len(changes)
        return Settled(new=len(new), corrected=len(changes), repeated=repeated, refused=refused)

    def _corrected(self, test_id: str, result_id: str, amended: Amend, reason: str, user: str) -> Correction:
        if not reason.strip():
            raise Invalid("A correction needs a reason, which is kept with it. Pass reason.")
        self._recorder.fold()
        with self.store.work(user) as work:
            test = known(work.rows, test_id)
            counting, key = self._recorder.counting(work.rows), journal.key(test_id, result_id)
            found = counting.results(test_id, [key])
            if not found:
                raise NotFound(
                    f"{test_id} has counted no result {result_id!r}. Only what was told with a result_id can be corrected; "
                    "another machine's results are known once it has folded them."
                )
            before = found[key]
            if before is None:
                raise Conflict(
                    f"The result {result_id!r} was withdrawn from {test_id}. Tell it anew under another result_id."
                )
            after = amended(test, before)
            if after != before:
                _change(work, counting, test, {str(result_id): (before, after)}, reason)
        return _correction(str(result_id), before, after)


def _amended(test: ABTest, before: Result, success: Any, latency: float | None, told: Mapping[str, float]) -> Result:
    """The result with other numbers, checked as when it is recorded."""
    metrics = {**before.metrics, **told}
    text = journal.record(
        test.test_id,
        before.variant,
        before.number,
        bool(before.success) if success is None else success,
        before.latency if latency is None else latency,
        unit=before.unit,
        result_id=before.result_id,
        metrics=metrics,
    )
    check_quantiled(test, metrics)
    return journal.parsed(text.decode())


def _change(work: Work, counting: Counting, test: ABTest, changes: Mapping[str, Change], reason: str) -> None:
    """Write what is counted, with these changes by the results' ids, and tell of them."""
    for before, after in changes.values():
        counting.change(before, after)
    counting.write()
    if changes:
        told = [_correction(name, before, after) for name, (before, after) in changes.items()]
        details = {"reason": reason, "results": [plain(one) for one in told]}
        emit(work, EventType.AB_RESULTS_CORRECTED, test, details)


def _differing(known_ones: Mapping[str, Result | None], told: Mapping[str, Result]) -> dict[str, Change]:
    """Those that say otherwise than before. Whose they are stays; a withdrawn one stays withdrawn."""
    whose = {
        name: replace(told[name], variant=was.variant, number=was.number, unit=was.unit)
        for name, was in known_ones.items()
        if was is not None
    }
    return {name: (was, whose[name]) for name, was in known_ones.items() if was is not None and was != whose[name]}


def _correction(result_id: str, before: Result, after: Result | None) -> Correction:
    return Correction(
        test_id=before.test_id,
        result_id=result_id,
        variant=before.variant,
        before=_said(before),
        after=None if after is None else _said(after),
    )


def _said(result: Result) -> dict[str, Any]:
    return {"success": bool(result.success), "latency": result.latency, "custom_metrics": result.metrics}
