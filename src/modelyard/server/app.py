"""The FastAPI application: one route an operation, one error envelope, deny by default."""

from __future__ import annotations

import asyncio
import inspect
import shutil
import tempfile
import typing
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fastapi import Body, Depends, FastAPI, HTTPException, Query, Request
from fastapi import Path as PathParameter
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import ConfigDict, TypeAdapter, create_model
from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError
from starlette.exceptions import HTTPException as StarletteHTTPException

from modelyard import __version__
from modelyard.core.canonical import dumps, plain
from modelyard.core.errors import Damaged, Forbidden, Invalid, YardError
from modelyard.core.events import EventSeverity, EventType
from modelyard.core.operations import Operation, operations
from modelyard.core.refs import Resource
from modelyard.server.access import Access, Identity
from modelyard.server.uploads import Uploads
from modelyard.yard import Yard

LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]", "testserver"})
ANSWER_HEADER, ANSWERED_PATH = "Modelyard-Answer", "{output_path}"
MEDIA = {".json": "application/json", ".csv": "text/csv", ".yaml": "application/yaml", ".html": "text/html"}


def create_app(yard: Yard, *, local_user: str = "", hosts: frozenset[str] = LOOPBACK) -> FastAPI:
    """The control plane of a yard.

    Until a token exists, callers on this machine act as `local_user`; afterwards every request needs a token. `hosts`
    are the names the server answers to: another Host header is refused, which stops DNS rebinding.
    """
    app = _bare()
    app.state.yard = yard
    app.state.access = Access(yard.store)
    app.state.uploads = Uploads(yard.store.folder / "uploads")
    app.state.local_user = local_user
    _guard(app, hosts)
    _errors(app)
    _routes(app, lambda _: {})
    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's own way to another document
    return app


@cache
def openapi() -> dict[str, Any]:
    """The OpenAPI document. The answers' schemas take as long as starting does, so they are made for the first reader."""
    app = _bare()
    _routes(app, _answers)
    return app.openapi()


def _bare() -> FastAPI:
    return FastAPI(
        title="modelyard", version=__version__, docs_url=None, redoc_url=None, openapi_url="/api/v1/openapi.json"
    )


def _routes(app: FastAPI, answers: Callable[[Operation], dict[int | str, dict[str, Any]]]) -> None:
    _fixed_routes(app)
    for entry in (one for one in operations() if one.remote):
        app.add_api_route(
            "/api/v1" + entry.path,
            _endpoint(entry),
            methods=[entry.method],
            operation_id=entry.name,
            tags=[entry.area],
            summary=(inspect.getdoc(entry.function) or entry.name).splitlines()[0],
            responses=answers(entry),
            response_class=JSONResponse,
        )


def identity(request: Request) -> Identity:
    """Whom the request speaks for: its bearer token's owner, or the local user while there are no tokens."""
    scheme, _, secret = request.headers.get("authorization", "").partition(" ")
    access: Access = request.app.state.access
    if scheme.lower() == "bearer" and secret:
        return access.identify(secret.strip())
    if request.app.state.local_user and not access.any_tokens():
        return Identity(subject=request.app.state.local_user, role="admin")
    raise HTTPException(
        401, "An access token is needed: send it as `Authorization: Bearer TOKEN`.", {"WWW-Authenticate": "Bearer"}
    )


def permitted(request: Request, needs: str) -> Identity:
    """The identity if its role has the permission; a refusal is an event."""
    caller = identity(request)
    if caller.may(needs):
        return caller
    yard: Yard = request.app.state.yard
    with yard.store.work(caller.subject) as work:
        details = {"needs": needs, "role": caller.role, "method": request.method, "path": request.url.path}
        work.emit(EventType.SECURITY_VIOLATION, Resource("operation", needs), details, severity=EventSeverity.WARNING)
    raise Forbidden(
        f"{caller.subject} has the role {caller.role}, which lacks {needs}. Ask an administrator for another role."
    )


