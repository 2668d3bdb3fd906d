"""Pages from templates: everything inlined, text escaped, no scripts and no external resources."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from modelyard.core.files import replace_whole


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("modelyard.ui"),
        autoescape=select_autoescape(),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "number": number}
    return environment


def render(template: str, **values: Any) -> str:
    """The page; values that are SVG text from `ui.charts` are passed as `drawn(svg)`."""
    return _environment().get_template(template).render(**values)


def drawn(svg: str) -> Markup:
    """Marks a drawing of our own as safe to include: charts escape their texts themselves."""
    return Markup(svg)  # noqa: S704  # made by ui.charts, which escapes


def write_page(path: Path, page: str) -> Path:
    """Write the page; it appears whole or not at all."""
    replace_whole(path, page)
    return path


def percent(value: float | None, digits: int = 1) -> str:
    """A share as a percentage.

    >>> percent(0.1234)
    '12.3 %'
    """
    return "undefined" if value is None else f"{value * 100:.{digits}f} %"


def number(value: float | None) -> str:
    """A number with thousands separated, as people read it.

    >>> number(1234567), number(0.123456)
    ('1 234 567', '0.1235')
    """
    if value is None:
        return "–"
    if isinstance(value, int) or float(value).is_integer():
        return f"{int(value):,}".replace(",", " ")
    return f"{value:.4g}"
