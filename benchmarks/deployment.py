"""Rollback decisions by seeded simulation: how often a good canary is taken back, how soon a bad one is.

    python benchmarks/deployment.py              about a minute
    python benchmarks/deployment.py --runs 10000 the table's precision: standard error 0.03 % at 0.1 %

Traffic: 1,000 requests a second, canary 5 %, alpha 0.001 over all tests in use. Requests are canary requests at the
decision. The guard is the product's own: its tests with their bets and parts of alpha, and their detectors, looked at
after each second (tenth of a second where a decision is timed). Latency is lognormal with 0.8, the tolerated slowdown 10 %.
"""

from __future__ import annotations

import argparse
import math

import numpy as np
from scipy.optimize import brentq

from modelyard.deployment import rules
from modelyard.stats.detector import begun_by
from modelyard.stats.distributions import normal_isf, normal_sf
from modelyard.stats.eprocess import factors
from modelyard.stats.rollback import ANSWERS, ERRORS, PARTS, bets_of
from modelyard.stats.sequential import SLOPES

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
    looks = rates.shape[1]
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


def sticky_rows(runs: int) -> None:
    """Steps of 5 and 25 % over the same users, of whom some always fail: counted by request, by step, and by rollout."""
    random, failing, bursts = np.random.default_rng(12), 400, 5
    taken = dict.fromkeys(("each request", "each user once a step", "each user once a rollout"), 0)
    for _ in range(runs):
        place = random.random(failing)
        order = [random.permutation(np.repeat(np.arange(failing), bursts)) for _ in range(2)]
        for name, once in zip(taken, (0, 1, 2), strict=True):
            logs, top, seen = np.zeros(len(bets_of(ERRORS))), 0.0, np.zeros(failing, bool)
            for share, users in zip((0.05, 0.25), order, strict=True):
                seen = seen & (once == 2)
                kept = users if once == 0 else users[np.sort(np.unique(users, return_index=True)[1])]
                kept = kept[~seen[kept]]
                seen[kept] = True
                odds = np.array(factors(bets_of(ERRORS), share))[:, 0]
                new = (place[kept] < share)[:, None]
                path = logs + np.cumsum(np.where(new, odds[:, 0], odds[:, 1]), axis=0)
                weights = np.log([bet.weight for bet in bets_of(ERRORS)])
                if len(path):
                    top, logs = max(top, np.logaddexp.reduce(path + weights, axis=1).max()), path[-1]
            taken[name] += top >= -math.log(ALPHA)
    for name, found in taken.items():
        print(
            f"false rollback, {failing} failing users, {bursts} errors a step, {name:24} {found / runs:8.2%} of {runs}"
        )


def upper(events: Array, n: Array, alpha: float) -> Array:
    """`stats.sequential.upper_rate` over arrays."""
    slopes = np.array(SLOPES)[:, None, None]
    low, high = events / n, np.ones(events.shape)
    for _ in range(25):
        half = (low + high) / 2
        logs = -slopes * events - n * np.log1p(half * np.expm1(-slopes))
        inside = np.logaddexp.reduce(logs, axis=0) - math.log(len(slopes)) < -math.log(alpha)
        low, high = np.where(inside, half, low), np.where(inside, high, half)
    return high


def promotion_rows(runs: int) -> None:
    """How often a canary that is worse than the margin is ever promoted, looked at every 100 units up to 20,000."""
    random, margin = np.random.default_rng(13), 0.005
    n = np.arange(1, 201) * 100.0
    latency = {f"p95 {text}": 1 - float(np.cumsum(slowed(by))[1]) for text, by in SLOWER.items()}
    for name, (base, new, allowed) in {
        "errors 0.1 %, harm 0.5 points": (0.001, 0.006, margin),
        "errors 1 %, harm 0.5 points": (0.01, 0.015, margin),
        "errors 1 %, harm 0.7 points": (0.01, 0.017, margin),
        "no errors in either": (0.0, 0.0, margin),
        "errors 0.1 %, no harm": (0.001, 0.001, margin),
        "errors 1 %, no harm": (0.01, 0.01, margin),
        **{text: (0.05, part, 0.0) for text, part in latency.items()},
    }.items():
        k, m = (
            np.cumsum(random.binomial(size, rate, (runs, 200)), axis=1) for size, rate in ((100, new), (1900, base))
        )
        alpha = rules.PROMOTION_ALPHA
        high = upper(k, n, 0.8 * alpha) - (1 - upper(n * 19 - m, n * 19, 0.2 * alpha))
        promoted = (high <= allowed) & (n >= 500)
        at = np.where(promoted.any(axis=1), n[promoted.argmax(axis=1)], 0)
        told(name, [int(one) for one in at], new - base >= margin or "slower" in name)


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
    late_fault(max(100, given.runs // 5))
    sticky_rows(max(400, given.runs // 2))
    promotion_rows(max(100, given.runs // 10))
