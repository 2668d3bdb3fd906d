"""Shadows that are compared by hand: the caller runs both versions and tells what they answered."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from modelyard.core.area import Area
from modelyard.core.errors import Invalid, NotFound, nearest
from modelyard.core.events import EventType
from modelyard.core.ids import new_id
from modelyard.core.operations import operation
from modelyard.core.ports import Connection, Row
from modelyard.core.refs import ModelRef, Resource
from modelyard.deployment import store
from modelyard.deployment.rollouts import ShadowDeployment
from modelyard.stats import sketch
from modelyard.stats.sequential import lower_rate, upper_rate

PART = 0.05  # in which each bound of the agreement may be wrong, ever
QUANTILES = {"p50": 0.50, "p95": 0.95, "p99": 0.99}


class Shadows(Area):
    """Keeps what primaries and their shadows answered: integers and histograms, so that reading takes constant time."""

    @operation("POST", "/shadows", needs="deployment.write")
    def shadow_deploy(
        self, primary_model: str, shadow_model: str, traffic_percentage: float = 100.0, created_by: str = "system"
    ) -> ShadowDeployment:
        """A shadow deployment of `shadow_model` beside `primary_model`, both written name:version.

        `traffic_percentage` (above 0, up to 100) says how many of the requests the caller means to copy. For a shadow
        that an endpoint carries out itself, start a rollout with the strategy shadow.

        >>> from modelyard.deployment import DeploymentManager
        >>> shadow = DeploymentManager(folder).shadow_deploy("fraud:v1.0.0", "fraud:v2.0.0", 50.0)
        >>> shadow.shadow_model
        'fraud:v2.0.0'
        """
        primary, shadow = ModelRef.parse(primary_model), ModelRef.parse(shadow_model)
        if not 0 < traffic_percentage <= 100:
            raise Invalid(f"traffic_percentage is {traffic_percentage}; it must be above 0 and at most 100.")
        with self.store.work(created_by) as work:
            made = ShadowDeployment(
                shadow_id=new_id("shadow"),
                primary_model=str(primary),
                shadow_model=str(shadow),
                traffic_percentage=traffic_percentage,
                created_by=created_by,
                created_at=work.now,
            )
            store.insert_shadow(work.rows, made)
            work.emit(EventType.SHADOW_STARTED, Resource("shadow", made.shadow_id), {"shadow": made})
        return made

    @operation("POST", "/shadows/{shadow_id}/comparisons", needs="deployment.write")
    def record_shadow_comparison(
        self,
        shadow_id: str,
        *,
        primary_result: dict[str, Any],
        shadow_result: dict[str, Any],
        primary_latency: float,
        shadow_latency: float,
        agreement: bool | None = None,
    ) -> None:
        """Count one request that both versions answered; latencies in seconds.

        Without `agreement` the results agree when they are equal, numbers within one part in a million, and what is
        not-a-number in both. The results themselves are not kept.

        >>> from modelyard.deployment import DeploymentManager
        >>> manager = DeploymentManager(folder)
        >>> shadow = manager.shadow_deploy("fraud:v1.0.0", "fraud:v2.0.0")
        >>> both = {"primary_result": {"p": 0.3}, "shadow_result": {"p": 0.3}}
        >>> manager.record_shadow_comparison(shadow.shadow_id, **both, primary_latency=0.035, shadow_latency=0.042)
        >>> manager.compare_shadow_deployment(shadow.shadow_id)["agreement_rate"]
        1.0
        """
        for name, value in (("primary_latency", primary_latency), ("shadow_latency", shadow_latency)):
            if not math.isfinite(value) or value < 0:
                raise Invalid(f"{name} is {value}; a latency in seconds is a number of 0 or more.")
        agreed = same(primary_result, shadow_result) if agreement is None else bool(agreement)
        with self.store.work() as work:
            counts = _counts(_known(work.rows, shadow_id))
            counts["compared"] += 1
            counts["agreed"] += agreed
            for name, value in (("primary", primary_latency), ("shadow", shadow_latency)):
                bucket = str(sketch.bucket(value * 1e6))
                counts[name][bucket] = counts[name].get(bucket, 0) + 1
            store.save_shadow_counts(work.rows, shadow_id, counts)

    @operation("POST", "/shadows/{shadow_id}/comparison", needs="deployment.read")
    def compare_shadow_deployment(self, shadow_id: str) -> dict[str, Any]:
        """How often the shadow agrees, between bounds, and both latencies' quantiles in seconds.

        Each bound holds with 95 %, however often this is asked. Quantiles are within 1 % of the true ones, and None before
        the first comparison.

        >>> from modelyard.deployment import DeploymentManager
        >>> manager = DeploymentManager(folder)
        >>> shadow = manager.shadow_deploy("fraud:v1.0.0", "fraud:v2.0.0")
        >>> manager.compare_shadow_deployment(shadow.shadow_id)["conclusion"]
        'Nothing compared yet: record comparisons first.'
        """
        with self.store.work() as work:
            row = _known(work.rows, shadow_id)
            found = comparison(row, _counts(row))
            work.emit(EventType.SHADOW_COMPARED, Resource("shadow", shadow_id), found)
        return found

    @operation("GET", "/shadows", needs="deployment.read")
    def list_shadows(self) -> list[ShadowDeployment]:
        """Every shadow that is compared by hand, oldest first.

        >>> from modelyard.deployment import DeploymentManager
        >>> DeploymentManager(folder).list_shadows()
        []
        """
        with self.store.reading() as rows:
            return [store.shadow_from(row) for row in store.shadow_rows(rows)]


def same(first: Any, second: Any) -> bool:
    """Whether two answers are the same: numbers within one part in a million, the rest equal, part by part. NumPy's arrays
    and numbers are as good as lists and Python's.

    >>> same({"p": 0.3, "label": "a"}, {"p": 0.1 + 0.2, "label": "a"}), same([1], [1, 2])
    (True, False)
    """
    first, second = (one.tolist() if hasattr(one, "tolist") else one for one in (first, second))
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, (list, tuple)) and isinstance(second, (list, tuple)):
        return len(first) == len(second) and all(map(same, first, second))
    if isinstance(first, float) or isinstance(second, float):
        numbers = isinstance(first, (int, float)) and isinstance(second, (int, float))
        missing = numbers and math.isnan(first) and math.isnan(second)
        return missing or (numbers and math.isclose(first, second, rel_tol=1e-6, abs_tol=1e-9))
    return bool(first == second)


def comparison(row: Row, counts: Mapping[str, Any]) -> dict[str, Any]:
    """The comparison as plain values."""
    n, agreed = counts["compared"], counts["agreed"]
    low, high = lower_rate(agreed, n, PART), upper_rate(agreed, n, PART)
    return {
        "shadow_id": row["shadow_id"],
        "primary_model": row["primary_model"],
        "shadow_model": row["shadow_model"],
        "comparisons": n,
        "agreement_rate": agreed / n if n else None,
        "agreement_interval": [low, high],
        "primary_latency": _quantiles(counts["primary"]),
        "shadow_latency": _quantiles(counts["shadow"]),
        "conclusion": _concluded(n, agreed, low),
    }


def _concluded(n: int, agreed: int, low: float) -> str:
    if not n:
        return "Nothing compared yet: record comparisons first."
    return f"The shadow agreed in {agreed} of {n} answers ({agreed / n:.1%}, at least {low:.1%} at 95 % confidence)."


def _quantiles(histogram: Mapping[str, int]) -> dict[str, float | None]:
    counts = {int(bucket): count for bucket, count in histogram.items()}
    found = {name: sketch.quantile(counts, q) for name, q in QUANTILES.items()}
    return {name: None if value is None else value / 1e6 for name, value in found.items()}


def _counts(row: Row) -> dict[str, Any]:
    counts: dict[str, Any] = json.loads(row["counts"])
    return {"compared": 0, "agreed": 0, "primary": {}, "shadow": {}} | counts


def _known(rows: Connection, shadow_id: str) -> Row:
    row = store.shadow_row(rows, shadow_id)
    if row is None:
        known = store.ids(rows, "shadow_deployments", "shadow_id")
        raise NotFound(f"There is no shadow deployment {shadow_id!r}. {nearest(shadow_id, known)}")
    return row
