"""MLflow's filters and orderings: its own dialect is checked here, and told on in ours.

MLflow joins comparisons by AND only, and each search has its own fields and comparators; what it refuses is refused here
too, with its words where its clients look at them.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from modelyard.core.errors import Invalid
from modelyard.core.filters import Condition, Field, Filter, Group, Order, parse, parse_order
from modelyard.server.mlflow.errors import Refused

NUMBERS = (">", ">=", "!=", "=", "<", "<=")
TEXTS = ("!=", "=", "LIKE", "ILIKE")
ENTRIES = (*TEXTS, "IS NULL", "IS NOT NULL")
LISTS = (*TEXTS, "IN", "NOT IN")
KINDS: Mapping[str, str] = {
    **dict.fromkeys(("metric", "metrics"), "metric"),
    **dict.fromkeys(("parameter", "parameters", "param", "params"), "parameter"),
    **dict.fromkeys(("tag", "tags"), "tag"),
    **dict.fromkeys(("", "attribute", "attributes", "attr", "run"), "attribute"),
    **dict.fromkeys(("dataset", "datasets"), "dataset"),
}
ALL_KINDS = ["metric", "parameter", "tag", "attribute", "dataset"]
ALIASES = {
    "created": "start_time",
    "Created": "start_time",
    **dict.fromkeys(("run name", "Run name", "Run Name"), "run_name"),
}
RUN_TEXTS = frozenset({"run_id", "run_name", "status", "user_id", "artifact_uri"})
RUN_NUMBERS = frozenset({"start_time", "end_time"})
RUN_ORDER = RUN_TEXTS | RUN_NUMBERS
EXPERIMENT_TEXTS = frozenset({"name", "experiment_id"})
EXPERIMENT_NUMBERS = frozenset({"creation_time", "last_update_time"})
EXPERIMENT_ORDER = EXPERIMENT_TEXTS | EXPERIMENT_NUMBERS
REGISTRY_KINDS = ("", "attribute", "tag", "tags")
MODEL_KINDS = ["attributes", "metrics", "params", "tags"]
# A quoted text, which stays, or a parameter or tag that is compared with a bare number.
_BARE = re.compile(
    r"""('(?:[^']|'')*'|"(?:[^"]|"")*"(?!\s*[<>=!]))|((?:params|tags)\.(?:`[^`]*`|"[^"]*"|[\w./-]+)\s*(?:!=|=)\s*)([-+]?[\d.]+)\b"""
)
PROMPT = "mlflow.prompt.is_prompt"  # prompts are none of ours, so what asks for models that are none finds all


def runs(text: str) -> str:
    """A filter over runs, once it is seen to be one of MLflow's."""
    for one in _conditions(text, quoted=True):
        _check_run(one)
    return text


def _check_run(one: Condition) -> None:
    kind = KINDS.get(one.field.kind)
    if kind is None:
        raise Refused(f"Invalid entity type '{one.field.kind}'. Valid values are {ALL_KINDS}")
    key = ALIASES.get(one.field.key, one.field.key) if kind == "attribute" else one.field.key
    if kind == "attribute" and key not in RUN_ORDER:
        raise Refused(f"Invalid attribute key '{key}' specified. Valid keys are '{set(RUN_ORDER)}'")
    if kind == "dataset" and key not in ("name", "digest", "context"):
        raise Refused(f"Invalid dataset key '{key}' specified. Valid keys are '{{'name', 'digest', 'context'}}'")
    numeric = kind == "metric" or (kind == "attribute" and key in RUN_NUMBERS)
    _check_value(one, kind, key, numeric=numeric, listed=frozenset({"run_id", "name", "digest", "context"}))
    allowed = NUMBERS if numeric else ENTRIES if kind in ("parameter", "tag") else LISTS
    _check_comparator(one, allowed)


def experiments(text: str) -> str:
    """A filter over experiments, once it is seen to be one of MLflow's."""
    for one in _conditions(text):
        _check_kind(one)
        key = one.field.key
        tag = one.field.kind in ("tag", "tags")
        if not tag and key not in EXPERIMENT_ORDER:
            raise Refused(f"Invalid attribute key '{key}' specified. Valid keys are '{set(EXPERIMENT_ORDER)}'")
        numeric = not tag and key in EXPERIMENT_NUMBERS
        _check_value(one, "tag" if tag else "attribute", key, numeric=numeric, listed=frozenset({"experiment_id"}))
        _check_comparator(one, NUMBERS if numeric else ENTRIES if tag else LISTS)
    return text


def logged_models(text: str) -> str:
    """A filter over logged models, where MLflow also takes a bare number for the text of a parameter or a tag."""
    text = _BARE.sub(lambda found: found[1] or f"{found[2]}'{found[3]}'", text)
    for one in _conditions(text):
        if one.field.kind not in ("", *MODEL_KINDS):
            raise Refused(f"Invalid entity type: '{one.field.kind}'. Expected one of {MODEL_KINDS}.")
    return text


def models(text: str) -> Filter | None:
    """A filter over registered models, as a tree for the registry."""
    return _registry(text, {"name": "name"}, frozenset(), frozenset({"name"}))


def versions(text: str) -> Filter | None:
    """A filter over versions, as a tree for the registry."""
    names = {"name": "name", "version_number": "number", "run_id": "run_id", "source_path": "source"}
    return _registry(text, names, frozenset({"version_number"}), frozenset({"name", "run_id"}))


