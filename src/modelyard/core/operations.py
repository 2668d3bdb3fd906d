"""The table of operations: one decorator names each; routes, commands, permissions and pages are derived from it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from modelyard.core import plugins

Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
ACTING = ("approver", "requested_by", "created_by", "user", "reviewer", "attested_by", "actor")

F = TypeVar("F", bound=Callable[..., Any])
_TABLE: dict[str, Operation] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One operation of an area: how it is reached over HTTP and what permission it needs."""

    name: str  # area.method, for example deployment.advance
    method: Method
    path: str  # under /api/v1
    needs: str  # permission, for example deployment.write
    function: Callable[..., Any]
    remote: bool = True  # False: it reads or writes files where it runs, so it has a command and no route
    scope: tuple[str, ...] = ()  # `kind:argument` of what it touches, where the argument's own name does not say so

    @property
    def area(self) -> str:
        """The area it belongs to."""
        return self.name.partition(".")[0]

    @property
    def verb(self) -> str:
        """Its method name."""
        return self.name.partition(".")[2]

    @property
    def in_path(self) -> tuple[str, ...]:
        """The arguments that stand in the path."""
        return tuple(re.findall(r"{(\w+)}", self.path))

    @property
    def acting(self) -> tuple[str, ...]:
        """The arguments that name the acting person: filled from the identity, never sent."""
        return tuple(name for name in inspect.signature(self.function).parameters if name in ACTING)


def operation(
    method: Method, path: str, *, needs: str, remote: bool = True, scope: str | tuple[str, ...] = ()
) -> Callable[[F], F]:
    """Mark a service method as an operation. Its area is the package that its module lives in.

    With `remote=False` it is a command only: what it names are files of the machine it runs on. `scope` says what the
    operation touches, which decides the project that its caller needs the permission in: "model:primary_model" where
    the argument `primary_model` names a model, "anywhere" where nothing is touched. The names in
    `modelyard.access.scopes` (model, endpoint, deployment_id, ...) need none. Without either, the permission is needed
    for the whole yard.
    """

    def mark(function: F) -> F:
        name = f"{function.__module__.split('.')[1]}.{function.__name__}"
        if name in _TABLE and _TABLE[name].function.__qualname__ != function.__qualname__:
            raise ValueError(f"operation {name} is defined twice")
        scopes = (scope,) if isinstance(scope, str) else scope
        _TABLE[name] = Operation(
            name=name, method=method, path=path, needs=needs, function=function, remote=remote, scope=scopes
        )
        return function

    return mark


def operations(area: str | None = None) -> tuple[Operation, ...]:
    """Every operation, or one area's, in the order of definition. Imports the area's service module."""
    for name in [area] if area else plugins.AREAS:
        plugins.load("area", name)
    return tuple(entry for entry in _TABLE.values() if area is None or entry.area == area)
