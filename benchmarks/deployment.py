"""Rollback and A/B decisions by seeded simulation: how often a good canary is taken back, how soon a bad one is.

    python benchmarks/deployment.py              some ten seconds
    python benchmarks/deployment.py --runs 10000 the table's precision: standard error 0.03 % at 0.1 %

Traffic: 1,000 requests a second, canary 5 %, alpha 0.001 over all tests in use. Requests are canary requests at the
decision. The guard is the product's own: errors and the three latency quantiles together, as serving judges them at
every bad event of the canary; here in blocks of a tenth of a second (five canary requests).
"""

from __future__ import annotations

import argparse
import math
import time

import numpy as np

from modelyard.ab_testing import rules as ab_rules
from modelyard.ab_testing.experiments import ABTest, TestStatus, TrafficSplitStrategy, Variant
from modelyard.ab_testing.tally import Tally
from modelyard.core.instants import EPOCH
from modelyard.deployment import rules
from modelyard.stats.distributions import normal_isf, normal_sf
from modelyard.stats.eprocess import RATIOS, log_e_value
from modelyard.stats.group_sequential import bounds
from modelyard.stats.sequential import sequence_z

SHARE, ALPHA, PER_SECOND = 0.05, 0.001, 1000
NEED = -math.log(rules.GUARD_PART * ALPHA)
SIGMA, MARGIN = 0.8, 0.10  # latency is lognormal; the tolerated slowdown is the default
QUANTILES = (0.50, 0.05, 0.01)  # the parts of the baseline's answers above its p50, p95 and p99

Array = np.ndarray


def log_e(canary: Array, baseline: Array) -> Array:
    """`log_e_value` over arrays of counts."""
    logs = []
    for ratio in RATIOS:
        q = SHARE * ratio / (SHARE * ratio + 1 - SHARE)
        logs.append(canary * math.log(q / SHARE) + baseline * math.log((1 - q) / (1 - SHARE)))
    return np.logaddexp.reduce(logs, axis=0) - math.log(len(RATIOS))


def exceedances(
    random: np.random.Generator, n: int, shape: tuple[int, int], factor: float, margin: float
) -> list[Array]:
    """Cumulated counts above each quantile of answers `factor` times as slow as the baseline's."""
    above = [normal_sf(normal_isf(q) + (math.log(1 + margin) - math.log(factor)) / SIGMA) for q in QUANTILES]
    cells = random.multinomial(n, [1 - above[0], above[0] - above[1], above[1] - above[2], above[2]], size=shape)
    tail = np.cumsum(cells[..., ::-1], axis=-1)
    return [np.cumsum(tail[..., place], axis=1) for place in (2, 1, 0)]


def guard(
    random: np.random.Generator,
    runs: int,
    *,
    seconds: float,
    looks: int,
    rates: Array,
    slower: float = 1.0,
    margin: float = MARGIN,
) -> Array:
    """The look (from 0) at which each run rolls back, -1 where it never does. `rates` is (2, looks): canary, baseline."""
    per_look = PER_SECOND * seconds / looks
    new, old = round(per_look * SHARE), round(per_look * (1 - SHARE))
    shape = (runs, looks)
    errors = log_e(
        np.cumsum(random.binomial(new, rates[0], size=shape), axis=1),
        np.cumsum(random.binomial(old, rates[1], size=shape), axis=1),
    )
    slow_new, slow_old = exceedances(random, new, shape, slower, margin), exceedances(random, old, shape, 1.0, 0.0)
    latency = np.logaddexp.reduce([log_e(k, m) for k, m in zip(slow_new, slow_old, strict=True)], axis=0) - math.log(3)
    beyond = np.logaddexp(errors, latency) - math.log(2) >= NEED
    return np.where(beyond.any(axis=1), beyond.argmax(axis=1), -1)


def level(looks: int, canary: float, baseline: float) -> Array:
    """Constant rates."""
    return np.array([[canary] * looks, [baseline] * looks])


