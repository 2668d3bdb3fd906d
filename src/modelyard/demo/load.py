"""Steady HTTP traffic from a process of its own: `python -m modelyard.demo.load` with a JSON order on stdin.

Requests are paced on a fixed schedule over a few keep-alive connections (open loop: a slow answer does not slow the
schedule down, up to the number of connections). Each answer is one JSON line on stdout.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(slots=True, kw_only=True)
class Answer:
    """What came back for one request."""

    index: int
    status: int
    arm: str
    version: str
    prediction: Any
    latency_ms: float
    request_id: str


class Traffic:
    """Running traffic: `answers()` gives what has come back so far; leaving the `with` block ends it."""

    def __init__(self, process: subprocess.Popen[str], out: Path) -> None:
        self._process = process
        self._out = out

    def answers(self) -> list[Answer]:
        """Every answer so far, in order of arrival."""
        lines = self._out.read_text().splitlines(keepends=True)
        return [Answer(**json.loads(line)) for line in lines if line.endswith("\n")]

    def alive(self) -> bool:
        """True while requests are still being sent."""
        return self._process.poll() is None


@contextmanager
def traffic(
    url: str, bodies: Sequence[dict[str, Any]], out: Path, *, rate: float, seconds: float, connections: int = 16
) -> Iterator[Traffic]:
    """Send `rate` requests a second for at most `seconds` to `url`, cycling through the bodies.

    A body may have a key `unit`: it is sent as the header x-unit-id.
    """
    order = {"url": url, "rate": rate, "seconds": seconds, "connections": connections, "bodies": list(bodies)}
    with out.open("w") as answers:
        process = subprocess.Popen(
            [sys.executable, "-m", "modelyard.demo.load"], stdin=subprocess.PIPE, stdout=answers, text=True
        )
    assert process.stdin is not None  # asked for above
    try:
        process.stdin.write(json.dumps(order))
        process.stdin.close()
        yield Traffic(process, out)
    finally:
        process.terminate()
        process.wait()


async def _send(order: dict[str, Any]) -> None:
    host, port, path = _parts(order["url"])
    requests = [_request(host, port, path, body) for body in order["bodies"]]
    started = time.perf_counter()
    end = started + order["seconds"]
    counter = iter(range(int(order["rate"] * order["seconds"])))

    async def connection() -> None:
        reader = writer = None
        for index in counter:
            due = started + index / order["rate"]
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            if time.perf_counter() > end:
                break
            begun = time.perf_counter()
            try:
                if writer is None or writer.is_closing():
                    reader, writer = await asyncio.open_connection(host, port)
                assert reader is not None  # opened together with the writer
                writer.write(requests[index % len(requests)])
                status, body = await _response(reader)
            except (OSError, asyncio.IncompleteReadError, ValueError):
                status, body, writer = 0, {}, None
            _tell(index, status, body, (time.perf_counter() - begun) * 1000)
        if writer is not None:
            writer.close()

    await asyncio.gather(*(connection() for _ in range(order["connections"])))


def _request(host: str, port: int, path: str, body: dict[str, Any]) -> bytes:
    content = json.dumps({k: v for k, v in body.items() if k != "unit"}).encode()
    unit = f"x-unit-id: {body['unit']}\r\n" if "unit" in body else ""
    head = f"POST {path} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n{unit}Content-Length: {len(content)}\r\n\r\n"
    return head.encode() + content


async def _response(reader: asyncio.StreamReader) -> tuple[int, Any]:
    head = await reader.readuntil(b"\r\n\r\n")
    status = int(head[9:12])
    length = next(
        int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")
    )
    return status, json.loads(await reader.readexactly(length) or b"{}")


def _tell(index: int, status: int, body: Any, latency_ms: float) -> None:
    predictions = body.get("predictions") or [None]
    told = {
        "index": index,
        "status": status,
        "arm": body.get("arm", ""),
        "version": body.get("model_version", ""),
        "prediction": predictions[0],
        "latency_ms": round(latency_ms, 3),
        "request_id": body.get("request_id", ""),
    }
    sys.stdout.write(json.dumps(told) + "\n")
    sys.stdout.flush()


def _parts(url: str) -> tuple[str, int, str]:
    rest = url.removeprefix("http://")
    address, _, path = rest.partition("/")
    host, _, port = address.partition(":")
    return host, int(port or 80), "/" + path


if __name__ == "__main__":
    asyncio.run(_send(json.load(sys.stdin)))
