"""`Client(url)`: the operations of a yard on another machine, called as they are called here."""

from __future__ import annotations

import hashlib
import inspect
import json
import secrets
import tempfile
import typing
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote, unquote

import httpx
import msgspec

from modelyard.client.values import value_of
from modelyard.core.canonical import dumps, plain
from modelyard.core.errors import (
    Conflict,
    Damaged,
    Forbidden,
    Invalid,
    MissingExtra,
    NotFound,
    Unavailable,
    YardError,
    nearest,
)
from modelyard.core.operations import Operation, operations
from modelyard.core.plugins import AREAS
from modelyard.core.urls import without_secrets

ERRORS = {e.__name__: e for e in (NotFound, Forbidden, Invalid, Conflict, Unavailable, Damaged, MissingExtra)}
BY_STATUS: dict[int, type[YardError]] = {401: Forbidden, 403: Forbidden, 404: NotFound, 405: NotFound, 422: Invalid}
AS_IN_A_YARD = {"pipelines": "pipeline", "deployments": "deployment", "ab_tests": "ab_testing"}


class Client:
    """A server's areas as attributes: `Client("http://127.0.0.1:8080").registry.list_models()`.

    Arguments that name the acting person are filled in by the server from the token's owner; a path argument is
    uploaded, `output_path` is written here; errors are the same classes as on an embedded yard.
    """

    def __init__(self, url: str, *, token: str = "", timeout: float = 60) -> None:
        if not (token.isascii() and token.isprintable()):  # it would be repeated by whoever refuses the header
            raise Invalid("The token has characters that no token has, such as a line break. Copy it anew.")
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            self._http = httpx.Client(base_url=url, headers=headers, timeout=timeout)
        except httpx.InvalidURL as error:
            shown = without_secrets(url)
            raise Invalid(f"{shown!r} is no URL: {error}. Write it as http://127.0.0.1:8080.") from error
        if self._http.base_url.userinfo:
            raise Invalid(f"{without_secrets(url)!r} has a user in it, which logs would show. Send a token instead.")

    def __getattr__(self, area: str) -> RemoteArea:
        name = AS_IN_A_YARD.get(area, area)
        if name not in AREAS:
            raise AttributeError(f"There is no area {area!r}. {nearest(area, list(AREAS))}")
        return RemoteArea(self._http, name)

    def __dir__(self) -> list[str]:
        return sorted([*super().__dir__(), *AREAS, *AS_IN_A_YARD])

    def __repr__(self) -> str:
        return f"Client({str(self._http.base_url)!r})"

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class RemoteArea:
    """One area of a server: its operations as methods."""

    def __init__(self, http: httpx.Client, area: str) -> None:
        self._http = http
        self._operations = {entry.verb: entry for entry in operations(area) if entry.remote}
        self._area = area

    def __getattr__(self, verb: str) -> Callable[..., Any]:
        if verb not in self._operations:
            raise AttributeError(f"{self._area} has no operation {verb!r}. {nearest(verb, list(self._operations))}")
        entry, http = self._operations[verb], self._http

        def call(*positional: Any, **named: Any) -> Any:
            return _call(http, entry, positional, named)

        call.__name__ = verb
        call.__doc__ = inspect.getdoc(entry.function)
        call.__signature__ = _signature(entry)  # type: ignore[attr-defined]  # functions take attributes
        return call

    def __dir__(self) -> list[str]:
        return sorted([*super().__dir__(), *self._operations])


def _signature(entry: Operation) -> inspect.Signature:
    """The operation's own, without self; who is acting may be left out, since the server knows."""
    own = [p for p in inspect.signature(entry.function).parameters.values() if p.name != "self"]
    first = next((at for at, p in enumerate(own) if p.name in entry.acting and p.default is p.empty), len(own))
    return inspect.Signature(
        own[:first] + [p.replace(default=None) if p.default is p.empty else p for p in own[first:]]
    )


def _call(http: httpx.Client, entry: Operation, positional: tuple[Any, ...], named: dict[str, Any]) -> Any:
    hints = typing.get_type_hints(entry.function)
    values = _bound(entry, positional, named)
    output = values.pop("output_path", None)
    for name, value in values.items():
        if value is not None and Path in (hints.get(name), *typing.get_args(hints.get(name))):
            values[name] = _upload(http, Path(value))
    path = "/api/v1" + entry.path.format(**{name: _segment(values.pop(name)) for name in entry.in_path})
    sent = {name: plain(value) for name, value in values.items() if value is not None}
    asked = {} if output is None else _suffix(entry, output)
    request = _request(http, entry.method, path, **_carried(entry, sent, asked))
    if output is not None:
        return _typed(_downloaded(http, request, str(output)), hints.get("return"))
    return _typed(_send(http, request).json(), hints.get("return"))


def _carried(entry: Operation, sent: dict[str, Any], asked: dict[str, str]) -> dict[str, Any]:
    """How the arguments travel: a read's as its query, the others' as JSON beside what is asked of the answer."""
    if entry.method == "GET":
        return {"params": {**sent, **asked}}
    return {"params": asked, "content": dumps(sent), "headers": {"Content-Type": "application/json"}}


