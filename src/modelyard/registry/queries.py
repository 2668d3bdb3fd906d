"""Filters over versions and models as SQL: names are looked up here, values are bound.

    >>> from modelyard.core.filters import parse
    >>> bound = Bound()
    >>> version_where(parse("stage = 'staging' and number > 2"), bound), bound.values
    ('(v.stage = :f0 AND v.number > :f1)', {'f0': 'staging', 'f1': 2.0})

What a version does not have compares as false: `metrics.auc < 0.5` is false without an auc, and its `not` is true;
`metrics.auc != 0.5` needs an auc that is another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Literal

from modelyard.core.errors import Invalid, nearest
from modelyard.core.filters import Bound, Condition, Field, Filter, Order, clause
from modelyard.core.models import ModelStage
from modelyard.registry import store_entries as entries
from modelyard.registry.checks import canonical_version, sort_key, split_tag, words_of

Kind = Literal["text", "number", "time"]
Compare = Callable[[Bound, Condition], str]
EQUAL = ("=", "!=", "IN", "NOT IN")


@dataclass(frozen=True, slots=True)
class Column:
    """A column that a field means, and how its values are compared."""

    sql: str
    kind: Kind = "text"


@dataclass(frozen=True, slots=True)
class Target:
    """What a filter is over: its columns by field name, its rows' key, and its fields of a kind of their own."""

    what: str
    columns: Mapping[str, Column]
    key: str  # what identifies a row of it
    among: str  # the same in the tables of entries
    only: str  # which rows of those tables are its own
    kinds: Mapping[str, Compare]
    special: Mapping[str, Compare]


def version_where(filter: Filter | None, bound: Bound, text: str = "") -> str:
    """The WHERE clause over `model_versions v` of a filter's tree and of the words of a text, all of which must be there."""
    parts = [clause(filter, partial(_compare, VERSIONS, bound))] + [
        _version_word(bound, word) for word in words_of(text)
    ]
    return " AND ".join(parts)


