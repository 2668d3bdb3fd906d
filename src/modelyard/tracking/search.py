"""Searches of experiments, runs and logged models: filters and orders as SQL, and pages that begin where the last ended."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from modelyard.core.canonical import dumps
from modelyard.core.errors import Invalid
from modelyard.core.filters import Bound, Condition, Field, Filter, clause, conditions, parse, parse_order
from modelyard.core.pages import Page, page_token, read_token
from modelyard.core.ports import Connection, Row
from modelyard.tracking.rules import chosen, experiment_number, one_of
from modelyard.tracking.values import DatasetFilter, ModelOrder, View

NUMBER_COMPARATORS = ("=", "!=", "<", "<=", ">", ">=")
TEXT_COMPARATORS = ("=", "!=", "LIKE", "ILIKE", "IN", "NOT IN", "IS NULL", "IS NOT NULL")
MOST = 50_000  # items a page, as MLflow's largest
MOST_CONDITIONS = 50  # PostgreSQL plans so many subqueries in half a second, and four times as many in minutes
MOST_KEYS = 10  # and joins 64 tables
MOST_EXPERIMENTS = 10_000  # and takes 32,766 parameters

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Column:
    """A column that is searched: whether it holds numbers, and whether it may be empty."""

    sql: str
    number: bool = False
    empty: bool = False


@dataclass(frozen=True, slots=True)
class Key:
    """One expression that an answer is ordered by; never NULL, so that a page can begin behind any row."""

    sql: str
    descending: bool = False
    number: bool = True


@dataclass(frozen=True, slots=True)
class Entries:
    """A table of keys and values, and which of its columns names the owner by which of the owner's."""

    table: str
    owner: str
    number: str


KINDS = {
    "": "attributes",
    "attribute": "attributes",
    "attr": "attributes",
    "run": "attributes",
    "metric": "metrics",
    "param": "params",
    "parameter": "params",
    "parameters": "params",
    "tag": "tags",
    "dataset": "datasets",
}
RUN_COLUMNS = {
    "run_id": Column("r.run_id"),
    "run_name": Column("r.name"),
    "user_id": Column("r.user_id"),
    "status": Column("r.status"),
    "artifact_uri": Column("r.artifact_uri"),
    "start_time": Column("r.start_time", number=True),
    "end_time": Column("r.end_time", number=True, empty=True),
}
EXPERIMENT_COLUMNS = {
    "name": Column("e.name"),
    "experiment_id": Column("e.experiment_id", number=True),
    "creation_time": Column("e.creation_time", number=True),
    "last_update_time": Column("e.last_update_time", number=True),
}
MODEL_COLUMNS = {
    "name": Column("m.name"),
    "model_id": Column("m.model_id"),
    "model_type": Column("m.model_type", empty=True),
    "status": Column("m.status"),
    "source_run_id": Column("m.source_run_id", empty=True),
    "experiment_id": Column("m.experiment_id", number=True),
    "artifact_location": Column("m.artifact_location"),
    "creation_timestamp": Column("m.creation_time", number=True),
    "last_updated_timestamp": Column("m.last_update_time", number=True),
}
ALIASES = {
    "created": "start_time",
    "Created": "start_time",
    "run name": "run_name",
    "Run name": "run_name",
    "Run Name": "run_name",
}
MODEL_ALIASES = {
    "creation_time": "creation_timestamp",
    "creation_timestamp_ms": "creation_timestamp",
    "last_update_time": "last_updated_timestamp",
    "last_updated_timestamp_ms": "last_updated_timestamp",
}
EXPERIMENT_TAGS = Entries("experiment_tags", "experiment_id", "e.experiment_id")


