"""Files that people declare things in, as YAML or JSON: read strictly, with errors that name the line and the key."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from modelyard.core.errors import Invalid, Unavailable, nearest

LARGEST = 100_000  # bytes: what people write is a hundredth of it, and a megabyte takes seconds to read
ONE = "give one value, not a list or a mapping."
LONGEST = 40  # characters of a number
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?) *([smhdw])\Z")
_NUMBER = re.compile(r"[-+]?(?:0|[1-9][0-9]*|(?=\.[0-9]))(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?\Z")
_PERCENT = re.compile(r"([0-9]+(?:\.[0-9]+)?) *%\Z")


@dataclass(frozen=True, slots=True)
class Place:
    """Where something stands in a file."""

    path: str
    line: int
    key: str

    def wrong(self, what: str) -> Invalid:
        """The error that something here is wrong."""
        return Invalid(f"{self.path} line {self.line}, {self.key}: {what}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One thing that a file says otherwise than what stands there, and the line that says it, where that is known."""

    key: str
    now: Any
    wanted: Any
    line: int | None = None

    def __str__(self) -> str:
        return f"{self.key}: {self.now} -> {self.wanted}"


@contextmanager
def at(place: Place) -> Iterator[None]:
    """What is refused within is refused at this place."""
    try:
        yield
    except Invalid as error:
        raise place.wrong(str(error)) from error


Entry = tuple[Place, yaml.Node]
Entries = Mapping[str, Entry]


def opened(path: str | Path, what: str, example: str) -> dict[str, Entry]:
    """What a file says at its top, by key. `what` it should declare and an `example` of a line are for the errors.

    >>> _ = (folder / "rollout.yaml").write_text("endpoint: fraud\\nversion: v2.0.0\\n")
    >>> [(place.line, place.key) for place, _ in opened(folder / "rollout.yaml", "rollout", "endpoint: fraud").values()]
    [(1, 'endpoint'), (2, 'version')]
    """
    try:
        with Path(path).open("rb") as file:
            written = file.read(LARGEST + 1)
        text = written.decode("utf-8")
    except OSError as error:
        raise Unavailable(
            f"{path} cannot be read: {error.strerror}. Pass the path of a file with the {what}."
        ) from error
    except UnicodeDecodeError as error:
        if len(written) <= LARGEST:
            raise Invalid(f"{path} is no UTF-8 text. Write the {what} as YAML, for example {example}.") from error
        text = ""
    if len(written) > LARGEST:
        raise Invalid(f"{path} is larger than {LARGEST:,} bytes, which no {what} is. Is it the right file?")
    return mapping(_composed(text, str(path), what, example), str(path), "")


