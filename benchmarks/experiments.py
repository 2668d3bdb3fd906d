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
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from scipy import special

from modelyard.ab_testing import ABTest, ABTestManager, TestStatus, TrafficSplitStrategy, Variant
from modelyard.ab_testing.comparing import FEWEST, compared
from modelyard.ab_testing.design import Ruler, ruler
from modelyard.ab_testing.metrics import layout, parsed
from modelyard.ab_testing.tally import Tally, Unit
from modelyard.stats import adaptive, ratios
from modelyard.stats.cross import Spread
from modelyard.stats.distributions import normal_isf
from modelyard.stats.group_sequential import bounds, inflation, sequential_p
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
    """Of the fixed-horizon lift intervals: of rates, means, ratios, with covariates, and of quantiles."""
    random = np.random.default_rng(7)
    cases = (
        ("10 %, 10,000 each, +5 %", 0.10, 0.05, (10_000, 10_000)),
        ("0.1 %, 20,000 each (20 and 40 events), +100 %", 0.001, 1.0, (20_000, 20_000)),
        ("0.1 %, 20,000 each (20 events an arm), +0 %", 0.001, 0.0, (20_000, 20_000)),
        ("0.02 %, 100,000 each (20 and 50 events), +150 %", 0.0002, 1.5, (100_000, 100_000)),
        ("0.4 %, 95,000 to 5,000 (20 events in the smaller), +0 %", 0.004, 0.0, (95_000, 5_000)),
        ("1 %, 95,000 to 5,000, +10 %", 0.01, 0.1, (95_000, 5_000)),
        ("99.6 %, 95,000 to 5,000 (20 failures in the smaller), +0 %", 0.996, 0.0, (95_000, 5_000)),
        ("99.9 %, 20,000 each (20 failures an arm), +0 %", 0.999, 0.0, (20_000, 20_000)),
        ("0.1 %, 95,000 to 5,000 (5 events: below the stated range)", 0.001, 0.0, (95_000, 5_000)),
        ("99.9 %, 95,000 to 5,000 (5 failures: below the stated range)", 0.999, 0.0, (95_000, 5_000)),
    )
    for name, rate, lift, n in cases:
        row(f"coverage of the lift, {name}", f"{covered(random, runs, rate, lift, n):.2%}", "goal 94.5 to 96 %")
    for kind in (means, covariates, rates_over, ratios_of):
        for n in ((500, 500), (9_500, 500)):
            told = f"{n[0]:,} and {n[1]:,} units"
            row(f"coverage of the lift of {kind.__doc__}, {told}", f"{kind(random, runs // 40, n):.1%}", "nominal 95 %")
    for n in ((300, 300), (2_850, 150)):
        told = f"{n[0]:,} and {n[1]:,} units"
        row(
            f"coverage of a difference of means within five groups, {told}",
            f"{groups(random, runs // 100, n):.1%}",
            "nominal 95 %",
        )
    for q, n, each in ((0.5, 300, 1), (0.95, 300, 1), (0.5, 100, 5), (0.9, 100, 5)):
        told = f"p{100 * q:.0f}, {n} units an arm with {each} value{'s that are alike' if each > 1 else ''} each"
        row(f"coverage of the lift of {told}", f"{quantiles(random, runs // 100, q, n, each):.1%}", "nominal 95 %")


def fixed(*metrics: dict[str, object], units: int) -> tuple[ABTest, Ruler]:
    """A test that is looked at once, and its ruler."""
    arms = (Variant(name="control", model="m:v1", share=0.5), Variant(name="treatment", model="m:v2", share=0.5))
    made = ABTest(
        test_id="t",
        name="t",
        description="",
        strategy=TrafficSplitStrategy.RANDOM,
        status=TestStatus.RUNNING,
        variants=arms,
        created_by="me",
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        planned_units=units,
        metrics=parsed(metrics),
    )
    return made, ruler(made, units, (), 0.95)


