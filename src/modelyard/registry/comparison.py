"""Which version is better, by stated rules."""

from __future__ import annotations

import re
from typing import Any

from modelyard.core.models import ModelVersion

LOWER_IS_BETTER = frozenset(
    [
        "brier",
        "calibration",
        "cost",
        "crossentropy",
        "deviance",
        "ece",
        "error",
        "errors",
        "fdr",
        "fnr",
        "fpr",
        "gap",
        "hinge",
        "latency",
        "logloss",
        "loss",
        "mae",
        "mape",
        "mase",
        "medae",
        "memory",
        "mse",
        "msle",
        "nll",
        "perplexity",
        "pinball",
        "rmse",
        "rmsle",
        "size",
        "smape",
        "time",
        "wape",
    ]
)


def higher_is_better(metric: str) -> bool:
    """False for losses, errors, times, rates of failure and sizes, by the words of the metric's name.

    >>> [higher_is_better(name) for name in ("val_accuracy", "log_loss", "rmse", "latency_p95_ms")]
    [True, False, False, False]
    """
    words = re.findall(r"[a-z]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", metric).lower())
    return not LOWER_IS_BETTER.intersection(words)


def compare(first: ModelVersion, second: ModelVersion) -> dict[str, Any]:
    """Differences between two versions, and the winner: better in at least one shared metric and worse in none."""
    shared = sorted(first.metrics.keys() & second.metrics.keys())
    figures = {name: _figure(name, first, second) for name in shared}
    winners = {figure["winner"] for figure in figures.values()} - {None}
    keys = sorted(first.parameters.keys() | second.parameters.keys())
    return {
        "name": first.name,
        "version1": first.version,
        "version2": second.version,
        "metrics_comparison": figures,
        "only_in_version1": sorted(first.metrics.keys() - second.metrics.keys()),
        "only_in_version2": sorted(second.metrics.keys() - first.metrics.keys()),
        "parameter_differences": {
            key: {"version1": first.parameters.get(key), "version2": second.parameters.get(key)}
            for key in keys
            if first.parameters.get(key) != second.parameters.get(key)
        },
        "same_bytes": first.digest == second.digest,
        "winner": winners.pop() if len(winners) == 1 else None,
        "winner_rule": "better in at least one shared metric and worse in none",
    }


def _figure(name: str, first: ModelVersion, second: ModelVersion) -> dict[str, Any]:
    one, two = first.metrics[name], second.metrics[name]
    up = higher_is_better(name)
    better = None if one == two else (second if (two > one) == up else first).version
    return {
        "version1": one,
        "version2": two,
        "difference": two - one,
        "relative_difference": (two - one) / abs(one) if one else None,
        "higher_is_better": up,
        "winner": better,
    }
