"""The results of one call, put together where they are told alike: column by column, since a call may bring very many."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from modelyard.ab_testing import journal
from modelyard.ab_testing.experiments import ABTest
from modelyard.ab_testing.metrics import Kind
from modelyard.core.errors import Invalid

REQUIRED = ("variant", "success")
RESULT = frozenset((*REQUIRED, "latency", "custom_metrics", "unit_id", "result_id"))
Result = Mapping[str, Any]
Rounds = Callable[[ABTest, str, Sequence[Any], Sequence[str]], Sequence[int]]  # of an arm's units and their keys


@dataclass(slots=True)
class Gathered:
    """What one call tells: records for the journal, and the keys of the ids among them."""

    test: ABTest
    rounds: Rounds
    records: list[bytes] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)

    def add(self, results: Iterable[Result]) -> int:
        """Take results, and say how many; Invalid or NotFound for one that cannot be."""
        alike: dict[tuple[Any, ...], list[Result]] = defaultdict(list)
        for result in results:
            try:
                alike[result["variant"], result["success"], *result].append(result)
            except (TypeError, KeyError, IndexError):
                raise no_result(result) from None
        for (variant, success, *names), some in alike.items():
            if not RESULT.issuperset(names):
                raise no_result(some[0])
            columns = {name: [one[name] for one in some] for name in names if name not in REQUIRED}
            if any(value is None for values in columns.values() for value in values):
                self.add([{name: one[name] for name in one if one[name] is not None} for one in some])
            else:
                self._write(variant, success, columns, len(some))
        return sum(map(len, alike.values()))

    def _write(self, variant: str, success: Any, columns: Mapping[str, list[Any]], count: int) -> None:
        """Write results that have all of the columns, apart from others where their rounds or numbers differ."""
        test_id, units, numbers = self.test.test_id, columns.get("unit_id", []), columns.get("custom_metrics", [])
        keys, ids = journal.keys(test_id, units), journal.keys(test_id, columns.get("result_id", []))
        self.ids += ids
        rounds = self.rounds(self.test, variant, units, keys) or [0] * count
        named = [tuple(journal.named(one)) for one in numbers] or [()] * count
        parts = list(zip(rounds, named, strict=True))
        for part in dict.fromkeys(parts):
            number, names = part
            whole = parts.count(part) == count
            which = range(count) if whole else [at for at in range(count) if parts[at] == part]
            told = zip(*[numbers[at].values() for at in which], strict=True) if names else ()
            self._write_alike(
                journal.head(test_id, variant, number, success, len(which)),
                [columns["latency"][at] for at in which] if "latency" in columns else (),
                (
                    "".join([keys[at] for at in which]) if keys else "",
                    "".join([ids[at] for at in which]) if ids else "",
                ),
                dict(zip(names, told, strict=True)),
            )

    def _write_alike(
        self, begin: bytes, latencies: Sequence[Any], keys: tuple[str, str], numbers: Mapping[str, Sequence[Any]]
    ) -> None:
        self.records.append(journal.block(begin, latencies, *keys, numbers))
        check_quantiled(self.test, {name: min(values) for name, values in numbers.items()})


def gathered(test: ABTest, rounds: Rounds, results: Sequence[Result]) -> tuple[list[bytes], int]:
    """Results as records of the journal, and how many there are. Of those told twice under one id the first counts."""
    found = Gathered(test, rounds)
    count = found.add(results)
    if len(set(found.ids)) < len(found.ids):
        once = {journal.key(test.test_id, one["result_id"]): one for one in reversed(results) if _has_id(one)}
        first = {id(one) for one in once.values()}
        found = Gathered(test, rounds)
        found.add([one for one in results if not _has_id(one) or id(one) in first])
    return found.records, count


def _has_id(result: Result) -> bool:
    return result.get("result_id") is not None


def no_result(given: Any) -> Invalid:
    """What is no result, in words."""
    names = sorted(map(str, given)) if isinstance(given, Mapping) else journal.shown(given)
    return Invalid(
        f"A result needs variant and success, and knows latency, unit_id, result_id and custom_metrics; got {names}."
    )


def check_quantiled(test: ABTest, numbers: Mapping[str, float]) -> None:
    """Invalid for numbers below 0 where a quantile of them is planned."""
    for metric in test.metrics:
        if metric.kind is Kind.QUANTILE and not numbers.get(metric.numerator, 0) >= 0:
            name = metric.numerator
            raise Invalid(f"{name} is {journal.shown(numbers[name])}; quantiles are of numbers of 0 or more.")
