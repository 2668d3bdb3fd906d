"""Charts as SVG text: lines, bars, intervals and a heat map. One look for reports, pages and notebooks.

Colours come from the page's CSS variables (--ink, --muted, --line, --c1 ... --c5, --bad, --good), so one drawing
serves light and dark pages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from modelyard.ui.svg import CHAR, WIDTH, Scale, cut, element, picture, short, ticks

Point = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One line: its points (x, y), an optional band (x, low, high), and a CSS colour variable such as c1."""

    name: str
    points: Sequence[Point]
    colour: str = "c1"
    band: Sequence[tuple[float, float, float]] = ()
    step: bool = False
    dashed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """One row of an interval chart: an estimate with its bounds; `value` None is drawn as 'undefined'."""

    name: str
    value: float | None
    low: float | None = None
    high: float | None = None
    note: str = ""
    bad: bool = False


def lines(
    series: Sequence[Series],
    *,
    label: str,
    x_name: str = "",
    y_name: str = "",
    percent: bool = False,
    y_range: tuple[float, float] | None = None,
    rule: tuple[float, str] | None = None,
    marks: Sequence[tuple[float, str]] = (),
    height: float = 240,
) -> str:
    """Lines over a common x axis. `rule` is a labelled horizontal line, `marks` labelled vertical ones.

    >>> lines([Series(name="a", points=[(0, 1), (1, 2)])], label="two points").startswith("<svg")
    True
    """
    xs = [x for s in series for x, _ in s.points] or [0.0, 1.0]
    ys = [y for s in series for _, y in s.points] + [v for s in series for _, lo, hi in s.band for v in (lo, hi)]
    ys += [rule[0]] if rule else []
    low, high = y_range or _padded(ys or [0.0, 1.0])
    left, right, top, bottom = 58.0, WIDTH - 14.0, 34.0, height - 38.0
    x = Scale(low=min(xs), high=max(xs), start=left, end=right)
    y = Scale(low=low, high=high, start=bottom, end=top)
    parts = _grid(x, y, percent=percent, x_name=x_name, y_name=y_name)
    for s in series:
        parts += _line(s, x, y)
    if rule:
        parts.append(element("line", x1=left, x2=right, y1=y(rule[0]), y2=y(rule[0]), class_="rule"))
        parts.append(element("text", rule[1], x=right, y=y(rule[0]) - 5, text_anchor="end", class_="note"))
    for at, text in marks:
        end = x(at) > (left + right) / 2
        parts.append(element("line", x1=x(at), x2=x(at), y1=top, y2=bottom, class_="mark"))
        anchor, shift = ("end", -5) if end else ("start", 5)
        parts.append(element("text", text, x=x(at) + shift, y=top + 11, text_anchor=anchor, class_="note strong"))
    return picture(parts + _legend([(s.name, s.colour) for s in series]), height, label)


def bars(values: Mapping[str, float], *, label: str, unit: str = "", most: int = 20, signed: bool = True) -> str:
    """Horizontal bars around zero, largest first: contributions of features, say.

    >>> bars({"age": 0.4, "sex": -0.1}, label="contributions").count("<rect")
    2
    """
    rows = sorted(values.items(), key=lambda item: -abs(item[1]))[:most]
    height = 22.0 * len(rows) + 30
    names = min(max((len(name) for name, _ in rows), default=1), 34)
    left, right = names * CHAR + 16, WIDTH - 64.0
    bound = max((abs(v) for _, v in rows), default=1.0) or 1.0
    low = -bound if any(v < 0 for _, v in rows) else 0.0
    x = Scale(low=low, high=bound, start=left + (54 if low else 0), end=right)
    parts = [element("line", x1=x(0), x2=x(0), y1=6, y2=height - 20, class_="axis")]
    for index, (name, value) in enumerate(rows):
        y = 10 + index * 22.0
        start, end = sorted((x(0), x(value)))
        parts.append(element("text", cut(name, 34), x=left - 8, y=y + 12, text_anchor="end", class_="label"))
        parts.append(
            element(
                "rect",
                x=start,
                y=y,
                width=max(end - start, 0.8),
                height=15,
                rx=2,
                class_="pos" if value >= 0 else "neg",
            )
        )
        at, anchor = (end + 5, "start") if value >= 0 else (start - 5, "end")
        parts.append(
            element(
                "text", f"{value:+.3g}" if signed else f"{value:.3g}", x=at, y=y + 12, text_anchor=anchor, class_="note"
            )
        )
    if unit:
        parts.append(element("text", unit, x=(left + right) / 2, y=height - 4, text_anchor="middle", class_="note"))
    return picture(parts, height, label)


def intervals(
    rows: Sequence[Interval],
    *,
    label: str,
    zero: float | None = 0.0,
    percent: bool = False,
    limits: Sequence[float] = (),
) -> str:
    """Estimates with intervals, one a row; `zero` is the line of no difference, `limits` are stated thresholds.

    >>> intervals([Interval(name="lift", value=0.1, low=0.0, high=0.2)], label="lift").count("<circle")
    1
    """
    height = 26.0 * len(rows) + 40
    values = [v for r in rows for v in (r.value, r.low, r.high) if v is not None]
    values += [zero] if zero is not None else []
    names = min(max((len(row.name) for row in rows), default=1), 44)
    low, high = _padded([*values, *limits] or [0.0, 1.0])
    x = Scale(low=low, high=high, start=names * CHAR + 20, end=WIDTH - 112.0)
    parts = []
    for tick in ticks(low, high, 4):
        parts.append(element("line", x1=x(tick), x2=x(tick), y1=8, y2=height - 30, class_="grid"))
        text = short(tick, percent=percent)
        parts.append(element("text", text, x=x(tick), y=height - 14, text_anchor="middle", class_="note"))
    if zero is not None:
        parts.append(element("line", x1=x(zero), x2=x(zero), y1=8, y2=height - 30, class_="axis"))
    for limit in limits:
        parts.append(element("line", x1=x(limit), x2=x(limit), y1=8, y2=height - 30, class_="rule"))
    for index, row in enumerate(rows):
        parts += _interval(row, x, 22 + index * 26.0, percent=percent)
    return picture(parts, height, label)


