"""Refusals in MLflow's words: its error codes, and the one table from our errors to them."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from starlette.responses import Response

from modelyard.core.errors import Conflict, Damaged, Forbidden, Invalid, MissingExtra, NotFound, Unavailable, YardError

INVALID = "INVALID_PARAMETER_VALUE"
UNKNOWN = "RESOURCE_DOES_NOT_EXIST"
TAKEN = "RESOURCE_ALREADY_EXISTS"
DENIED = "PERMISSION_DENIED"

# MLflow answers INVALID_STATE with 500, which makes its client ask seven times more; here it is the caller's to mend.
STATUS: Mapping[str, int] = {
    INVALID: 400,
    TAKEN: 400,
    "INVALID_STATE": 400,
    "BAD_REQUEST": 400,
    "UNAUTHENTICATED": 401,
    DENIED: 403,
    UNKNOWN: 404,
    "ENDPOINT_NOT_FOUND": 404,
    "RESOURCE_CONFLICT": 409,
    "REQUEST_LIMIT_EXCEEDED": 429,
    "DATA_LOSS": 500,
    "INTERNAL_ERROR": 500,
    "NOT_IMPLEMENTED": 501,
    "TEMPORARILY_UNAVAILABLE": 503,
}
CODES: Mapping[type[YardError], str] = {
    NotFound: UNKNOWN,
    Forbidden: DENIED,
    Invalid: INVALID,
    Conflict: "RESOURCE_CONFLICT",
    Unavailable: "TEMPORARILY_UNAVAILABLE",
    Damaged: "DATA_LOSS",
    MissingExtra: "NOT_IMPLEMENTED",
}
BY_STATUS: Mapping[int, str] = {401: "UNAUTHENTICATED", 403: DENIED, 429: "REQUEST_LIMIT_EXCEEDED"}


class Refused(YardError):
    """What MLflow refuses, with the code and the words that its clients know."""

    def __init__(self, message: str, code: str = INVALID) -> None:
        super().__init__(message)
        self.code = code
        self.status = STATUS[code]


def code_of(error: YardError) -> str:
    """MLflow's code for one of our errors.

    >>> code_of(NotFound("there is none"))
    'RESOURCE_DOES_NOT_EXIST'
    """
    if isinstance(error, Refused):
        return error.code
    if error.status in BY_STATUS:
        return BY_STATUS[error.status]
    return next((code for kind, code in CODES.items() if isinstance(error, kind)), "INTERNAL_ERROR")


def answer(error: YardError) -> Response:
    """The error as MLflow's clients read it."""
    code = code_of(error)
    body = msgspec.json.encode({"error_code": code, "message": str(error).encode("utf-8", "replace").decode()})
    headers = {"WWW-Authenticate": "Bearer"} if code == "UNAUTHENTICATED" else {}
    wait = getattr(error, "wait", None)
    if wait is not None:
        headers["Retry-After"] = str(max(1, round(wait)))
    return Response(body, STATUS[code], headers, media_type="application/json")
