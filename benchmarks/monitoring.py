"""Monitoring, measured: time of a report, false alarms and power of the alarm rules, detection delay of the watch.

    python benchmarks/monitoring.py [--runs 100]

Prints one table. Times are wall seconds with CPU seconds beside them; rates come from seeded simulations whose number
of windows is printed, since a rate from few windows says little.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from modelyard.monitoring import MLMonitor
from modelyard.monitoring.profile import profile, reference_profile
from modelyard.stats.tree_shap import TreeArrays, TreeShap

Columns = dict[str, np.ndarray]


def table(rows: int, seed: int, *, shift: float = 0.0) -> Columns:
    """Twenty number columns (normal, skewed, zero-inflated, bounded, correlated) and five categories (2 to 1,000 levels)."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=rows)
    columns: Columns = {}
    for i in range(20):
        noise = rng.normal(size=rows)
        made = (
            noise,
            np.exp(noise),
            np.where(rng.random(rows) < 0.4, 0.0, np.abs(noise)),
            rng.beta(2, 5, rows),
            0.8 * common + 0.6 * noise,
        )[i % 5]
        columns[f"number_{i}"] = made + (shift if i == 0 else 0.0)
    for levels in (2, 5, 10, 50, 1000):
        weights = 1 / np.arange(1, levels + 1)
        drawn = rng.choice(levels, rows, p=weights / weights.sum())
        columns[f"levels_{levels}"] = np.array([f"level {k}" for k in range(levels)], dtype=object)[drawn]
    return columns


def timed(name: str, call: Callable[[], Any]) -> None:
    """Run once to warm, then print wall and CPU seconds of the second run."""
    call()
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    print(f"| {name} | {time.perf_counter() - wall:.3f} s | {time.process_time() - cpu:.3f} CPU s |")


def times() -> None:
    """How long reports, profiles and explanations take."""
    reference, current = table(10_000, 1), table(10_000, 2)
    monitor = MLMonitor("benchmark", "v1.0.0")
    timed("set reference, 10,000 x 25", lambda: monitor.set_reference_data(reference))
    timed("report, 10,000 + 10,000 x 25", lambda: monitor.drift_report(current))
    timed("watch, one window of 500 x 25", lambda: monitor.watch(table(500, 3)))
    wide = {f"x{i}": np.random.default_rng(i).normal(size=300_000) for i in range(16)}
    big = MLMonitor("benchmark", "v2.0.0")
    timed("set reference, 300,000 x 16", lambda: big.set_reference_data(wide))
    timed("report, 300,000 + 300,000 x 16", lambda: big.drift_report(wide))
    kept = reference_profile(wide)
    timed("profile only, 300,000 x 16", lambda: profile(kept, wide))
    explanations()


def explanations() -> None:
    """TreeSHAP of forests as in the literature's comparisons."""
    from sklearn.ensemble import RandomForestRegressor

    rng = np.random.default_rng(0)
    x = rng.normal(size=(5000, 16)).astype(np.float32)
    y = x[:, 0] * x[:, 1] + np.sin(x[:, 2]) + rng.normal(size=5000)
    for depth in (6, 12):
        forest = RandomForestRegressor(100, max_depth=depth, max_leaf_nodes=240, random_state=0).fit(x, y)
        trees = [e.tree_ for e in forest.estimators_]
        shap = TreeShap(
            [
                TreeArrays(
                    t.children_left,
                    t.children_right,
                    t.feature,
                    t.threshold,
                    t.value[:, 0, 0],
                    t.weighted_n_node_samples,
                )
                for t in trees
            ]
        )
        timed(f"TreeSHAP, 100 trees, depth {depth}, 100 rows", lambda shap=shap: shap.values(x[:100]))


def rates(runs: int) -> None:
    """Share of windows with an alert, where nothing or one column has moved."""
    for rows, size in ((10_000, 1000), (1000, 1000)):
        for shift in (0.0, 0.1, 0.2, 0.5):
            alarmed = found = 0
            for run in range(runs):
                monitor = MLMonitor("benchmark", "v1.0.0")
                if run % 10 == 0:
                    reference = table(rows, 10_000 + run)
                monitor.set_reference_data(reference)
                alerts = monitor.drift_report(table(size, 20_000 + run, shift=shift)).alerts
                alarmed += bool(alerts)
                found += any(alert.feature_name == "number_0" for alert in alerts)
            what = "any alert, no drift" if shift == 0 else f"power, one column by {shift} sd"
            print(f"| {what}, {rows:,} / {size:,} | {(found if shift else alarmed) / runs:.3f} | {runs} windows |")


def delays(runs: int) -> None:
    """The life-long watch: runs of 200 quiet windows that ever alarm, and windows until a change is seen."""
    pool = table(400_000, 5)
    for shift in (0.0, 0.1, 0.2, 0.5):
        ever, waits = 0, []
        for run in range(runs):
            order = np.random.default_rng(run).permutation(400_000)
            monitor = MLMonitor("benchmark", "v1.0.0")
            monitor.set_reference_data({name: values[order[:10_000]] for name, values in pool.items()})
            for window in range(200 if shift == 0 else 150):
                rows = order[10_000 + 500 * window : 10_500 + 500 * window]
                part = {name: values[rows] for name, values in pool.items()}
                if shift and window >= 50:
                    part["number_0"] = part["number_0"] + shift
                if monitor.watch(part).alarmed:
                    ever += 1
                    waits.append(window - 49)
                    break
        if shift:
            wait = f"median delay {np.median(waits):.0f} windows" if waits else "never"
            print(f"| watch, {shift} sd after 50 windows of 500 | {ever / runs:.2f} found | {wait}, {runs} runs |")
        else:
            print(f"| watch, any alarm in 200 quiet windows of 500 | {ever / runs:.3f} | {runs} runs |")


def main() -> None:
    """Print the table."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--runs", type=int, default=100)
    arguments.add_argument("--watch-runs", type=int, default=5)
    chosen = arguments.parse_args()
    print("| what | value | detail |\n|---|---|---|")
    times()
    rates(chosen.runs)
    delays(chosen.watch_runs)


if __name__ == "__main__":
    main()