@dataclass(slots=True)
class Query:
    """A statement that is being put together, and what tells it apart from others."""

    select: str
    told: str  # what a page token belongs to
    bound: Bound = field(default_factory=Bound)
    joins: list[str] = field(default_factory=list)
    conditions: list[str] = field(default_factory=list)
    keys: list[Key] = field(default_factory=list)

    def among(self, column: str, values: Sequence[Any]) -> None:
        """Only rows whose column has one of the values."""
        places = ", ".join(self.bound.bind(value) for value in values)
        self.conditions.append(f"{column} IN ({places})" if values else "1 = 0")

    def page(self, rows: Connection, limit: int, token: str, made: Callable[[list[Row]], list[T]]) -> Page[T]:
        """One page of the answer."""
        if type(limit) is not int or not 1 <= limit <= MOST:
            raise Invalid(f"limit is {limit!r}. Give a whole number from 1 to {MOST:,}.")
        if token:
            self.conditions.append(self._behind(read_token(token, self.told)))
        keys = "".join(f", {key.sql} AS k{index}" for index, key in enumerate(self.keys))
        order = ", ".join(f"k{index}{' DESC' if key.descending else ''}" for index, key in enumerate(self.keys))
        sql = (
            f"{self.select.format(keys=keys)} {' '.join(self.joins)} WHERE {' AND '.join(self.conditions)} "
            f"ORDER BY {order} LIMIT {self.bound.bind(limit + 1)}"
        )
        found = rows.all(sql, **self.bound.values)
        more = len(found) > limit
        del found[limit:]
        following = page_token([str(found[-1][f"k{i}"]) for i in range(len(self.keys))], self.told) if more else ""
        return Page(items=tuple(made(found)), next_page_token=following)

    def _behind(self, position: Sequence[Any]) -> str:
        """The condition that a row comes after the position: greater in the first key that differs."""
        try:
            values = [_read(str(text), key) for text, key in zip(position, self.keys, strict=True)]
        except ValueError as error:
            raise Invalid("The page token is damaged. Pass the next_page_token of the last answer.") from error
        beyond: list[str] = []  # flat, since SQLite's parser takes parentheses some thirty deep
        equal: list[str] = []
        for key, value in zip(self.keys, values, strict=True):
            place, sign = self.bound.bind(value), "<" if key.descending else ">"
            beyond.append(" AND ".join((*equal, f"{key.sql} {sign} {place}")))
            equal.append(f"{key.sql} = {place}")
        return f"({' OR '.join(beyond)})"


def _read(text: str, key: Key) -> str | int | float:
    if not key.number:
        return text
    return int(text) if text.lstrip("-").isdigit() else float(text)


def runs(
    rows: Connection,
    made: Callable[[list[Row]], list[T]],
    *,
    experiment_ids: Sequence[str],
    filter: str,
    order_by: Sequence[str],
    view: View,
    limit: int,
    token: str,
) -> Page[T]:
    """A page of runs; the newest first unless told otherwise."""
    told = dumps(["runs", list(experiment_ids), filter, list(order_by), view])
    query = Query("SELECT r.*{keys} FROM runs r", told)
    query.among("r.experiment_id", _numbers(experiment_ids))
    query.among("r.lifecycle_stage", stages(view))
    query.conditions.append(clause(_tree(filter), lambda one: _run_condition(query.bound, one)))
    seen = set()
    for text in _keys(order_by):
        order = parse_order(text)
        about = _kind(order.field, RUN_COLUMNS, ALIASES, ("attributes", "metrics", "params", "tags"))
        if about in seen:
            raise Invalid(f"order_by names {about} twice. Leave one of them out.")
        seen.add(about)
        query.keys += _run_keys(query, about, descending=order.descending)
    if Field(kind="attributes", key="start_time") not in seen:
        query.keys.append(Key("r.start_time", descending=True))
    query.keys.append(Key("r.run_id", number=False))
    return query.page(rows, limit, token, made)


def experiments(
    rows: Connection,
    made: Callable[[list[Row]], list[T]],
    *,
    filter: str,
    order_by: Sequence[str],
    view: View,
    limit: int,
    token: str,
) -> Page[T]:
    """A page of experiments; the newest first unless told otherwise."""
    query = Query("SELECT e.*{keys} FROM experiments e", dumps(["experiments", filter, list(order_by), view]))
    query.among("e.lifecycle_stage", stages(view))
    query.conditions.append(clause(_tree(filter), lambda one: _experiment_condition(query.bound, one)))
    for text in _keys(order_by) or ("creation_time DESC", "experiment_id ASC"):
        order = parse_order(text)
        about = _kind(order.field, EXPERIMENT_COLUMNS, {}, ("attributes",))
        query.keys.append(_column_keys(EXPERIMENT_COLUMNS[about.key], descending=order.descending)[-1])
    query.keys.append(Key("e.experiment_id", descending=True))
    return query.page(rows, limit, token, made)


