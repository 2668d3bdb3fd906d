"""Routes by what follows /api/v1: a request is compared with the few of its area, and not with all of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from starlette.routing import BaseRoute, Match, NoMatchFound, Route
from starlette.types import Receive, Scope, Send

_FOUND = "modelyard.route"


class Branches(BaseRoute):
    """Many routes as one. Literal paths go before those with parameters: /features/online is no feature named online."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self.routes = sorted(routes, key=lambda route: _order(route.path))
        self._branches: dict[str, list[Route]] = {}
        for route in self.routes:
            self._branches.setdefault(_branch(route.path), []).append(route)

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """The first route of the path and method; failing that, one of the path, which then answers 405."""
        best: tuple[Match, Scope] = (Match.NONE, {})
        if scope["type"] != "http":
            return best
        for route in self._branches.get(_branch(scope["path"]), ()):
            match, inner = route.matches(scope)
            if match is Match.FULL:
                return match, {**inner, _FOUND: route}
            if match is Match.PARTIAL and best[0] is Match.NONE:
                best = match, {**inner, _FOUND: route}
        return best

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the route that was found answer."""
        await scope[_FOUND].handle(scope, receive, send)

    def url_path_for(self, name: str, /, **path_params: Any) -> Any:
        """No path is made from names here."""
        raise NoMatchFound(name, path_params)


def _branch(path: str) -> str:
    """The third part of a path: what follows /api/v1."""
    return path.split("/", 4)[3] if path.count("/") > 2 else ""


def _order(path: str) -> tuple[int, ...]:
    return tuple(1 if "{" in part else 0 for part in path.split("/"))
