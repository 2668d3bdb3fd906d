"""Which project an operation touches: what its arguments name, and one indexed query for each kind of thing.

A model carries its project, an experiment is placed in one (`AccessManager.place`), and whatever else is named belongs
where its model or experiment does. What is not known belongs to the project `default`.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from modelyard.access import store
from modelyard.access.rules import DEFAULT
from modelyard.core.operations import Operation
from modelyard.core.ports import Connection

ANYWHERE = "anywhere"  # the scope of an operation that touches nothing: a permission in any project is enough
PROJECT = "project"

# argument -> what it names. `area.argument` where the bare name means different things in different areas.
NAMES: Mapping[str, str] = {
    "registry.name": "model",
    "registry.project": PROJECT,
    "registry.refs": "model",
    "model": "model",
    "model_id": "model",
    "model_name": "model",
    "reference": "model",
    "primary_model": "model",
    "shadow_model": "model",
    "control_variant": "model",
    "treatment_variant": "model",
    "endpoint": "endpoint",
    "endpoint_id": "endpoint",
    "control_endpoint": "endpoint",
    "variant_endpoints": "endpoint",
    "serving.experiment_id": "endpoint",
    "deployment_id": "deployment",
    "rollout_id": "deployment",
    "shadow_id": "shadow",
    "test_id": "ab_test",
    "tracking.experiment_id": "experiment",
    "tracking.experiment_ids": "experiment",
    "tracking.run_id": "run",
    "tracking.run_ids": "run",
    "tracking.model_id": "logged_model",
}


def kind_of(area: str, argument: str) -> str | None:
    """What an argument of an operation names; None for one that names nothing with a project.

    >>> kind_of("registry", "name"), kind_of("features", "name")
    ('model', None)
    """
    return NAMES.get(f"{area}.{argument}") or NAMES.get(argument)


@dataclass(frozen=True, slots=True, kw_only=True)
class Touch:
    """What an operation touches: (kind, argument) pairs, and the (kind, field) that tells its answer's items apart."""

    arguments: tuple[tuple[str, str], ...] = ()
    shown: tuple[str, str] | None = None
    anywhere: bool = False


@cache
def touch_of(entry: Operation) -> Touch:
    """What an operation touches, from its scope and the names of its arguments."""
    declared = tuple(_pair(entry, scope) for scope in entry.scope if scope != ANYWHERE)
    taken = {argument for _, argument in declared}
    names = [name for name in inspect.signature(entry.function).parameters if name not in taken]
    derived = tuple((kind, name) for name in names if (kind := kind_of(entry.area, name)))
    hint = typing.get_type_hints(entry.function).get("return")
    return Touch(arguments=declared + derived, shown=_shown(entry, hint), anywhere=ANYWHERE in entry.scope)


def _pair(entry: Operation, scope: str) -> tuple[str, str]:
    kind, _, argument = scope.partition(":")
    if kind not in RESOLVERS or argument not in inspect.signature(entry.function).parameters:
        raise ValueError(f"operation {entry.name}: the scope {scope!r} is not KIND:ARGUMENT")
    return kind, argument


def _shown(entry: Operation, hint: Any) -> tuple[str, str] | None:
    """The field of a list's or a page's items that names a thing with a project. Changes are never half allowed."""
    arguments = typing.get_args(hint)
    item = arguments[0] if arguments else None
    if entry.scope or not entry.needs.endswith(".read") or not dataclasses.is_dataclass(item):
        return None
    fields = (field.name for field in dataclasses.fields(item))
    return next(((kind, name) for name in fields if (kind := kind_of(entry.area, name)) is not None), None)


def named(value: Any) -> list[str]:
    """The names that an argument holds: one, several, or none."""
    if value is None or value == "":
        return []
    if isinstance(value, Mapping) or not isinstance(value, Iterable) or isinstance(value, str):
        return [str(value)]
    return [str(one) for one in value]


def touched(rows: Connection, touch: Touch, values: Mapping[str, Any]) -> set[str]:
    """The projects that a call touches; none if its arguments name nothing."""
    pairs = [(kind, name) for kind, argument in touch.arguments for name in named(values.get(argument))]
    told = {name for kind, name in pairs if kind == PROJECT}
    found = [projects(rows, kind, name, new=told or {DEFAULT}) for kind, name in pairs if kind != PROJECT]
    return told.union(*found)


def projects(rows: Connection, kind: str, name: str, *, new: Iterable[str] = (DEFAULT,)) -> set[str]:
    """The projects that a thing belongs to; `new` where it is not known."""
    return RESOLVERS[kind](rows, name) or set(new)


def _model(rows: Connection, name: str) -> set[str]:
    """A version, a stage or an alias may follow the name."""
    bare = re.split(r"[:@/]", name.removeprefix("models:/"), maxsplit=1)[0]
    row = rows.one("SELECT project FROM registered_models WHERE name = :name", name=bare)
    return set() if row is None else {row["project"]}


def _endpoint(rows: Connection, name: str) -> set[str]:
    """Where the models that it routes to belong, and the model of its own name."""
    own = _model(rows, name)
    row = rows.one("SELECT traffic FROM serving_endpoints WHERE endpoint = :name", name=name)
    if row is None:
        return own
    traffic = json.loads(row["traffic"])
    arms = [*traffic.get("arms", []), *([traffic["shadow"]] if traffic.get("shadow") else [])]
    return own.union(*(projects(rows, "model", arm["model"]) for arm in arms))


def _deployment(rows: Connection, name: str) -> set[str]:
    row = rows.one("SELECT endpoint, model_name FROM deployments WHERE deployment_id = :name", name=name)
    return set() if row is None else _endpoint(rows, row["endpoint"]) | projects(rows, "model", row["model_name"])


def _shadow(rows: Connection, name: str) -> set[str]:
    row = rows.one("SELECT primary_model, shadow_model FROM shadow_deployments WHERE shadow_id = :name", name=name)
    return set() if row is None else set().union(*(projects(rows, "model", model) for model in row.values()))


def _ab_test(rows: Connection, name: str) -> set[str]:
    row = rows.one("SELECT plan FROM ab_tests WHERE test_id = :name", name=name)
    variants = [] if row is None else json.loads(row["plan"])["variants"]
    return set().union(*(projects(rows, "model", variant["model"]) for variant in variants))


def _experiment(rows: Connection, name: str) -> set[str]:
    placed = store.project_of(rows, "experiment", name)
    return set() if placed is None else {placed}


def _run(rows: Connection, name: str) -> set[str]:
    row = rows.one("SELECT experiment_id FROM runs WHERE run_id = :name", name=name)
    return set() if row is None else _experiment(rows, str(row["experiment_id"]))


def _logged_model(rows: Connection, name: str) -> set[str]:
    row = rows.one("SELECT experiment_id FROM logged_models WHERE model_id = :name", name=name)
    return set() if row is None else _experiment(rows, str(row["experiment_id"]))


# kind -> the projects of a thing by its name; none for one that is not known
RESOLVERS: Mapping[str, Callable[[Connection, str], set[str]]] = {
    "model": _model,
    "endpoint": _endpoint,
    "deployment": _deployment,
    "shadow": _shadow,
    "ab_test": _ab_test,
    "experiment": _experiment,
    "run": _run,
    "logged_model": _logged_model,
    PROJECT: lambda _, name: {name},
}
