"""Experiments from files: what one would change, and carrying that out, as often as one likes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from modelyard.ab_testing import differences, store
from modelyard.ab_testing.experiments import ABTest, Held, TestStatus
from modelyard.ab_testing.files import Declared, read_experiment
from modelyard.ab_testing.planning import Plans, emit
from modelyard.core.canonical import plain
from modelyard.core.declared import Change
from modelyard.core.errors import Conflict, Forbidden, NotFound
from modelyard.core.events import EventType
from modelyard.core.operations import operation
from modelyard.core.work import Work

START, AMEND, UNCHANGED, REFUSED = "start", "amend", "unchanged", "refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanDifference:
    """What applying an experiment's file would do, and why.

    `verdict` is start, amend (the test that runs), unchanged, or refused.
    """

    name: str
    verdict: str
    reason: str
    test_id: str = ""
    changes: tuple[Change, ...] = ()


class DeclaredTests(Plans):
    """Starts and amends tests as a file says."""

    @abstractmethod
    def _run(self, work: Work, test: ABTest, endpoint: str) -> ABTest:
        """Have it run on an endpoint, in an open transaction."""

    @operation("POST", "/ab-tests/apply", needs="ab_testing.write")
    def apply(self, path: str | Path, *, again: bool = False, created_by: str = "system") -> ABTest:
        """The running test that a YAML or JSON file describes: the arguments of `create_test`, one key a line.

        The test is the newest of the file's `name`. Applying the same file again changes nothing, also once it was
        concluded. While it runs the file may change its description, shorten its ramp and name an endpoint. Conflict for
        anything else, with the lines: what was counted would mean something else, or a rule of decision be chosen after
        what was seen. Versions that an ended test has compared a file compares no second time unless `again` says so:
        to try until something is found is to find what is not there.

        >>> from modelyard.ab_testing import ABTestManager
        >>> _ = (folder / "e.yaml").write_text("name: New\\ncontrol: fraud:v1.0.0\\nvariants: [v2.0.0]\\n")
        >>> first = ABTestManager(folder).apply(folder / "e.yaml")
        >>> first.status.value, dict(first.shares), ABTestManager(folder).apply(folder / "e.yaml") == first
        ('running', {'control': 0.5, 'treatment': 0.5}, True)
        """
        asked = read_experiment(path)
        with self.store.work(created_by) as work:
            found = _compared(work, asked, again=again)
            if found.verdict == REFUSED:
                raise Conflict(found.reason)
            return self._carry_out(work, asked.test, found)

    @operation("POST", "/ab-tests/diff", needs="ab_testing.write")
    def diff(self, path: str | Path, *, again: bool = False, created_by: str = "system") -> PlanDifference:
        """What applying an experiment's file would do and why; nothing is done.

        It is tried and undone, so that what would be refused is told.

        >>> from modelyard.ab_testing import ABTestManager
        >>> _ = (folder / "e.yaml").write_text("name: New\\ncontrol: fraud:v1.0.0\\nvariants: [v2.0.0]\\n")
        >>> found = ABTestManager(folder).diff(folder / "e.yaml")
        >>> found.verdict, str(found.changes[0])
        ('start', 'variants.control: None -> fraud:v1.0.0, share 0.5')
        """
        asked = read_experiment(path)
        found = PlanDifference(name=asked.test.name, verdict=REFUSED, reason="")
        try:
            with self.store.trying(created_by) as work:
                found = _compared(work, asked, again=again)
                if found.verdict in (START, AMEND):
                    self._carry_out(work, asked.test, found)
        except (
            Conflict,
            Forbidden,
            NotFound,
        ) as refused:  # by what runs on its endpoint, a stage, a group without room
            found = replace(found, verdict=REFUSED, reason=str(refused))
        return found

    def _carry_out(self, work: Work, one: ABTest, found: PlanDifference) -> ABTest:
        test = store.find_test(work.rows, found.test_id)
        if found.verdict == UNCHANGED and test is not None:
            return test
        for held in one.holdouts:
            self._held_out(work, held)
        if test is None:
            test = self._created(work, replace(one, endpoint="", holdouts=()))
        elif found.changes:
            test = self._amended(work, test, one, found.changes)
        if one.endpoint and one.endpoint != test.endpoint:
            return self._run(work, test, one.endpoint)
        return self._begun(work, test) if test.status is TestStatus.DRAFT else test

    def _held_out(self, work: Work, held: Held) -> None:
        """Have a holdout that the test begins under: it is made, unless it is there."""
        standing = {one.name: one for one in store.find_holdouts(work.rows, ended=False)}
        if standing.get(held.name) == held:
            return
        if held.name in standing:
            share = standing[held.name].share
            raise Conflict(
                f"The holdout {held.name} has the share {share:g}, and not {held.share:g}. Shares do not move."
            )
        self._hold_out(work, held)

    def _amended(self, work: Work, test: ABTest, one: ABTest, changes: Iterable[Change]) -> ABTest:
        """The test with what is asked for, and what it has come to."""
        kept = {name: getattr(test, name) for name in (*differences.OWN, "endpoint", "holdouts")}
        after = replace(one, **kept)
        store.set_plan(work.rows, after)
        told = [plain(change) for change in changes]
        emit(work, EventType.AB_TEST_AMENDED, after, {"changes": told})
        self._tests.pop(test.test_id, None)
        return after


def _compared(work: Work, asked: Declared, *, again: bool) -> PlanDifference:
    """What the file means for the newest test of its name."""
    one = asked.test
    stands = store.newest_named(work.rows, one.name)
    base = PlanDifference(name=one.name, verdict=START, reason="no test of this name is there yet")
    if stands is None:
        return replace(base, changes=tuple(map(asked.at, differences.new(one))))
    found = tuple(map(asked.at, differences.changes(one, stands)))
    base = replace(base, test_id=stands.test_id, changes=found)
    if stands.status is TestStatus.DRAFT:
        return replace(base, reason=f"{stands.test_id} is a draft")
    if stands.status is TestStatus.RUNNING:
        return _amendment(base, asked)
    return _another(base, asked, stands, again=again)


def _amendment(base: PlanDifference, asked: Declared) -> PlanDifference:
    if not base.changes:
        return replace(base, verdict=UNCHANGED, reason=f"{base.test_id} runs as the file says")
    cannot = [change for change in base.changes if not differences.amendable(change)]
    if cannot:
        told = "; ".join(_located(change, asked.path) for change in cannot)
        reason = (
            f"{base.test_id} runs, and a test whose plan changes meanwhile would lie. Not as it runs: {told}. To begin anew "
            f"with other units in each arm, stop it and apply with --again: modelyard ab-testing stop-test {base.test_id}"
        )
        return replace(base, verdict=REFUSED, reason=reason)
    return replace(base, verdict=AMEND, reason=f"{base.test_id} runs")


def _another(base: PlanDifference, asked: Declared, stands: ABTest, *, again: bool) -> PlanDifference:
    """What a file means after the test of its name has ended."""
    how = f"{stands.test_id} was {stands.status.value}"
    how += f" with {stands.winner}" if stands.winner else ""
    how += f": {stands.conclusion.rstrip('.')}" if stands.conclusion else ""
    same = {one.model for one in asked.test.variants} == {one.model for one in stands.variants}
    if again or not same:
        return replace(base, reason=how, test_id="", changes=tuple(map(asked.at, differences.new(asked.test))))
    if stands.status is TestStatus.CONCLUDED and all(map(differences.amendable, base.changes)):
        return replace(base, verdict=UNCHANGED, reason=how, changes=())
    reason = f"{how}. It has compared these versions. To compare them once more, say again (--again)."
    return replace(base, verdict=REFUSED, reason=reason)


def _located(change: Change, path: str) -> str:
    where = f"{path} line {change.line}" if change.line else f"{path} does not say"
    return f"{where}, {change}" if change.line else f"{where} {change}"
