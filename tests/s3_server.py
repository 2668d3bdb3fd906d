"""moto's S3 server with one request at a time, run by moto's own Python: `python s3_server.py PORT`.

moto looks whether a key is there and writes it in two steps, so that of two who may only create it both can win, which S3
says they never do. Bodies are read before a request's turn, so that a slow caller keeps nobody waiting.
"""

from __future__ import annotations

import io
import os
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import run_simple


class InTurn:
    """A WSGI application that another one answers for, one request after the other."""

    def __init__(self, behind: Callable[..., Iterable[bytes]]) -> None:
        self._behind = behind
        self._turn = threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """The other's answer."""
        if length := environ.get("CONTENT_LENGTH"):
            environ["wsgi.input"] = io.BytesIO(environ["wsgi.input"].read(int(length)))
        with self._turn:
            return self._behind(environ, start_response)


if __name__ == "__main__":
    os.environ["MOTO_PORT"] = sys.argv[1]
    application = DomainDispatcherApplication(create_backend_app)
    run_simple("127.0.0.1", int(sys.argv[1]), InTurn(application), threaded=True, request_handler=MotoRequestHandler)
