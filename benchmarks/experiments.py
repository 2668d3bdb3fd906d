"""Experiments by seeded simulation and by the clock: peeking, power, coverage, changing shares, ten million results.

    python benchmarks/experiments.py                      about a minute
    python benchmarks/experiments.py --results 10000000   the last rows with ten million results recorded one after another

Peeking: 100,000 units an arm at most, base rate 10 %, a look every 1,000 an arm. Standard error at 5 %: 0.2 points.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy import special

from modelyard.ab_testing import ABTestManager
from modelyard.stats import adaptive, ratios
from modelyard.stats.distributions import normal_isf
from modelyard.stats.group_sequential import bounds, inflation
from modelyard.stats.proportions import lift_interval
from modelyard.stats.ratios import Estimate
from modelyard.stats.sequential import sequence_z

Array = np.ndarray
LOOKS, EACH, BASE = 100, 1000, 0.10


def row(what: str, found: str, goal: str = "") -> None:
    """One line of the table."""
    print(f"{what:78} {found:24} {goal}", flush=True)


def walks(random: np.random.Generator, runs: int, lift: float) -> tuple[Array, Array, Array]:
    """Cumulated successes of both arms at every look, and the pooled z scores."""
    c = np.cumsum(random.binomial(EACH, BASE, size=(runs, LOOKS)), axis=1)
    t = np.cumsum(random.binomial(EACH, BASE * (1 + lift), size=(runs, LOOKS)), axis=1)
    n = np.arange(1, LOOKS + 1) * EACH
    pooled = (c + t) / (2 * n)
    return c, t, (t - c) / n / np.sqrt(pooled * (1 - pooled) * 2 / n)


def peeking(runs: int) -> None:
    """False findings and power with a hundred looks."""
    random, times = np.random.default_rng(2026), np.arange(1, LOOKS + 1) / LOOKS
    limits = {
        "one look at the end": np.where(times < 1, np.inf, normal_isf(0.025)),
        "group sequential": np.array(bounds(list(times))),
        "confidence sequence": np.array([sequence_z(t) for t in times]),
    }
    power = {}
    for lift in (0.0, 0.03, 0.04, 0.10):
        c, t, z = walks(random, runs, lift)
        for name, limit in limits.items():
            crossed = np.abs(z) >= limit
            power[name, lift] = crossed.any(axis=1).mean()
            stop = np.where(crossed.any(axis=1), crossed.argmax(axis=1) + 1, LOOKS).mean() * EACH
            goal = "goal <= 5.5 %" if not lift else ""
            row(f"{name}, lift {lift:+.0%}: found, units an arm", f"{power[name, lift]:.1%}, {stop:,.0f}", goal)
        if not lift:
            row(
                "Bayesian (95 %, loss <= 0.1 %), no difference: a treatment chosen",
                f"{bayesian(c, t):.1%}",
                "no promise",
            )
    behind = power["one look at the end", 0.04] - power["group sequential", 0.04]
    row("power at +4 %: one look less group sequential", f"{100 * behind:.1f} points", "goal <= 3")
    row("units for the same power, 100 looks against one", f"{inflation(LOOKS):.3f} times")


def bayesian(c: Array, t: Array) -> float:
    """How often the Bayesian rule chooses the treatment at any of the looks (normal laws for the Beta's: n is large)."""
    n = np.arange(1, LOOKS + 1) * EACH
    rates = [(1 + k) / (2 + n) for k in (c, t)]
    sd = np.sqrt(sum(rate * (1 - rate) / (3 + n) for rate in rates))
    z = (rates[1] - rates[0]) / sd
    loss = sd * np.exp(-0.5 * z * z) / math.sqrt(2 * math.pi) - (rates[1] - rates[0]) * special.ndtr(-z)
    return float(((special.ndtr(z) >= 0.95) & (loss <= 0.001 * rates[0])).any(axis=1).mean())


def covered(random: np.random.Generator, runs: int, rate: float, lift: float, n: tuple[int, int]) -> float:
    """How often the 95 % lift interval holds the truth."""
    pairs = np.stack([random.binomial(n[0], rate, runs), random.binomial(n[1], rate * (1 + lift), runs)], axis=1)
    kinds, counts = np.unique(pairs, axis=0, return_counts=True)
    hits = 0
    for (c, t), count in zip(kinds.tolist(), counts.tolist(), strict=True):
        found = lift_interval(c, n[0], t, n[1])
        hits += count * (found is not None and found[0] <= lift <= found[1])
    return hits / runs


def coverage(runs: int) -> None:
    """Of the fixed-horizon lift interval of rates, and of Fieller's of means with and without a covariate."""
    random = np.random.default_rng(7)
    cases = (
        ("10 %, 10,000 each, +5 %", 0.10, 0.05, (10_000, 10_000)),
        ("0.1 %, 20,000 each (20 and 40 events), +100 %", 0.001, 1.0, (20_000, 20_000)),
        ("0.1 %, 20,000 each (20 events an arm), +0 %", 0.001, 0.0, (20_000, 20_000)),
        ("0.02 %, 100,000 each (20 and 50 events), +150 %", 0.0002, 1.5, (100_000, 100_000)),
        ("0.4 %, 95,000 to 5,000 (20 events in the smaller), +0 %", 0.004, 0.0, (95_000, 5_000)),
        ("1 %, 95,000 to 5,000, +10 %", 0.01, 0.1, (95_000, 5_000)),
        ("0.1 %, 95,000 to 5,000 (5 events: below the stated range)", 0.001, 0.0, (95_000, 5_000)),
    )
    for name, rate, lift, n in cases:
        row(f"coverage of the lift, {name}", f"{covered(random, runs, rate, lift, n):.2%}", "goal 94.5 to 96 %")
    for covariate in (False, True):
        row(
            f"coverage of a mean's lift, 500 skewed units each{', covariate' if covariate else ''}",
            f"{means(random, runs // 20, covariate):.1%}",
            "nominal 95 %",
        )


def means(random: np.random.Generator, runs: int, covariate: bool) -> float:
    """Fieller's interval over units whose values are exponential, about half of it known before."""
    hits, n, lift = 0, 500, 0.1
    for _ in range(runs):
        arms = []
        for factor in (1.0, 1 + lift):
            z = random.exponential(1.0, n)
            x = factor * (z + random.exponential(1.0, n))
            cov = np.cov(x, z) / n
            part = (
                {"covariate": z.mean(), "covariate_variance": cov[1, 1], "covariance": cov[0, 1]} if covariate else {}
            )
            arms.append(Estimate(n=n, value=x.mean(), variance=cov[0, 0], **part))
        control, treatment, _ = ratios.adjusted(*arms)
        found = ratios.lift(control, treatment, ratios.wide(normal_isf(0.025), 2 * n - 2))
        hits += found is not None and found[0] <= lift <= found[1]
    return hits / runs


def thompson(runs: int) -> None:
    """Changing shares, 40 rounds of 500 units: false findings at any look, bias, and what units met."""
    random = np.random.default_rng(3)
    for rates in ((0.10, 0.10), (0.10, 0.12)):
        ever, naive, errors, met = 0, 0, [], []
        for _ in range(runs):
            sure, plain, error, share = _one_thompson(random, rates)
            ever, naive = ever + sure, naive + plain
            errors.append(error)
            met.append(share)
        lift = f"{rates[0]:.0%} against {rates[1]:.0%}"
        goal = "goal <= 5 %" if rates[0] == rates[1] else ""
        row(f"Thompson, {lift}: found by rounds at any of 40 looks", f"{ever / runs:.1%}", goal)
        row(f"Thompson, {lift}: plain z of the totals at any of 40 looks", f"{naive / runs:.1%}")
        row(f"Thompson, {lift}: units that met the treatment", f"{np.mean(met):.0%}")
        middle, spread = np.mean(errors, axis=0), np.std(errors, axis=0) / math.sqrt(runs)
        told = ", ".join(f"{1e4 * m:+.1f} ({1e4 * s:.1f})" for m, s in zip(middle, spread, strict=True))
        row(f"Thompson, {lift}: bias in 1e-4 (s.e.): by rounds, of the control's plain rate", told)


def _one_thompson(random: np.random.Generator, rates: tuple[float, float]) -> tuple[bool, bool, list[float], float]:
    seen, share, stretches, ever, plain = np.zeros((2, 2)), 0.5, [], False, False
    units, rounds = 500, 40
    for _ in range(rounds):
        treated = int(random.binomial(units, share))
        n = np.array([units - treated, treated])
        k = random.binomial(n, rates)
        pooled = max(k.sum(), 0.5) / units
        error = math.sqrt(pooled * (1 - pooled) * (1 / n).sum())
        stretches.append(adaptive.Round(difference=k[1] / n[1] - k[0] / n[0], error=error, units=units, share=share))
        found = adaptive.together(stretches)
        ever |= abs(found.z) >= sequence_z(found.information / (rounds * units / 4))
        seen += [k, n]
        all_of = seen[0].sum() / seen[1].sum()
        z = (seen[0][1] / seen[1][1] - seen[0][0] / seen[1][0]) / math.sqrt(all_of * (1 - all_of) * (1 / seen[1]).sum())
        plain |= abs(z) >= normal_isf(0.025)
        mean = (1 + seen[0]) / (2 + seen[1])
        chance = float(special.ndtr((mean[1] - mean[0]) / np.sqrt((mean * (1 - mean) / (3 + seen[1])).sum())))
        share = adaptive.shares([1 - chance, chance], 0.1)[1]
    bias = [(found.difference or 0.0) - (rates[1] - rates[0]), seen[0][0] / seen[1][0] - rates[0]]
    return ever, plain, bias, seen[1][1] / seen[1].sum()


def timed(work: Callable[[], object], rounds: int) -> float:
    """The median CPU time in seconds."""
    found = []
    for _ in range(rounds):
        begin = time.process_time()
        work()
        found.append(time.process_time() - begin)
    return statistics.median(found)


def recording(results: int) -> None:
    """CPU time a result, and of an analysis after few and after many."""
    with tempfile.TemporaryDirectory() as folder:
        manager = ABTestManager(Path(folder))
        models = {"control_variant": "m:v1.0.0", "treatment_variant": "m:v2.0.0"}
        test = manager.create_test("t", **models, strategy="random", horizon=results)
        manager.start_test(test.test_id)
        taken = {}
        rows = [
            {"variant": ("control", "treatment")[i % 2], "success": i % 10 > 0, "latency": 0.05 + (i % 977) * 1e-4}
            for i in range(10_000)
        ]
        manager.record_many(test.test_id, rows)
        taken[10_000] = timed(lambda: manager.analyze_test(test.test_id), 51)
        begin = time.process_time()
        for _ in range(results // 10_000 - 1):
            manager.record_many(test.test_id, rows)
        many = (time.process_time() - begin) / max(1, results - 10_000)
        taken[results] = timed(lambda: manager.analyze_test(test.test_id), 51)
        few = 8192 * 4
        begin = time.process_time()
        for i in range(few):
            manager.record_request(test.test_id, "control", success=True, latency=0.05 + i * 1e-6)
        one = (time.process_time() - begin) / few
        row("record_many, folding included (CPU)", f"{1e6 * many:.1f} us a result", "goal <= 3 us")
        row(
            "record_request, folding and write(2) included (CPU)",
            f"{1e6 * one:.1f} us a result",
            f"write alone {write():.1f} us",
        )
        told = f"{1e3 * taken[results]:.2f} ms, {taken[results] / taken[10_000]:.2f} times"
        row(f"analyze_test after {results:,} results, against 10,000", told, "goal: the same time")
        manager.close()


def write() -> float:
    """What one write(2) of a line costs in microseconds: the part of recording that is durability."""
    with tempfile.TemporaryFile() as file:
        begin = time.process_time()
        for _ in range(20_000):
            os.write(file.fileno(), b"x" * 60)
        return (time.process_time() - begin) / 20_000 * 1e6


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--results", type=int, default=1_000_000)
    given = parser.parse_args()
    print(f"load average {os.getloadavg()[0]:.1f}, {given.runs} runs")
    peeking(given.runs)
    coverage(20 * given.runs)
    thompson(max(200, given.runs // 10))
    recording(given.results)