def _registry(text: str, names: Mapping[str, str], numbers: frozenset[str], listed: frozenset[str]) -> Filter | None:
    parts: list[Filter] = []
    for one in _conditions(text):
        _check_kind(one)
        if one.field.kind in ("tag", "tags"):
            _check_value(one, "tag", one.field.key, numeric=False)
            _check_comparator(one, TEXTS)
            if one.field.key == PROMPT and _asks_for_models(one):
                continue
            parts.append(replace(one, field=Field(kind="tags", key=one.field.key)))
            continue
        key = one.field.key
        if key not in names:
            raise Refused(f"Invalid attribute key '{key}' specified. Valid keys are '{set(names)}'")
        field, value = Field(kind="", key=names[key]), one.value
        if key in numbers:
            value = _whole(one, key)
            _check_comparator(one, NUMBERS)
        else:
            _check_value(one, "attribute", key, numeric=False, listed=listed)
            _check_comparator(one, LISTS)
        parts.append(replace(one, field=field, value=value))
    return None if not parts else parts[0] if len(parts) == 1 else Group(joined="and", parts=tuple(parts))


def _asks_for_models(one: Condition) -> bool:
    return (one.comparator, str(one.value).lower()) in (("=", "false"), ("!=", "true"))


def _whole(one: Condition, key: str) -> float:
    value = one.value
    if isinstance(value, str) and re.fullmatch(r"\s*[-+]?\d+\s*", value):
        value = float(value)
    if not isinstance(value, float) or not value.is_integer():
        raise Refused(f"Invalid value for numeric attribute '{key}': {value!r}")
    return value


def order(text: str, attributes: frozenset[str]) -> str:
    """An ordering of runs or experiments, once it is seen to be one of MLflow's."""
    found = _order(text)
    kind = KINDS.get(found.field.kind)
    if kind is None:
        raise Refused(f"Invalid entity type '{found.field.kind}'. Valid values are {ALL_KINDS}")
    key = ALIASES.get(found.field.key, found.field.key)
    if kind == "dataset" or (kind == "attribute" and key not in attributes):
        raise Refused(f"Invalid attribute key '{key}' specified. Valid keys are '{set(attributes)}'")
    return text


def registry_orders(texts: Sequence[str], names: Mapping[str, str]) -> list[Order]:
    """Orderings of models or versions for the registry."""
    found: dict[str, Order] = {}
    for text in texts:
        asked = _order(text)
        key = asked.field.key
        if asked.field.kind not in ("", "attribute") or key not in names:
            raise Refused(f"Invalid order by key '{key}' specified. Valid keys are '{set(names)}'")
        if names[key] in found:
            raise Refused(f"`order_by` contains duplicate fields: {list(texts)}")
        found[names[key]] = replace(asked, field=Field(kind="", key=names[key]))
    return list(found.values())


def token(text: str) -> str:
    """A page token, refused in MLflow's words where it is none of anybody's."""
    if not text:
        return ""
    try:
        json.loads(base64.b64decode(text.encode("ascii", "strict"), altchars=b"-_", validate=True))
    except (binascii.Error, UnicodeError):
        raise Refused("Invalid page token, could not base64-decode") from None
    except (ValueError, RecursionError):
        raise Refused("Invalid page token, its content is none of ours") from None
    return text


def _order(text: str) -> Order:
    try:
        return parse_order(text)
    except Invalid as error:
        raise Refused(f"Invalid order_by clause '{text[:200]}'. Could not be parsed.") from error


def _conditions(text: str, *, quoted: bool = False) -> list[Condition]:
    """The comparisons of a filter, all of which must hold."""
    if not text.strip():
        return []
    try:
        tree = parse(text)
    except Invalid as error:
        raise Refused(f"Invalid clause(s) in filter string: {text[:500]}. {error}") from error
    parts: tuple[Filter, ...] = (
        tree.parts if isinstance(tree, Group) and tree.joined == "and" else (tree,) if tree else ()
    )
    found = [part for part in parts if isinstance(part, Condition)]
    if len(found) != len(parts) or re.search(r"[()]", _without_lists(text)):
        word = tree.joined.upper() if isinstance(tree, Group) and tree.joined != "and" else "OR"
        raise Refused(
            f"Invalid clause(s) in filter string: {word!r}" if quoted else f"Invalid clause(s) in filter string: {word}"
        )
    return found


def _without_lists(text: str) -> str:
    """The filter without its quoted texts and the lists after IN."""
    bare = re.sub(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|`[^`]*`", "", text)
    return re.sub(r"(?i)\bin\s*\([\s,]*\)", "", bare)


def _check_kind(one: Condition) -> None:
    if one.field.kind not in REGISTRY_KINDS:
        valid = ("attribute", "tag", "tags")
        raise Refused(f"Invalid entity type '{one.field.kind}'. Valid entity types are {valid}")


def _check_value(one: Condition, kind: str, key: str, *, numeric: bool, listed: frozenset[str] = frozenset()) -> None:
    value: Any = one.value
    if value is None:
        return
    if numeric and not isinstance(value, float):
        what = "metric" if kind == "metric" else f"numeric attribute: {key}"
        raise Refused(f"Expected numeric value type for {what}. Found {_shown(value)}")
    if not numeric and isinstance(value, float):
        if kind in ("parameter", "tag"):
            raise Refused(f"Expected a quoted string value for {kind} (e.g. 'my-value'). Got value {value:g}")
        raise Refused(f"Expected a quoted string value for attributes. Got value {value:g}")
    if isinstance(value, tuple) and (kind in ("parameter", "tag") or key not in listed):
        raise Refused(f"Only {sorted(listed)} attributes support comparison with a list of quoted string values.")


def _shown(value: Any) -> str:
    return f"'{value}'" if isinstance(value, str) else str(value)


def _check_comparator(one: Condition, allowed: Sequence[str]) -> None:
    if one.comparator not in allowed:
        raise Refused(f"Invalid comparator '{one.comparator}' not one of '{set(allowed)}'")
