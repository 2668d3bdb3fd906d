"""The routes that are no operations: health, the OpenAPI document, who is calling, uploads, signing in."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import cache
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from modelyard import __version__
from modelyard.access.rules import Identity
from modelyard.access.scopes import Touch
from modelyard.core.errors import Invalid
from modelyard.server.callers import PUBLIC, SIGNED_IN, address, declares
from modelyard.server.calls import encoded

UPLOAD_NEEDS = "artifacts.write"
LARGEST_PART = 32 << 20  # bytes, which are held in memory
SILENT_S = 10.0  # a controller looks twice a second; a lease lasts as long
_TOUCH = Touch(anywhere=True)
_ONE = threading.Lock()
_CREDENTIALS = ConfigDict(extra="forbid", hide_input_in_errors=True)


class Credentials(BaseModel):
    """Who signs in, and with what."""

    model_config = _CREDENTIALS
    subject: str = Field(max_length=512)
    password: str = Field(max_length=1024)


@declares(PUBLIC)
def health(request: Request) -> Any:
    """Whether the yard can be read, and whether the rollouts are looked after.

    `controller_silent_s` is how long ago all of them were looked at; above ten seconds (the store cannot be written to, say)
    the status is `degraded`. The serving processes go on with their routing and their guards all the same.
    """
    with request.app.state.yard.store.reading() as rows:
        row = rows.one("SELECT max(position) AS last FROM events")
    told = {"status": "ok", "version": __version__, "events": (row or {}).get("last") or 0}
    controller = getattr(request.app.state, "controller", None)  # none where the application is mounted elsewhere
    if controller is None:
        return told
    silent = controller.silent_s
    return told | {"status": "degraded" if silent > SILENT_S else "ok", "controller_silent_s": round(silent, 1)}


@cache
def _document() -> dict[str, Any]:
    from modelyard.server.openapi import openapi  # FastAPI is for this alone

    return openapi(FIXED)


@declares(PUBLIC)
def document(_: Request) -> Any:
    """The OpenAPI document."""
    with _ONE:  # for the first readers together
        return _document()


@declares(SIGNED_IN)
def whoami(request: Request) -> Any:
    """Whom the caller's token speaks for, and what it may do."""
    caller: Identity = request.app.state.callers.identify(request)
    return {
        "subject": caller.subject,
        "kind": caller.kind,
        "owner": caller.owner,
        "roles": [{"role": grant.role, "project": grant.project} for grant in sorted(caller.grants)],
        "scopes": caller.scopes,
        "project": caller.project,
    }


@declares(UPLOAD_NEEDS)
async def upload(request: Request) -> Response:
    """Send a file (the raw body), or a folder as a ZIP archive with `unpack=true`; operations take its id for a path."""
    callers = request.app.state.callers
    caller, _ = await run_in_threadpool(callers.permitted_to, request, UPLOAD_NEEDS, _TOUCH, {})
    name, unpack = request.query_params.get("name"), request.query_params.get("unpack", "false").lower()
    if name is None or unpack not in ("true", "false"):
        raise Invalid("name: a file's name is needed, and unpack is true or false. POST /api/v1/uploads?name=FILE")
    uploads = request.app.state.uploads
    made = await uploads.receive(name, request.stream(), caller.subject, unpack=unpack == "true")
    return Response(encoded({"upload": made}), 201, media_type="application/json")


@declares(UPLOAD_NEEDS)
async def upload_part(request: Request) -> Response:
    """Send the bytes of an upload in parts, from a place on (the raw body); the answer says how many have come in."""
    callers = request.app.state.callers
    await run_in_threadpool(callers.permitted_to, request, UPLOAD_NEEDS, _TOUCH, {})
    upload_id, offset = request.path_params["upload_id"], request.path_params["offset"]
    data = b""
    async for piece in request.stream():
        data += piece
        if len(data) > LARGEST_PART:
            raise Invalid(f"The part has more than {LARGEST_PART:,} bytes. Send smaller ones.")
    found = await run_in_threadpool(request.app.state.yard.artifacts.append, upload_id, offset, data)
    return Response(encoded(found), media_type="application/json")


@declares(PUBLIC)
async def login(request: Request) -> Response:
    """A token for a name and a password."""
    try:
        sent = Credentials.model_validate_json(await request.body())
    except ValidationError as error:
        raise Invalid("Send a JSON object with a subject and a password.") from error
    made = await run_in_threadpool(request.app.state.login.session, sent.subject, sent.password, address(request))
    return Response(encoded(made), media_type="application/json")


def _in_thread(function: Callable[[Request], Any]) -> Any:
    async def endpoint(request: Request) -> Response:
        return Response(encoded(await run_in_threadpool(function, request)), media_type="application/json")

    endpoint.needs = function.needs  # type: ignore[attr-defined]  # functions take attributes
    endpoint.__doc__ = function.__doc__
    return endpoint


def _file(name: str, unpack: bool = False) -> None:
    """What the query says of a file in the body."""


def _part(upload_id: str, offset: int) -> None:
    """What the path says of some bytes of a file in the body."""


# what the OpenAPI document says of their bodies: bytes that these arguments stand beside, or a model
upload.sends = _file  # type: ignore[attr-defined]
upload_part.sends = _part  # type: ignore[attr-defined]
login.sends = Credentials  # type: ignore[attr-defined]

FIXED = (
    Route("/api/v1/health", _in_thread(health), methods=["GET"], name="server.health"),
    Route("/api/v1/openapi.json", _in_thread(document), methods=["GET"], name="server.openapi"),
    Route("/api/v1/identity", _in_thread(whoami), methods=["GET"], name="server.identity"),
    Route("/api/v1/uploads", upload, methods=["POST"], name="server.upload"),
    Route(
        "/api/v1/artifacts/uploads/{upload_id}/{offset:int}", upload_part, methods=["PUT"], name="server.upload_part"
    ),
    Route("/api/v1/login", login, methods=["POST"], name="server.login"),
)
