"""Operations as routes: what was sent is decoded by types that are compiled once, called in a thread, and encoded."""

from __future__ import annotations

import asyncio
import inspect
import json
import types
import typing
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import msgspec
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from modelyard.access.rules import Identity
from modelyard.access.scopes import touch_of
from modelyard.core.canonical import plain
from modelyard.core.errors import Damaged, Forbidden, Invalid, YardError
from modelyard.core.operations import Operation
from modelyard.server.callers import Callers
from modelyard.server.downloads import Downloads
from modelyard.server.uploads import Uploads

SUFFIX = "What the file's name ends with, which decides its form: json, html, csv, parquet."
_STRICT = ConfigDict(extra="forbid", protected_namespaces=())
_JSON = "application/json"


class BadUpload(Damaged):
    """What the caller sent is damaged: that is the caller's to mend, and no fault of the server."""

    status = Invalid.status


@dataclass(frozen=True)
class Arguments:
    """How an operation's arguments travel: in the path, as a query or a body, as uploads, or not at all."""

    entry: Operation

    @cached_property
    def hints(self) -> dict[str, Any]:
        """The arguments' types."""
        return typing.get_type_hints(self.entry.function, include_extras=False)

    @cached_property
    def own(self) -> tuple[inspect.Parameter, ...]:
        """What the caller may send: everything but who is acting and where a file is written."""
        left_out = {"self", "output_path", *self.entry.acting}
        parameters = inspect.signature(self.entry.function).parameters.values()
        return tuple(p for p in parameters if p.name not in left_out)

    @cached_property
    def files(self) -> frozenset[str]:
        """The arguments that an upload stands for."""
        return frozenset(p.name for p in self.own if _is_path(self.hints.get(p.name)))

    @cached_property
    def acting(self) -> tuple[str, ...]:
        """The arguments that the caller's name fills."""
        return self.entry.acting

    @cached_property
    def downloads(self) -> bool:
        """Whether the operation writes a file, which is what it answers with."""
        return "output_path" in inspect.signature(self.entry.function).parameters

    @cached_property
    def asks_suffix(self) -> bool:
        """Whether the caller says what the file's name ends with."""
        return self.downloads and all(p.name != "format" for p in self.own)

    @cached_property
    def path(self) -> type[BaseModel]:
        """What stands in the path."""
        return _model(self.entry, "Path", {name: (self.hints.get(name, str), ...) for name in self.entry.in_path})

    @cached_property
    def query(self) -> type[BaseModel]:
        """What is asked for behind the question mark: everything for reads, how a file ends for the others."""
        fields = self._fields if self.entry.method == "GET" else {}
        if self.asks_suffix:
            fields = {**fields, "suffix": (str, Field("json", pattern="^[a-z]{2,8}$", description=SUFFIX))}
        return _model(self.entry, "Query", fields)

    @cached_property
    def body(self) -> type[BaseModel] | None:
        """What is sent as JSON."""
        return _model(self.entry, "Body", self._fields) if self.entry.method != "GET" and self._fields else None

    @property
    def _fields(self) -> dict[str, Any]:
        sent = [p for p in self.own if p.name not in self.entry.in_path]
        return {p.name: (self._sendable(p.name), ... if p.default is p.empty else p.default) for p in sent}

    def _sendable(self, name: str) -> Any:
        """The type a caller may send: an upload's id stands for a file."""
        hint = self.hints.get(name, Any)
        if name not in self.files:
            return hint
        return str | None if type(None) in typing.get_args(hint) else str

    def decoded(self, request: Request, body: bytes) -> dict[str, Any]:
        """The arguments that a request sends; Invalid names each wrong one."""
        try:
            values = _values(self.path.model_validate(request.path_params))
            values |= _values(self.query.model_validate(self._asked(request)))
            if self.body is not None:
                _check_json(request)
                values |= _values(self.body.model_validate_json(body or b""))
        except ValidationError as error:
            raise Invalid(_faults(error)) from error
        return values

    def _asked(self, request: Request) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in request.query_params.multi_items():
            if name in self._several:
                found.setdefault(name, []).append(value)
            else:
                found[name] = value
        return found

    @cached_property
    def _several(self) -> frozenset[str]:
        """The arguments of a query that may be given more than once."""
        return frozenset(name for name, (hint, _) in self._fields.items() if _is_list(hint))


