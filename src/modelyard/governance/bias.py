"""Differences between groups: measured with intervals, judged and kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from modelyard.core import plugins
from modelyard.core.area import Area
from modelyard.core.canonical import dumps
from modelyard.core.errors import Invalid, nearest
from modelyard.core.events import EventSeverity, EventType
from modelyard.core.ids import checked_list, new_id
from modelyard.core.instants import micros
from modelyard.core.operations import operation
from modelyard.core.work import Work
from modelyard.governance import facts, store
from modelyard.governance.values import BiasReport, BiasType, BiasVerdict, GroupRates, Node

GAP, RATIO = 0.1, 0.8  # largest gap between rates, and the four-fifths rule (29 CFR 1607.4 D)


class BiasAssessments(Area):
    """Says whether a model version treats groups alike, and remembers what it said."""

    async def assess_bias(
        self,
        model_id: str,
        y_true: Any,
        y_pred: Any,
        sensitive: Any,
        *,
        max_gap: float = GAP,
        min_ratio: float = RATIO,
        min_group_size: int = 30,
        seed: int = 0,
        user: str = "system",
    ) -> list[BiasReport]:
        """A report for each sensitive attribute and measure: the gap between groups, its 95 % interval and a verdict.

        `y_true` and `y_pred` are 0 or 1, shape (n,); `sensitive` maps an attribute's name to one value per record, or is
        a frame of such columns. Biased means that the whole interval lies beyond `max_gap` (for disparate impact below
        `min_ratio`). Groups smaller than `min_group_size` are shown and left out of the verdict. `seed` starts the
        resampling.
        """
        from modelyard.governance.fairness.counts import count_table  # NumPy, which opening an area does not need

        groups = _by_name(sensitive)
        if not (0 <= max_gap <= 1 and 0 <= min_ratio <= 1 and min_group_size >= 1):
            raise Invalid("max_gap and min_ratio lie between 0 and 1, and min_group_size is 1 or more.")
        with facts.reading(self.store) as rows:
            model = facts.model(rows, model_id)
        found = []
        for attribute, values in groups.items():
            table = count_table(y_true, y_pred, values)
            for kind in BiasType:
                limit = min_ratio if kind is BiasType.DISPARATE_IMPACT else max_gap
                metric = plugins.load("fairness", kind.value)
                found.append(metric.report(attribute, table, threshold=limit, min_group_size=min_group_size, seed=seed))
        with self.store.work(user) as work:
            return _kept(work, model, found)

    @operation("POST", "/governance/models/{model_id}/bias", needs="governance.write")
    async def assess_bias_in_file(
        self,
        model_id: str,
        path: str | Path,
        *,
        label: str,
        prediction: str,
        sensitive: Sequence[str],
        max_gap: float = GAP,
        min_ratio: float = RATIO,
        min_group_size: int = 30,
        user: str = "system",
    ) -> list[BiasReport]:
        """`assess_bias` over columns of a .csv, .parquet or .json file: label, prediction and sensitive attributes.

        >>> import asyncio
        >>> from modelyard.governance import GovernanceManager
        >>> _ = (folder / "p.csv").write_text("y,p,sex\\n" + "1,1,f\\n0,1,f\\n1,0,m\\n0,0,m\\n" * 50)
        >>> gov = GovernanceManager(folder); _ = gov.register_model("fraud_detector", "v1.0.0")
        >>> call = gov.assess_bias_in_file("fraud_detector", folder / "p.csv", label="y", prediction="p", sensitive=["sex"])
        >>> asyncio.run(call)[0].verdict.value
        'biased'
        """
        tables = plugins.load("tables", "pandas")
        columns = tables.columns(tables.read(path))
        attributes = checked_list(sensitive, "sensitive")
        for name in (label, prediction, *attributes):
            if name not in columns:
                raise Invalid(f"{path} has no column {name!r}. {nearest(name, list(columns))}")
        groups = {name: columns[name] for name in attributes}
        return await self.assess_bias(
            model_id,
            columns[label],
            columns[prediction],
            groups,
            max_gap=max_gap,
            min_ratio=min_ratio,
            min_group_size=min_group_size,
            user=user,
        )

    @operation("GET", "/governance/models/{model_id}/bias", needs="governance.read")
    def bias_reports(self, model_id: str) -> list[BiasReport]:
        """Every bias report of a model version, oldest first.

        >>> from modelyard.governance import GovernanceManager
        >>> gov = GovernanceManager(folder); _ = gov.register_model("fraud_detector", "v1.0.0")
        >>> gov.bias_reports("fraud_detector")
        []
        """
        with facts.reading(self.store) as rows:
            model = facts.model(rows, model_id)
            return [_stored(raw) for raw in store.bias_of(rows, model.reference)]


def _by_name(sensitive: Any) -> dict[str, Any]:
    """The values of each attribute, of a mapping or of a frame's columns."""
    names = list(sensitive) if isinstance(sensitive, Mapping) else list(getattr(sensitive, "columns", ()))
    if not names:
        raise Invalid("No sensitive attribute was named. Pass for example {'gender': values}.")
    return {str(name): sensitive[name] for name in names}


def _kept(work: Work, model: Node, found: Sequence[BiasReport]) -> list[BiasReport]:
    """Keep bias reports, with one event that has every verdict."""
    kept = [replace(r, report_id=new_id("bias"), model=model.reference, assessed_at=work.now) for r in found]
    rows = [
        {"report_id": r.report_id, "model": r.model, "assessed_at": micros(work.now), "report": dumps(r)} for r in kept
    ]
    store.add_bias(work.rows, rows)
    results = [
        {
            "report_id": r.report_id,
            "attribute": r.attribute,
            "bias_type": r.bias_type,
            "value": r.bias_score,
            "interval": r.interval,
            "threshold": r.threshold,
            "verdict": r.verdict,
        }
        for r in kept
    ]
    biased = any(r.verdict is BiasVerdict.BIASED for r in kept)
    work.emit(
        EventType.BIAS_ASSESSED,
        model.resource,
        {"model": model.name, "version": model.version, "n": kept[0].n, "biased": biased, "results": results},
        severity=EventSeverity.WARNING if biased else EventSeverity.INFO,
    )
    return kept


def _stored(raw: Mapping[str, Any]) -> BiasReport:
    """The bias report that stored JSON holds."""
    plain = {
        key: value
        for key, value in raw.items()
        if key not in ("bias_type", "verdict", "interval", "groups", "assessed_at")
    }
    return BiasReport(
        **plain,
        bias_type=BiasType(raw["bias_type"]),
        verdict=BiasVerdict(raw["verdict"]),
        interval=None if raw["interval"] is None else (raw["interval"][0], raw["interval"][1]),
        groups=tuple(GroupRates(**group) for group in raw["groups"]),
        assessed_at=datetime.fromisoformat(raw["assessed_at"]),
    )
