"""What a request is answered with, and the two ways in which none of it comes to a prediction."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass

from modelyard.core.errors import YardError

JSON, BINARY, TEXT = b"application/json", b"application/octet-stream", b"text/plain; version=0.0.4; charset=utf-8"

Headers = tuple[tuple[bytes, bytes], ...]


@dataclass(slots=True)
class Reply:
    """A whole answer, or with `stream` its beginning and what follows piece by piece."""

    status: int
    body: bytes
    content_type: bytes = JSON
    headers: Headers = ()
    endpoint: str = ""
    arm: str = ""
    stream: AsyncGenerator[bytes] | None = None


class Refused(YardError):
    """A request that is answered with a status and words."""

    def __init__(self, status: int, text: str, *headers: tuple[bytes, bytes]) -> None:
        super().__init__(text)
        self.status = status
        self.headers = headers