def models(
    rows: Connection,
    made: Callable[[list[Row]], list[T]],
    *,
    experiment_ids: Sequence[str],
    filter: str,
    datasets: Sequence[DatasetFilter],
    order_by: Sequence[ModelOrder],
    limit: int,
    token: str,
) -> Page[T]:
    """A page of logged models that are not deleted; the newest first unless told otherwise."""
    told = dumps(["models", list(experiment_ids), filter, list(datasets), list(order_by)])
    query = Query("SELECT m.*{keys} FROM logged_models m", told)
    query.among("m.experiment_id", _numbers(experiment_ids))
    query.conditions.append("m.lifecycle_stage = 'active'")
    tree = _tree(filter)
    asked = {"metrics": False}

    def one(condition: Condition) -> str:
        asked["metrics"] |= KINDS.get(condition.field.kind, condition.field.kind) == "metrics"
        return _model_condition(query.bound, condition, datasets)

    query.conditions.append(clause(tree, one))
    if datasets and not asked["metrics"]:
        on = _on_datasets(query.bound, datasets)
        query.conditions.append(f"EXISTS (SELECT 1 FROM logged_model_metrics x WHERE x.model = m.number{on})")
    seen = set()
    for order in _keys(order_by):
        about = _kind(parse_order(order.field).field, MODEL_COLUMNS, MODEL_ALIASES, ("attributes", "metrics"))
        seen.add(about.key if about.kind == "attributes" else "")
        query.keys += _model_keys(query, about, order)
    if "creation_timestamp" not in seen:
        query.keys.append(Key("m.creation_time", descending=True))
    if "model_id" not in seen:
        query.keys.append(Key("m.model_id", number=False))
    return query.page(rows, limit, token, made)


def _tree(filter: str) -> Filter | None:
    """The filter's tree, if a database can take it."""
    tree = parse(filter)
    if sum(1 for _ in conditions(tree)) > MOST_CONDITIONS:
        raise Invalid(f"The filter has more than {MOST_CONDITIONS} comparisons. Use IN (...), or ask in parts.")
    return tree


def _keys(order_by: Sequence[T]) -> Sequence[T]:
    if len(order_by) > MOST_KEYS:
        raise Invalid(f"order_by has {len(order_by)} keys; at most {MOST_KEYS} are taken.")
    return order_by


def _numbers(experiment_ids: Sequence[str]) -> list[int]:
    if isinstance(experiment_ids, str) or len(experiment_ids) > MOST_EXPERIMENTS:
        raise Invalid(f"experiment_ids is no list of at most {MOST_EXPERIMENTS:,} ids. Ask in parts.")
    return [experiment_number(one) for one in experiment_ids]


def stages(view: View) -> list[str]:
    """The life-cycle stages that a view shows."""
    view = chosen(View, view)
    return ["active", "deleted"] if view is View.ALL else [view.value]


def _kind(field: Field, columns: Mapping[str, Column], aliases: Mapping[str, str], kinds: Sequence[str]) -> Field:
    """What a name is about: its kind in the plural, and its key by its own name."""
    kind = one_of(KINDS.get(field.kind, field.kind), kinds, "kind of field")
    key = field.key
    if kind == "attributes":
        key = one_of(aliases.get(key, key), list(columns), "attribute")
    return Field(kind=kind, key=key)


def _run_condition(bound: Bound, condition: Condition) -> str:
    kinds = ("attributes", "metrics", "params", "tags", "datasets")
    about = _kind(condition.field, RUN_COLUMNS, ALIASES, kinds)
    if about.kind == "attributes":
        return _compared(bound, RUN_COLUMNS[about.key], condition)
    if about.kind == "datasets":
        return _dataset_condition(bound, about.key, condition)
    if about.kind == "metrics":
        return _metric_condition(bound, about.key, condition)
    return _entry_condition(bound, Entries(f"run_{about.kind}", "run", "r.number"), about.key, condition)