def _endpoint(entry: Operation) -> Callable[..., Any]:
    """A route function with the operation's arguments: path and query for reads, path and body for changes."""
    hints = typing.get_type_hints(entry.function, include_extras=False)
    arguments = [
        p
        for p in inspect.signature(entry.function).parameters.values()
        if p.name != "self" and p.name not in entry.acting
    ]
    files = {p.name for p in arguments if _is_path(hints.get(p.name)) and p.name != "output_path"}
    downloads = any(p.name == "output_path" for p in arguments)
    asks_suffix = downloads and all(p.name != "format" for p in arguments)
    sent = [p for p in arguments if p.name not in entry.in_path and p.name != "output_path"]

    def answer(request: Request, body: Any = None, suffix: str = "json", **values: Any) -> Response:
        caller = permitted(request, entry.needs)
        if body is not None:
            values |= {name: getattr(body, name) for name in type(body).model_fields}
        values |= dict.fromkeys(entry.acting, caller.subject)
        uploads: Uploads = request.app.state.uploads
        ids = {name: str(values[name]) for name in files if values.get(name) is not None}  # "" is no upload either
        paths = {
            name: uploads.path(upload) for name, upload in ids.items()
        }  # before anything is dropped: ids are checked
        try:
            with _told_by_name(paths.values()):
                method = getattr(request.app.state.yard.area(entry.area), entry.verb)
                if not downloads:
                    return Response(dumps(_awaited(method(**values | paths))), media_type="application/json")
                return _download(method, values | paths, f"{entry.verb}.{values.get('format', suffix)}")
        finally:
            for upload in ids.values():
                uploads.drop(upload)

    parameters = [inspect.Parameter("request", inspect.Parameter.KEYWORD_ONLY, annotation=Request)]
    for name in entry.in_path:
        parameters.append(_keyword(name, hints.get(name, str), PathParameter()))
    if entry.method == "GET":
        for p in sent:
            default = Query() if p.default is inspect.Parameter.empty else Query(p.default)
            parameters.append(_keyword(p.name, _sendable(hints.get(p.name, str), p.name in files), default))
    elif sent:
        parameters.append(_keyword("body", _body_model(entry, sent, hints, files), Body()))
    if asks_suffix:
        about = "What the file's name ends with, which decides its form: json, html, csv, parquet."
        parameters.append(_keyword("suffix", str, Query("json", pattern="^[a-z]{2,8}$", description=about)))
    answer.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # FastAPI reads it
    answer.__name__ = entry.name.replace(".", "_")
    return answer


class BadUpload(Damaged):
    """What the caller sent is damaged: that is the caller's to mend, and no fault of the server."""

    status = Invalid.status


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


def _download(method: Callable[..., Any], values: Mapping[str, Any], name: str) -> Response:
    """The file that an operation writes, and its answer in a header, where ANSWERED_PATH stands for the file."""
    folder = Path(tempfile.mkdtemp(prefix="modelyard-"))
    try:
        target = folder / name
        answer = dumps(_awaited(method(**values, output_path=str(target))))
        content = target.read_bytes()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    headers = {
        "Content-Disposition": f'attachment; filename="{name}"',
        "X-Content-Type-Options": "nosniff",
        ANSWER_HEADER: quote(answer.replace(str(target), ANSWERED_PATH)),
    }
    return Response(content, media_type=MEDIA.get(target.suffix, "application/octet-stream"), headers=headers)


def _awaited(result: Any) -> Any:
    return asyncio.run(result) if inspect.iscoroutine(result) else result


def _body_model(entry: Operation, sent: Sequence[inspect.Parameter], hints: Mapping[str, Any], files: set[str]) -> Any:
    fields: dict[str, Any] = {}
    for p in sent:
        default = ... if p.default is inspect.Parameter.empty else p.default
        fields[p.name] = (_sendable(hints.get(p.name, Any), p.name in files), default)
    name = "".join(part.title() for part in entry.name.replace(".", "_").split("_")) + "Body"
    return create_model(name, __config__=ConfigDict(extra="forbid", protected_namespaces=()), **fields)


