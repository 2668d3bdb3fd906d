"""What logging and searching runs costs, in this process, in CPU time a call: modelyard's tracker and MLflow's store.

    python benchmarks/tracking.py                                      half a minute
    python benchmarks/tracking.py --mlflow-python ENV/bin/python       beside MLflow's SqlAlchemyStore, in a process of its own
    python benchmarks/tracking.py --place postgresql://host/database   on PostgreSQL (the server's CPU is not counted)

Both keep their rows in SQLite on the same disk, ours with an fsync a call. The least of the calls is given beside the mean:
a neighbour's load hardly moves it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

RUNS = 10_000
BATCH = 1_000


def timed(call: Callable[[int], object], count: int) -> tuple[float, float, float]:
    """(mean CPU, least CPU, mean wall) of a call in milliseconds."""
    call(-1)
    used, began = [], time.perf_counter()
    for number in range(count):
        start = time.process_time()
        call(number)
        used.append(time.process_time() - start)
    wall = (time.perf_counter() - began) / count
    return 1000 * sum(used) / count, 1000 * min(used), 1000 * wall


def ours(place: str, runs: int) -> dict[str, tuple[float, float, float]]:
    """Modelyard's figures."""
    from modelyard.core.work import Store
    from modelyard.tracking import ExperimentTracker

    folder = tempfile.mkdtemp(prefix="tracking-")
    tracker = ExperimentTracker(Store.at(place or folder, files=folder))
    run = tracker.create_run("0").run_id
    found = {}

    def batch(keys: int) -> Callable[[int], object]:
        return lambda i: tracker.log_batch(
            run,
            metrics=[(f"k{keys}_{j % keys}", j * 0.5 + i, 1_700_000_000_000 + i, i * BATCH + j) for j in range(BATCH)],
        )

    found["log_batch of 1,000 metrics, 1 key"] = timed(batch(1), 30)
    found["log_batch of 1,000 metrics, 10 keys"] = timed(batch(10), 30)
    found["log_batch of 1,000 metrics, 1,000 keys"] = timed(batch(1000), 30)
    found["log_metric"] = timed(lambda i: tracker.log_metric(run, "one", i * 0.1, step=i), 200)
    found["log_parameter"] = timed(lambda i: tracker.log_parameter(run, f"p{i}", "x"), 200)
    found["create_run"] = timed(lambda _: tracker.create_run("0"), 100)
    home = tracker.create_experiment(f"many {time.time_ns()}").experiment_id
    for number in range(runs):
        made = tracker.create_run(home, name=f"run {number}", start_time=number).run_id
        metrics = [("auc", number * 7919 % runs / runs, 1, 1), *((f"m{j}", j * 1.0, 1, 1) for j in range(9))]
        tracker.log_batch(made, metrics=metrics, params={f"p{j}": str((number + j) % 10) for j in range(10)})
    for name, how in searches(runs).items():
        found[name] = timed(lambda _, how=how: len(tracker.search_runs([home], limit=100, **how).items), 10)
    found["history of 30,000 values, a page of 1,000"] = timed(
        lambda _: tracker.metric_history(run, "k1_0", limit=1000), 10
    )
    tracker.close()
    shutil.rmtree(folder)
    return found


def searches(runs: int) -> dict[str, dict[str, object]]:
    """Searches of runs, by what is printed."""
    return {
        f"search {runs:,} runs, newest 100": {},
        f"search {runs:,} runs, metrics.auc > 0.99": {"filter": "metrics.auc > 0.99"},
        f"search {runs:,} runs, order by a metric": {"order_by": ["metrics.auc DESC"]},
        f"search {runs:,} runs, params.p0 = '3' and a metric": {"filter": "params.p0 = '3' and metrics.auc > 0.5"},
    }


MLFLOW = """
import json, os, sys, tempfile, time
os.environ["MLFLOW_TRACKING_URI"] = "x"
sys.path.insert(0, sys.argv[1])
import logging; logging.disable(logging.WARNING)
from mlflow.entities import Metric, Param, ViewType
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from tracking import BATCH, searches, timed
runs = int(sys.argv[2])
folder = tempfile.mkdtemp(prefix="tracking-")
store = SqlAlchemyStore(f"sqlite:///{folder}/mlflow.db", folder)
run = store.create_run("0", "u", 0, [], "r").info.run_id
found = {}
def batch(keys):
    def point(i, j):
        return Metric(f"k{keys}_{j % keys}", j * 0.5 + i, 1_700_000_000_000 + i, i * BATCH + j)
    return lambda i: store.log_batch(run, [point(i, j) for j in range(BATCH)], [], [])
found["log_batch of 1,000 metrics, 1 key"] = timed(batch(1), 5)
found["log_batch of 1,000 metrics, 10 keys"] = timed(batch(10), 5)
found["log_batch of 1,000 metrics, 1,000 keys"] = timed(batch(1000), 5)
found["log_metric"] = timed(lambda i: store.log_metric(run, Metric("one", i * 0.1, 1, i)), 50)
found["log_parameter"] = timed(lambda i: store.log_param(run, Param(f"p{i}", "x")), 50)
found["create_run"] = timed(lambda i: store.create_run("0", "u", 0, [], "r"), 50)
home = store.create_experiment("many")
for number in range(runs):
    made = store.create_run(home, "u", number, [], f"run {number}").info.run_id
    metrics = [Metric("auc", number * 7919 % runs / runs, 1, 1), *(Metric(f"m{j}", j * 1.0, 1, 1) for j in range(9))]
    store.log_batch(made, metrics, [Param(f"p{j}", str((number + j) % 10)) for j in range(10)], [])
for name, how in searches(runs).items():
    asked = [home], how.get("filter", ""), ViewType.ACTIVE_ONLY, 100, how.get("order_by", [])
    found[name] = timed(lambda i: len(store.search_runs(*asked)), 5)
found["history of 30,000 values, a page of 1,000"] = timed(lambda i: store.get_metric_history(run, "k1_0", 1000, None), 5)
print(json.dumps(found))
"""


def theirs(python: str, runs: int) -> dict[str, tuple[float, float, float]]:
    """MLflow's figures, in its own environment."""
    here = os.path.dirname(os.path.abspath(__file__))
    ran = subprocess.run([python, "-c", MLFLOW, here, str(runs)], capture_output=True, text=True, check=True)
    figures: dict[str, tuple[float, float, float]] = json.loads(ran.stdout.splitlines()[-1])
    return figures


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mlflow-python", default="", help="the Python of an environment with mlflow")
    parser.add_argument("--place", default="", help="a database URL instead of a fresh folder")
    parser.add_argument("--runs", type=int, default=RUNS, help="runs that are searched")
    told = parser.parse_args()
    print(
        f"load average {os.getloadavg()[0]:.1f}, Python {sys.version.split()[0]}; milliseconds: CPU mean (least), wall mean"
    )
    mine = ours(told.place, told.runs)
    other = theirs(told.mlflow_python, told.runs) if told.mlflow_python else {}
    for name, (mean, least, wall) in mine.items():
        line = f"{name:<52} {mean:8.2f} ({least:.2f}), {wall:.2f}"
        if name in other:
            line += f"   MLflow {other[name][0]:8.2f} ({other[name][1]:.2f}), {other[name][2]:.2f}   {other[name][0] / mean:5.1f} x"
        print(line)


if __name__ == "__main__":
    main()
