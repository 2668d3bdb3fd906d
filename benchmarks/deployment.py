"""Rollback decisions by seeded simulation: how often a good canary is taken back, how soon a bad one is.

    python benchmarks/deployment.py              about a minute
    python benchmarks/deployment.py --runs 10000 the table's precision: standard error 0.03 % at 0.1 %

Traffic: 1,000 requests a second, canary 5 %, alpha 0.001 over all tests in use; and A/B tests on an endpoint, whose one or
three treatments get as much as the control and share alpha 0.001. Requests are canary requests at the
decision. The guard is the product's own: its tests with their bets and parts of alpha, and their detectors, looked at
after each second (tenth of a second where a decision is timed). Latency is lognormal with 0.8, the tolerated slowdown 10 %.
Users who come again are counted by serving's own counters, in a file as the serving processes share it.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from scipy.optimize import brentq

from modelyard.core.traffic import Guard
from modelyard.deployment import guardrails, margins, rules
from modelyard.serving import detectors
from modelyard.serving.counters import Counters
from modelyard.stats.bounded import Risen
from modelyard.stats.detector import begun_by
from modelyard.stats.distributions import normal_isf, normal_sf
from modelyard.stats.eprocess import factors
from modelyard.stats.harm import BASELINE, CANARY, FEWER
from modelyard.stats.rollback import ANSWERS, ERRORS, PARTS, bets_of, strongest

SHARE, ALPHA, PER_SECOND = 0.05, 0.001, 1000
NEED = -math.log(rules.GUARD_PART * ALPHA)
SIGMA, MARGIN = 0.8, 0.10
ABOVE = (0.50, 0.05, 0.01)  # the parts of the baseline's answers above its p50, p95 and p99
BEGUN = np.array([begun_by(n) for n in range(200_000)])
BATCH = 200

Array = np.ndarray


def log_e(test: str, canary: Array, baseline: Array, share: float = SHARE) -> Array:
    """Part of alpha times e-value, as logs (runs, looks), from each look's outcomes (runs, looks, categories)."""
    bets = bets_of(test)
    odds, weights = np.array(factors(bets, share)), np.log([bet.weight for bet in bets])
    step = canary @ odds[..., 0].T + baseline @ odds[..., 1].T
    now = np.logaddexp.reduce(np.cumsum(step, axis=1) + weights, axis=2) + math.log(PARTS[test].now)
    events = np.cumsum(canary[..., -1] + baseline[..., -1], axis=1)
    before = np.concatenate([np.zeros((len(step), 2), int), events[:, :-1]], axis=1)
    with np.errstate(divide="ignore"):
        begins = np.log(np.diff(BEGUN[np.minimum(before, len(BEGUN) - 1)], axis=1))
    late, sums = np.empty(now.shape), np.full((len(step), len(bets)), -np.inf)
    for look in range(step.shape[1]):
        sums = np.logaddexp(sums, begins[:, look, None]) + step[:, look]
        late[:, look] = np.logaddexp.reduce(sums + weights, axis=1)
    return np.logaddexp(now, late + math.log(PARTS[test].late))


def first(runs: list[Array]) -> Array:
    """The look (from 0) at which each run rolls back, -1 where it never does."""
    beyond = np.max(runs, axis=0) >= NEED
    return np.where(beyond.any(axis=1), beyond.argmax(axis=1), -1)


def levels(above: tuple[float, ...]) -> list[float]:
    """The parts of answers between the quantiles, from those above each."""
    return [high - low for high, low in zip((1.0, *above), (*above, 0.0), strict=True)]


def slowed(factor: float, margin: float = MARGIN) -> list[float]:
    """The levels of answers that are all `factor` times as slow, against quantiles times 1 + margin."""
    return levels(tuple(normal_sf(normal_isf(q) + math.log((1 + margin) / factor) / SIGMA) for q in ABOVE))