def spread(*columns: Array) -> Spread:
    """What exact sums would say of units with these numbers."""
    rows = np.stack(columns)
    products = np.cov(rows).reshape(len(rows), len(rows)) * (rows.shape[1] - 1)
    return Spread(n=rows.shape[1], means=tuple(rows.mean(axis=1)), products=tuple(map(tuple, products)))


def lifts(runs: int, arm: Callable[[float], Estimate | None], lift: float) -> float:
    """How often Fieller's interval of one look holds the lift."""
    hits = 0
    for _ in range(runs):
        arms = arm(1.0), arm(1.0 + lift)
        assert arms[0] is not None
        assert arms[1] is not None
        control, treatment, _ = ratios.adjusted(*arms)
        width = ratios.wide(normal_isf(0.025), ratios.difference(control, treatment).df)
        found = ratios.lift(control, treatment, width)
        hits += found is not None and found[0] <= lift <= found[1]
    return hits / runs


def means(random: np.random.Generator, runs: int, n: tuple[int, int]) -> float:
    """exponential means"""
    return lifts(runs, lambda factor: ratios.mean(spread(factor * random.exponential(1.0, n[factor > 1]))), 0.1)


def covariates(random: np.random.Generator, runs: int, n: tuple[int, int]) -> float:
    """means with a covariate that knows half"""

    def arm(factor: float) -> Estimate | None:
        known = random.exponential(1.0, n[factor > 1])
        return ratios.mean(spread(factor * (known + random.exponential(1.0, n[factor > 1])), known))

    return lifts(runs, arm, 0.1)


def ratios_of(random: np.random.Generator, runs: int, n: tuple[int, int]) -> float:
    """clicks over views"""

    def arm(factor: float) -> Estimate | None:
        views = 1 + random.poisson(random.gamma(2.0, 2.0, n[factor > 1]))
        return ratios.ratio(spread(random.binomial(views, 0.1 * factor).astype(float), views.astype(float)))

    return lifts(runs, arm, 0.1)


def rates_over(random: np.random.Generator, runs: int, n: tuple[int, int]) -> float:
    """rates of units with several requests"""
    test, held = fixed(units=sum(n))
    hits = 0
    for _ in range(runs):
        arms = []
        for size in n:
            requests = 1 + random.poisson(3.0, size)
            good = random.binomial(requests, random.beta(8.0, 2.0, size))
            arms.append(
                Tally(
                    requests=int(requests.sum()),
                    successes=int(good.sum()),
                    units=size,
                    nn=int(requests @ requests),
                    ss=int(good @ good),
                    ns=int(requests @ good),
                )
            )
        found = compared(test.goals[0], *arms, held).lift_interval
        hits += found is not None and found[0] <= 0 <= found[1]
    return hits / runs


def groups(random: np.random.Generator, runs: int, n: tuple[int, int]) -> float:
    """Of equal arms of units whose groups differ by more than units of one group do."""
    test, held = fixed({"name": "x", "kind": "mean", "role": "goal", "strata": "g"}, units=sum(n))
    how, hits = layout(test.metrics), 0
    for _ in range(runs):
        arms = []
        for size in n:
            arm, group = Tally(), random.integers(0, 5, size)
            for g, value in zip(group.tolist(), (2.0 * group + random.exponential(1.0, size)).tolist(), strict=True):
                arm.count_result(1, {"x": value, "g": float(g)}, how)
            arms.append(arm)
        low, high = compared(test.goals[0], *arms, held).interval
        hits += low <= 0 <= high
    return hits / runs


def quantiles(random: np.random.Generator, runs: int, q: float, units: int, each: int) -> float:
    """Of equal arms; a unit's values share half of their variance where it has several."""
    test, held = fixed({"name": "q", "numerator": "x", "quantile": q}, units=2 * units)
    how, hits = layout(test.metrics), 0
    for _ in range(runs):
        arms = []
        for _ in range(2):
            arm = Tally()
            own = random.normal(0, 0.5, units)[:, None] if each > 1 else 0.0
            for values in np.exp(own + random.normal(0, 0.5, (units, each))).tolist():
                unit = Unit()
                for value in values:
                    arm.spot({"x": value}, how)
                    unit.add(1, {"x": value}, how)
                arm.count_unit(Unit(), unit, how)
            arms.append(arm)
        found = compared(test.metrics[1], *arms, held).lift_interval
        hits += found is not None and found[0] <= 0 <= found[1]
    return hits / runs