def heat(
    rows: Mapping[str, Sequence[float | None]], columns: Sequence[str], *, label: str, marked: set[tuple[str, int]]
) -> str:
    """A table of numbers as colours, with the number in each cell; `marked` cells (row, column index) get a ring.

    >>> heat({"age": [0.1, None]}, ["2016", "2017"], label="drift", marked=set()).count("<rect")
    2
    """
    cell_height = 22.0
    height = cell_height * len(rows) + 34
    names = min(max((len(name) for name in rows), default=1), 34)
    left = names * CHAR + 16
    cell = (WIDTH - 14 - left) / max(len(columns), 1)
    top = max((v for values in rows.values() for v in values if v is not None), default=1.0) or 1.0
    parts = [
        element("text", name, x=left + (i + 0.5) * cell, y=16, text_anchor="middle", class_="label")
        for i, name in enumerate(columns)
    ]
    for row, (name, values) in enumerate(rows.items()):
        y = 26 + row * cell_height
        parts.append(element("text", cut(name, 34), x=left - 8, y=y + 14, text_anchor="end", class_="label"))
        for column, value in enumerate(values):
            share = 0.0 if value is None else min(value / top, 1.0)
            ring = "cell marked" if (name, column) in marked else "cell"
            start, opacity = left + column * cell + 1, round(0.06 + 0.74 * share, 3)
            size = {"width": cell - 2, "height": cell_height - 2}
            parts.append(element("rect", "", x=start, y=y, **size, rx=3, class_=ring, fill_opacity=opacity))
            text = "–" if value is None else f"{value:.3f}"
            weight = "note strong" if (name, column) in marked else "note"
            parts.append(
                element("text", text, x=left + (column + 0.5) * cell, y=y + 14, text_anchor="middle", class_=weight)
            )
    return picture(parts, height, label)


def _padded(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    pad = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    return (low - pad if low < 0 else max(0.0, low - pad)), high + pad


def _grid(x: Scale, y: Scale, *, percent: bool, x_name: str, y_name: str) -> list[str]:
    parts = []
    for tick in ticks(y.low, y.high, 4):
        parts.append(element("line", x1=x.start, x2=x.end, y1=y(tick), y2=y(tick), class_="grid"))
        text = short(tick, percent=percent)
        parts.append(element("text", text, x=x.start - 7, y=y(tick) + 4, text_anchor="end", class_="note"))
    for tick in ticks(x.low, x.high, 6):
        parts.append(element("text", short(tick), x=x(tick), y=y.start + 16, text_anchor="middle", class_="note"))
    parts.append(element("line", x1=x.start, x2=x.end, y1=y.start, y2=y.start, class_="axis"))
    if x_name:
        parts.append(
            element("text", x_name, x=(x.start + x.end) / 2, y=y.start + 33, text_anchor="middle", class_="note")
        )
    if y_name:
        parts.append(element("text", y_name, x=WIDTH - 14, y=16, text_anchor="end", class_="note"))
    return parts


def _line(series: Series, x: Scale, y: Scale) -> list[str]:
    parts = []
    style = f"stroke:var(--{series.colour})"
    if series.band:
        upper = [f"{x(at):.1f},{y(high):.1f}" for at, _, high in series.band]
        lower = [f"{x(at):.1f},{y(low):.1f}" for at, low, _ in reversed(series.band)]
        parts.append(
            element("polygon", points=" ".join(upper + lower), class_="band", style=f"fill:var(--{series.colour})")
        )
    path = ""
    for index, (at, value) in enumerate(series.points):
        if index and series.step:
            path += f"H{x(at):.1f}"
        path += f"{'L' if index else 'M'}{x(at):.1f},{y(value):.1f}"
    if path:
        parts.append(element("path", d=path, class_="line dashed" if series.dashed else "line", style=style))
    return parts


def _interval(row: Interval, x: Scale, y: float, *, percent: bool) -> list[str]:
    parts = [element("text", cut(row.name, 44), x=x.start - 10, y=y + 4, text_anchor="end", class_="label")]
    shade = "dot bad" if row.bad else "dot"
    if row.value is None:
        return [*parts, element("text", row.note or "undefined", x=x.start + 6, y=y + 4, class_="note")]
    if row.low is not None and row.high is not None:
        whisker = "whisker bad" if row.bad else "whisker"
        parts.append(element("line", x1=x(row.low), x2=x(row.high), y1=y, y2=y, class_=whisker))
    parts.append(element("circle", cx=x(row.value), cy=y, r=4.5, class_=shade))
    text = row.note or short(row.value, percent=percent)
    parts.append(
        element("text", text, x=WIDTH - 6, y=y + 4, text_anchor="end", class_="note strong" if row.bad else "note")
    )
    return parts


def _legend(names: Sequence[tuple[str, str]]) -> list[str]:
    parts, at = [], 58.0
    for name, colour in names:
        parts.append(element("rect", x=at, y=8, width=12, height=4, rx=2, style=f"fill:var(--{colour})"))
        parts.append(element("text", name, x=at + 17, y=15, class_="note"))
        at += 17 + len(name) * CHAR + 18
    return parts
