"""The routes of files: listed by run, and sent and fetched through the proxy, whole or in parts."""

from __future__ import annotations

import asyncio
import hmac
import secrets
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Any, BinaryIO, cast
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route as StarletteRoute

from modelyard.access.rules import EVERY, Identity
from modelyard.access.scopes import projects
from modelyard.core.errors import NotFound, YardError
from modelyard.server.callers import PUBLIC, Callers, declares
from modelyard.server.mlflow import checks, runs, stored, views
from modelyard.server.mlflow.calls import NOTHING, POOL, Call, encoded, instead, route
from modelyard.server.mlflow.errors import Refused, answer
from modelyard.server.mlflow.experiments import READ, WRITE
from modelyard.server.mlflow.fields import RUN_ID, as_integer, decoded, integer, objects, text, values_of
from modelyard.tracking import ArtifactFiles, FileEntry
from modelyard.tracking.runs import OURS
from modelyard.yard import Yard

SMALL = 1 << 20  # bytes of a file that is answered at once
LARGEST = 64 * 1024**3  # bytes of one file
MOST_PARTS = 10_000
FILES = "/artifacts/{path:path}"
_KEY = secrets.token_bytes(32)  # signs the addresses of parts; those of a server that ended are of no use
_NOT_HERE = (
    "Presigned {what} is not supported for {of} (artifact URI scheme: mlflow-artifacts). "
    "This endpoint requires a direct cloud storage artifact URI."
)


def listed_of_run(call: Call) -> dict[str, Any]:
    """What lies in a folder of a run's files."""
    path = checks.artifact_path(call.text("path").rstrip("/")) if call.text("path") else ""
    run = runs.found(call, call["run_id"])
    return {"root_uri": run.artifact_uri} | _below(call.yard, run.artifact_uri, path)


def listed_of_model(call: Call) -> dict[str, Any]:
    """What lies in a folder of a logged model's files."""
    asked = call.text("artifact_directory_path")
    path = checks.artifact_path(asked.rstrip("/")) if asked else ""
    with instead(NotFound, f"Logged model with ID '{call['model_id']}' not found."):
        model = call.yard.tracking.get_logged_model(call["model_id"])
    return {"root_uri": model.artifact_location} | _below(call.yard, model.artifact_location, path)


def presigned_upload(call: Call) -> dict[str, Any]:
    """No address in an object store: files go through the proxy."""
    checks.artifact_path(call["path"])
    if bool(call.text("run_id")) == bool(call.text("model_id")):
        raise Refused("Exactly one of run_id and model_id must be provided.")
    raise Refused(_NOT_HERE.format(what="upload", of="proxied artifact storage"))


def presigned_download(call: Call) -> dict[str, Any]:
    """No address in an object store: files come through the proxy."""
    checks.artifact_path(call["path"])
    runs.found(call, call["run_id"])
    raise Refused(_NOT_HERE.format(what="download", of="runs with proxied artifact storage"))


def _below(yard: Yard, root: str, path: str) -> dict[str, Any]:
    if not root.startswith(OURS):
        raise Refused(f"The files lie at {root}, not here. Read them there.")
    base = root.removeprefix(OURS).strip("/")
    found = yard.tracking.files.list("/".join(part for part in (base, path) if part))
    shown = [views.file(one, f"{path}/{one.name}" if path else one.name) for one in found]
    return {"files": shown} if shown else {}


@declares(READ)
async def list_files(request: Request) -> Response:
    """What lies in a folder below the artifact root."""
    return await _in_thread(request, READ, _listed, request.query_params.get("path", ""))


@declares(READ)
async def download(request: Request) -> Response:
    """A file, as an attachment that no browser shows."""
    return await _in_thread(request, READ, _download, request.path_params["path"])


@declares(WRITE)
async def upload(request: Request) -> Response:
    """Store a file, in the place of an earlier one."""
    return await _receiving(
        request,
        lambda: _permitted(request, WRITE, request.path_params["path"]),
        lambda files, body: files.write(stored.checked_free(checks.artifact_path(request.path_params["path"])), body),
    )


@declares(WRITE)
async def delete(request: Request) -> Response:
    """Remove a file or a folder, if it is there."""

    def gone(yard: Yard, path: str) -> Response:
        path = stored.checked_free(checks.artifact_path(path.rstrip("/")))
        with suppress(NotFound):
            yard.tracking.files.delete(path, user=request.state.caller.subject)
        return _json(NOTHING)

    return await _in_thread(request, WRITE, gone, request.path_params["path"])


