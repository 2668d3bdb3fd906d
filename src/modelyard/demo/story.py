"""The story as it is told: chapters with lines for people and facts for the report, on a terminal, as lines, or silently."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, TextIO


@dataclass(slots=True, kw_only=True)
class Chapter:
    """One part of the story: what was said, what was measured, how long it took."""

    key: str
    title: str
    tell: Teller
    lines: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    def say(self, line: str) -> None:
        """A sentence for the reader."""
        self.lines.append(line)
        self.tell.line(line)

    def doing(self, what: str) -> None:
        """What is going on now, shown on a terminal only."""
        self.tell.doing(what)


class Teller(Protocol):
    """Shows the story while it happens."""

    def chapter(self, number: int, title: str) -> None:
        """A chapter begins."""
        ...

    def line(self, text: str) -> None:
        """A sentence of it."""
        ...

    def doing(self, what: str) -> None:
        """What is going on now."""
        ...

    def end(self, seconds: float) -> None:
        """The chapter ends."""
        ...


class PlainTeller:
    """Plain lines, for a pipe or a file."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def chapter(self, number: int, title: str) -> None:
        """A heading line."""
        self._write(f"\n{number}. {title}")

    def line(self, text: str) -> None:
        """An indented line."""
        self._write(f"   {text}")

    def doing(self, what: str) -> None:
        """Nothing: a pipe has no place to overwrite."""

    def end(self, seconds: float) -> None:
        """The time it took."""
        self._write(f"   ({seconds:.1f} s)")

    def _write(self, text: str) -> None:
        self._out.write(text + "\n")
        self._out.flush()


class TerminalTeller:
    """Headings in colour and a line of progress that is overwritten."""

    def __init__(self, out: TextIO) -> None:
        from rich.console import Console

        self._console = Console(file=out, highlight=False)
        self._status: Any = None

    def chapter(self, number: int, title: str) -> None:
        """A coloured heading and the progress line under it."""
        self._console.print(f"\n[bold cyan]{number:>2}[/]  [bold]{title}[/]")
        self._status = self._console.status("", spinner="dots")
        self._status.start()

    def line(self, text: str) -> None:
        """A line with its badge words coloured."""
        self._console.print("    " + _coloured(text), soft_wrap=True)

    def doing(self, what: str) -> None:
        """The progress line."""
        if self._status is not None:
            self._status.update(f"[dim]{what}[/]")

    def end(self, seconds: float) -> None:
        """The progress line goes; the time stays."""
        if self._status is not None:
            self._status.stop()
            self._status = None
        self._console.print(f"    [dim]{seconds:.1f} s[/]")


COLOURS = {
    "refused": "yellow",
    "approved": "green",
    "promoted": "green",
    "rolled back": "red",
    "verified": "green",
    "drift": "yellow",
}


def _coloured(text: str) -> str:
    safe = text.replace("[", r"\[")
    for word, colour in COLOURS.items():
        for shape in (word, word.upper(), word.capitalize()):
            safe = safe.replace(shape, f"[{colour}]{shape}[/]")
    return safe


class Story:
    """Chapters in order."""

    def __init__(self, teller: Teller) -> None:
        self.chapters: list[Chapter] = []
        self._teller = teller
        self._started = time.perf_counter()

    @contextmanager
    def chapter(self, key: str, title: str) -> Iterator[Chapter]:
        """A chapter; its facts go into the report under its key."""
        chapter = Chapter(key=key, title=title, tell=self._teller)
        self.chapters.append(chapter)
        self._teller.chapter(len(self.chapters), title)
        started = time.perf_counter()
        try:
            yield chapter
        finally:
            chapter.seconds = time.perf_counter() - started
            self._teller.end(chapter.seconds)

    def document(self) -> dict[str, Any]:
        """The whole story as one document."""
        return {
            "seconds": round(time.perf_counter() - self._started, 2),
            "chapters": [
                {"key": c.key, "title": c.title, "seconds": round(c.seconds, 2), "lines": c.lines, "facts": c.facts}
                for c in self.chapters
            ],
        }


def teller_for(format: str, out: TextIO = sys.stdout) -> Teller:
    """Where the story goes: to stdout as it happens, or to stderr when stdout gets one JSON document at the end."""
    stream = sys.stderr if format == "json" else out
    return TerminalTeller(stream) if stream.isatty() else PlainTeller(stream)
