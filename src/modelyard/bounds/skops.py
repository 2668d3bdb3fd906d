"""Boosters within a skops file: skops hands their bytes to the library as it rebuilds them, so they are looked at first."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeGuard

from modelyard.bounds import OutOfBounds, lightgbm, xgboost
from modelyard.bounds.documents import objects

BOOSTERS = {
    ("lightgbm.basic", "Booster"): ("_handle", "JsonNode"),
    ("xgboost.core", "Booster"): ("handle", "BytearrayNode"),
}

Node = dict[str, Any]


def check(schema: Any, read: Callable[[str], bytes]) -> None:
    """OutOfBounds unless every booster in the schema is written as skops writes it, and sound. `read` gives a member.

    skops takes the first node with an id for every later one that bears it (skops, io/_audit.py, get_tree).
    """
    boosters: list[Node] = []
    bearers: dict[Any, list[Node]] = {}
    for node in objects(schema):
        if "__id__" in node and isinstance(node["__id__"], (int, float, str)):
            bearers.setdefault(node["__id__"], []).append(node)
        if _name(node) in BOOSTERS and node.get("__loader__") not in ("TypeNode", "CachedNode"):
            boosters.append(node)
    for node in boosters:
        held = _held(node, bearers)
        if held is None:
            raise OutOfBounds(f"its {node['__module__']} booster is written in an unknown way")
        if node["__module__"] == "lightgbm.basic":
            lightgbm.check(_text(held["content"]).encode("utf-8", "surrogatepass"))
        else:
            xgboost.check_snapshot(read(held["file"]))


def _held(booster: Node, bearers: Mapping[Any, list[Node]]) -> Node | None:
    """The node of what the booster hands to its library; None where another could take its place."""
    state = booster.get("content")
    if booster.get("__loader__") != "ObjectNode" or not _is(state, "DictNode", "dict", bearers):
        return None
    content, types = state.get("content"), state.get("key_types")
    if not isinstance(content, dict) or not _is(types, "ListNode", "list", bearers):
        return None
    if not isinstance(types.get("content"), list) or not all(_is_str(one, bearers) for one in types["content"]):
        return None
    key, loader = BOOSTERS[_name(booster)]
    held = content.get(key)
    others = content.keys() & {"handle", "_handle"} - {key}
    part = ("content", "str") if loader == "JsonNode" else ("file", "bytearray")
    fits = not others and _is(held, loader, part[1], bearers) and isinstance(held.get(part[0]), str)
    return held if fits else None


def _is(node: Any, loader: str, kind: str, bearers: Mapping[Any, list[Node]]) -> TypeGuard[Node]:
    """True for a node of that kind which stands for itself: no other bears its id."""
    if not isinstance(node, dict) or (node.get("__loader__"), *_name(node)) != (loader, "builtins", kind):
        return False
    return type(node.get("__id__")) is int and len(bearers[node["__id__"]]) == 1


def _is_str(node: Any, bearers: Mapping[Any, list[Node]]) -> bool:
    """True for the type `str`, of which all bearers of its id are copies."""
    if not isinstance(node, dict) or type(node.get("__id__")) is not int:
        return False
    told = {(one.get("__loader__"), *_name(one)) for one in bearers[node["__id__"]]}
    return told == {("TypeNode", "builtins", "str")}


def _name(node: Node) -> tuple[str, str]:
    return str(node.get("__module__")), str(node.get("__class__"))


def _text(content: str) -> str:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise OutOfBounds("its LightGBM booster is no text") from error
    if not isinstance(value, str):
        raise OutOfBounds("its LightGBM booster is no text")
    return value