@declares(WRITE)
async def begin_parts(request: Request) -> Response:
    """Begin an upload in parts, and say where each part is to be put."""
    body = await request.body()

    def begin(yard: Yard, folder: str) -> Response:
        sent = values_of((text("path", required=True), integer("num_parts", most=MOST_PARTS)), decoded(body))
        upload_id = yard.tracking.files.begin(_file_of(folder, sent["path"]))
        parts = [
            {"url": _address(request, upload_id, number), "part_number": number, "headers": {}}
            for number in range(1, sent.get("num_parts", 1) + 1)
        ]
        return _json({"upload_id": upload_id, "credentials": parts})

    return await _in_thread(request, WRITE, begin, request.path_params["path"])


@declares(WRITE)
async def complete_parts(request: Request) -> Response:
    """Make the parts of an upload one file."""
    body = await request.body()

    def complete(yard: Yard, folder: str) -> Response:
        sent = values_of(
            (text("path", required=True), text("upload_id", required=True), objects("parts", required=True)),
            decoded(body),
        )
        _file_of(folder, sent["path"])
        try:
            parts = [(as_integer(one.get("part_number")), str(one.get("etag", ""))) for one in sent["parts"]]
        except (TypeError, ValueError, OverflowError):
            raise Refused("A part has no number. Send part_number and etag of each.") from None
        yard.tracking.files.complete(sent["upload_id"], parts)
        return _json(NOTHING)

    return await _in_thread(request, WRITE, complete, request.path_params["path"])


@declares(WRITE)
async def abort_parts(request: Request) -> Response:
    """Forget an upload in parts."""
    body = await request.body()

    def abort(yard: Yard, folder: str) -> Response:
        sent = values_of((text("path", required=True), text("upload_id", required=True)), decoded(body))
        _file_of(folder, sent["path"])
        yard.tracking.files.abort(sent["upload_id"])
        return _json(NOTHING)

    return await _in_thread(request, WRITE, abort, request.path_params["path"])


@declares(PUBLIC)
async def put_part(request: Request) -> Response:
    """Store one part. Its address is signed and was given to somebody who may write; clients send no token with it."""
    upload_id, number = request.path_params["upload"], request.path_params["number"]
    if not hmac.compare_digest(_signature(upload_id, number), request.query_params.get("key", "")):
        return answer(
            Refused("This address is none that this server has signed. Begin the upload anew.", "PERMISSION_DENIED")
        )
    return await _receiving(
        request, lambda: None, lambda files, body: files.write_part(upload_id, number, body), tell_digest=True
    )


@declares(READ)
async def presigned(request: Request) -> Response:
    """No address in an object store."""
    told = Refused("Multipart download is not supported for the current artifact repository", "NOT_IMPLEMENTED")

    def refuse(_: Yard, __: str) -> Response:
        raise told

    return await _in_thread(request, READ, refuse, request.path_params["path"])


async def _in_thread(request: Request, needs: str, function: Callable[[Yard, str], Response], path: str) -> Response:
    def work() -> Response:
        try:
            request.state.caller = _permitted(request, needs, path)
            return function(request.app.state.yard, path)
        except YardError as error:
            return answer(error)

    return await asyncio.get_running_loop().run_in_executor(POOL, work)


async def _receiving(
    request: Request,
    check: Callable[[], Any],
    write: Callable[[ArtifactFiles, BinaryIO], FileEntry | str],
    *,
    tell_digest: bool = False,
) -> Response:
    """Take a body in as it comes, and hand it on once it is whole."""
    run: Callable[..., Awaitable[Any]] = asyncio.get_running_loop().run_in_executor
    files = request.app.state.yard.tracking.files
    try:
        await run(POOL, check)
        folder = request.app.state.yard.store.folder
        with tempfile.SpooledTemporaryFile(SMALL, dir=folder if folder.is_dir() else None) as spool:
            size = 0
            async for chunk in request.stream():
                size += len(chunk)
                if size > LARGEST:
                    raise Refused(f"A file has at most {LARGEST >> 30} GiB. Store it in an object store instead.")
                spool.write(chunk)
            spool.seek(0)
            made = await run(POOL, write, files, cast("BinaryIO", spool))
    except YardError as error:
        return answer(error)
    headers = {"ETag": f'"{made}"'} if tell_digest else {}
    return Response(b"{}", headers=headers, media_type="application/json")