def _composed(text: str, path: str, what: str, example: str) -> yaml.MappingNode:
    try:
        node = yaml.compose(text, yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        told = " ".join(str(error).replace('in "<unicode string>", ', "at ").split())
        raise Invalid(f"{path} is no YAML: {told}. Write one key a line, for example {example}.") from error
    if not isinstance(node, yaml.MappingNode):
        raise Invalid(f"{path} holds no {what}. Write one key a line, for example {example}.")
    return node


def mapping(node: yaml.Node, path: str, under: str) -> dict[str, Entry]:
    """A mapping's values by key, with where each stands. Keys are what is written, whatever YAML takes `no` or `1` for."""
    found: dict[str, Entry] = {}
    for name, value in node.value:
        line = name.start_mark.line + 1
        if not isinstance(name, yaml.ScalarNode):
            raise Place(path, line, under or "?").wrong("a key is a word, for example name.")
        place = Place(path, line, f"{under}.{name.value}" if under else name.value)
        if name.value == "<<":
            raise place.wrong("merging is not read here. Write the keys out.")
        if name.value in found:
            raise place.wrong(f"stands there twice, first in line {found[name.value][0].line}. Keep one.")
        found[name.value] = (place, value)
    return found


def parts(place: Place, node: yaml.Node, known: Iterable[str], example: str) -> dict[str, Entry]:
    """A mapping of which every key is known; Invalid for anything else."""
    if not isinstance(node, yaml.MappingNode):
        raise place.wrong(f"give a mapping, for example {example}.")
    found = mapping(node, place.path, place.key)
    only(found, known)
    return found


def only(entries: Entries, known: Iterable[str]) -> None:
    """Invalid for a key that is not known, at its line."""
    names = list(known)
    for name, (place, _) in entries.items():
        if name not in names:
            raise place.wrong(f"unknown key. {nearest(name, names)}")


def items(place: Place, node: yaml.Node, example: str = "[0.05, 0.25, 1]") -> list[Entry]:
    """The items of a list, each with where it stands."""
    if not isinstance(node, yaml.SequenceNode):
        raise place.wrong(f"give a list, for example {example}.")
    return [(Place(place.path, one.start_mark.line + 1, f"{place.key}[{i}]"), one) for i, one in enumerate(node.value)]


def values(place: Place, node: yaml.Node, example: str) -> dict[str, Any]:
    """A mapping of single values, whatever its keys are."""
    if not isinstance(node, yaml.MappingNode):
        raise place.wrong(f"give a mapping, for example {example}.")
    return {name: value(one, of) for name, (one, of) in mapping(node, place.path, place.key).items()}


def value(place: Place, node: yaml.Node) -> Any:
    """What a single value is by YAML's rules: text, a number, true or false, or nothing."""
    if not isinstance(node, yaml.ScalarNode):
        raise place.wrong(ONE)
    try:
        return yaml.SafeLoader("").construct_object(node, deep=True)
    except (yaml.YAMLError, ValueError) as error:
        raise place.wrong(f"{node.value!r:.80} cannot be read. Put it in quotes.") from error


def text(place: Place, node: yaml.Node) -> str:
    """Text that says something."""
    found = value(place, node)
    if not isinstance(found, str) or not found.strip():
        kind = "nothing" if found is None else type(found).__name__
        raise place.wrong(
            f"{node.value!r:.80} is read as {kind}. Give text, in quotes where YAML takes it for something else."
        )
    return found


def number(place: Place, node: yaml.Node) -> float:
    """A finite number in decimal digits. YAML 1.1 would take 0100 for 64, 1:30 for 90 and 1e3 for text."""
    if not isinstance(node, yaml.ScalarNode):
        raise place.wrong(ONE)
    written = node.value.replace("_", "")
    if node.style is not None or not _NUMBER.match(written) or len(written) > LONGEST:
        raise place.wrong(f"{node.value!r:.80} is no number.")
    found: float = int(written) if written.lstrip("+-").isdigit() else float(written)
    if not math.isfinite(found):
        raise place.wrong(f"{node.value!r:.80} is no number.")
    return found


def count(place: Place, node: yaml.Node) -> int:
    """A whole number."""
    found = number(place, node)
    if not isinstance(found, int):
        raise place.wrong(f"{node.value!r:.80} is no whole number.")
    return found


def part(place: Place, node: yaml.Node) -> float:
    """A part of one, or a percentage."""
    percent = _PERCENT.match(node.value) if isinstance(node, yaml.ScalarNode) else None
    if percent and len(node.value) <= LONGEST:
        return float(f"{percent[1]}e-2")  # the same as 0.07 where 7 / 100 is not
    return number(place, node)


def duration(place: Place, node: yaml.Node) -> float:
    """Seconds, or 90s, 10m, 2h, 1d, 2w."""
    written = _DURATION.match(node.value) if isinstance(node, yaml.ScalarNode) else None
    if written and len(node.value) <= LONGEST:
        return float(written[1]) * UNITS[written[2]]
    if isinstance(value(place, node), str):
        raise place.wrong(f"{node.value!r:.80} is no duration. Write seconds, or 90s, 10m, 2h, 1d.")
    return number(place, node)


def truth(place: Place, node: yaml.Node) -> bool:
    """True or false."""
    found = value(place, node)
    if not isinstance(found, bool):
        raise place.wrong(f"{node.value!r:.80} is neither true nor false.")
    return found


def check(
    build: Callable[..., object],
    given: Mapping[str, Any],
    top: Entries,
    least: Mapping[str, Any],
    by: Mapping[str, Any],
) -> None:
    """Refuse what `build` refuses of `given`, at the line of the key that is to blame.

    That is one which is refused alone, beside the `least` that has to be said; else one without which the rest is taken,
    the last one first. `by` says which arguments a key gives where it does not give the one of its own name.
    """
    try:
        build(**given)
    except Invalid as error:
        for key in top:
            told = _refused(build, {**least, **{name: given[name] for name in by.get(key, (key,)) if name in given}})
            if told is not None:
                raise top[key][0].wrong(str(told)) from error
        for key in reversed(list(top)):
            left = {name: one for name, one in given.items() if name not in by.get(key, (key,))}
            if _refused(build, {**least, **left}) is None:
                raise top[key][0].wrong(str(error)) from error
        raise next(iter(top.values()))[0].wrong(str(error)) from error


def _refused(build: Callable[..., object], given: Mapping[str, Any]) -> Invalid | None:
    try:
        build(**given)
    except Invalid as told:
        return told
    return None
