"""MLflow's own server and ours, each a process, and what the unmodified MLflow client is answered by them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from modelyard.testing import servers
from modelyard.testing.postgres import PostgresServer

HERE = Path(__file__).parent
collect_ignore_glob = [
    "scenarios/*",
    "runner.py",
    "plainness.py",
    "serve.py",
]  # MLflow's Python and processes of their own

START_S = 240.0  # MLflow takes a minute and more to start where others work
Answers = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Peer:
    """MLflow's environment, and how its Python is run."""

    place: Path

    @property
    def python(self) -> str:
        return str(self.place / "bin" / "python")

    def environment(self, **more: str) -> dict[str, str]:
        return {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", **more}

    def run(self, code: str, uri: str, **more: str) -> Any:
        """What a piece of Python prints as JSON, with the tracking URI set to `uri`."""
        done = subprocess.run(
            [self.python, "-c", code],
            env=self.environment(MLFLOW_TRACKING_URI=uri, **more),
            cwd="/",
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="session")
def mlflow_peer(peer: Callable[[str], Path]) -> Peer:
    return Peer(peer("mlflow"))


@contextmanager
def running(command: list[str], port: int, log: Path, **options: Any) -> Iterator[str]:
    """A server process until the end of the block; its address."""
    uri = f"http://127.0.0.1:{port}"

    def ready() -> bool:
        try:
            return httpx.get(f"{uri}/health", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True, **options)
    try:
        deadline = time.monotonic() + START_S
        while not ready():
            assert process.poll() is None, log.read_text(errors="replace")[-2000:]
            assert time.monotonic() < deadline, f"{command} does not answer"
            time.sleep(0.05)
        yield uri
    finally:
        servers.end_group(process)


@contextmanager
def our_server(folder: Path, *modes: str, place: str = "", **environment: str) -> Iterator[str]:
    """A server on a yard of its own, in the folder or at a place; see serve.py for the modes."""
    port = servers.free_port()
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(HERE / "serve.py"), place or str(folder / "yard"), str(port), *modes]
    with running(command, port, folder / "log.txt", cwd=folder, env={**os.environ, **environment}) as uri:
        yield uri


@contextmanager
def object_store(moto: Path, log: Path) -> Iterator[dict[str, str]]:
    """An S3 server with a bucket called yard, until the end of the block: what its clients have in their environment."""
    port = servers.free_port()
    with log.open("wb") as out:
        process = subprocess.Popen(
            [moto / "bin" / "moto_server", "-H", "127.0.0.1", "-p", str(port)], stdout=out, stderr=out
        )

    def ready() -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{port}/moto-api/", timeout=5).is_success
        except httpx.TransportError:
            return False

    try:
        servers.wait_until(ready, process, log)
        signature = "Credential=test/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=x"
        headers = {"Authorization": f"AWS4-HMAC-SHA256 {signature}"}
        httpx.put(f"http://127.0.0.1:{port}/yard", headers=headers).raise_for_status()
        yield {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
        }
    finally:
        servers.end(process)


@contextmanager
def mlflow_server(peer: Peer, folder: Path) -> Iterator[str]:
    """MLflow's own server on SQLite, with the artifact proxy."""
    port = servers.free_port()
    folder.mkdir(parents=True, exist_ok=True)
    command = [str(peer.place / "bin" / "mlflow"), "server", "--workers", "1", "--port", str(port)]
    command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
    command += ["--artifacts-destination", str(folder / "artifacts"), "--serve-artifacts"]
    with running(command, port, folder / "log.txt", cwd=folder, env=peer.environment()) as uri:
        yield uri


@pytest.fixture(scope="session")
def answered(mlflow_peer: Peer, tmp_path_factory: pytest.TempPathFactory) -> tuple[Answers, Answers]:
    """(MLflow's answers, ours) to every scenario, asked at the same time."""
    folder = tmp_path_factory.mktemp("servers")
    with ExitStack() as stack:
        ours = stack.enter_context(our_server(folder / "ours", "open"))
        theirs = stack.enter_context(mlflow_server(mlflow_peer, folder / "theirs"))
        told = ask(mlflow_peer, folder, theirs, ours)
    return told[0], told[1]


def ask(peer: Peer, folder: Path, *uris: str) -> list[Answers]:
    """The answers of some servers to every scenario, all asked at the same time."""
    asked = [
        subprocess.Popen(
            [peer.python, str(HERE / "runner.py"), uri],
            env=peer.environment(),
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        for uri in uris
    ]
    return [json.loads(process.communicate(timeout=900)[0]) for process in asked]


@pytest.fixture(scope="session")
def answered_elsewhere(
    mlflow_peer: Peer,
    peer: Callable[[str], Path],
    postgres_server: PostgresServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Answers:
    """Our answers to every scenario from a yard on PostgreSQL with its files in S3."""
    folder = tmp_path_factory.mktemp("elsewhere")
    place = postgres_server.url(postgres_server.new_database())
    with (
        object_store(peer("moto"), folder / "s3.log") as environment,
        our_server(folder, "open", "files=s3://yard/files", place=place, **environment) as uri,
    ):
        (told,) = ask(mlflow_peer, folder, uri)
        assert not (folder / "yard" / "blobs").exists(), "the files lie in S3"
    return told


@pytest.fixture
def start() -> Callable[..., Any]:
    """Starts our server on the folder's yard, until the end of a with block."""
    return our_server


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Our server with the policies that hold by default."""
    with our_server(tmp_path_factory.mktemp("guarded")) as uri:
        yield uri
