"""The pieces charts are made of: scales, ticks, and elements with escaped text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, CHAR = 640, 6.4  # pixels; the mean width of a 12-pixel character


def element(tag: str, content: str = "", **attributes: object) -> str:
    """One SVG element; `class_` becomes class and underscores become hyphens.

    >>> element("text", "a < b", x=1.5, class_="label")
    '<text x="1.5" class="label">a &lt; b</text>'
    """
    pairs = (f' {name.rstrip("_").replace("_", "-")}="{_shown(value)}"' for name, value in attributes.items())
    body = content if content.startswith("<") else escape(content, quote=False)
    return f"<{tag}{''.join(pairs)}>{body}</{tag}>" if content else f"<{tag}{''.join(pairs)}/>"


def picture(parts: Sequence[str], height: float, label: str, *, width: float = WIDTH) -> str:
    """A whole SVG that scales with its container; `label` is read out by screen readers."""
    title = element("title", label)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" role="img" '
        f'aria-label="{escape(label)}" class="chart">{title}{"".join(parts)}</svg>'
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """Maps values from `low`..`high` to pixels `start`..`end`."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """The pixel of a value; values outside are drawn at the edge."""
        span = self.high - self.low or 1.0
        share = min(max((value - self.low) / span, 0.0), 1.0)
        return self.start + share * (self.end - self.start)


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round values that divide low..high into about that many steps.

    >>> ticks(0, 10)
    [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]
    """
    if not high > low:
        return [low]
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(index * step, 10) for index in range(first, last + 1)]


def short(value: float, *, percent: bool = False) -> str:
    """A number as an axis shows it.

    >>> short(0.25, percent=True), short(12000), short(0.0012)
    ('25 %', '12k', '0.0012')
    """
    if percent:
        return f"{value * 100:.3g} %"
    if abs(value) >= 1_000_000:
        return f"{value / 1_000_000:g}M"
    if abs(value) >= 10_000:
        return f"{value / 1000:g}k"
    return f"{value:.4g}"


def cut(text: str, characters: int) -> str:
    """The text, shortened with an ellipsis where it is longer.

    >>> cut("disability", 6)
    'disab…'
    """
    return text if len(text) <= characters else text[: characters - 1] + "…"


def _shown(value: object) -> str:
    return f"{value:.5g}" if isinstance(value, float) else escape(str(value))
