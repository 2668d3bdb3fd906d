"""Which version is better, by stated rules."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from modelyard.core.instants import Instant
from modelyard.core.measures import Measurement
from modelyard.core.models import ModelVersion

RULE = "as good as every other version in each metric that all have, and better than each of them in one"

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """What is known of a version's scores on the rows of a data set; `rows_digest` is the same for the same rows."""

    name: str
    version: str
    dataset: str
    metric: str
    n: int
    mean: float
    rows_digest: str
    created_by: str
    created_at: Instant


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricComparison:
    """One metric by version: values, differences and relative differences to the first version, and the best one.

    None where it is not recorded, or relative to 0; `winner` is None in a tie.
    """

    metric: str
    higher_is_better: bool
    values: Mapping[str, float | None]
    differences: Mapping[str, float | None]
    relative_differences: Mapping[str, float | None]
    winner: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreComparison:
    """A version's mean score on the same rows less that of the first version, with its interval.

    The verdict is undecided while the interval has 0 in it, and on fewer rows than a sign test would need if all of them
    agreed: 6 for 95 %.
    """

    version: str
    dataset: str
    metric: str
    higher_is_better: bool
    difference: Measurement
    verdict: Literal["better", "worse", "undecided"]


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionComparison:
    """Versions beside the first of them. `parameter_differences` has every parameter that is not the same in all."""

    versions: tuple[str, ...]
    metrics: tuple[MetricComparison, ...]
    scores: tuple[ScoreComparison, ...]
    parameter_differences: Mapping[str, Mapping[str, Any]]
    digests: Mapping[str, str]
    winner: str | None
    winner_rule: str = RULE


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


def compare_all(
    versions: Sequence[ModelVersion], metrics: Sequence[str] | None, scores: tuple[ScoreComparison, ...]
) -> VersionComparison:
    """The comparison of versions by the metrics, or by all that one of them has."""
    names = sorted({name for version in versions for name in version.metrics}) if metrics is None else list(metrics)
    found = [_beside(name, versions) for name in names]
    keys = sorted({key for version in versions for key in version.parameters})
    parameters = {key: {spelt(version): version.parameters.get(key) for version in versions} for key in keys}
    return VersionComparison(
        versions=tuple(spelt(version) for version in versions),
        metrics=tuple(found),
        scores=scores,
        parameter_differences={
            key: values
            for key, values in parameters.items()
            if any(one != values[spelt(versions[0])] for one in values.values())
        },
        digests={spelt(version): version.digest for version in versions},
        winner=_winner(versions, [name for name in names if all(name in version.metrics for version in versions)]),
    )


def score_comparison(other: ModelVersion, scores: Scores, difference: Measurement, *, level: float) -> ScoreComparison:
    """The verdict on a difference, by its interval of the level and the metric's direction."""
    up, low, high = higher_is_better(scores.metric), difference.low, difference.high
    enough = 2.0 ** (1 - difference.n) <= 1 - level  # else not even rows that all agree could tell it from chance
    verdict: Literal["better", "worse", "undecided"] = "undecided"
    if enough and low is not None and high is not None and (low > 0 or high < 0):
        verdict = "better" if (low > 0) == up else "worse"
    return ScoreComparison(
        version=spelt(other),
        dataset=scores.dataset,
        metric=scores.metric,
        higher_is_better=up,
        difference=difference,
        verdict=verdict,
    )


def spelt(version: ModelVersion) -> str:
    """The version as `name:version`."""
    return f"{version.name}:{version.version}"


def _beside(name: str, versions: Sequence[ModelVersion]) -> MetricComparison:
    values = {spelt(version): version.metrics.get(name) for version in versions}
    first = values[spelt(versions[0])]
    differences = {key: None if first is None or value is None else value - first for key, value in values.items()}
    relative = {key: None if not first or value is None else value / abs(first) for key, value in differences.items()}
    there = [value for value in values.values() if value is not None]
    up = higher_is_better(name)
    best = (max if up else min)(there, default=None)
    winners = [key for key, value in values.items() if value is not None and value == best]
    winner = winners[0] if len(winners) == 1 and len(there) > 1 else None
    return MetricComparison(
        metric=name,
        higher_is_better=up,
        values=values,
        differences=differences,
        relative_differences=relative,
        winner=winner,
    )


def _winner(versions: Sequence[ModelVersion], shared: Sequence[str]) -> str | None:
    for one in versions:
        others = [version for version in versions if version is not one]
        if all(_better(one, other, shared) for other in others):
            return spelt(one)
    return None


def _better(one: ModelVersion, other: ModelVersion, shared: Sequence[str]) -> bool:
    gains = [(one.metrics[name] - other.metrics[name]) * (1 if higher_is_better(name) else -1) for name in shared]
    return all(gain >= 0 for gain in gains) and any(gain > 0 for gain in gains)