def tail(factor: float, margin: float = MARGIN) -> list[float]:
    """The levels where a tenth of the answers is so slow that p95 is `factor` times what it was."""

    def above(z: float, by: float) -> float:
        return 0.9 * normal_sf(z) + 0.1 * normal_sf(z - by)

    p95 = normal_isf(0.05) + math.log(factor) / SIGMA
    by = brentq(lambda by: above(p95, by) - 0.05, 0.0, 20.0)
    return levels(tuple(above(normal_isf(q) + math.log(1 + margin) / SIGMA, by) for q in ABOVE))


def guard(random: np.random.Generator, runs: int, per_look: int, rates: Array, new: Array, old: Array) -> Array:
    """The look at which each run rolls back. `rates` (2, looks) of failures; `new`, `old` (looks or 1, levels)."""
    looks = rates.shape[-1]
    counts = []
    for rate, parts, n in ((rates[0], new, round(per_look * SHARE)), (rates[1], old, round(per_look * (1 - SHARE)))):
        failed = random.binomial(n, rate, size=(runs, looks))
        answers = random.multinomial(n - failed, np.broadcast_to(parts, (looks, parts.shape[-1])))
        answers[..., -1] += failed
        counts.append((failed[..., None], answers))
    (bad, slow), (base, others) = counts
    return first([log_e(ERRORS, bad, base), log_e(ANSWERS, slow, others)])


def level(looks: int, canary: float, baseline: float) -> Array:
    """Constant rates."""
    return np.array([[canary] * looks, [baseline] * looks])


HEALTHY = np.array([levels(ABOVE)])
SAME = np.array([slowed(1.0)])  # as good as the baseline, seen against quantiles with the margin
EQUAL = HEALTHY  # just as slow as is tolerated
SLOWER = {"just 10 % slower": 1.1, "15 % slower": 1.15, "the same": 1.0, "5 % faster": 0.95}


