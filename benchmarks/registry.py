"""The registry on SQLite with every commit synced: CPU microseconds of a call at 100 and at 10,000 versions of one model.

Run: python benchmarks/registry.py [--mlflow-python ENVIRONMENT/bin/python]. With MLflow's interpreter the same calls are
made on its SqlAlchemyStore on SQLite, in a process of its own; its 10,000 versions are filled in by SQL.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np

from modelyard.core.models import ModelStage
from modelyard.registry import ModelRegistry

ANA = "ana@example.com"
SIZES = (100, 10_000)
REPEAT = 60
MLFLOW = """
import json, sys, tempfile, time, warnings, logging
warnings.simplefilter("ignore"); logging.disable(logging.CRITICAL)
from mlflow.entities.model_registry import ModelVersionTag
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore
from sqlalchemy import text
sizes, repeat = json.loads(sys.argv[1])
folder = tempfile.mkdtemp()
store = SqlAlchemyStore(f"sqlite:///{folder}/m.db")
store.create_registered_model("fraud")
def timed(call):
    found = []
    for number in range(repeat):
        begun = time.process_time_ns(); call(number); found.append((time.process_time_ns() - begun) / 1000)
    return sorted(found)[len(found) // 2]
def grow(size):
    have = int(store.create_model_version("fraud", "file:/m").version)
    with store.engine.begin() as rows:
        one = dict(rows.execute(text("SELECT * FROM model_versions WHERE version = 1")).mappings().one())
        names = ", ".join(one)
        sql = text(f"INSERT INTO model_versions ({names}) VALUES ({', '.join(':' + name for name in one)})")
        more = [{**one, "version": number, "storage_location": "file:/m"} for number in range(have + 1, size + 1)]
        if more:
            rows.execute(sql, more)
answer = {}
for size in sizes:
    grow(size)
    calls = {
        "create version": lambda n: store.create_model_version("fraud", "file:/m"),
        "set alias": lambda n: store.set_registered_model_alias("fraud", "challenger", "1"),
        "move stage": lambda n: store.transition_model_version_stage("fraud", "1", ("Staging", "Archived")[n % 2], False),
        "set tag": lambda n: store.set_model_version_tag("fraud", "1", ModelVersionTag("team", str(n))),
        "get version": lambda n: store.get_model_version("fraud", "1"),
        "get by alias": lambda n: store.get_model_version_by_alias("fraud", "challenger"),
        "get model": lambda n: store.get_registered_model("fraud"),
        "search 100 versions": lambda n: store.search_model_versions("name = 'fraud'", max_results=100),
    }
    answer[size] = {name: timed(call) for name, call in calls.items()}
print(json.dumps(answer))
"""


def cpu(call: Callable[[int], Any], repeat: int = REPEAT) -> float:
    """The median CPU microseconds of a call."""
    found = []
    for number in range(repeat):
        begun = time.process_time_ns()
        call(number)
        found.append((time.process_time_ns() - begun) / 1000)
    return statistics.median(found)


def calls(registry: ModelRegistry, model: Path, size: int) -> dict[str, Callable[[int], Any]]:
    """What is measured, by name."""
    stages = (ModelStage.ARCHIVED, ModelStage.DEVELOPMENT)

    def create(number: int) -> object:
        return registry.register_model(
            "fraud", f"9.{size}.{number}", model, "lightgbm", ANA, metrics={"auc": 0.9}, tags=["risk"]
        )

    return {
        "create version": create,
        "set alias": lambda _: registry.set_alias("fraud", "challenger", "1.0.0", user=ANA),
        "move stage": lambda n: registry.transition("fraud", "1.0.0", stages[n % 2], ANA),
        "set tag": lambda n: registry.set_tag("fraud", "1.0.0", "team", ANA, value=str(n)),
        "get version": lambda _: registry.get_model("fraud", "1.0.0"),
        "get by alias": lambda _: registry.get_by_alias("fraud", "challenger"),
        "get model": lambda _: registry.get_registered_model("fraud"),
        "search 100 versions": lambda _: registry.search_versions("name = 'fraud'", limit=100),
        "search 100 by metric": lambda _: registry.search_versions("name = 'fraud' and metrics.auc > 0.5", limit=100),
        "search one by tag": lambda _: registry.search_versions("tags.team = 'nobody'", limit=100),
    }


def ours(folder: Path) -> dict[int, dict[str, float]]:
    """Our figures by size."""
    registry, model = ModelRegistry(folder / "yard"), folder / "model.txt"
    x = np.random.default_rng(0).normal(size=(200, 3))
    lightgbm.train({"objective": "binary", "verbose": -1}, lightgbm.Dataset(x, x[:, 0] > 0), 1).save_model(model)
    first = registry.register_model("fraud", "next", model, "lightgbm", ANA, metrics={"auc": 0.9}, tags=["risk"])
    found, have = {}, 1
    for size in SIZES:
        for _ in range(have, size):
            registry.register_version(replace(first, version="next"))
        found[size] = {name: cpu(call) for name, call in calls(registry, model, size).items()}
        have = size
    return found


def mlflow(python: str) -> dict[int, dict[str, float]]:
    """MLflow's figures by size."""
    run = subprocess.run(
        [python, "-c", MLFLOW, json.dumps([SIZES, REPEAT])], check=True, capture_output=True, text=True
    )
    return {int(size): figures for size, figures in json.loads(run.stdout.splitlines()[-1]).items()}


def show(name: str, found: dict[int, dict[str, float]]) -> None:
    """Print one table."""
    small, big = SIZES
    print(f"{name:28}{f'{small:,}':>12}{f'{big:,}':>12}{'growth':>10}   CPU microseconds, p50 of {REPEAT}")
    for call, figure in found[small].items():
        print(f"{call:28}{figure:12,.0f}{found[big][call]:12,.0f}{found[big][call] / figure:10.2f}")


def main() -> None:
    """Measure in a scratch folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mlflow-python", help="an interpreter that has mlflow")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        show("modelyard", ours(Path(folder)))
    if chosen.mlflow_python:
        show("MLflow's SqlAlchemyStore", mlflow(chosen.mlflow_python))


if __name__ == "__main__":
    main()
