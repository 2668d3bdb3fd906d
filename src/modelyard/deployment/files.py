"""Rollouts written down in a file: the arguments of `start` as YAML or JSON, with errors that name line and key."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from modelyard.core.errors import Invalid, Unavailable, nearest
from modelyard.deployment import plans
from modelyard.deployment.rollouts import Terms

TEXTS = ("endpoint", "version", "baseline", "strategy")
PARTS = ("margin", "latency_margin", "alpha", "minimum_agreement")  # may be written as 0.5%
COUNTS = ("minimum_units", "warmup", "after_generation")
KEYS = tuple(
    name for name in {**inspect.signature(plans.wanted).parameters, **dict.fromkeys(Terms.__slots__)} if name != "terms"
)
STEP = {"share": "steps", "units": "step_units", "seconds": "step_seconds", "gate": "gates"}
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"(\d+(?:\.\d+)?) *([smhd])\Z")
_PERCENT = re.compile(r"(\d+(?:\.\d+)?) *%\Z")


@dataclass(frozen=True, slots=True)
class Place:
    """Where something stands in a file."""

    path: str
    line: int
    key: str

    def wrong(self, what: str) -> Invalid:
        """The error that something here is wrong."""
        return Invalid(f"{self.path} line {self.line}, {self.key}: {what}")


def read_rollout(path: str | Path) -> dict[str, Any]:
    """The arguments that a file gives for `start`; Invalid names the line and the key that is wrong or missing.

    `steps` is a list of shares, as 0.05 or 5%, or of what each step needs: {share: 5%, units: 500, seconds: 10m,
    gate: true}. Durations are seconds, or 90s, 10m, 2h, 1d.
    """
    top = _mapping(_node(path), str(path), "")
    for place, _ in top.values():
        if place.key not in KEYS:
            raise place.wrong(f"unknown key. {nearest(place.key, list(KEYS))}")
    for key in ("endpoint", "version"):
        if key not in top:
            raise Invalid(f"{path} does not say which {key}. Add a line {key}: ...")
    given: dict[str, Any] = {}
    for key, (place, node) in top.items():
        given |= _read(place, key, node, str(path))
    _check(given, top)
    return given


def _node(path: str | Path) -> yaml.Node:
    try:
        text = Path(path).read_text("utf-8")
    except OSError as error:
        raise Unavailable(f"{path} cannot be read: {error.strerror}. Pass the path of a rollout file.") from error
    except UnicodeDecodeError as error:
        raise Invalid(f"{path} is no UTF-8 text. Write the rollout as YAML, for example endpoint: fraud.") from error
    try:
        node = yaml.compose(text, yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        told = " ".join(str(error).split())
        raise Invalid(f"{path} is no YAML: {told}. Write one key a line, for example endpoint: fraud.") from error
    if not isinstance(node, yaml.MappingNode):
        raise Invalid(
            f"{path} holds no rollout. Write one key a line, for example endpoint: fraud and version: v2.0.0."
        )
    return node


def _mapping(node: yaml.MappingNode | yaml.Node, path: str, under: str) -> dict[str, tuple[Place, yaml.Node]]:
    """A mapping's nodes by key, with where each stands."""
    found: dict[str, tuple[Place, yaml.Node]] = {}
    for name, value in node.value:
        line = name.start_mark.line + 1
        if not isinstance(name, yaml.ScalarNode):
            raise Place(path, line, under or "?").wrong("a key is a word, for example endpoint.")
        place = Place(path, line, f"{under}.{name.value}" if under else name.value)
        if name.value in found:
            raise place.wrong(f"stands there twice, first in line {found[name.value][0].line}. Keep one.")
        found[name.value] = (place, value)
    return found


def _read(place: Place, key: str, node: yaml.Node, path: str) -> dict[str, Any]:
    """The arguments that one key gives."""
    if key in TEXTS:
        return {key: _text(place, node)}
    if key == "steps":
        return _steps(place, node, path)
    if key in ("gates", "step_units", "step_seconds", "freeze"):
        read = {"gates": _count, "step_units": _count, "step_seconds": _duration, "freeze": _text}[key]
        return {key: [read(one, item) for one, item in _items(place, node, path)]}
    if key == "latency_ms":
        if not isinstance(node, yaml.MappingNode):
            raise place.wrong("give milliseconds by quantile, for example {p50: 2.1, p95: 4, p99: 9}.")
        return {key: {name: _number(one, value) for name, (one, value) in _mapping(node, path, key).items()}}
    if key == "guardrails":
        return {key: [_values(one, item, path) for one, item in _items(place, node, path)]}
    if key in COUNTS:
        return {key: _count(place, node)}
    if key in ("latency_limit", "latency_floor_ms"):
        return {key: _number(place, node)}
    return {key: _duration(place, node) if key.endswith("_seconds") else _part(place, node)}