def rollback_rows(runs: int) -> None:
    """The table of false and true rollbacks by the guard in the serving processes."""
    random = np.random.default_rng(2026)
    incident, drift, slow = level(1000, 0.001, 0.001), level(1000, 0.001, 0.001), np.repeat(HEALTHY, 1000, axis=0)
    incident[:, 300:360] = 0.05
    drift[:] = np.linspace(0.001, 0.003, 1000)
    slow[300:600] = slowed(3.0, 0.0)
    for name, rates, parts in (
        ("healthy, 0.1 % errors, 1,000 s", level(1000, 0.001, 0.001), EQUAL),
        ("both 5 % errors for 60 s", incident, EQUAL),
        ("both drift from 0.1 to 0.3 %", drift, EQUAL),
        ("both three times as slow for 300 s", level(1000, 0.001, 0.001), slow),
    ):
        batches = max(1, runs // BATCH)
        found = np.concatenate([guard(random, min(BATCH, runs), 1000, rates, parts, parts) for _ in range(batches)])
        print(f"false rollback, {name:38} {np.mean(found >= 0):8.2%}   of {len(found)} runs; goal <= 0.1 %")
    few = max(200, runs // 10)
    for name, rate, parts, looks, goal in (
        ("errors 0.1 -> 1 %", 0.01, SAME, 800, "goal <= 700"),
        ("errors 0.1 -> 5 %", 0.05, SAME, 200, ""),
        ("latencies x 1.5, 10 % tolerated", 0.001, np.array([slowed(1.5)]), 400, "goal <= 300"),
        ("latencies x 1.5, 1 % tolerated", 0.001, np.array([slowed(1.5, 0.01)]), 400, "goal <= 300"),
        ("a tenth slowed, p95 x 1.5, 10 % tol.", 0.001, np.array([tail(1.5)]), 800, ""),
        ("a tenth slowed, p95 x 1.5, 1 % tol.", 0.001, np.array([tail(1.5, 0.01)]), 800, ""),
    ):
        found = guard(random, few, 100, level(looks, rate, 0.001), parts, HEALTHY)
        requests = np.where(found >= 0, (found + 1) * 5, 10**9)
        middle, most = np.median(requests), np.quantile(requests, 0.95)
        missed = f"p95 {most:.0f}, missed {np.mean(found < 0):.1%}"
        print(f"rolled back, {name:38} {middle:8.0f}   canary requests, {missed} {goal}")


def late_fault(runs: int) -> None:
    """Seconds from a fault that starts at request 500,000 to the guard's decision, a look each second."""
    random, rates = np.random.default_rng(7), level(700, 0.001, 0.001)
    rates[0, 500:] = 0.01
    parts = np.repeat(SAME, 700, axis=0)
    slow = parts.copy()
    slow[500:] = slowed(1.5)
    for name, failures, answers in (
        ("errors 0.1 -> 1 %", rates, parts),
        ("latencies x 1.5", level(700, 0.001, 0.001), slow),
    ):
        found = guard(random, runs, 1000, failures, answers, HEALTHY)
        delays = found[found >= 0] - 499
        most, early = np.quantile(delays, 0.95), int((delays <= 0).sum())
        told = f"s (median), p95 {most:.0f}, too early {early}, missed {np.mean(found < 0):.1%}; goal <= 25 s"
        print(f"fault at request 500,000, {name:24} {np.median(delays):10.0f}   {told}")


def unusual_rows(runs: int) -> None:
    """Traffic that simulations of independent requests leave out: what a healthy version then runs into."""
    random, looks = np.random.default_rng(31), 1000
    day = 1 - np.cos(np.linspace(0, 4 * np.pi, looks))
    drift = np.array([slowed(factor, 0.0) for factor in np.exp(0.8 * np.sin(np.linspace(0, 9, looks)))])
    for name, made in {
        "errors come and go with the day": lambda n: np.broadcast_to(0.002 * day, (n, looks)),
        "errors in bursts over seconds": lambda n: 0.001 * storms(random, n, looks),
    }.items():
        found = [
            guard(random, n, 1000, np.array([rate := made(n), rate]), EQUAL, EQUAL)
            for n in [BATCH] * max(1, runs // BATCH)
        ]
        print(f"false rollback, {name:38} {np.mean(np.concatenate(found) >= 0):8.2%}   of {runs} runs; goal <= 0.1 %")
    rates = level(looks, 0.001, 0.001)
    found = [guard(random, BATCH, 1000, rates, drift, drift) for _ in range(max(1, runs // BATCH))]
    told_false("latencies drift by 2.2 up and down", np.concatenate(found))
    cold = np.repeat(HEALTHY, looks, axis=0)
    cold[:4] = slowed(3.0, 0.0)  # the canary's first 200 requests
    for name, new in (("a cold start, 200 requests 3 x as slow", cold), ("the same, warm-up 200", cold[4:])):
        n = len(new)
        found = [guard(random, BATCH, 1000, rates[:, :n], new, HEALTHY) for _ in range(max(1, runs // BATCH // 5))]
        told_false(name, np.concatenate(found))
    for size in (2, 4):
        told_false(f"failures {size} at a time, of one arm each", clustered(random, runs, size, size, counted=size))
        told_false("the same, of one joined call each", clustered(random, runs, size, size, counted=1))
    told_false("whole calls of 1 and of 10 rows fail", clustered(random, runs, 1, 10, counted=1))


def storms(random: np.random.Generator, runs: int, looks: int) -> Array:
    """A factor with mean 1 that lasts for about ten seconds, and is now and then above ten."""
    drift, found = random.normal(size=runs), np.empty((runs, looks))
    for look in range(looks):
        drift = 0.9 * drift + math.sqrt(1 - 0.81) * random.normal(size=runs)
        found[:, look] = np.exp(1.2 * drift - 0.72)
    return found


def clustered(random: np.random.Generator, runs: int, new: int, old: int, *, counted: int) -> Array:
    """As many of either arm's requests fail, but so many at a time; those of the canary are counted as so many."""
    batches = []
    for _ in range(max(1, runs // BATCH)):
        bad = counted * random.binomial(round(1000 * SHARE), 0.001 / new, (BATCH, 1000, 1))
        base = old * random.binomial(round(1000 * (1 - SHARE)), 0.001 / old, (BATCH, 1000, 1))
        batches.append(first([log_e(ERRORS, bad, base)]))
    return np.concatenate(batches)


def wandering_rows(runs: int) -> None:
    """Guardrails: two gauges that wander by themselves, spread by 15 % of their range, looked at once a minute for a day."""
    need = -math.log(guardrails.PART * ALPHA)
    for likeness in (0.0, 0.5, 0.8, 0.9, 0.95, 0.99):
        random, taken = np.random.default_rng(41), [0, 0]
        for _ in range(runs):
            state, known, plain, best = np.zeros(2), guardrails.Seen(), Risen(), [0.0, 0.0]
            for look in range(1440):
                state = likeness * state + math.sqrt(1 - likeness**2) * random.normal(size=2)
                new, old = np.clip(0.5 + 0.15 * state, 0, 1).tolist()
                harm = 0.5 + (new - old) / 2
                known, plain = known.after(harm, old, 0.5, look), plain.after(harm, 0.5)
                best = [max(best[0], known.evidence.log_evidence), max(best[1], plain.log_evidence)]
            taken = [before + (one >= need) for before, one in zip(taken, best, strict=True)]
        told = f"{taken[0] / runs:8.2%}, {taken[1] / runs:.1%} were each look news"
        print(f"false rollback, neighbouring looks correlate by {likeness:<7g} {told}, of {runs} runs")


def told_false(name: str, found: Array) -> None:
    """One row of false rollbacks."""
    print(f"false rollback, {name:38} {np.mean(found >= 0):8.2%}   of {len(found)} runs; goal <= 0.1 %")


@contextmanager
def counted() -> Iterator[Counters]:
    """Serving's own counters."""
    with tempfile.TemporaryDirectory() as folder:
        yield Counters(Path(folder) / "1.bin", 0)


def sticky_rows(runs: int) -> None:
    """Steps of 5 and 25 % over the same users, of whom some always fail, by serving's counters; and by request."""
    random, failing = np.random.default_rng(12), 400
    for bursts in (2, 5):
        taken = dict.fromkeys(("by request", "as it is served"), 0)
        for _ in range(runs):
            place, hashes = random.random(failing), random.permutation(1 << 22)[:failing]
            order = [random.permutation(np.repeat(np.arange(failing), bursts)) for _ in range(2)]
            taken["by request"] += any_beyond(place, order)
            taken["as it is served"] += served(place, hashes, order)
        for name, found in taken.items():
            told = f"{failing} users who fail, {bursts} times a step, {name:16}"
            print(f"false rollback, {told} {found / runs:8.2%} of {runs}; goal <= 0.1 %")


def any_beyond(place: Array, order: list[Array]) -> bool:
    """Whether the e-process of errors ever passes where every failing request counts."""
    logs, weights = np.zeros(len(bets_of(ERRORS))), np.log([bet.weight for bet in bets_of(ERRORS)])
    for share, users in zip((0.05, 0.25), order, strict=True):
        odds = np.array(factors(bets_of(ERRORS), share))[:, 0]
        path = logs + np.cumsum(np.where((place[users] < share)[:, None], odds[:, 0], odds[:, 1]), axis=0)
        if np.logaddexp.reduce(path + weights, axis=1).max() >= -math.log(ALPHA):
            return True
        logs = path[-1]
    return False


def served(place: Array, hashes: Array, order: list[Array]) -> bool:
    """Whether the guard of the serving processes ever passes, looked at after every failure of the canary."""
    carried: detectors.Tests = {}
    with counted() as first_step, counted() as second_step:
        for step, (share, users) in enumerate(zip((0.05, 0.25), order, strict=True)):
            counters = (first_step, second_step)[step]
            guarded = Guard(rollout_id="r", step=step, share=share, carried=carried)
            if step:
                counters.inherit(first_step)
            for user in users.tolist():
                new = place[user] < share
                if counters.outcome(int(new), int(hashes[user]), failed=True) and new:
                    carried = detectors.judged_now(counters, 1, 0, guarded)
                    if strongest(carried)[0] >= NEED:
                        return True
            carried = detectors.judged_now(counters, 1, 0, guarded)
    return False


def returning_rows(runs: int) -> None:
    """20,000 users who come again every 20 s: a fault that starts when all have been met, and none."""
    random, users, begin = np.random.default_rng(21), 20_000, 500
    law = [normal_isf(q) for q in ABOVE]
    granted = [law, [z + math.log(1.5) / SIGMA for z in law]]  # 50 % slower is tolerated
    for name, errors, slower, end in (
        ("errors 0.1 -> 1 %", 0.01, 1.0, 800),
        ("latencies x 2.25", 0.001, 2.25, 800),
        ("nothing", 0.001, 1.0, 1500),
    ):
        delays = []
        for _ in range(runs):
            new, at = random.random(users) < SHARE, None
            with counted() as counters:
                guarded = Guard(rollout_id="r", step=0, share=SHARE, latency_ms={"p50": 1.0, "p95": 2.0, "p99": 3.0})
                for second in range(end):
                    detectors.begin_rounds(counters, {1: guarded}, 0, float(second))
                    some = random.integers(users, size=1000)
                    bad = new[some] & (second >= begin)
                    failed = random.random(1000) < np.where(bad, errors, 0.001)
                    z = random.normal(size=1000) + np.where(bad, math.log(slower) / SIGMA, 0.0)
                    beyond = np.array(granted)[new[some].astype(int)] < z[:, None]
                    for user, arm, fails, above in zip(
                        some.tolist(), new[some].tolist(), failed.tolist(), beyond.sum(axis=1).tolist(), strict=True
                    ):
                        counters.outcome(int(arm), user, failed=fails, above=() if fails else range(above))
                    if strongest(detectors.judged_now(counters, 1, 0, guarded))[0] >= NEED:
                        at = second - begin + 1
                        break
            delays.append(at)
        late = [one for one in delays if one is not None and one > 0]
        early = sum(one is not None and one <= 0 for one in delays)
        middle = f"{np.median(late):.0f} s (median)" if late else "never rolled back"
        print(f"users who return, {name:20} {middle}, too early {early}, never {delays.count(None)}, of {runs} runs")


def live_test(
    random: np.random.Generator, runs: int, per_look: int, rates: Array, parts: Array, treatments: int
) -> Array:
    """The look at which each A/B test is ended, -1 where it never is. `rates` (2, looks) of failures: the first treatment's and
    all others'; `parts` (looks or 1, levels) the first treatment's answers, the others' are as slow as is tolerated.
    """
    n, looks = round(per_look / (treatments + 1)), rates.shape[-1]
    arms = []
    for arm in range(treatments + 1):
        failed = random.binomial(n, rates[min(arm, 1)], size=(runs, looks))
        answers = random.multinomial(n - failed, np.broadcast_to(HEALTHY if arm else parts, (looks, len(ABOVE) + 1)))
        answers[..., -1] += failed
        arms.append((failed[..., None], answers))
    *tried, (base, others) = arms
    found = [log_e(ERRORS, bad, base, 0.5) for bad, _ in tried] + [
        log_e(ANSWERS, slow, others, 0.5) for _, slow in tried
    ]
    beyond = np.max(found, axis=0) >= -math.log(ALPHA / treatments)
    return np.where(beyond.any(axis=1), beyond.argmax(axis=1), -1)


def live_rows(runs: int) -> None:
    """Tests on an endpoint: how often equal arms are stopped, and after how many answers of it a worse treatment is."""
    random, looks = np.random.default_rng(41), 600
    for treatments in (1, 3):
        for name, made in {
            "1 % errors, as slow as is tolerated": lambda: np.full(looks, 0.01),
            "all arms' errors in storms": lambda: np.minimum(0.01 * storms(random, 1, looks)[0], 1.0),
            "all arms fail in 90 %": lambda: np.full(looks, 0.9),
        }.items():
            found = np.concatenate(
                [
                    live_test(random, 50, 500, np.array([rate := made(), rate]), HEALTHY, treatments)
                    for _ in range(max(1, runs // 50))
                ]
            )
            told_false(f"{treatments} equal, {name}", found)
        for name, rate, parts in (
            ("errors 1 -> 30 %", 0.30, SAME),
            ("errors 1 -> 2 %", 0.02, SAME),
            ("ten times as slow, twice tolerated", 0.01, np.array([slowed(10.0, 1.0)])),
        ):
            size = 4 * (treatments + 1)
            found = live_test(random, max(100, runs // 10), size, level(4000, rate, 0.01), parts, treatments)
            at = np.where(found >= 0, (found + 1) * 4, 10**9)
            most = f"p95 {np.quantile(at, 0.95):.0f}, missed {np.mean(found < 0):.1%}"
            print(f"test ended, {f'{treatments}: {name}':39} {np.median(at):8.0f}   answers of the treatment, {most}")


def evidence_below(excess: float, k: Array, n: Array, m: Array, base_n: Array) -> Array:
    """`stats.harm.log_evidence_below` over arrays."""

    def against(p: Array) -> Array:
        q = p + excess
        new = [math.log(w) - s * k - n * np.log1p(q * math.expm1(-s)) for s, w in CANARY]
        old = [math.log(w) + s * m - base_n * np.log1p(p * math.expm1(s)) for s, w in BASELINE]
        return np.logaddexp.reduce(new) + np.logaddexp.reduce(old)

    low, high = np.zeros(k.shape), np.full(k.shape, 1 - excess)
    for _ in range(60):
        third = (high - low) / 3
        left = against(low + third) < against(high - third)
        low, high = np.where(left, low, low + third), np.where(left, high - third, high)
    return against((low + high) / 2)


def evidence_fewer(k: Array, m: Array) -> Array:
    """The log e-value that the ratio of slow answers is below 1 (`stats.harm.ratio_bound` at 1)."""
    logs = []
    for part, weight in FEWER:
        odds = -math.log(SHARE * part + 1 - SHARE)
        logs.append(math.log(weight) + k * (math.log(part) + odds) + m * odds)
    return np.logaddexp.reduce(logs)


def promotion_rows(runs: int) -> None:
    """How often a canary that is worse than the margin is ever promoted, looked at 80 times up to 20,000 units."""
    random, margin, need = np.random.default_rng(13), 0.005, -math.log(margins.ALPHA)
    n = np.arange(1, 81) * 250.0
    latency = {f"p95 {text}": 1 - float(np.cumsum(slowed(by))[1]) for text, by in SLOWER.items()}
    for name, (base, new) in {
        "errors 0.1 %, harm 0.5 points": (0.001, 0.006),
        "errors 1 %, harm 0.5 points": (0.01, 0.015),
        "errors 1 %, harm 0.7 points": (0.01, 0.017),
        "no errors in either": (0.0, 0.0),
        "errors 0.1 %, no harm": (0.001, 0.001),
        "errors 1 %, no harm": (0.01, 0.01),
        **{text: (0.05, part) for text, part in latency.items()},
    }.items():
        k, m = (np.cumsum(random.binomial(size, rate, (runs, 80)), axis=1) for size, rate in ((250, new), (4750, base)))
        by = evidence_fewer(k, m) if name in latency else evidence_below(margin, k, n + 0 * k, m, 19 * n + 0 * m)
        promoted = (by >= need) & (n >= 500)
        at = np.where(promoted.any(axis=1), n[promoted.argmax(axis=1)], 0)
        told(name, [int(one) for one in at], new - base >= margin - 1e-9 or "slower" in name)


def told(name: str, at: list[int], bad: bool) -> None:
    """One row of promotions."""
    done = [n for n in at if n]
    middle = f"after {np.median(done):.0f} units (median)" if done else ""
    goal = "goal <= 5 %" if bad else ""
    print(f"ever promoted, {name:32} {len(done) / len(at):8.1%}   of {len(at)} {middle} {goal}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=400)
    given = parser.parse_args()
    rollback_rows(given.runs)
    unusual_rows(given.runs)
    wandering_rows(max(10, given.runs // 100))
    late_fault(max(100, given.runs // 5))
    sticky_rows(max(50, given.runs // 5))
    returning_rows(max(3, given.runs // 200))
    promotion_rows(max(100, given.runs // 10))
    live_rows(given.runs)