def rollback_rows(runs: int) -> None:
    """The table of false and true rollbacks by the guard in the serving processes."""
    random = np.random.default_rng(2026)
    incident = level(1000, 0.001, 0.001)
    incident[:, 300:360] = 0.05
    for name, rates in (("healthy, 0.1 % errors, 1,000 s", level(1000, 0.001, 0.001)), ("both 5 % for 60 s", incident)):
        found = np.concatenate(
            [guard(random, min(200, runs), seconds=1000, looks=1000, rates=rates) for _ in range(max(1, runs // 200))]
        )
        print(f"false rollback, {name:32} {np.mean(found >= 0):8.2%}   of {len(found)} runs; goal <= 0.1 %")
    few = max(200, runs // 10)
    cases = (
        ("errors 0.1 -> 1 %", 0.01, 1.0, MARGIN, "goal <= 700"),
        ("errors 0.1 -> 5 %", 0.05, 1.0, MARGIN, ""),
        ("latencies x 1.5, 10 % tolerated", 0.001, 1.5, MARGIN, ""),
        ("latencies x 1.5, 1 % tolerated", 0.001, 1.5, 0.01, "goal <= 300"),
    )
    for name, rate, slower, margin, goal in cases:
        rates = level(800, rate, 0.001)
        found = guard(random, few, seconds=80, looks=800, rates=rates, slower=slower, margin=margin)
        requests = np.where(found >= 0, (found + 1) * 5, 10**9)
        middle, most = np.median(requests), np.quantile(requests, 0.95)
        print(
            f"rolled back, {name:35} {middle:8.0f}   canary requests, p95 {most:.0f}, missed {np.mean(found < 0):.1%} {goal}"
        )


def late_fault(runs: int) -> None:
    """Seconds from a fault that starts at second 500 to the controller's decision, a look each second."""
    random, delays, early = np.random.default_rng(7), [], 0
    single = [np.array([log_e_value(1, 0, SHARE, ratios=(r,)), log_e_value(0, 1, SHARE, ratios=(r,))]) for r in RATIOS]
    weights = np.array(single).T  # (2, ratios)
    for _ in range(runs):
        sums, k, m, looks = np.full(len(RATIOS), -np.inf), 0, 0, 0
        for second in range(700):
            bad = random.binomial(50, 0.01 if second >= 500 else 0.001), random.binomial(950, 0.001)
            if not any(bad):
                continue
            k, m, looks = k + bad[0], m + bad[1], looks + 1
            sums = np.logaddexp(0.0, sums) + bad[0] * weights[0] + bad[1] * weights[1]
            late = np.logaddexp.reduce(sums) - math.log(len(RATIOS)) >= rules.late_threshold(looks, ALPHA)
            if late or log_e_value(k, m, SHARE) - math.log(2) >= NEED:
                delays.append(second - 499)
                early += second < 500
                break
    middle, most = np.median(delays), np.quantile(delays, 0.95)
    print(
        f"late fault at 500 s, decided after {middle:18.0f}   s (median), p95 {most:.0f}, too early {early}; goal <= 25 s"
    )


def peeking_rows(runs: int) -> None:
    """A/A and power with a hundred looks, 100,000 units an arm, base rate 10 %."""
    random, times = np.random.default_rng(11), np.arange(1, 101) / 100
    limits = {
        "group sequential": np.array(bounds(list(times))),
        "confidence sequence": np.array([sequence_z(t) for t in times]),
    }
    limits["one look at the end"] = np.where(times < 1, np.inf, 1.96)
    for lift in (0.0, 0.04):
        c = np.cumsum(random.binomial(1000, 0.1, size=(runs, 100)), axis=1)
        t = np.cumsum(random.binomial(1000, 0.1 * (1 + lift), size=(runs, 100)), axis=1)
        n = np.arange(1, 101) * 1000
        pooled = (c + t) / (2 * n)
        z = np.abs(t - c) / n / np.sqrt(pooled * (1 - pooled) * 2 / n)
        for name, limit in limits.items():
            print(f"{name:20} lift {lift:+.0%}: called significant {np.mean((z >= limit).any(axis=1)):10.1%}")


def analysis_time() -> None:
    """An analysis of ten million results against one of ten thousand."""
    variants = (Variant(name="control", model="m:v1", share=0.5), Variant(name="treatment", model="m:v2", share=0.5))
    test = ABTest(
        test_id="t",
        name="t",
        description="",
        strategy=TrafficSplitStrategy.HASH_BASED,
        status=TestStatus.RUNNING,
        variants=variants,
        created_by="b",
        created_at=EPOCH,
    )
    ab_rules.analyze(test, {"control": Tally(), "treatment": Tally()})  # the first call loads modules
    taken = {}
    for n in (10_000, 10_000_000):
        arms = {"control": Tally(), "treatment": Tally()}
        for tally, part in zip(arms.values(), (0.1, 0.11), strict=True):
            tally.count(1, int(n * part))
            tally.count(0, n - int(n * part))
        rounds = []
        for _ in range(200):
            begin = time.perf_counter()
            ab_rules.analyze(test, arms)
            rounds.append(time.perf_counter() - begin)
        taken[n] = float(np.median(rounds))
    ratio, micros = taken[10_000_000] / taken[10_000], taken[10_000_000] * 1e6
    print(f"analysis of 10,000,000 results takes {ratio:.2f} times that of 10,000 ({micros:.0f} us)")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=400)
    given = parser.parse_args()
    rollback_rows(given.runs)
    late_fault(max(50, given.runs // 20))
    peeking_rows(10_000)
    analysis_time()
