"""Comparisons of any number of versions, by their metrics and by scores on the same rows."""

from __future__ import annotations

import csv
import math
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modelyard.core.area import Area
from modelyard.core.canonical import digest
from modelyard.core.errors import Invalid, NotFound
from modelyard.core.events import EventType
from modelyard.core.instants import micros
from modelyard.core.models import ModelVersion
from modelyard.core.operations import operation
from modelyard.core.people import checked_person
from modelyard.core.ports import Connection
from modelyard.registry import checks, comparison, store_scores
from modelyard.registry.comparison import ScoreComparison, Scores, VersionComparison
from modelyard.registry.lookup import found, referred, resource

DOUBLES = "<f8"  # how scores are packed
MOST_ROWS = 200_000
MOST_VERSIONS = 50
MOST_RESAMPLES = 20_000


class Comparisons(Area):
    """Says which of several versions is better, and how sure that is."""

    @operation("GET", "/models/{name}/compare", needs="registry.read")
    def compare_models(self, name: str, version1: str, version2: str) -> dict[str, Any]:
        """What differs from one version to another: each metric's difference, relative difference and winner.

        `metrics_comparison[metric]` has version1, version2, difference (second minus first), relative_difference
        (None where the first is 0), higher_is_better (by the metric's name) and winner (None if equal).

        >>> from modelyard.registry import ModelRegistry
        >>> registry = ModelRegistry(folder)
        >>> for version, auc in (("v1.0.0", 0.75), ("v2.0.0", 0.8)):
        ...     _ = registry.register_model(
        ...         "fraud", version, model_file, "lightgbm", "ana@example.com", metrics={"auc": auc}
        ...     )
        >>> registry.compare_models("fraud", "v1.0.0", "v2.0.0")["winner"]
        'v2.0.0'
        """
        with self.store.reading() as rows:
            return comparison.compare(found(rows, name, version1), found(rows, name, version2))

    @operation("GET", "/compare", needs="registry.read")
    def compare_versions(
        self,
        refs: list[str],
        metrics: list[str] | None = None,
        *,
        level: float = 0.95,
        resamples: int = 2_000,
        seed: int = 0,
    ) -> VersionComparison:
        """What differs between two or more versions, each beside the first, and which one wins by a stated rule.

        `refs` are `name:version`, `name@alias`, or a name for its champion.

        `metrics` are compared if they are given, else all. Where the first and another version have scores on the same
        rows of a data set, `scores` has the mean difference (the other minus the first) with a paired bootstrap
        interval of the level (BCa, widened for few rows). Invalid for fewer than 2 or more than 50 versions.

        >>> from modelyard.registry import ModelRegistry
        >>> registry = ModelRegistry(folder)
        >>> for version, auc in (("v1.0.0", 0.75), ("v2.0.0", 0.8)):
        ...     _ = registry.register_model(
        ...         "fraud", version, model_file, "lightgbm", "ana@example.com", metrics={"auc": auc}
        ...     )
        >>> registry.compare_versions(["fraud:v1.0.0", "fraud:v2.0.0"]).winner
        'fraud:v2.0.0'
        """
        if not 2 <= len(refs) <= MOST_VERSIONS or len(set(refs)) < len(refs):
            raise Invalid(f"refs has {len(refs)} versions. Name 2 to {MOST_VERSIONS} different ones, as name:version.")
        if not 0.5 <= level < 1 or not 100 <= resamples <= MOST_RESAMPLES:
            raise Invalid(f"Pass a level from 0.5 to below 1 and 100 to {MOST_RESAMPLES:,} resamples.")
        with self.store.reading() as rows:
            versions = [referred(rows, ref) for ref in refs]
            if len({comparison.spelt(version) for version in versions}) < len(versions):
                raise Invalid(f"{', '.join(refs)}: two of them are one version. Name different ones.")
            kept = [store_scores.all_of(rows, version) for version in versions]
            paired = [
                _paired(rows, versions[0], other, one, two, level=level, resamples=resamples, seed=seed)
                for other, scores in zip(versions[1:], kept[1:], strict=True)
                for one in kept[0]
                for two in scores
                if (one.dataset, one.metric, one.rows_digest) == (two.dataset, two.metric, two.rows_digest)
            ]
        return comparison.compare_all(versions, metrics, tuple(paired))

    def store_scores(
        self,
        name: str,
        version: str,
        dataset: str,
        scores: Sequence[float],
        user: str,
        *,
        metric: str = "score",
        rows: Sequence[str | int] | None = None,
    ) -> Scores:
        """The scores of a version on every row of a data set (n numbers), kept for comparisons with other versions.

        `rows` are n distinct identifiers, by which scores of two versions are paired; without them, places in order.
        `metric` names what a score is: whether higher is better is read from it (`loss` is not). Replaces older ones.
        """
        values = _checked_scores(scores)
        ids = [str(row) for row in rows] if rows is not None else None
        if ids is not None and (len(ids) != len(values) or len(set(ids)) != len(ids)):
            raise Invalid(f"rows must name each of the {len(values):,} scores once.")
        if ids is not None:
            values = [value for _, value in sorted(zip(ids, values, strict=True))]
        checks.checked_text(dataset, "dataset")
        checks.checked_key(metric)
        with self.store.work(checked_person(user, "user")) as work:
            model = found(work.rows, name, version)
            made = Scores(
                name=name,
                version=model.version,
                dataset=dataset,
                metric=metric,
                n=len(values),
                mean=math.fsum(values) / len(values),
                rows_digest=digest(sorted(ids) if ids is not None else len(values)),
                created_by=user,
                created_at=work.now,
            )
            store_scores.put(work.rows, made, struct.pack(f"<{len(values)}d", *values), now=micros(work.now))
            change = {f"scores.{dataset[:200]}.{metric}": {"n": made.n, "mean": made.mean, "rows": made.rows_digest}}
            work.emit(EventType.MODEL_UPDATED, resource(model), {"number": model.number, "changes": change})
        return made

    @operation("POST", "/models/{name}/versions/{version}/scores", needs="registry.write")
    def import_scores(
        self, name: str, version: str, dataset: str, path: str | Path, user: str, *, metric: str = "score"
    ) -> Scores:
        """The scores of a version on a data set, read from a CSV file with the columns `row` (optional) and `score`.

        >>> from modelyard.registry import ModelRegistry
        >>> registry = ModelRegistry(folder)
        >>> _ = registry.register_model("fraud", "v1.0.0", model_file, "lightgbm", "ana@example.com")
        >>> file = folder / "scores.csv"
        >>> _ = file.write_text("row,score\\na,1\\nb,0\\n")
        >>> registry.import_scores("fraud", "v1.0.0", "may", file, "ana@example.com", metric="correct").mean
        0.5
        """
        header, lines = _table(Path(path))
        if "score" not in header:
            raise Invalid(f"{Path(path).name} has no column score. Its columns: {', '.join(header)}.")
        try:
            scores = [float(line["score"]) for line in lines]
        except (TypeError, ValueError) as error:
            raise Invalid(f"{Path(path).name} has a score that is no number: {error}.") from error
        rows = [line["row"] for line in lines] if "row" in header else None
        return self.store_scores(name, version, dataset, scores, user, metric=metric, rows=rows)

    @operation("GET", "/models/{name}/versions/{version}/scores", needs="registry.read")
    def list_scores(self, name: str, version: str) -> list[Scores]:
        """What is kept of a version's scores, by data set and metric; the scores themselves stay where they are.

        >>> from modelyard.registry import ModelRegistry
        >>> registry = ModelRegistry(folder)
        >>> _ = registry.register_model("fraud", "v1.0.0", model_file, "lightgbm", "ana@example.com")
        >>> _ = registry.store_scores("fraud", "v1.0.0", "may", [1, 0, 1], "ana@example.com")
        >>> [kept.n for kept in registry.list_scores("fraud", "v1.0.0")]
        [3]
        """
        with self.store.reading() as rows:
            return store_scores.all_of(rows, found(rows, name, version))


