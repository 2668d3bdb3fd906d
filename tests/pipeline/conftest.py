"""Small real tables, and a run that leaves its files in the test's folder."""

from __future__ import annotations

import numpy as np
import pytest

from modelyard.pipeline import MLPipeline, PipelineConfig


def _people(rows: int = 600, seed: int = 0) -> dict[str, list]:
    """A mixed table: numbers with holes, text with holes, dates, a bool, and a target that follows some of them."""
    rng = np.random.default_rng(seed)
    age = rng.normal(40, 12, rows).round(1)
    income = np.exp(rng.normal(10, 1, rows)).round(2)
    job = rng.choice(["cook", "smith", "clerk", "miller"], rows)
    member = rng.random(rows) < 0.4
    signal = 0.06 * (age - 40) + (job == "cook") * 1.5 - member * 0.8 + rng.logistic(size=rows)
    days = rng.integers(0, 1000, rows)
    return {
        "age": [None if hole else value for value, hole in zip(age.tolist(), rng.random(rows) < 0.1, strict=True)],
        "income": income.tolist(),
        "children": rng.integers(0, 5, rows).tolist(),
        "job": [None if hole else value for value, hole in zip(job.tolist(), rng.random(rows) < 0.05, strict=True)],
        "member": member.tolist(),
        "joined": [str(np.datetime64("2020-01-01") + day) for day in days.tolist()],
        "bought": np.where(signal > 0.3, "yes", "no").tolist(),
    }


@pytest.fixture
def people():
    """The function that makes the mixed table."""
    return _people


@pytest.fixture
def undated():
    """The mixed table without its dates, which keep a pipeline from being exported."""
    return {name: values for name, values in _people().items() if name != "joined"}


@pytest.fixture
def train(tmp_path):
    """Run a pipeline on a table with the given fields."""

    def run(table, *, folder="out", store=None, **fields):
        given = {"name": "t", "target_column": "bought", "threads": 1, "cross_validation_folds": 3, **fields}
        config = PipelineConfig(**{"output_dir": str(tmp_path / folder), **given})
        return MLPipeline(config, store, frame=table).run()

    return run
