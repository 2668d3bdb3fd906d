"""A comparison of model versions as one chart, and as a page with its figures."""

from __future__ import annotations

from modelyard.registry import VersionComparison
from modelyard.ui.charts import Interval, intervals
from modelyard.ui.pages import drawn, render


def comparison(found: VersionComparison) -> str:
    """SVG text: each version's mean score less that of the first with its interval; without scores, relative differences.

    >>> from modelyard.registry import VersionComparison
    >>> comparison(VersionComparison(versions=("m:1.0.0", "m:2.0.0"), metrics=(), scores=(), parameter_differences={},
    ...     digests={}, winner=None)).startswith("<svg")
    True
    """
    first = found.versions[0]
    scored = [
        Interval(
            name=f"{one.version} {one.difference.name}",
            value=one.difference.value,
            low=one.difference.low,
            high=one.difference.high,
            bad=one.verdict == "worse",
        )
        for one in found.scores
    ]
    if scored:
        return intervals(scored, label=f"Mean score less that of {first}")
    relative = [
        Interval(
            name=f"{version} {metric.metric}",
            value=difference,
            bad=difference is not None and difference != 0 and (difference < 0) == metric.higher_is_better,
        )
        for metric in found.metrics
        for version, difference in metric.relative_differences.items()
        if version != first
    ]
    return intervals(relative, label=f"Metrics beside {first}, relative", percent=True)


def page(found: VersionComparison) -> str:
    """The page: the winner and the rule, the chart, every metric, and the parameters that differ."""
    first = found.versions[0]
    lead = f"{found.winner} wins: it is {found.winner_rule}." if found.winner else f"No version is {found.winner_rule}."
    return render(
        "comparison.html",
        title=f"{first} and {', '.join(found.versions[1:])}",
        lead=lead,
        chart_title=f"Scores beside {first}, with 95 % intervals"
        if found.scores
        else f"Metrics beside {first}, relative",
        chart=drawn(comparison(found)),
        found=found,
    )