def endpoint_of(entry: Operation) -> Callable[[Request], Any]:
    """The route's endpoint. Its types are compiled when it is called first, so that a server starts at once."""
    arguments, touch = Arguments(entry), touch_of(entry)

    async def endpoint(request: Request) -> Response:
        body = await request.body() if entry.method != "GET" else b""
        return await run_in_threadpool(answer, request, body)

    def answer(request: Request, body: bytes) -> Response:
        callers: Callers = request.app.state.callers
        try:
            values = arguments.decoded(request, body)
        except Invalid:
            callers.identify(request)  # strangers are told that they are, and not what is wrong with their request
            raise
        caller, narrow = callers.permitted_to(request, entry.needs, touch, values)
        callers.check_handed_out(request, caller, entry, values)
        try:
            found = _called(request, arguments, values, caller)
        except Forbidden as error:
            if not error.told:
                callers.tell_refused(request, caller, entry.needs, str(error))
            raise
        if isinstance(found, Response):
            return found
        if narrow:
            found = callers.visible(caller, entry.needs, touch, found)
        if entry.area == "access":
            callers.identities.forget()
        return Response(encoded(found), media_type=_JSON)

    endpoint.needs = entry.needs  # type: ignore[attr-defined]  # functions take attributes
    endpoint.__name__ = entry.name.replace(".", "_")
    return endpoint


def encoded(value: Any) -> bytes:
    """Any answer as JSON."""
    told = plain(value)
    try:
        return msgspec.json.encode(told)
    except UnicodeEncodeError:  # half a surrogate pair, which only an error's text repeats
        return json.dumps(told).encode()


def _called(request: Request, arguments: Arguments, values: dict[str, Any], caller: Identity) -> Any:
    """What the operation answers, with uploads in place of their ids; a response where it writes a file."""
    entry, uploads = arguments.entry, typing.cast("Uploads", request.app.state.uploads)
    ending = str(values.pop("suffix", values.get("format", "json"))) if arguments.downloads else ""
    values |= dict.fromkeys(arguments.acting, caller.subject)
    ids = {
        name: str(values[name]) for name in arguments.files if values.get(name) is not None
    }  # "" is no upload either
    try:
        paths = {name: uploads.path(upload, caller.subject) for name, upload in ids.items()}
        with _told_by_name(paths.values()):
            method = getattr(request.app.state.yard.area(entry.area), entry.verb)
            if not arguments.downloads:
                return _awaited(method(**values | paths))
            downloads: Downloads = request.app.state.downloads
            return downloads.answered(partial(_settled, method), values | paths, f"{entry.verb}.{ending}")
    finally:
        for upload in ids.values():
            uploads.drop(upload, caller.subject)


@contextmanager
def _told_by_name(sent: Collection[Path]) -> Iterator[None]:
    """Errors name a file as the caller did, and not where the server keeps it."""
    try:
        yield
    except YardError as error:
        if not sent:
            raise
        told = str(error)
        for path in sent:
            told = told.replace(str(path), path.name)
        raise (BadUpload if isinstance(error, Damaged) else type(error))(told) from error


def _settled(method: Callable[..., Any], **values: Any) -> Any:
    return _awaited(method(**values))


def _awaited(result: Any) -> Any:
    return asyncio.run(result) if inspect.iscoroutine(result) else result


def _model(entry: Operation, what: str, fields: dict[str, Any]) -> type[BaseModel]:
    name = "".join(part.title() for part in entry.name.replace(".", "_").split("_")) + what
    made: type[BaseModel] = create_model(name, __config__=_STRICT, **fields)
    return made


def _values(model: BaseModel) -> dict[str, Any]:
    return {name: getattr(model, name) for name in type(model).model_fields}


def _check_json(request: Request) -> None:
    kind = request.headers.get("content-type", _JSON).partition(";")[0].strip().lower()
    if kind != _JSON:
        raise Invalid(f"The body is sent as {kind!r}. Send JSON, as Content-Type: application/json.")


def _faults(error: ValidationError) -> str:
    faults = []
    for fault in error.errors(include_url=False, include_context=False, include_input=False):
        where = ".".join(str(part) for part in fault["loc"]) or "body"
        faults.append(f"{where}: {fault['msg']}")
    return "; ".join(faults[:20])


def _is_path(hint: Any) -> bool:
    return hint is Path or Path in typing.get_args(hint)


def _is_list(hint: Any) -> bool:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_is_list(one) for one in typing.get_args(hint))
    return isinstance(origin, type) and issubclass(origin, Collection) and not issubclass(origin, Mapping)
