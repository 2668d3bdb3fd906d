"""`Client(url)`: the operations of a yard on another machine, called as they are called here."""

from __future__ import annotations

import inspect
import tempfile
import typing
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import msgspec

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

ERRORS = {e.__name__: e for e in (NotFound, Forbidden, Invalid, Conflict, Unavailable, Damaged, MissingExtra)}


class Client:
    """A server's areas as attributes: `Client("http://127.0.0.1:8080").registry.list_models()`.

    Arguments that name the acting person are filled in by the server from the token's owner; a path argument is
    uploaded; errors are the same classes as on an embedded yard.
    """

    def __init__(self, url: str, *, token: str = "", timeout: float = 60) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=timeout)

    def __getattr__(self, area: str) -> RemoteArea:
        if area not in AREAS:
            raise AttributeError(f"There is no area {area!r}. {nearest(area, list(AREAS))}")
        return RemoteArea(self._http, area)

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
        self._operations = {entry.verb: entry for entry in operations(area)}
        self._area = area

    def __getattr__(self, verb: str) -> Callable[..., Any]:
        if verb not in self._operations:
            raise AttributeError(f"{self._area} has no operation {verb!r}. {nearest(verb, list(self._operations))}")
        entry = self._operations[verb]
        return lambda *positional, **named: _call(self._http, entry, positional, named)

    def __dir__(self) -> list[str]:
        return sorted(self._operations)


def _call(http: httpx.Client, entry: Operation, positional: tuple[Any, ...], named: dict[str, Any]) -> Any:
    signature = inspect.signature(entry.function)
    hints = typing.get_type_hints(entry.function)
    try:
        values = dict(signature.bind_partial(None, *positional, **named).arguments)
    except TypeError as error:
        raise Invalid(f"{entry.name}: {error}") from error
    values.pop("self", None)
    output = values.pop("output_path", None)
    for actor in entry.acting:
        values.pop(actor, None)
    for name, value in values.items():
        if value is not None and Path in (hints.get(name), *typing.get_args(hints.get(name))):
            values[name] = _upload(http, Path(value))
    path = "/api/v1" + entry.path.format(
        **{name: quote(str(plain(values.pop(name))), safe="") for name in entry.in_path}
    )
    sent = {name: plain(value) for name, value in values.items() if value is not None}
    if entry.method == "GET":
        answer = _send(http, "GET", path, params=sent)
    else:
        answer = _send(http, entry.method, path, content=dumps(sent), headers={"Content-Type": "application/json"})
    if output is not None:
        Path(output).write_bytes(answer.content)
        return Path(output)
    return _typed(answer.json(), hints.get("return"))


def _send(http: httpx.Client, method: str, path: str, **options: Any) -> httpx.Response:
    try:
        answer = http.request(method, path, **options)
    except httpx.TransportError as error:
        raise Unavailable(
            f"{http.base_url} cannot be reached: {error}. Is the server running? modelyard serve"
        ) from error
    if answer.is_success:
        return answer
    try:
        told = answer.json()["error"]
    except (ValueError, KeyError, TypeError) as error:
        raise YardError(f"{http.base_url} answered {answer.status_code} without an explanation.") from error
    raise ERRORS.get(told["code"], Forbidden if answer.status_code == 401 else YardError)(told["message"])


def _upload(http: httpx.Client, source: Path) -> str:
    if source.is_file():
        with source.open("rb") as body:
            return str(
                _send(http, "POST", "/api/v1/uploads", params={"name": source.name}, content=body).json()["upload"]
            )
    if not source.is_dir():
        raise NotFound(f"There is no file or folder {source}. Check the path.")
    with tempfile.TemporaryFile() as archive:
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
            for file in sorted(source.rglob("*")):
                if file.is_file():
                    packed.write(file, file.relative_to(source))
        archive.seek(0)
        options = {"name": source.name + ".zip", "unpack": "true"}
        return str(_send(http, "POST", "/api/v1/uploads", params=options, content=archive).json()["upload"])


def _typed(data: Any, hint: Any) -> Any:
    """The answer as the operation's own return type where it is a plain one."""
    if hint is None or hint is inspect.Parameter.empty:
        return data
    try:
        return msgspec.convert(data, type=hint, strict=False)
    except (msgspec.ValidationError, TypeError):
        return data