def _sendable(hint: Any, is_file: bool) -> Any:
    """The type a caller may send: an upload's id stands for a file."""
    return (str | None) if is_file and type(None) in typing.get_args(hint) else str if is_file else hint


def _is_path(hint: Any) -> bool:
    return hint is Path or Path in typing.get_args(hint)


def _keyword(name: str, hint: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint)


def _answers(entry: Operation) -> dict[int | str, dict[str, Any]]:
    """The answer's schema where its type has one, and the error envelope."""
    error = {"description": "Refused: the error says what happened and what to do.", "model": dict[str, dict[str, str]]}
    found: dict[int | str, dict[str, Any]] = {"4XX": error}
    hint: Any = typing.get_type_hints(entry.function).get("return")
    try:
        TypeAdapter(hint).json_schema()
    except (PydanticSchemaGenerationError, PydanticUserError, TypeError, NameError):
        return found
    return {**found, 200: {"description": "Done.", "model": hint}}


def _fixed_routes(app: FastAPI) -> None:
    @app.get("/api/v1/health", tags=["server"], operation_id="server.health")
    def health(request: Request) -> dict[str, Any]:
        """Whether the yard can be read."""
        yard: Yard = request.app.state.yard
        with yard.store.reading() as rows:
            row = rows.one("SELECT max(position) AS last FROM events")
        return {"status": "ok", "version": __version__, "events": (row or {}).get("last") or 0}

    @app.get("/api/v1/identity", tags=["server"], operation_id="server.identity")
    def whoami(caller: Identity = Depends(identity)) -> dict[str, str]:
        """Whom the caller's token speaks for."""
        return {"subject": caller.subject, "role": caller.role}

    @app.post("/api/v1/uploads", tags=["server"], operation_id="server.upload", status_code=201)
    async def upload(request: Request, name: str, unpack: bool = False) -> dict[str, str]:
        """Send a file (the raw body), or a folder as a ZIP archive with `unpack=true`; operations take its id for a path."""
        await asyncio.to_thread(permitted, request, "artifacts.write")
        return {"upload": await request.app.state.uploads.receive(name, request.stream(), unpack=unpack)}


def _guard(app: FastAPI, hosts: frozenset[str]) -> None:
    @app.middleware("http")
    async def checked(request: Request, handle: Callable[[Request], Awaitable[Response]]) -> Response:
        host = request.headers.get("host", "")
        name = host if host.endswith("]") else host.rpartition(":")[0] or host
        origin = request.headers.get("origin", "")
        if name not in hosts or (origin and origin.partition("://")[2] != host):
            return _envelope(
                403, "Forbidden", f"This server does not answer to the host {host!r} or the origin {origin!r}."
            )
        response = await handle(request)
        response.headers.setdefault("X-Content-Type-Options", "nosniff")
        response.headers.setdefault("Cache-Control", "no-store")
        return response


def _errors(app: FastAPI) -> None:
    @app.exception_handler(YardError)
    def told(_: Request, error: YardError) -> Response:
        code = Damaged.__name__ if isinstance(error, BadUpload) else type(error).__name__
        return _envelope(error.status, code, str(error))

    @app.exception_handler(RequestValidationError)
    def invalid(_: Request, error: RequestValidationError) -> Response:
        faults = [
            f"{'.'.join(str(part) for part in fault['loc'][1:]) or 'body'}: {fault['msg']}" for fault in error.errors()
        ]
        return _envelope(422, Invalid.__name__, "; ".join(faults))

    @app.exception_handler(StarletteHTTPException)
    def http(_: Request, error: StarletteHTTPException) -> Response:
        return _envelope(error.status_code, "HTTPError", str(error.detail), headers=error.headers)

    @app.exception_handler(Exception)
    def unforeseen(_: Request, error: Exception) -> Response:  # what it was is raised again and logged
        return _envelope(500, type(error).__name__, "The server failed at this. Its log has the reason.")


def _envelope(status: int, code: str, message: str, *, headers: Mapping[str, str] | None = None) -> Response:
    return JSONResponse(plain({"error": {"code": code, "message": message}}), status, dict(headers or {}))