def _values(place: Place, node: yaml.Node, path: str) -> dict[str, Any]:
    """A mapping of single values."""
    if not isinstance(node, yaml.MappingNode):
        raise place.wrong("give a mapping, for example {name: queue, lowest: 0, highest: 100, tolerated: 5}.")
    return {name: _value(one, value) for name, (one, value) in _mapping(node, path, place.key).items()}


def _steps(place: Place, node: yaml.Node, path: str) -> dict[str, Any]:
    """Shares, and what each step asks for beside its share."""
    shares: list[float] = []
    own: dict[str, list[Any]] = {"units": [], "seconds": []}
    gates = []
    for index, (one, item) in enumerate(_items(place, node, path)):
        parts = _mapping(item, path, one.key) if isinstance(item, yaml.MappingNode) else {"share": (one, item)}
        for name, (where, _) in parts.items():
            if name not in STEP:
                raise where.wrong(f"unknown key. {nearest(name, list(STEP))}")
        if "share" not in parts:
            raise one.wrong("does not say which share. Write {share: 5%, ...}.")
        shares.append(_part(*parts["share"]))
        own["units"].append(_count(*parts["units"]) if "units" in parts else None)
        own["seconds"].append(_duration(*parts["seconds"]) if "seconds" in parts else None)
        if "gate" in parts and _truth(*parts["gate"]):
            gates.append(index)
    found: dict[str, Any] = {STEP[name]: values for name, values in own.items() if any(v is not None for v in values)}
    return {"steps": shares, **found, **({"gates": gates} if gates else {})}


def _items(place: Place, node: yaml.Node, path: str) -> list[tuple[Place, yaml.Node]]:
    if not isinstance(node, yaml.SequenceNode):
        raise place.wrong("give a list, for example [0.05, 0.25, 1].")
    return [(Place(path, one.start_mark.line + 1, f"{place.key}[{i}]"), one) for i, one in enumerate(node.value)]


def _value(place: Place, node: yaml.Node) -> Any:
    if not isinstance(node, yaml.ScalarNode):
        raise place.wrong("give one value, not a list or a mapping.")
    try:
        return yaml.SafeLoader("").construct_object(node, deep=True)
    except (yaml.YAMLError, ValueError) as error:
        raise place.wrong(f"{node.value!r} cannot be read. Put it in quotes.") from error


def _text(place: Place, node: yaml.Node) -> str:
    found = _value(place, node)
    if not isinstance(found, str) or not found.strip():
        kind = type(found).__name__
        raise place.wrong(f"{node.value!r} is read as {kind}. Give text; put it in quotes if it looks like a number.")
    return found


def _number(place: Place, node: yaml.Node) -> float:
    found = _value(place, node)
    if isinstance(found, bool) or not isinstance(found, (int, float)) or not math.isfinite(found):
        raise place.wrong(f"{node.value!r} is no number.")
    return found


def _count(place: Place, node: yaml.Node) -> int:
    found = _number(place, node)
    if not isinstance(found, int):
        raise place.wrong(f"{node.value!r} is no whole number.")
    return found


def _part(place: Place, node: yaml.Node) -> float:
    """A part of one, or a percentage."""
    percent = _PERCENT.match(node.value) if isinstance(node, yaml.ScalarNode) else None
    return float(percent[1]) / 100 if percent else _number(place, node)


def _duration(place: Place, node: yaml.Node) -> float:
    written = _DURATION.match(node.value) if isinstance(node, yaml.ScalarNode) else None
    if written:
        return float(written[1]) * UNITS[written[2]]
    if isinstance(_value(place, node), str):
        raise place.wrong(f"{node.value!r} is no duration. Write seconds, or 90s, 10m, 2h, 1d.")
    return _number(place, node)


def _truth(place: Place, node: yaml.Node) -> bool:
    found = _value(place, node)
    if not isinstance(found, bool):
        raise place.wrong(f"{node.value!r} is neither true nor false.")
    return found


def _check(given: Mapping[str, Any], top: Mapping[str, tuple[Place, yaml.Node]]) -> None:
    """Refuse a rollout that cannot be, at the line of the key that is to blame."""
    try:
        plans.wanted(**given)
    except Invalid as error:
        for key in sorted(top, key=lambda name: name != "strategy"):  # the steps are read by the strategy's rules
            alone = {"endpoint": "any", "version": "v1.0.0", **{name: given[name] for name in _given_by(key, given)}}
            try:
                plans.wanted(**alone)
            except Invalid as told:
                raise top[key][0].wrong(str(told)) from error
        raise top["version"][0].wrong(str(error)) from error


def _given_by(key: str, given: Mapping[str, Any]) -> tuple[str, ...]:
    """The arguments that a key of the file gives, with those that it is read by."""
    together = ("strategy", *STEP.values())
    return tuple(name for name in together if name in given) if key in STEP.values() else (key,)
