"""The rollback test: is the canary worse than the live baseline, in errors or in latency, now or of late?

Four tests share one budget alpha of false rollbacks: a test whose part of it is p decides once p times its e-value reaches
1/alpha, so their false alarms add up to alpha at most, whatever depends on what. All hold over an unlimited horizon.

    errors          failures: requests without a unit, and each unit's first in the rollout
    answers         requests without a unit, and each unit's first: how many of the three frozen baseline quantiles the
                    answer is slower than; a failure is as bad as the slowest. The whole distribution is bet on, the fast
                    answers too: twice as soon as the means of three tests that look at one quantile each
    errors_lately   the same two of units alone, counted anew in each round (stats.rounds)
    answers_lately

The first two have a plain e-process, and with a part of its own a detector of late faults (stats.detector). That is told of
requests without a unit only. A unit stays on its arm, so the units that are still to fail for the first time are used up,
and on a better canary later: a comparison that begins late, but counts only what never happened before, would take that
for a fault. Plain evidence is safe, for it never has more of the better canary's failures than of an equal one's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import pairwise

from modelyard.stats.detector import NOTHING, Detector
from modelyard.stats.distributions import normal_isf, normal_sf
from modelyard.stats.eprocess import RATES, Bet, factors, grown, log_mean, log_sum_exp
from modelyard.stats.rounds import weight_of_round
from modelyard.stats.sketch import quantile

QUANTILES = {"p50": 0.50, "p95": 0.95, "p99": 0.99}
FREEZE_AT = 200  # answers: p95 from fewer jumps about; p99 needs no more, its roughness costs power only
ERRORS, LATENCY, ANSWERS = "errors", "latency", "answers"
LATELY = {ERRORS: "errors_lately", ANSWERS: "answers_lately"}

Counts = Mapping[str, tuple[Sequence[int], Sequence[int]]]  # test -> outcomes of canary and baseline by category
Carried = Mapping[str, tuple[float, ...]]  # test -> what goes on from step to step: see `State`, `lately`


@dataclass(frozen=True, slots=True)
class Part:
    """One test's parts of the budget, and the metric that it speaks for."""

    metric: str
    now: float
    late: float


PARTS = {
    ERRORS: Part(ERRORS, 0.40, 0.27),
    ANSWERS: Part(LATENCY, 0.06, 0.03),
    LATELY[ERRORS]: Part(ERRORS, 0.0, 0.21),
    LATELY[ANSWERS]: Part(LATENCY, 0.0, 0.03),
}


@dataclass(frozen=True, slots=True)
class State:
    """A test up to now: the bets' log wealth since the rollout began, and its detector."""

    logs: tuple[float, ...]
    late: Detector

    @classmethod
    def of(cls, numbers: Sequence[float]) -> State:
        """The state that `numbers` wrote; a fresh one of none."""
        if not numbers:
            return cls((0.0,) * len(RATES), Detector((NOTHING,) * len(RATES)))
        events, begun, *logs = numbers
        half = len(logs) // 2
        return cls(tuple(logs[:half]), Detector(tuple(logs[half:]), int(events), int(begun)))

    @property
    def numbers(self) -> tuple[float, ...]:
        """The state as plain numbers."""
        return (self.late.events, self.late.begun, *self.logs, *self.late.logs)


@cache
def bets_of(test: str, quantiles: tuple[str, ...] = tuple(QUANTILES)) -> tuple[Bet, ...]:
    """What a test bets on; `answers` has a category more than there are frozen quantiles.

    Three bets are on answers that are all slower by 0.35, 0.7 and 1.4 standard deviations of the log, one on 0.15; three
    on 3, 10 and 30 % of the answers that become slow, half of them the slowest of all.

    >>> bets_of("answers") == bets_of("answers", ("p50", "p95", "p99"))
    True
    >>> [round(ratio, 2) for ratio in bets_of("answers")[1].ratios]
    [0.73, 1.2, 1.84, 2.41]
    """
    if test != ANSWERS:
        return RATES
    parts = _parts([QUANTILES[name] for name in quantiles], 0.0)
    whole = _parts(list(QUANTILES.values()), 0.0)
    found = []
    for weight, shift in ((0.15, 0.15), (0.25, 0.35), (0.15, 0.7), (0.10, 1.4)):
        moved = _parts([QUANTILES[name] for name in quantiles], shift)
        found.append(Bet(weight, tuple(a / b for a, b in zip(moved, parts, strict=True))))
    for weight, part in ((0.10, 0.03), (0.15, 0.1), (0.10, 0.3)):
        slowed = [(1 - part) * each for each in whole]
        slowed[-2], slowed[-1] = slowed[-2] + part / 2, slowed[-1] + part / 2
        found.append(Bet(weight, tuple(a / b for a, b in zip(_merged(slowed, quantiles), parts, strict=True))))
    return tuple(found)


def _parts(quantiles: Sequence[float], shift: float) -> list[float]:
    """How much of a normal law, moved by `shift`, lies between the quantiles of one that is not."""
    above = [1.0, *(normal_sf(normal_isf(1 - q) - shift) for q in quantiles), 0.0]
    return [low - high for low, high in pairwise(above)]


