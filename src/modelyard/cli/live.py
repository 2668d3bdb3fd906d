"""Watching what goes on until it has ended: as a picture on a terminal, as lines elsewhere, or as JSON."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from modelyard.cli.derive import secret_of
from modelyard.core.canonical import dumps, plain
from modelyard.core.errors import Invalid, Unavailable
from modelyard.settings import Setting, settings

if TYPE_CHECKING:
    from rich.console import Group

REPEAT_S = 30.0  # without a terminal, a line is repeated after so long though nothing but counts has changed

Seen = Mapping[str, Any]
Ask = Callable[[str], Any]


@dataclass(frozen=True, slots=True)
class Watched:
    """What is watched: an area's things by their ids, what is asked for a look, when it has ended, and how it is shown.

    A line is written when its `kind` is another than the last one's. `picture` is of two looks, a width and a height, and
    of what is asked for it `beside` the look.
    """

    area: str
    identity: str  # the argument that the id is
    see: Callable[[Ask], Seen]
    ended: Callable[[Seen], bool]
    line: Callable[[Seen], str]
    kind: Callable[[Seen], object]
    picture: Callable[[Seen, Seen, int, int], Group]
    history: str  # the command that has it as csv
    beside: tuple[str, ...] = ()


def watch(watched: Watched, name: str, *, interval: float, yard: str | None, format: str | None) -> Seen:
    """Show it until it has ended; the last look."""
    if not 0.05 <= interval <= 3600:
        raise Invalid(f"interval is {interval:g}. Give seconds from 0.05 to 3600.")
    found = settings({"yard": yard, "format": format})
    chosen = found["format"].value or ("table" if sys.stdout.isatty() else "lines")
    if chosen not in ("table", "json", "lines"):
        raise Invalid(f"It is watched as table or json. As csv: {watched.history}")
    with asking(found, watched.area, {watched.identity: name}) as ask:
        if chosen == "table" and _draws():
            beside = watched.beside
            drawn = looks_at(
                lambda: {**watched.see(ask), **{verb: ask(verb) for verb in beside}}, watched.ended, interval
            )
            return _as_picture(drawn, watched)
        looks = looks_at(lambda: watched.see(ask), watched.ended, interval)
        return _as_json(looks) if chosen == "json" else _as_lines(looks, watched)


def _draws() -> bool:
    """Whether what has been written can be drawn over."""
    return sys.stdout.isatty() and os.environ.get("TERM", "").lower() not in ("dumb", "unknown")


@contextmanager
def asking(found: Mapping[str, Setting], area: str, named: Mapping[str, str]) -> Iterator[Ask]:
    """Asks an area of the yard about one thing, or that of the server that the settings name, over one connection."""
    if found["url"].value:
        from modelyard.client.client import Client

        with Client(found["url"].value, token=secret_of(found["token"].value)) as client:
            yield lambda verb: plain(getattr(getattr(client, area), verb)(**named))
        return
    from modelyard.yard import Yard

    with Yard(found["yard"].value, files=found["files"].value or None) as yard:
        yield lambda verb: plain(getattr(yard.area(area), verb)(**named))


def looks_at(see: Callable[[], Seen], ended: Callable[[Seen], bool], interval: float) -> Iterator[Seen]:
    """What there is to show, look after look, until it has ended.

    Who watches is not sent away when the server is started anew: after the first look an outage is told, and waited out.
    """
    now: Seen = {}
    while not now or not ended(now):
        if now:
            time.sleep(interval)
        try:
            now = see()
        except Unavailable as error:
            if not now:
                raise
            now = {**now, "outage": str(error)}
        yield now


def _as_json(looks: Iterator[Seen]) -> Seen:
    now: Seen = {}
    for seen in looks:
        if seen != now:
            sys.stdout.write(dumps(seen) + "\n")
            sys.stdout.flush()
        now = seen
    return now


def _as_lines(looks: Iterator[Seen], watched: Watched) -> Seen:
    now: Seen = {}
    said: object = None
    at = -math.inf
    for now in looks:
        kind = watched.kind(now)
        if kind != said or time.monotonic() - at >= REPEAT_S:
            sys.stdout.write(watched.line(now) + "\n")
            sys.stdout.flush()
            said, at = kind, time.monotonic()
    return now


def _as_picture(looks: Iterator[Seen], watched: Watched) -> Seen:
    from rich.console import Console
    from rich.live import Live

    now: Seen = {}
    console = Console(highlight=False)
    with Live(console=console, auto_refresh=False) as live:
        for seen in looks:
            live.update(watched.picture(seen, now, console.width, console.height), refresh=True)
            now = seen
    return now
