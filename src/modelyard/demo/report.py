"""The story as one self-contained HTML page: its numbers, drawn."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modelyard.ui import charts
from modelyard.ui.pages import drawn, percent, render, write_page

BADGES = {
    "proved": "good",
    "attested": "good",
    "promote": "good",
    "verified": "good",
    "approved": "good",
    "hold": "warn",
    "missing": "warn",
    "not enough evidence": "warn",
    "undefined": "warn",
    "drift": "bad",
    "biased": "bad",
    "within threshold": "good",
    "rolled back": "bad",
    "roll back": "bad",
    "refused": "bad",
}

Facts = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A chart with its heading and a sentence under it."""

    title: str
    svg: Any
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows under named columns; `numeric` columns are aligned right."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    numeric: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """Text shown letter by letter."""

    title: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One chapter on the page."""

    key: str
    title: str
    lines: Sequence[str]
    seconds: float
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    texts: Sequence[Text] = ()


@dataclass(slots=True)
class Parts:
    """What a chapter adds to its section."""

    figures: list[Figure] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    texts: list[Text] = field(default_factory=list)


def write_report(document: Mapping[str, Any], path: Path) -> Path:
    """Write the page for a story's document."""
    sections = []
    for chapter in document["chapters"]:
        parts = DRAW.get(chapter["key"], _nothing)(chapter["facts"])
        sections.append(
            Section(
                key=chapter["key"],
                title=chapter["title"],
                lines=chapter["lines"],
                seconds=chapter["seconds"],
                figures=parts.figures,
                tables=parts.tables,
                texts=parts.texts,
            )
        )
    facts = {chapter["key"]: chapter["facts"] for chapter in document["chapters"]}
    page = render(
        "report.html",
        title="The life of a model",
        lead="Employment in Massachusetts, from census records of 2015 to 2018: trained, approved, served, rolled out, "
        "taken back, watched, explained and proved. Every number on this page was measured in the run it tells of.",
        tiles=_tiles(facts, document["seconds"]),
        sections=sections,
        badges=BADGES,
        foot=f"Made by modelyard {document['version']} in {document['seconds']:.0f} s on {document['machine']}.",
    )
    return write_page(path, page)


def _tiles(facts: Mapping[str, Facts], seconds: float) -> list[dict[str, str]]:
    tiles = [
        ("records", f"{facts['features']['records']:,}".replace(",", " "))
        if "features" in facts
        else ("seconds", f"{seconds:.0f}")
    ]
    if "train_v2" in facts:
        tiles.append(("test accuracy of v2", percent(facts["train_v2"]["metrics"].get("test_accuracy"))))
    if "shadow" in facts:
        tiles.append(("shadow agreement", percent(facts["shadow"]["agreement_rate"])))
    if facts.get("fault", {}).get("rolled_back"):
        tiles.append(("canary requests until v3 was taken back", str(facts["fault"]["canary_requests"])))
    if "drift" in facts:
        tiles.append(("drifted features by 2018", str(len(facts["drift"]["years"]["2018"]["drifted"]))))
    if "audit" in facts:
        tiles.append(("events in the audit log", str(facts["audit"]["size"])))
    return [{"name": name, "value": value} for name, value in tiles]


def _nothing(_: Facts) -> Parts:
    return Parts()


def _training(facts: Facts) -> Parts:
    parts = ("cv", "validation", "test")
    names = sorted({name.partition("_")[2] for name in facts["metrics"] if not name.endswith("_std")})
    metrics = [
        (name.replace("_", " "), *(_four_digits(facts["metrics"].get(f"{part}_{name}")) for part in parts))
        for name in names
    ]
    stages = {stage["name"].replace("_", " "): stage["seconds"] for stage in facts["stages"]}
    return Parts(
        figures=[
            Figure(
                title="Seconds by stage",
                svg=drawn(charts.bars(stages, label="Seconds by stage", unit="seconds", signed=False)),
            )
        ],
        tables=[Table(title="Metrics", columns=("metric", *_PARTS), rows=metrics, numeric=frozenset(_PARTS))],
    )


_PARTS = ("cross-validation", "validation", "test")