def _merged(parts: Sequence[float], quantiles: Sequence[str]) -> list[float]:
    """The parts between some of the quantiles from those between all."""
    found = [parts[0]]
    for name, part in zip(QUANTILES, parts[1:], strict=True):
        if name in quantiles:
            found.append(part)
        else:
            found[-1] += part
    return found


def frozen(latency: Mapping[int, int]) -> dict[str, float]:
    """A baseline's quantiles in milliseconds, from its histogram (stats.sketch); empty before it has answered enough.

    >>> frozen({380: 199}), {name: round(ms, 1) for name, ms in frozen({380: 200}).items()}
    ({}, {'p50': 2.0, 'p95': 2.0, 'p99': 2.0})
    """
    if sum(latency.values()) < FREEZE_AT:
        return {}
    found = {name: quantile(latency, q) for name, q in QUANTILES.items()}
    return {name: value / 1000 for name, value in found.items() if value is not None}


def steps(counts: Counts, share: float, quantiles: tuple[str, ...]) -> dict[str, tuple[float, ...]]:
    """By how much each test's bets have grown by these outcomes, as logs."""
    return {test: grown(_factors(test, quantiles, share), *pair) for test, pair in counts.items()}


@lru_cache(64)
def _factors(test: str, quantiles: tuple[str, ...], share: float) -> tuple[tuple[tuple[float, float], ...], ...]:
    return factors(bets_of(test, quantiles), share)


def up_to_now(
    carried: Carried,
    counts: Counts,
    share: float,
    quantiles: tuple[str, ...],
    late: Mapping[str, Detector] | None = None,
) -> dict[str, tuple[float, ...]]:
    """Every test after one step's outcomes: the next step's `carried`, whose share may differ.

    `late` are the detectors as far as they have gone; without them the step tells the detectors nothing.

    >>> sorted(log_evidence(up_to_now({}, {"errors": ((4,), (0,))}, 0.05, ())))
    ['errors']
    """
    found = dict(carried)
    for test, more_wealth in steps(counts, share, quantiles).items():
        before = State.of(carried.get(test, ()))
        logs = tuple(old + more for old, more in zip(before.logs, more_wealth, strict=True))
        found[test] = State(logs, (late or {}).get(test, before.late)).numbers
    return found


def lately(
    carried: Carried, rounds: Sequence[tuple[int, Counts]], share: float, quantiles: tuple[str, ...]
) -> dict[str, tuple[float, ...]]:
    """The tests of units in rounds: for each place the number of its round in the rollout, and the round's log e-value.

    `rounds` has each place's number in this step, 0 where none has begun, and what its round has counted.

    >>> [round(one, 2) for one in lately({}, [(1, {"errors": ((4,), (0,))})], 0.05, ())["errors_lately"]]
    [1, 7.98]
    """
    found = {}
    for test in rounds[0][1] if rounds else ():
        before, numbers = max(carried.get(LATELY[test], ())[::2], default=0), list[float]()
        for number, counts in rounds:
            wealth = grown(_factors(test, quantiles, share), *counts[test]) if number else ()
            numbers += [before + number, log_mean(bets_of(test, quantiles), wealth) if number else 0.0]
        found[LATELY[test]] = tuple(numbers)
    return found


def by_round(tests: Carried) -> list[float]:
    """By place, the largest evidence of its round: the log of its e-value times its part of the budget.

    >>> [round(log, 2) for log in by_round({"errors_lately": (1, 7.98, 0, 0.0)})]
    [2.08, -1000000000.0]
    """
    return [
        max(each)
        for each in zip(*(_of_rounds(name, one) for name, one in tests.items() if not PARTS[name].now), strict=True)
    ]


def _of_rounds(test: str, numbers: Sequence[float]) -> list[float]:
    late = math.log(PARTS[test].late)
    pairs = zip(numbers[::2], numbers[1::2], strict=True)
    return [late + math.log(weight_of_round(int(n))) + log if n else NOTHING for n, log in pairs]


def log_evidence(tests: Carried) -> dict[str, float]:
    """By test, the log of its e-value times its part of the budget: a rollback where one reaches log(1/alpha).

    >>> [round(log, 2) for log in log_evidence({"errors": ()}).values()] == [round(math.log(PARTS["errors"].now), 2)]
    True
    """
    found = {}
    for test, numbers in tests.items():
        part = PARTS[test]
        if not part.now:
            found[test] = max(_of_rounds(test, numbers), default=NOTHING)
            continue
        state, bets = State.of(numbers), bets_of(test)
        now = math.log(part.now) + log_mean(bets, state.logs)
        found[test] = log_sum_exp((now, math.log(part.late) + log_mean(bets, state.late.logs)))
    return found


def strongest(tests: Carried) -> tuple[float, str]:
    """The largest of the tests' evidence, to hold against log(1/alpha), and the metric that it is about.

    >>> strongest({})
    (-1000000000.0, 'errors')
    """
    logs = log_evidence(tests)
    if not logs:
        return NOTHING, ERRORS
    test = max(logs, key=lambda name: logs[name])
    return logs[test], PARTS[test].metric


def events_of(canary: Sequence[int], baseline: Sequence[int]) -> int:
    """How many events of these outcomes the detector's clock counts: the worst ones."""
    return max(0, canary[-1] + baseline[-1])