def lopsided(runs: int) -> None:
    """Equal arms, 5 % of the units in one, looked at 160 times from the fourth unit on, under a confidence sequence."""
    random = np.random.default_rng(4)
    laws: dict[str, Callable[[int], Array]] = {
        "2 % of values 1, others 0": lambda n: (random.random(n) < 0.02).astype(float),
        "lognormal, sd of log 1.5": lambda n: np.exp(random.normal(0, 1.5, n)),
    }
    units = 4000
    looks = np.unique(np.concatenate([np.arange(4, 60), np.geomspace(60, units, 110).astype(int)]))
    for name, law in laws.items():
        own = both = 0
        for _ in range(runs):
            treated, values = random.random(units) < 0.05, law(units)
            crossed = [False, False]
            for n in looks:
                arms = [values[:n][~treated[:n]], values[:n][treated[:n]]]
                if min(map(len, arms)) < FEWEST:
                    continue
                pair = [Estimate(n=len(arm), value=arm.mean(), variance=arm.var(ddof=1) / len(arm)) for arm in arms]
                limit = sequence_z(n / units)
                crossed[0] |= abs(ratios.difference(*pair).z) >= limit
                crossed[1] |= abs(ratios.difference(*ratios.cautious(*pair)).z) >= limit
            own, both = own + crossed[0], both + crossed[1]
        row(f"A/A, 5 % in one arm, {name}: found at any of 160 looks", f"{both / runs:.1%}", "goal <= 5.5 %")
        row("    the same by each arm's own spread alone", f"{own / runs:.1%}")


def secondary(runs: int) -> None:
    """The p value that pays for looks, of a secondary metric without a difference, at any of 20 looks."""
    random, times = np.random.default_rng(5), [(look + 1) / 20 for look in range(20)]
    steps = random.normal(size=(runs, 20)) / math.sqrt(20)
    z = np.cumsum(steps, axis=1) / np.sqrt(times)
    limits = np.array(bounds(times))
    paid = sum(any(sequential_p(times[: look + 1], one) <= 0.05 for look, one in enumerate(run)) for run in z)
    row("A/A, secondary metric of a plan, 20 looks: p <= 5 % at any", f"{paid / runs:.1%}", "goal <= 5.5 %")
    row(
        "    the same by its bounds, and by the p value of one look",
        f"{(np.abs(z) >= limits).any(axis=1).mean():.1%}, {(np.abs(z) >= 1.96).any(axis=1).mean():.1%}",
    )


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


KINDS: dict[str, tuple[Callable[[int], dict[str, object]], dict[str, object]]] = {
    "an id": (lambda i: {"latency": 0.05 + (i % 977) * 1e-4, "result_id": f"r-{i}"}, {}),
    "a unit that returns": (lambda i: {"latency": 0.05 + (i % 977) * 1e-4, "unit_id": f"user-{_unit(i)}"}, {}),
    "a unit, assigned by its hash": (lambda i: {"unit_id": f"user-{_unit(i)}"}, {"strategy": "hash_based"}),
    "two numbers that are not planned": (lambda i: {"custom_metrics": {"spent": 19.99 + i % 97, "items": i % 7}}, {}),
    "a unit and a planned mean": (
        lambda i: {"unit_id": f"user-{_unit(i)}", "custom_metrics": {"spent": 19.99 + i % 97}},
        {"metrics": [{"name": "spent", "kind": "mean", "role": "goal"}]},
    ),
    "an id, a unit, a latency and a number": (
        lambda i: {
            "latency": 0.05 + (i % 977) * 1e-4,
            "result_id": f"r-{i}",
            "unit_id": f"user-{_unit(i)}",
            "custom_metrics": {"spent": 19.99 + i % 97},
        },
        {},
    ),
}


