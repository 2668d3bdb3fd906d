"""Files that the server answers with: streamed whatever their size, named by their digest, and gone when they are sent."""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from modelyard import Client, Yard
from modelyard.core.errors import Damaged, Invalid, Unavailable
from modelyard.server.app import create_app
from modelyard.testing.serving import YardServer

LARGE = 96 << 20
CONTENT = bytes(range(256)) * 40


@pytest.fixture
def yard(tmp_path: Path) -> Iterator[Yard]:
    with Yard(tmp_path / "yard") as yard:
        yield yard


@pytest.fixture
def file_of_a_run(yard: Yard, tmp_path: Path) -> str:
    """The route to a file of a run."""
    (tmp_path / "notes.bin").write_bytes(CONTENT)
    run = yard.tracking.create_run("0", user="ana")
    yard.tracking.log_artifact(run.run_id, tmp_path / "notes.bin")
    return f"/api/v1/runs/{run.run_id}/artifacts/download?path=notes.bin&suffix=bin"


@pytest.fixture
def client(yard: Yard) -> TestClient:
    return TestClient(create_app(yard, local_user="ana"))


def left(yard: Yard) -> list[Path]:
    return list((yard.store.folder / "cache" / "downloads").iterdir())


def test_a_download_is_named_by_its_digest_and_leaves_nothing(
    client: TestClient, yard: Yard, file_of_a_run: str
) -> None:
    answer = client.get(file_of_a_run)
    assert answer.content == CONTENT
    assert answer.headers["etag"] == f'"{hashlib.sha256(CONTENT).hexdigest()}"'
    assert answer.headers["content-length"] == str(len(CONTENT))
    assert left(yard) == []


@pytest.mark.parametrize(
    ("asked", "status", "expected"),
    [
        ("bytes=0-9", 206, CONTENT[:10]),
        ("bytes=100-", 206, CONTENT[100:]),
        ("bytes=-5", 206, CONTENT[-5:]),
        ("bytes=0-999999999", 206, CONTENT),
        ("bytes=999999999-", 416, None),
        ("bytes=nine-", 400, None),
        ("lines=1-2", 400, None),
    ],
)
def test_a_reader_goes_on_where_it_stopped(
    client: TestClient, yard: Yard, file_of_a_run: str, asked: str, status: int, expected: bytes | None
) -> None:
    answer = client.get(file_of_a_run, headers={"Range": asked})
    assert answer.status_code == status
    assert expected is None or answer.content == expected
    assert left(yard) == []


def test_a_range_of_what_has_changed_since_is_the_whole_file(client: TestClient, file_of_a_run: str) -> None:
    same = f'"{hashlib.sha256(CONTENT).hexdigest()}"'
    part = client.get(file_of_a_run, headers={"Range": "bytes=0-9", "If-Range": same})
    assert (part.status_code, len(part.content)) == (206, 10)
    whole = client.get(file_of_a_run, headers={"Range": "bytes=0-9", "If-Range": '"another"'})
    assert (whole.status_code, whole.content) == (200, CONTENT)


def test_a_refused_download_leaves_nothing(client: TestClient, yard: Yard, file_of_a_run: str) -> None:
    assert client.get(file_of_a_run.replace("notes", "nothing")).status_code == 404
    assert left(yard) == []


def test_what_a_killed_server_left_behind_goes_with_time(client: TestClient, yard: Yard, file_of_a_run: str) -> None:
    old, young = (yard.store.folder / "cache" / "downloads" / name for name in ("dl_old", "dl_young"))
    for folder in (old, young):
        folder.mkdir(parents=True)
    os.utime(old, (time.time() - 2 * 86_400,) * 2)
    client.get(file_of_a_run)
    assert left(yard) == [young]


def peak(server: YardServer) -> int:
    """The most bytes that the control plane has held at once."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024  # type: ignore[index]  # there is one


def test_neither_server_nor_client_holds_a_large_file_in_memory(tmp_path: Path) -> None:
    large = tmp_path / "large.bin"
    block = os.urandom(1 << 20)
    with large.open("wb") as out:
        for number in range(LARGE >> 20):
            out.write(number.to_bytes(8) + block[8:])
    digest = hashlib.sha256(large.read_bytes()).hexdigest()
    with Yard(tmp_path / "yard") as yard:
        run = yard.tracking.create_run("0", user="ana")
        yard.tracking.log_artifact(run.run_id, large)
    with YardServer(tmp_path / "yard") as server, Client(server.url) as client:
        (tmp_path / "small.bin").write_bytes(b"x")
        client.tracking.log_artifact(run.run_id, tmp_path / "small.bin")
        client.tracking.download_artifact(run.run_id, "small.bin", tmp_path / "copy.bin")  # imports are made now
        before = peak(server)
        client.tracking.download_artifact(run.run_id, "large.bin", tmp_path / "copy.bin")
        grown = peak(server) - before
    assert hashlib.sha256((tmp_path / "copy.bin").read_bytes()).hexdigest() == digest
    assert grown < LARGE / 6, f"{grown >> 20} MiB for a file of {LARGE >> 20} MiB"


def answering(content: bytes, **headers: str) -> Any:
    """A server that sends these bytes for every download."""
    told = {"Modelyard-Answer": "%22done%22", **headers}
    return httpx.MockTransport(lambda _: httpx.Response(200, content=content, headers=told))


@pytest.mark.parametrize("tag", ['"{}"', 'W/"{}"', ""])
def test_a_client_writes_what_it_was_sent_and_keeps_nothing_that_came_otherwise(tmp_path: Path, tag: str) -> None:
    target = tmp_path / "report.json"
    for content, right in ((b"{}", b"{}"), (b"{", b"{}")):
        client = Client("http://127.0.0.1:9")
        headers = {"ETag": tag.format(hashlib.sha256(right).hexdigest())} if tag else {}
        client._http = httpx.Client(base_url="http://127.0.0.1:9", transport=answering(content, **headers))
        if content == right or not tag:
            assert client.governance.export_governance_report("fraud", target) == "done"
            assert target.read_bytes() == content
        else:
            with pytest.raises(Damaged, match="as it was sent"):
                client.governance.export_governance_report("fraud", target)
            assert target.read_bytes() == right
        assert list(tmp_path.iterdir()) == [target]


def test_a_download_that_breaks_off_leaves_the_file_before(tmp_path: Path) -> None:
    target = tmp_path / "report.json"
    target.write_text("before")

    def broken() -> Iterator[bytes]:
        yield b"{"
        raise httpx.ReadError("reset")

    client = Client("http://127.0.0.1:9")
    transport = httpx.MockTransport(lambda _: httpx.Response(200, content=broken(), headers={"Modelyard-Answer": "1"}))
    client._http = httpx.Client(base_url="http://127.0.0.1:9", transport=transport)
    with pytest.raises(Unavailable, match="reset"):
        client.governance.export_governance_report("fraud", target)
    assert target.read_text() == "before"
    assert list(tmp_path.iterdir()) == [target]


def test_a_name_too_long_for_a_url_is_told_before_anything_is_sent() -> None:
    with pytest.raises(Invalid, match="URL"):
        Client("http://127.0.0.1:9").registry.get_model("x" * 100_000, "v1.0.0")