def _metric_condition(bound: Bound, key: str, condition: Condition) -> str:
    """Runs by the latest value of a metric, through the index on it. What is not a number differs from every number."""
    if condition.comparator in ("IS NULL", "IS NOT NULL"):
        return _entry_condition(bound, Entries("run_latest_metrics", "run", "r.number"), key, condition)
    holds = _number_holds(bound, "x", condition)
    return f"r.number IN (SELECT x.run FROM run_latest_metrics x WHERE x.key = {bound.bind(key)} AND {holds})"


def _number_holds(bound: Bound, table: str, condition: Condition) -> str:
    compared = _compared(bound, Column(f"{table}.value", number=True), condition)
    if condition.comparator == "!=":
        return f"({compared} OR {table}.is_nan = 1)"
    return f"{compared} AND {table}.is_nan = 0"


def _entry_condition(bound: Bound, entries: Entries, key: str, condition: Condition) -> str:
    """Things that have a parameter or tag whose text compares so; IS NULL holds for those that have none."""
    has = f"SELECT 1 FROM {entries.table} x WHERE x.{entries.owner} = {entries.number} AND x.key = {bound.bind(key)}"
    if condition.comparator in ("IS NULL", "IS NOT NULL"):
        return f"{'NOT ' if condition.comparator == 'IS NULL' else ''}EXISTS ({has})"
    return f"EXISTS ({has} AND {_compared(bound, Column('x.value'), condition)})"


def _dataset_condition(bound: Bound, key: str, condition: Condition) -> str:
    column = {"name": "d.name", "digest": "d.digest", "context": "i.context"}[
        one_of(key, ("name", "digest", "context"), "field of datasets")
    ]
    return (
        "EXISTS (SELECT 1 FROM run_inputs i JOIN run_datasets d ON d.number = i.dataset WHERE i.run = r.number AND "
        f"{_compared(bound, Column(column), condition)})"
    )


def _experiment_condition(bound: Bound, condition: Condition) -> str:
    about = _kind(condition.field, EXPERIMENT_COLUMNS, {}, ("attributes", "tags"))
    if about.kind == "tags":
        return _entry_condition(bound, EXPERIMENT_TAGS, about.key, condition)
    if about.key == "experiment_id":
        return _by_experiment(bound, "e.experiment_id", condition)
    return _compared(bound, EXPERIMENT_COLUMNS[about.key], condition)


def _by_experiment(bound: Bound, column: str, condition: Condition) -> str:
    """Ids are numbers, written as text or as numbers."""
    value = condition.value
    if condition.comparator not in ("=", "!=", "IN", "NOT IN"):
        raise Invalid(f"experiment_id cannot be compared by {condition.comparator}. Use = != IN or NOT IN.")
    values = [value] if isinstance(value, (str, float)) else list(value or ())
    texts = [str(int(one)) if isinstance(one, float) and one.is_integer() else str(one) for one in values]
    numbers = [bound.bind(experiment_number(text)) for text in texts]
    negated = "NOT " if condition.comparator in ("!=", "NOT IN") else ""
    return f"{column} {negated}IN ({', '.join(numbers)})"


def _model_condition(bound: Bound, condition: Condition, datasets: Sequence[DatasetFilter]) -> str:
    about = _kind(condition.field, MODEL_COLUMNS, MODEL_ALIASES, ("attributes", "metrics", "params", "tags"))
    if about.kind == "attributes":
        if about.key == "experiment_id":
            return _by_experiment(bound, "m.experiment_id", condition)
        return _compared(bound, MODEL_COLUMNS[about.key], condition)
    if about.kind == "metrics":
        has = f"SELECT 1 FROM logged_model_metrics x WHERE x.model = m.number AND x.key = {bound.bind(about.key)}"
        has += _on_datasets(bound, datasets)
        if condition.comparator in ("IS NULL", "IS NOT NULL"):
            return f"{'NOT ' if condition.comparator == 'IS NULL' else ''}EXISTS ({has})"
        return f"EXISTS ({has} AND {_number_holds(bound, 'x', condition)})"
    return _entry_condition(bound, Entries(f"logged_model_{about.kind}", "model", "m.number"), about.key, condition)