def _four_digits(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _rollout(facts: Facts) -> Parts:
    parts = Parts()
    rows = [
        (
            percent(step["weight"], 0),
            step["canary_requests"],
            step["baseline_requests"],
            step["canary_errors"],
            step["baseline_errors"],
            step["verdict"].replace("_", " "),
            "; ".join(step["reasons"]),
        )
        for step in facts["steps"]
    ]
    columns = (
        "canary share",
        "canary requests",
        "baseline requests",
        "canary errors",
        "baseline errors",
        "decision",
        "why",
    )
    numeric = frozenset(columns[:5])
    parts.tables.append(Table(title="Each step's decision", columns=columns, rows=rows, numeric=numeric))
    if facts.get("weights"):
        parts.figures.append(_shares(facts["weights"]))
    if facts.get("evidence"):
        parts.figures.append(_evidence(facts["evidence"], facts["threshold"]))
    return parts


def _shares(weights: Sequence[Sequence[float]]) -> Figure:
    top = 1.05 * max(share for _, share in weights)
    line = charts.Series(name="canary share", points=[(at, share) for at, share in weights], step=True)
    svg = charts.lines([line], label="Share of traffic on the canary", x_name="seconds", percent=True, y_range=(0, top))
    return Figure(title="Share of traffic on the new version", svg=drawn(svg))


def _evidence(found: Sequence[Sequence[float]], threshold: float) -> Figure:
    svg = charts.lines(
        [charts.Series(name="log10 of the e-value", points=[(n, e / math.log(10)) for n, e in found], colour="c2")],
        label="Evidence against the canary as requests come in",
        x_name="canary requests",
        rule=(math.log10(threshold), f"roll back at {threshold:g}"),
    )
    note = (
        f"A version as good as the baseline ever gets to {threshold:g} with a chance of at most "
        f"{percent(1 / threshold, 2)}, at any number of looks."
    )
    return Figure(title="Evidence against the canary", svg=drawn(svg), note=note)


def _experiment(facts: Facts) -> Parts:
    rows = [
        charts.Interval(name=name, value=facts[key]["rate"], low=facts[key]["low"], high=facts[key]["high"])
        for name, key in (("v1 (control)", "control"), ("v2 (treatment)", "treatment"))
    ]
    difference = charts.Interval(name="difference", value=facts["difference"], low=facts["low"], high=facts["high"])
    first = charts.intervals(rows, label="Correct answers by version", zero=None, percent=True)
    second = charts.intervals([difference], label="Difference of the versions", percent=True)
    return Parts(
        figures=[
            Figure(title="Correct answers by version", svg=drawn(first)),
            Figure(title="Difference, 95 % interval", svg=drawn(second), note=facts["conclusion"]),
        ]
    )


def _drift(facts: Facts) -> Parts:
    years = sorted(facts["years"])
    features = sorted({name for year in years for name in facts["years"][year]["magnitudes"]})
    rows = {name: [facts["years"][year]["magnitudes"].get(name) for year in years] for name in features}
    order = sorted(rows, key=lambda name: -max(v or 0.0 for v in rows[name]))
    marked = {(name, i) for i, year in enumerate(years) for name in facts["years"][year]["drifted"]}
    svg = charts.heat({name: rows[name] for name in order}, years, label="Drift by feature and year", marked=marked)
    note = f"{facts['magnitude_name']}; ringed where the test says drift with the false discovery rate held at 5 %."
    alerts = [
        (year, a["feature"], a["test"], f"{a['adjusted_p']:.2g}", f"{a['magnitude']:.3f}", a["message"])
        for year in years
        for a in facts["years"][year]["alerts"]
    ]
    columns = ("year", "feature", "test", "adjusted p", "magnitude", "message")
    return Parts(
        figures=[Figure(title="Drift against 2015, by year", svg=drawn(svg), note=note)],
        tables=[Table(title="Alerts", columns=columns, rows=alerts, numeric=frozenset({"adjusted p", "magnitude"}))],
    )


def _explanation(facts: Facts) -> Parts:
    svg = charts.bars(facts["contributions"], label="Contributions to one prediction", unit=facts["scale"])
    note = f"Base value {facts['base']:.3f}; with the contributions {facts['total']:.3f}. Method: {facts['method']}."
    return Parts(figures=[Figure(title="What moved this prediction", svg=drawn(svg), note=note)])


def _bias(facts: Facts) -> Parts:
    parts = Parts()
    for attribute, reports in facts["attributes"].items():
        rows = [
            charts.Interval(
                name=r["metric"].replace("_", " "),
                value=r["value"],
                low=r["low"],
                high=r["high"],
                note=r["shown"],
                bad=r["biased"],
            )
            for r in reports
            if r["metric"] != "disparate_impact"
        ]
        svg = charts.intervals(
            rows, label=f"Gaps between groups of {attribute}", percent=True, limits=[facts["threshold"]]
        )
        parts.figures.append(Figure(title=f"Gaps by {attribute}", svg=drawn(svg)))
    columns = ("attribute", "method", "value", "95 % interval", "verdict", "reason")
    table = [
        (attribute, r["metric"].replace("_", " "), r["shown"], r["interval"], r["verdict"], r["reason"])
        for attribute, reports in facts["attributes"].items()
        for r in reports
    ]
    parts.tables.append(Table(title="Four methods", columns=columns, rows=table, numeric=frozenset({"value"})))
    return parts


def _controls(facts: Facts) -> Parts:
    columns = ("control", "status", "what stands", "evidence")
    return Parts(
        tables=[
            Table(
                title=name,
                columns=columns,
                rows=[(r["title"], r["status"], r["statement"], r["evidence"]) for r in rows],
            )
            for name, rows in facts["frameworks"].items()
        ]
    )


def _audit(facts: Facts) -> Parts:
    events = [(e["at"], e["event"], e["actor"], e["resource"]) for e in facts["events"]]
    return Parts(
        tables=[Table(title="The log, newest last", columns=("time (UTC)", "event", "actor", "about"), rows=events)],
        texts=[
            Text(title="Signed checkpoint", text=facts["checkpoint"]),
            Text(title="Inclusion proof of one event, checked offline", text=facts["proof"]),
            Text(title="Public key", text=facts["public_key"]),
        ],
    )


DRAW: dict[str, Callable[[Facts], Parts]] = {
    "train_v1": _training,
    "train_v2": _training,
    "canary": _rollout,
    "fault": _rollout,
    "experiment": _experiment,
    "drift": _drift,
    "explanation": _explanation,
    "bias": _bias,
    "controls": _controls,
    "audit": _audit,
}
