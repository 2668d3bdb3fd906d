"""One call of a client: who calls, on which yard, with which values; and the routes that such calls come by."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as StarletteRoute

from modelyard.access.rules import Identity
from modelyard.access.scopes import Touch
from modelyard.core.errors import Forbidden, YardError
from modelyard.core.pages import Page
from modelyard.server.callers import Callers, declares, permitted
from modelyard.server.mlflow.errors import DENIED, UNKNOWN, Refused, answer
from modelyard.server.mlflow.fields import Field, decoded, values_of
from modelyard.yard import Yard

T = TypeVar("T")
THREADS = 16
POOL = ThreadPoolExecutor(THREADS, "modelyard-mlflow")
_ENCODER = msgspec.json.Encoder()
_JSON = "application/json"
NOTHING: dict[str, Any] = {}


@dataclass(frozen=True, slots=True)
class Call:
    """What a route's function is given: the yard, who calls, and the values of its fields by name."""

    yard: Yard
    caller: Identity
    values: Mapping[str, Any]
    request: Request
    needs: str
    seen: Callable[[Any], Any]  # narrows a page to what the caller may see

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    def get(self, name: str, otherwise: Any = None) -> Any:
        """The value of a field, or another where it was not sent."""
        return self.values.get(name, otherwise)

    def text(self, name: str) -> str:
        """The text of a field, empty where it was not sent, as protobuf has it."""
        return cast("str", self.values.get(name, ""))

    @property
    def who(self) -> str:
        """The person or service who calls."""
        return self.caller.subject

    def also(self, kind: str, name: str) -> None:
        """Refuse, and tell of it, unless the caller has the route's permission for one more thing."""
        try:
            permitted(self.request, self.needs, (kind, name))
        except Forbidden as error:
            raise Refused(str(error), DENIED) from error

    def visible(self, page: Page[T]) -> Page[T]:
        """The page without what belongs to projects that the caller may not see."""
        return cast("Page[T]", self.seen(page))


Handle = Callable[[Call], "Response | dict[str, Any]"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One route of MLflow's: its method and path, what its caller needs, its fields, and what they touch.

    `touches` are (kind, field): the thing that a field names decides the project in which the permission is needed.
    `shows` is the (kind, attribute) by which the items of a page are told apart. Without either, the permission is
    needed for the whole yard, or anywhere if the route says so.
    """

    method: str
    path: str
    needs: str
    handle: Handle
    fields: tuple[Field, ...] = ()
    touches: tuple[tuple[str, str], ...] = ()
    shows: tuple[str, str] | None = None
    anywhere: bool = False
    raw: Callable[[bytes], dict[str, Any]] | None = None  # reads a body that is too large for reading field by field

    def mounted(self) -> StarletteRoute:
        """The route as Starlette serves it."""
        return StarletteRoute(
            self.path, _endpoint(self), methods=[self.method], name=f"mlflow {self.method} {self.path}"
        )


def route(method: str, path: str, needs: str, handle: Handle, *fields: Field, **more: Any) -> Route:
    """A route with its fields in order."""
    return Route(method=method, path=path, needs=needs, handle=handle, fields=fields, **more)


def _endpoint(of: Route) -> Callable[[Request], Any]:
    touch = Touch(arguments=of.touches, shown=of.shows, anywhere=of.anywhere)
    in_body = of.method in ("POST", "PUT", "PATCH", "DELETE")

    @declares(of.needs)
    async def endpoint(request: Request) -> Response:
        body = await request.body() if in_body else b""
        return await asyncio.get_running_loop().run_in_executor(POOL, work, request, body)

    def work(request: Request, body: bytes) -> Response:
        try:
            return answered(request, body)
        except YardError as error:
            return answer(error)

    def answered(request: Request, body: bytes) -> Response:
        callers: Callers = request.app.state.callers
        try:
            values = _read(of, request, body)
        except Refused:
            callers.identify(request)  # strangers are told that they are, and not what is wrong with their request
            raise
        caller, narrow = callers.permitted_to(request, of.needs, touch, values)
        call = Call(
            yard=request.app.state.yard,
            caller=caller,
            values=values,
            request=request,
            needs=of.needs,
            seen=(lambda page: callers.visible(caller, of.needs, touch, page)) if narrow else (lambda page: page),
        )
        try:
            found = of.handle(call)
        except Forbidden as error:
            if not error.told:
                callers.tell_refused(request, caller, of.needs, str(error))
            raise
        return found if isinstance(found, Response) else Response(encoded(found), media_type=_JSON)

    return endpoint


def encoded(value: Any) -> bytes:
    """An answer as JSON."""
    return _ENCODER.encode(value)


def _read(of: Route, request: Request, body: bytes) -> dict[str, Any]:
    in_path = dict(request.path_params)
    if of.raw is not None:
        _check_kind(request, of.method)
        return of.raw(body)
    query = request.query_params
    if of.method == "GET" and query:
        names = {name: field for field in of.fields for name in field.spellings}
        sent = {
            name: query.getlist(name) if names[name].many else value for name, value in query.items() if name in names
        }
    else:
        _check_kind(request, of.method)
        sent = decoded(body)
    return values_of(of.fields, sent | in_path) | in_path


def _check_kind(request: Request, method: str) -> None:
    """JSON says that it is JSON: no form of a web page can send that to another site."""
    if method not in ("POST", "PUT"):
        return
    kind = request.headers.get("content-type", "")
    if not kind:
        raise Refused("Bad Request. Content-Type header is missing.")
    if kind.partition(";")[0].strip() != _JSON:
        raise Refused("Bad Request. Content-Type must be one of ['application/json'].")


@contextmanager
def instead(kind: type[YardError], message: str, code: str = UNKNOWN) -> Iterator[None]:
    """Our error of a kind, told as MLflow tells it."""
    try:
        yield
    except kind as error:
        raise Refused(message, code) from error
