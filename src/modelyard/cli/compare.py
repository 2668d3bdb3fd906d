"""`modelyard compare REF REF ...`: versions side by side, on the screen or as a page with a chart."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from modelyard.cli.derive import FORMAT, YARD, call
from modelyard.cli.output import show, show_whole
from modelyard.core.operations import operations
from modelyard.settings import settings

if TYPE_CHECKING:
    from modelyard.registry import VersionComparison


def compare(
    *references: Annotated[str, Parameter(help="Versions as name:version or name@alias; the first is compared with.")],
    html: Annotated[Path | None, Parameter(help="Write a page with a chart to this file as well.")] = None,
    yard: YARD = None,
    format: FORMAT = None,
) -> int:
    """Compare any number of versions: metrics, their differences, and intervals where scores of the same rows are stored."""
    found = settings({"yard": yard, "format": format})
    entry = next(one for one in operations("registry") if one.name == "registry.compare_versions")
    answer: VersionComparison = call(entry, {"refs": list(references)}, found)
    if html is not None:
        from modelyard.ui.comparison import page
        from modelyard.ui.pages import write_page

        write_page(html, page(answer))
    if found["format"].value == "json":
        show(answer, "json")
    else:
        show_whole(side_by_side(answer), found["format"].value)
    return 0


def side_by_side(found: VersionComparison) -> list[dict[str, Any]]:
    """One row a metric and one a set of scored rows, for people and for spreadsheets."""
    rows: list[dict[str, Any]] = [
        {"metric": one.metric, **{version: one.values.get(version) for version in found.versions}, "winner": one.winner}
        for one in found.metrics
    ]
    scored: dict[str, dict[str, Any]] = {}
    for score in found.scores:
        row = scored.setdefault(
            score.difference.name, {"metric": score.difference.name, found.versions[0]: "compared with"}
        )
        row[score.version] = f"{score.verdict} [{score.difference.low:+.3g}, {score.difference.high:+.3g}]"
    return [*rows, *scored.values()]