def _paired(
    rows: Connection,
    first: ModelVersion,
    other: ModelVersion,
    one: Scores,
    two: Scores,
    *,
    level: float,
    resamples: int,
    seed: int,
) -> ScoreComparison:
    # NumPy takes longer to load than the rest of the registry, and nothing else here needs it.
    import numpy as np

    from modelyard.stats.bootstrap import paired_bootstrap

    before, after = (np.frombuffer(store_scores.bytes_of(rows, *of), DOUBLES) for of in ((first, one), (other, two)))
    what = f"{one.metric} on {one.dataset}"
    measured = paired_bootstrap(before, after, name=what, resamples=resamples, level=level, seed=seed)
    return comparison.score_comparison(other, one, measured, level=level)


def _table(path: Path) -> tuple[Sequence[str], list[dict[str, str]]]:
    """The header and the lines of a CSV file, one more than are kept at the most."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            table = csv.DictReader(file)
            lines = [line for line, _ in zip(table, range(MOST_ROWS + 1), strict=False)]
            return table.fieldnames or (), lines
    except FileNotFoundError as error:
        raise NotFound(f"There is no file {path}. Name a CSV file with the column score.") from error
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise Invalid(f"{path.name} cannot be read as CSV: {error}.") from error


def _checked_scores(scores: Sequence[float]) -> list[float]:
    if not 1 <= len(scores) <= MOST_ROWS:
        raise Invalid(f"There are {len(scores):,} scores; 1 to {MOST_ROWS:,} are kept. Draw a sample of the rows.")
    values = [float(score) for score in scores]
    for place, value in enumerate(values):
        if not math.isfinite(value):
            raise Invalid(
                f"Score {place} is {value}. Scores are finite numbers; leave out what is undefined, with its row."
            )
    return values