def _permitted(request: Request, needs: str, path: str) -> Identity:
    """The caller, if they may do this to the experiment or model that the path belongs to; for others, to the whole yard."""
    callers: Callers = request.app.state.callers
    caller = callers.identify(request)
    if caller.may(needs):
        return caller
    first = path.strip("/").partition("/")[0]
    kind, name = (
        ("model", path.split("/")[2]) if stored.is_place(path) and path.count("/") >= 2 else ("experiment", first)
    )
    touched = {EVERY}
    if kind == "model" or first.isdigit():
        with callers.store.reading() as rows:
            touched = projects(rows, kind, name)
    return callers.permitted(request, needs, sorted(touched))


def _listed(yard: Yard, path: str) -> Response:
    path = checks.artifact_path(path.rstrip("/")) if path.strip("/") else ""
    if stored.is_place(path):
        found = stored.listed(yard, path)
    else:
        found = [views.file(one, one.name) for one in yard.tracking.files.list(path)]
    return _json({"files": found} if found else {})


def _download(yard: Yard, path: str) -> Response:
    path = checks.artifact_path(path)
    name = path.rpartition("/")[2]
    headers = {
        "Content-Disposition": f"attachment; filename*=UTF-8''{quote(name, safe='')}",
        "X-Content-Type-Options": "nosniff",
    }
    size, pieces = stored.opened(yard, path) if stored.is_place(path) else _opened(yard.tracking.files, path)
    if size <= SMALL:  # whole and verified before the first byte is answered
        return Response(b"".join(pieces), headers=headers, media_type="application/octet-stream")
    headers["Content-Length"] = str(size)
    return StreamingResponse(pieces, headers=headers, media_type="application/octet-stream")


def _opened(files: ArtifactFiles, path: str) -> tuple[int, Iterator[bytes]]:
    entry = files.entry(path)
    if entry.is_dir:
        raise Refused(f"Artifact path refers to a directory, not a file: '{path}'")
    return entry.size or 0, _pieces(files.open(path))


def _pieces(stream: BinaryIO) -> Iterator[bytes]:
    with stream:
        while chunk := stream.read(SMALL):
            yield chunk


def _file_of(folder: str, local: str) -> str:
    """Where a client's file goes that is sent in parts: by its own name, into the folder of the address."""
    name = local.replace("\\", "/").rpartition("/")[2]
    return stored.checked_free(checks.artifact_path(f"{folder.rstrip('/')}/{name}" if folder else name))


def _address(request: Request, upload_id: str, number: int) -> str:
    host = request.headers["host"]
    place = f"/api/2.0/mlflow-artifacts/mpu/part/{upload_id}/{number}"
    return f"{request.url.scheme}://{host}{place}?key={_signature(upload_id, number)}"


def _signature(upload_id: str, number: int) -> str:
    return hmac.digest(_KEY, f"{upload_id}/{number}".encode(), "sha256").hex()


def _json(value: Any) -> Response:
    return Response(encoded(value), media_type="application/json")


def proxy() -> list[StarletteRoute]:
    """The routes of the proxy."""
    return [
        StarletteRoute("/artifacts", list_files, methods=["GET"]),
        StarletteRoute(FILES, download, methods=["GET"]),
        StarletteRoute(FILES, upload, methods=["PUT"]),
        StarletteRoute(FILES, delete, methods=["DELETE"]),
        StarletteRoute("/mpu/create/{path:path}", begin_parts, methods=["POST"]),
        StarletteRoute("/mpu/complete/{path:path}", complete_parts, methods=["POST"]),
        StarletteRoute("/mpu/abort/{path:path}", abort_parts, methods=["POST"]),
        StarletteRoute("/mpu/part/{upload}/{number:int}", put_part, methods=["PUT"]),
        StarletteRoute("/presigned/{path:path}", presigned, methods=["GET"]),
    ]


ROUTES = (
    route(
        "GET", "/artifacts/list", READ, listed_of_run, RUN_ID, text("path"), text("page_token"), touches=runs.TOUCHES
    ),
    route(
        "POST",
        "/artifacts/presigned-upload-url",
        WRITE,
        presigned_upload,
        text("run_id"),
        text("model_id"),
        text("path", required=True),
        integer("expiration"),
        touches=(*runs.TOUCHES, ("logged_model", "model_id")),
    ),
    route(
        "POST",
        "/artifacts/presigned-download-url",
        READ,
        presigned_download,
        text("run_id", required=True),
        text("path", required=True),
        integer("expiration"),
        touches=runs.TOUCHES,
    ),
)