def _bound(entry: Operation, positional: tuple[Any, ...], named: dict[str, Any]) -> dict[str, Any]:
    """The arguments by name without the acting persons; Invalid for a misspelt or missing one, before anything is sent."""
    try:
        values = dict(inspect.signature(entry.function).bind_partial(None, *positional, **named).arguments)
    except TypeError as error:
        raise Invalid(f"{entry.name}: {error}") from error
    own = [p for p in inspect.signature(entry.function).parameters.values() if p.name not in ("self", *entry.acting)]
    missing = [p.name for p in own if p.default is p.empty and values.get(p.name) is None]
    if missing:
        raise Invalid(f"{entry.name} needs {', '.join(missing)}.")
    return {p.name: values[p.name] for p in own if p.name in values}


def _segment(value: Any) -> str:
    """A value as one part of a path; dots are written out, since `..` would lead elsewhere."""
    return quote(str(plain(value)), safe="").replace(".", "%2E")


def _suffix(entry: Operation, output: Any) -> dict[str, str]:
    if "format" in inspect.signature(entry.function).parameters:
        return {}
    return {"suffix": Path(output).suffix.lstrip(".").lower() or "json"}


def _downloaded(http: httpx.Client, request: httpx.Request, output: str) -> Any:
    """The operation's answer, once the file that came with it is written: whole and as it was sent, or not at all."""
    answer = _answered(http, request, stream=True)
    try:
        Path(output).parent.mkdir(parents=True, exist_ok=True)
        part = Path(f"{output}.{secrets.token_hex(4)}.part")
        try:
            with part.open("xb") as file:
                digest = _received(answer, file)
            if answer.headers.get("ETag", digest).removeprefix("W/").strip('"') != digest:  # weak: a proxy packed it
                raise Damaged(f"{output!r} did not come as it was sent. Nothing was written; call again.")
            part.replace(output)
        finally:
            part.unlink(missing_ok=True)
    except httpx.TransportError as error:
        raise _unreached(http, error) from error
    except (OSError, ValueError) as error:
        if isinstance(error, YardError):
            raise
        raise Unavailable(f"{output!r} cannot be written: {error}. Choose a file you may write to.") from error
    finally:
        answer.close()
    told = unquote(answer.headers["Modelyard-Answer"])
    return json.loads(told.replace("{output_path}", json.dumps(output)[1:-1]))


def _received(answer: httpx.Response, file: BinaryIO) -> str:
    """The SHA-256 of what came and was written."""
    digest = hashlib.sha256()
    for piece in answer.iter_bytes():
        digest.update(piece)
        file.write(piece)
    return digest.hexdigest()


def _send(http: httpx.Client, request: httpx.Request) -> httpx.Response:
    return _answered(http, request, stream=False)


def _answered(http: httpx.Client, request: httpx.Request, *, stream: bool) -> httpx.Response:
    """The server's answer, or the error that it tells of."""
    try:
        answer = http.send(request, stream=stream)
        if answer.is_success:
            return answer
        answer.read()
    except httpx.TransportError as error:
        raise _unreached(http, error) from error
    try:
        told = answer.json()["error"]
        code, message = str(told["code"]), str(told["message"])
    except (ValueError, KeyError, TypeError) as error:
        raise Unavailable(
            f"{http.base_url} answered {answer.status_code} without an explanation. Is it a modelyard server?"
        ) from error
    raise ERRORS.get(code, BY_STATUS.get(answer.status_code, YardError))(message)


def _unreached(http: httpx.Client, error: Exception) -> Unavailable:
    return Unavailable(f"{http.base_url} cannot be reached: {error}. Is the server running? modelyard serve")


def _upload(http: httpx.Client, source: Path) -> str:
    if source.is_file():
        with source.open("rb") as body:
            return _uploaded(http, body, name=source.name)
    if not source.is_dir():
        raise NotFound(f"There is no file or folder {source}. Check the path.")
    with tempfile.TemporaryFile() as archive:
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
            for file in sorted(source.rglob("*")):
                if file.is_file():
                    packed.write(file, file.relative_to(source))
        archive.seek(0)
        return _uploaded(http, archive, name=source.name + ".zip", unpack="true")


def _uploaded(http: httpx.Client, body: Any, **asked: str) -> str:
    request = _request(http, "POST", "/api/v1/uploads", params=asked, content=body)
    return str(_send(http, request).json()["upload"])


def _request(http: httpx.Client, method: str, path: str, **carried: Any) -> httpx.Request:
    try:
        return http.build_request(method, path, **carried)
    except httpx.InvalidURL as error:
        raise Invalid(f"{error}: the names that are asked for do not fit into a URL.") from error


def _typed(data: Any, hint: Any) -> Any:
    """The answer as the operation's own return type where it is a plain one."""
    if hint is None or hint is inspect.Parameter.empty:
        return data
    try:
        return value_of(data, hint)
    except (msgspec.ValidationError, TypeError, KeyError):  # of a newer server
        return data