def _unit(i: int) -> int:
    """A number below 30,000, most of them again and again, in no order."""
    return i * 0x9E3779B1 % 2**32 % 30_000


def begun(folder: Path, options: Mapping[str, object]) -> tuple[ABTestManager, str]:
    """A test that runs."""
    manager = ABTestManager(folder)
    models = {"control_variant": "m:v1.0.0", "treatment_variant": "m:v2.0.0"}
    test = manager.create_test("t", **{"strategy": "random", **models, **options})
    manager.start_test(test.test_id)
    return manager, test.test_id


def recording_more(results: int) -> None:
    """CPU time a result that brings more than a latency, told many at once and one by one."""
    for name, (told, options) in KINDS.items():
        with tempfile.TemporaryDirectory() as folder:
            manager, test_id = begun(Path(folder), options)
            took, few = [0.0, 0.0], 8192 * 2
            for begin in range(0, results + few, 8192):
                rows = []
                for i in range(begin, begin + 8192):
                    one = told(i)
                    unit = one.get("unit_id") if options.get("strategy") else None
                    arm = manager.get_variant(test_id, str(unit)) if unit else ("control", "treatment")[i % 2]
                    rows.append({"variant": arm, "success": i % 10 > 0, **one})
                alone = begin >= results
                start = time.process_time()
                if alone:
                    for one in rows:
                        manager.record_request(test_id, **one)
                else:
                    manager.record_many(test_id, rows)
                took[alone] += time.process_time() - start
            counts = -(-results // 8192) * 8192, few
            many, one_ = (1e6 * seconds / count for seconds, count in zip(took, counts, strict=True))
            row(f"recording {name}: record_many, record_request (CPU)", f"{many:.1f}, {one_:.1f} us a result")
            manager.close()


def returning(results: int, units: int) -> None:
    """What very many units cost: each of the last results against each of the first, memory, and opening the test again."""
    with tempfile.TemporaryDirectory() as folder:
        manager, test_id = begun(Path(folder), {"horizon": results})
        chance, took = np.random.default_rng(6), []
        for _ in range(max(1, results // 10_000)):
            rows = returned(chance.integers(0, units, 10_000))
            start = time.process_time()
            manager.record_many(test_id, rows)
            took.append(time.process_time() - start)
        part = max(1, len(took) // 10)
        first, last = (1e6 * sum(some) / part / 10_000 for some in (took[:part], took[-part:]))
        told = f"{results:,} results of {units:,} units that return"
        row(f"{told}: the first tenth, the last (CPU)", f"{first:.1f}, {last:.1f} us a result")
        row("    the longest call of 10,000, which merges (CPU)", f"{max(took):.2f} s")
        took_now = timed(lambda: manager.analyze_test(test_id), 21)
        manager.close()
        size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
        row("    bytes a unit on disk, in this process", f"{size / units:.0f}, {resident() / units:.0f}")
        again = ABTestManager(Path(folder))
        start = time.process_time()
        again.analyze_test(test_id)
        opened = time.process_time() - start
        rows = returned(chance.integers(0, units, 8192))
        start = time.process_time()
        again.record_many(test_id, rows)
        fold = time.process_time() - start
        row("    analyze_test; the first one after a restart (CPU)", f"{1e3 * took_now:.1f} ms; {1e3 * opened:.1f} ms")
        row("    the first 8,192 results after a restart, which read what is known (CPU)", f"{fold:.2f} s")
        again.close()


def returned(units: Array) -> list[dict[str, Any]]:
    """A result of each of some units."""
    arms = ("control", "treatment")
    return [
        {"variant": arms[unit % 2], "success": True, "latency": 0.05, "unit_id": f"user-{unit}"}
        for unit in units.tolist()
    ]


def resident() -> int:
    """Bytes of memory that this process has now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


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
    lopsided(max(200, given.runs // 20))
    secondary(given.runs)
    thompson(max(200, given.runs // 10))
    recording(given.results)
    recording_more(max(16_384, given.results // 20))
    returning(given.results, max(1, given.results * 3 // 10))
