"""`modelyard ab-testing analyze-test ID`: the conclusion first, then a line an arm and a line a metric."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any

from cyclopts import App

from modelyard.cli.derive import FORMAT, YARD, call
from modelyard.cli.output import show, show_whole
from modelyard.core.operations import operations
from modelyard.settings import settings

DROPPED = ("role", "control", "changed", "p at any look")  # on a narrow terminal, in this order


def add(app: App) -> None:
    """Put this command in place of the derived one."""
    if "analyze-test" in app:
        del app["analyze-test"]
    app.command(analyze_test, name="analyze-test")


def analyze_test(test_id: str, *, confidence_level: float = 0.95, yard: YARD = None, format: FORMAT = None) -> int:
    """Whether the arms differ, by how much, and what to do next; all figures with --format json."""
    found = settings({"yard": yard, "format": format})
    entry = next(one for one in operations("ab_testing") if one.verb == "analyze_test")
    answer = call(entry, {"test_id": test_id, "confidence_level": confidence_level}, found)
    chosen = found["format"].value or ("table" if sys.stdout.isatty() else "json")
    if chosen == "json":
        show(answer, chosen)
        return 0
    metrics = list(rows(answer))
    if chosen == "csv":
        show(metrics, chosen)
        return 0
    show(f"{answer['conclusion']}\n\n{answer['method']}\n", chosen)
    show_whole(list(arms(answer)), chosen)
    show("", chosen)
    show_whole(
        [{name: cell for name, cell in row.items() if name not in ("low", "high")} for row in metrics],
        chosen,
        dropped=DROPPED if len(answer["comparisons"]) > 1 else ("treatment", *DROPPED),
    )
    return 0


def arms(answer: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A row a variant."""
    split = answer["sample_ratio"]
    for name, arm in answer["variants"].items():
        seen, planned = split["seen"][name], split["planned"][name]
        yield {
            "variant": name,
            "model": arm["model"],
            "units": f"{arm['units']:,}",
            "share": "–" if seen is None else f"{seen:.1%} of {planned:.1%}",
            "success rate": "–" if arm["success_rate"] is None else f"{arm['success_rate']:.2%}",
            "p95 latency": "–" if arm["latency"]["p95"] is None else f"{1000 * arm['latency']['p95']:.3g} ms",
        }


def rows(answer: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A row a treatment and metric, the success rate first; figures are relative changes in percent."""
    for name, one in answer["comparisons"].items():
        latency = {} if one["latency"] is None else {"latency": one["latency"]}
        for metric, told in {"success": one["success"], **latency, **one["metrics"]}.items():
            low, high = told["relative_interval"] or (None, None)
            yield {
                "treatment": name,
                "metric": metric,
                "role": told["role"],
                "verdict": one["guardrails"].get(metric) or one["goals"].get(metric) or "",
                "control": _number(told.get("adjusted_control", told["control"])),
                "changed": _number(told.get("adjusted_treatment", told["treatment"])),
                "change": _percent(told["relative"]),
                "low": low,
                "high": high,
                "interval": "" if told["relative_interval"] is None else f"{_percent(low)} to {_percent(high)}",
                "p at any look": _number(told["sequential_p_value"]),
                "p of all (Holm)": _number(told.get("p_value_holm")),
            }


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _percent(value: float | None) -> str:
    return "…" if value is None else f"{value:+.2f}%"
