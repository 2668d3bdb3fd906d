"""The application: one route an operation, one error envelope, and no route without a declared need."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import Receive, Scope, Send

from modelyard.core.errors import Damaged, YardError
from modelyard.core.operations import operations
from modelyard.server.callers import PUBLIC, SIGNED_IN, Callers, TooMany, permitted
from modelyard.server.calls import BadUpload, encoded, endpoint_of
from modelyard.server.downloads import Downloads
from modelyard.server.fixed import FIXED
from modelyard.server.guard import Guard
from modelyard.server.login import Login
from modelyard.server.mlflow import routes as mlflow
from modelyard.server.routing import Branches
from modelyard.server.uploads import Uploads
from modelyard.yard import Yard

if TYPE_CHECKING:
    from modelyard.access.oidc import Issuer

__all__ = ["LOOPBACK", "App", "create_app", "permitted"]

LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]", "testserver"})
_PERMISSION = re.compile(r"[a-z_]+\.[a-z_]+\Z")


class App:
    """The control plane as an ASGI application: the routes behind their guard."""

    def __init__(self, routes: Starlette, guard: Guard) -> None:
        self.routes, self._guard = routes, guard

    @property
    def state(self) -> Any:
        """What the routes share: yard, callers, uploads, login."""
        return self.routes.state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        await self._guard(scope, receive, send)


def create_app(
    yard: Yard,
    *,
    local_user: str = "",
    hosts: frozenset[str] = LOOPBACK,
    issuer: Issuer | None = None,
    more: Sequence[BaseRoute] = (),
) -> App:
    """The control plane of a yard.

    Until somebody can sign in, callers on this machine act as `local_user`; afterwards every request needs a token.
    `hosts` are the names the server answers to. `issuer` is an OpenID Connect issuer whose tokens are let in. `more` are
    routes beside the operations; their endpoints are marked by `callers.declares`.
    """
    own = [  # endpoint_of raises for a scope that names no argument
        Route("/api/v1" + entry.path, endpoint_of(entry), methods=[entry.method], name=entry.name)
        for entry in operations()
        if entry.remote
    ]
    routes: list[BaseRoute] = [*FIXED, Branches(own), *mlflow.routes(), *more]
    check_declared(routes)
    app = Starlette(routes=routes, exception_handlers=_HANDLERS)
    app.router.redirect_slashes = False
    app.state.yard = yard
    app.state.callers = Callers(yard.store, local_user=local_user, issuer=issuer)
    app.state.login = Login(yard.store)
    app.state.downloads = Downloads(yard.store.folder / "cache" / "downloads")
    app.state.uploads = Uploads(yard.store.folder / "uploads")
    return App(app, Guard(app, hosts, lambda: yard.store.clock.now().timestamp()))


def check_declared(routes: Iterable[BaseRoute], before: str = "") -> None:
    """Raise for the first route that does not say what its caller needs: a server with an open door does not start."""
    for route in routes:
        place = before + getattr(route, "path", "")
        inner = getattr(route, "routes", None)
        if inner and isinstance(route, Mount | Branches):
            check_declared(inner, place)
            continue
        needs = _declared(getattr(route, "endpoint", None) or getattr(route, "app", None))
        if needs not in (PUBLIC, SIGNED_IN) and not (isinstance(needs, str) and _PERMISSION.match(needs)):
            raise YardError(
                f"The route {place or route!r} does not say what its caller needs, so the server does not start. "
                "Mark its endpoint: @declares('registry.read')"
            )


def _declared(endpoint: Any) -> Any:
    """What the endpoint is marked with, also where it is wrapped in a partial."""
    while isinstance(endpoint, partial):
        endpoint = endpoint.func
    return getattr(endpoint, "needs", None)


def told(_: Request, error: Exception) -> Response:
    """The envelope of an error that was raised on purpose."""
    assert isinstance(error, YardError)
    code = Damaged.__name__ if isinstance(error, BadUpload) else type(error).__name__
    headers = {}
    if error.status == 401:
        code, headers = "Forbidden", {"WWW-Authenticate": "Bearer"}
    if isinstance(error, TooMany):
        headers = {"Retry-After": str(max(1, round(error.wait)))}
    return envelope(error.status, code, str(error), headers=headers)


def _http(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return envelope(error.status_code, "HTTPError", str(error.detail), headers=error.headers)


def _gone(_: Request, __: Exception) -> Response:
    return envelope(400, "Invalid", "The body did not come whole. Send it again.")


def _unforeseen(_: Request, error: Exception) -> Response:  # what it was is raised again and logged
    return envelope(500, type(error).__name__, "The server failed at this. Its log has the reason.")


def envelope(status: int, code: str, message: str, *, headers: Mapping[str, str] | None = None) -> Response:
    """The one form of every error."""
    body = encoded({"error": {"code": code, "message": message}})
    return Response(body, status, dict(headers or {}), media_type="application/json")


_HANDLERS: dict[Any, Any] = {
    YardError: told,
    HTTPException: _http,
    ClientDisconnect: _gone,
    Exception: _unforeseen,
}
