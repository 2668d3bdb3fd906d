"""A small server that answers queries as Prometheus' HTTP API does (`/api/v1/query`), with what a test tells it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit


@contextmanager
def prometheus(answers: Mapping[str, object]) -> Iterator[str]:
    """A server of Prometheus' query API: an expression's answer is a number, a list of samples, or a status to fail with."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            place = urlsplit(self.path)
            found = answers.get(parse_qs(place.query)["query"][0]) if place.path == "/api/v1/query" else 404
            if isinstance(found, int) and found >= 400:
                return self._send(found, {"status": "error", "errorType": "bad_data", "error": "parse error"})
            if isinstance(found, list):
                data: dict[str, object] = {
                    "resultType": "vector",
                    "result": [{"metric": {}, "value": [0, value]} for value in found],
                }
            else:
                data = {"resultType": "scalar", "result": [1763800000.1, str(found)]}
            return self._send(200, {"status": "success", "data": data})

        def _send(self, status: int, body: object) -> None:
            text = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