def model_where(filter: Filter | None, bound: Bound, text: str = "") -> str:
    """The WHERE clause over `registered_models r` of a filter's tree and of the words of a text.

    >>> from modelyard.core.filters import parse
    >>> model_where(parse("owner = 'ana@example.com'"), Bound())
    'r.owner = :f0'
    """
    parts = [clause(filter, partial(_compare, MODELS, bound))] + [_model_word(bound, word) for word in words_of(text)]
    return " AND ".join(parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sorting:
    """One key of an ordering in SQL; `joins` is what it needs in FROM."""

    sql: str
    descending: bool
    joins: str = ""


def version_sorting(orders: list[Order], bound: Bound) -> list[Sorting]:
    """The keys of an ordering of versions, with name and version or number last, so that no two are alike."""
    keys = [key for position, order in enumerate(orders) for key in _version_keys(order, position, bound)]
    by_version = not keys or any(key.sql == "v.sort_key" for key in keys)
    return _whole(keys, ("v.name", "v.sort_key", "v.canonical") if by_version else ("v.name", "v.number"))


def model_sorting(orders: list[Order]) -> list[Sorting]:
    """The keys of an ordering of models, with the name last."""
    keys = [Sorting(sql=_column(MODELS, order.field).sql, descending=order.descending) for order in orders]
    return _whole(keys, ("r.name",))


def behind(keys: list[Sorting], position: list[str | float | None], bound: Bound) -> str:
    """The clause for what comes behind a position in the order of the keys."""
    if len(position) != len(keys) or any(one is None for one in position):
        raise Invalid("The page token is none of this query's. Pass the next_page_token of its last answer.")
    places = [bound.bind(one) for one in position]
    if len({key.descending for key in keys}) == 1:  # one comparison of rows, which an index answers
        sign = "<" if keys[0].descending else ">"
        return f"({', '.join(key.sql for key in keys)}) {sign} ({', '.join(places)})"
    # The first key by itself says no more than the whole does, but in a way that an index can begin at.
    first = f"{keys[0].sql} {'<=' if keys[0].descending else '>='} {places[0]}"
    found, before = [], ""
    for key, place in zip(keys, places, strict=True):
        found.append(f"({before}{key.sql} {'<' if key.descending else '>'} {place})")
        before += f"{key.sql} = {place} AND "
    return f"({first} AND ({' OR '.join(found)}))"


def _whole(keys: list[Sorting], last: tuple[str, ...]) -> list[Sorting]:
    there = {key.sql for key in keys}
    descending = keys[-1].descending if keys else False
    return keys + [Sorting(sql=sql, descending=descending) for sql in last if sql not in there]


def _version_keys(order: Order, position: int, bound: Bound) -> list[Sorting]:
    field = order.field
    if field.kind == "" and field.key == "version":
        return [Sorting(sql="v.sort_key", descending=order.descending)]
    if field.kind not in ("metrics", "metric"):
        return [Sorting(sql=_column(VERSIONS, field).sql, descending=order.descending)]
    name = f"m{position}"
    joins = (
        f" LEFT JOIN model_metrics {name} ON {name}.name = v.name AND {name}.canonical = v.canonical"
        f" AND {name}.key = {bound.bind(field.key)}"
    )
    # Whatever has no such metric comes last, in both directions.
    there = Sorting(sql=f"CASE WHEN {name}.value IS NULL THEN 1 ELSE 0 END", descending=False, joins=joins)
    return [there, Sorting(sql=f"COALESCE({name}.value, 0)", descending=order.descending)]


def _compare(target: Target, bound: Bound, condition: Condition) -> str:
    field = condition.field
    if field.kind in target.kinds:
        return target.kinds[field.kind](bound, condition)
    if field.kind == "" and field.key in target.special:
        return target.special[field.key](bound, condition)
    column = _column(target, field)
    return _by_kind(column.kind)(bound, column.sql, condition)


def _column(target: Target, field: Field) -> Column:
    if field.kind == "" and field.key in target.columns:
        return target.columns[field.key]
    known = [*target.columns, *target.special, *(f"{kind}.KEY" for kind in target.kinds)]
    raise Invalid(f"A {target.what} has no field {str(field)!r:.80}. {nearest(str(field), known)}")


def _by_kind(kind: Kind) -> Callable[[Bound, str, Condition], str]:
    return {"text": _text, "number": _number, "time": _time}[kind]


def _text(bound: Bound, column: str, condition: Condition) -> str:
    if isinstance(condition.value, float):
        raise Invalid(f"{condition.field} is a text. Compare it with one in quotes: {condition.field} = 'text'")
    return bound.compare(column, condition)


def _number(bound: Bound, column: str, condition: Condition) -> str:
    if condition.value is not None and not isinstance(condition.value, float):
        raise Invalid(f"{condition.field} is a number. Compare it with one by = != < <= > >=, without quotes.")
    return bound.compare(column, condition)


def _time(bound: Bound, column: str, condition: Condition) -> str:
    """Times are compared to the millisecond: as ISO 8601 text, in UTC unless it says otherwise, or since 1970."""
    value = condition.value
    if isinstance(value, str) and condition.comparator not in ("LIKE", "ILIKE"):
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            value = ()
        else:
            moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
            value = float(int(moment.timestamp() * 1000))
    if value is not None and not isinstance(value, float):
        raise Invalid(
            f"{condition.field} is a time. Compare it by = != < <= > >= with '2026-01-31T12:00:00' or milliseconds since 1970."
        )
    return bound.compare(f"({column} / 1000)", replace(condition, value=value))


def _versions_number(bound: Bound, condition: Condition) -> str:
    """Versions compare as semantic versions do; a leading v does not matter. LIKE is about the text as written."""
    comparator, value = condition.comparator, condition.value
    if comparator in EQUAL and isinstance(value, (str, tuple)):
        same = canonical_version(value) if isinstance(value, str) else tuple(map(canonical_version, value))
        return bound.compare("v.canonical", replace(condition, value=same))
    if comparator in ("<", "<=", ">", ">=") and isinstance(value, str):
        return bound.compare("v.sort_key", replace(condition, value=sort_key(value)))
    return _text(bound, "v.version", condition)


def _stage(column: str, bound: Bound, condition: Condition) -> str:
    known = [stage.value for stage in ModelStage]
    values = condition.value if isinstance(condition.value, tuple) else (condition.value,)
    for value in values if condition.comparator in EQUAL else ():
        if value not in known:
            raise Invalid(f"There is no stage {value!r}. {nearest(str(value), known)}")
    return _text(bound, column, condition)


def _entry(table: str, target: Callable[[], Target], bound: Bound, condition: Condition) -> str:
    """A comparison with the value that a table of entries has under the field's key."""
    key = bound.bind(condition.field.key)
    inner = f"SELECT {target().among} FROM {table} WHERE {target().only}key = {key}"
    if condition.comparator in ("IS NULL", "IS NOT NULL"):
        return f"{target().key} {'NOT ' if condition.comparator == 'IS NULL' else ''}IN ({inner})"
    return f"{target().key} IN ({inner} AND {_value(table, bound, condition)})"


def _value(table: str, bound: Bound, condition: Condition) -> str:
    value = condition.value
    if table == "model_metrics":
        return _number(bound, "value", condition)
    if table == "model_parameters" and isinstance(value, float):
        return bound.compare("number", condition)
    if isinstance(value, float):
        raise Invalid(f"{condition.field} is a text. Compare it with one in quotes: {condition.field} = 'text'")
    if condition.comparator == "=" and isinstance(value, str):  # the index has the value's first characters
        return f"head = {bound.bind(value[: entries.HEAD])} AND {bound.compare('value', condition)}"
    return bound.compare("value", condition)


def _tag(target: Callable[[], Target], bound: Bound, condition: Condition) -> str:
    """Whether one of the tags, as text, compares so; != and NOT IN: none of them is it."""
    inner = f"SELECT {target().among} FROM model_tags WHERE {target().only}"
    return _one_of(target().key, inner, partial(_tag_text, bound), condition)


def _tag_text(bound: Bound, condition: Condition) -> str:
    value = condition.value
    if condition.comparator == "=" and isinstance(value, str):
        key, text = split_tag(value)
        if text is None:
            return f"key = {bound.bind(key)} AND value IS NULL"
        return f"key = {bound.bind(key)} AND head = {bound.bind(text[: entries.HEAD])} AND value = {bound.bind(text)}"
    return _text(bound, "(CASE WHEN value IS NULL THEN key ELSE key || '=' || value END)", condition)


def _version_alias(bound: Bound, condition: Condition) -> str:
    inner = "SELECT name, canonical FROM model_aliases WHERE "
    return _one_of("(v.name, v.canonical)", inner, partial(_text, bound, "alias"), condition)


def _model_alias(bound: Bound, condition: Condition) -> str:
    return _one_of("r.name", "SELECT name FROM model_aliases WHERE ", partial(_text, bound, "alias"), condition)


def _one_of(key: str, inner: str, compare: Callable[[Condition], str], condition: Condition) -> str:
    opposite: Mapping[str, Literal["=", "IN"]] = {"!=": "=", "NOT IN": "IN"}
    comparator = condition.comparator
    if comparator in ("IS NULL", "IS NOT NULL"):
        return f"{key} {'NOT ' if comparator == 'IS NULL' else ''}IN ({inner}1 = 1)"
    if comparator in opposite:
        return f"{key} NOT IN ({inner}{compare(replace(condition, comparator=opposite[comparator]))})"
    return f"{key} IN ({inner}{compare(condition)})"


def _project(bound: Bound, condition: Condition) -> str:
    return f"v.name IN (SELECT name FROM registered_models WHERE {_text(bound, 'project', condition)})"


def _word(bound: Bound, word: str) -> str:
    """A word that begins so."""
    return f"word >= {bound.bind(word)} AND word < {bound.bind(word + chr(0x10FFFF))}"


def _version_word(bound: Bound, word: str) -> str:
    own, models = _word(bound, word), _word(bound, word)
    return (
        f"((v.name, v.canonical) IN (SELECT name, canonical FROM model_words WHERE {own})"
        f" OR v.name IN (SELECT name FROM model_words WHERE canonical = '' AND {models}))"
    )


def _model_word(bound: Bound, word: str) -> str:
    return f"r.name IN (SELECT name FROM model_words WHERE canonical = '' AND {_word(bound, word)})"


def _versions() -> Target:
    return VERSIONS


def _models() -> Target:
    return MODELS


VERSIONS = Target(
    what="version",
    columns={
        **{
            name: Column(f"v.{name}")
            for name in (
                "name",
                "framework",
                "created_by",
                "trained_by",
                "training_data",
                "code_version",
                "repository",
                "data_digest",
                "lock_digest",
                "run_id",
                "source",
                "digest",
                "description",
                "changelog",
                "parent",
            )
        },
        "commit": Column("v.commit_id"),
        "stage": Column("v.stage"),
        "number": Column("v.number", "number"),
        "size": Column("v.size", "number"),
        "created_at": Column("v.created_at", "time"),
        "updated_at": Column("v.updated_at", "time"),
    },
    key="(v.name, v.canonical)",
    among="name, canonical",
    only="",
    kinds={
        **dict.fromkeys(("metrics", "metric"), partial(_entry, "model_metrics", _versions)),
        **dict.fromkeys(("parameters", "parameter", "params", "param"), partial(_entry, "model_parameters", _versions)),
        **dict.fromkeys(("tags", "tag"), partial(_entry, "model_tags", _versions)),
    },
    special={
        "version": _versions_number,
        "stage": partial(_stage, "v.stage"),
        "alias": _version_alias,
        "tag": partial(_tag, _versions),
        "project": _project,
    },
)

MODELS = Target(
    what="model",
    columns={
        **{name: Column(f"r.{name}") for name in ("name", "owner", "project", "licence", "description")},
        "created_at": Column("r.created_at", "time"),
        "updated_at": Column("r.updated_at", "time"),
    },
    key="r.name",
    among="name",
    only="canonical = '' AND ",
    kinds=dict.fromkeys(("tags", "tag"), partial(_entry, "model_tags", _models)),
    special={"alias": _model_alias, "tag": partial(_tag, _models)},
)