def _on_datasets(bound: Bound, datasets: Sequence[DatasetFilter]) -> str:
    """That a metric x was measured on one of the datasets; nothing where none are told."""
    each = []
    for dataset in datasets:
        named = f"x.dataset_name = {bound.bind(dataset.name)}"
        each.append(f"({named} AND x.dataset_digest = {bound.bind(dataset.digest)})" if dataset.digest else named)
    return f" AND ({' OR '.join(each)})" if each else ""


def _compared(bound: Bound, column: Column, condition: Condition) -> str:
    """The comparison of a column, if it makes sense for what it holds."""
    told = condition.comparator
    allowed: tuple[str, ...] = NUMBER_COMPARATORS if column.number else TEXT_COMPARATORS
    if column.number and column.empty:
        allowed += ("IS NULL", "IS NOT NULL")
    if told not in allowed:
        raise Invalid(f"{condition.field} cannot be compared by {told}. Use one of {' '.join(allowed)}.")
    value = condition.value
    if column.number and isinstance(value, str):
        raise Invalid(f"{condition.field} holds numbers; {value!r:.100} is a text. Leave the quotes out.")
    if not column.number and isinstance(value, float):
        raise Invalid(f"{condition.field} holds texts; {value:g} is a number. Write it in quotes.")
    return bound.compare(column.sql, condition)


def _run_keys(query: Query, about: Field, *, descending: bool) -> list[Key]:
    if about.kind == "attributes":
        return _column_keys(RUN_COLUMNS[about.key], descending=descending)
    table = {"metrics": "run_latest_metrics", "params": "run_params", "tags": "run_tags"}[about.kind]
    alias = f"o{len(query.joins)}"
    query.joins.append(
        f"LEFT JOIN {table} {alias} ON {alias}.run = r.number AND {alias}.key = {query.bound.bind(about.key)}"
    )
    if about.kind == "metrics":
        return _measured_keys(alias, descending=descending)
    return _column_keys(Column(f"{alias}.value", empty=True), descending=descending)


def _measured_keys(alias: str, *, descending: bool) -> list[Key]:
    """Numbers, then what is not a number, then what was not measured, whichever way the numbers go."""
    where = f"CASE WHEN {alias}.is_nan = 1 THEN 1 WHEN {alias}.value IS NULL THEN 2 ELSE 0 END"
    return [Key(where), Key(f"COALESCE({alias}.value, 0.0)", descending=descending)]


def _column_keys(column: Column, *, descending: bool) -> list[Key]:
    if not column.empty:
        return [Key(column.sql, descending=descending, number=column.number)]
    nothing = "0" if column.number else "''"
    return [
        Key(f"CASE WHEN {column.sql} IS NULL THEN 1 ELSE 0 END"),
        Key(f"COALESCE({column.sql}, {nothing})", descending=descending, number=column.number),
    ]


def _model_keys(query: Query, about: Field, order: ModelOrder) -> list[Key]:
    if about.kind == "attributes":
        return _column_keys(MODEL_COLUMNS[about.key], descending=order.descending)
    alias = f"o{len(query.joins)}"
    on = _on_datasets(query.bound, [order.dataset] if order.dataset else [])
    query.joins.append(  # the latest by (time, step), and of several runs the first by its id
        f"LEFT JOIN (SELECT x.model, x.value, x.is_nan, ROW_NUMBER() OVER (PARTITION BY x.model "
        f"ORDER BY x.timestamp DESC, x.step DESC, x.run_id) AS place FROM logged_model_metrics x "
        f"WHERE x.key = {query.bound.bind(about.key)}{on}) {alias} ON {alias}.model = m.number AND {alias}.place = 1"
    )
    return _measured_keys(alias, descending=order.descending)
