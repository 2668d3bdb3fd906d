"""An import from MLflow: real stores filled by MLflow's own client, and read back by it from our server, value by value."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from modelyard import Yard
from modelyard.cli.main import main
from modelyard.core.errors import Conflict, Damaged, Forbidden, Invalid, Unavailable
from modelyard.core.events import EventType
from modelyard.core.models import ModelStage
from modelyard.portable.mlflow import Brought, import_
from modelyard.testing import servers

ROOT = Path(__file__).parents[2]
SCRIPTS = Path(__file__).parent / "mlflow_scripts"
START_S = 240.0
Seen = dict[str, Any]


@pytest.fixture(scope="module")
def peer() -> Path:
    """MLflow's environment, made if it is missing."""
    (ROOT / ".peers").mkdir(exist_ok=True)
    with (ROOT / ".peers" / ".mlflow.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = subprocess.run(["scripts/peers.sh", "mlflow"], cwd=ROOT, check=False, capture_output=True, text=True)
    if done.returncode and os.environ.get("CI", "").lower() != "true":
        pytest.skip(f"scripts/peers.sh mlflow: {done.stderr[-300:]}")
    assert done.returncode == 0, done.stderr
    return ROOT / ".peers" / "mlflow"


def client(peer: Path, script: str, uri: str, *words: str) -> str:
    """What a script prints that MLflow's own Python runs against a store."""
    environment = {**os.environ, "MLFLOW_TRACKING_URI": uri, "MLFLOW_DISABLE_TELEMETRY": "true", "OMP_NUM_THREADS": "1"}
    environment |= {"MLFLOW_ALLOW_FILE_STORE": "true", "GIT_PYTHON_REFRESH": "quiet", "LOGNAME": "ana"}
    done = subprocess.run(
        [str(peer / "bin" / "python"), str(SCRIPTS / script), *words],
        env=environment,
        cwd="/",
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def seen(peer: Path, uri: str) -> Seen:
    found: Seen = json.loads(client(peer, "seen.py", uri, "model").splitlines()[-1])
    return found


@contextmanager
def running(command: list[str], folder: Path) -> Iterator[str]:
    """A server until the end of the block; `PORT` in its command is replaced."""
    port = servers.free_port()
    uri = f"http://127.0.0.1:{port}"
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen(
            [word.replace("PORT", str(port)) for word in command],
            stdout=log,
            stderr=log,
            cwd=folder,
            env=environment,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + START_S
        while not healthy(uri):
            assert process.poll() is None, (folder / "log.txt").read_text(errors="replace")[-2000:]
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield uri
    finally:
        servers.end_group(process)


def healthy(uri: str) -> bool:
    try:
        return httpx.get(f"{uri}/health", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


@contextmanager
def ours(folder: Path) -> Iterator[str]:
    serve = ROOT / "tests" / "compatibility" / "mlflow" / "serve.py"
    with running([sys.executable, str(serve), str(folder), "PORT"], folder) as uri:
        yield uri


@pytest.fixture(scope="module")
def served(peer: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path, Seen]]:
    """MLflow's own server on SQLite with its proxy, filled; its folder, and what the client sees there."""
    folder = tmp_path_factory.mktemp("served")
    command = [str(peer / "bin" / "mlflow"), "server", "--workers", "1", "--port", "PORT", "--serve-artifacts"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "kept")]
    with running(command, folder) as uri:
        client(peer, "fill.py", uri)
        yield uri, folder, seen(peer, uri)


@pytest.fixture(scope="module")
def file_store(peer: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Seen]:
    folder = tmp_path_factory.mktemp("files") / "mlruns"
    client(peer, "fill.py", f"file:{folder}")
    return folder, seen(peer, f"file:{folder}")


def check_same(there: Seen, here: Seen) -> None:
    """The same, but for stages, which wait for approval, and the alias that is kept for production."""
    assert (
        here["experiments"].pop("0")[:3] == there["experiments"].pop("0")[:3]
    )  # each has its own, made at another time
    assert here["experiments"] == there["experiments"]
    assert here["runs"].keys() == there["runs"].keys()
    for run_id, run in there["runs"].items():
        assert here["runs"][run_id] == run
    assert here["logged"] == there["logged"]
    there["models"]["fraud"][2].pop("champion")
    assert here["models"] == there["models"]
    for version in there["versions"]:
        stage = version["current_stage"]
        version["tags"] |= {"mlflow.stage": stage} if stage != "None" else {}
        version["current_stage"] = "Archived" if stage == "Archived" else "None"
        version["aliases"] = [alias for alias in version["aliases"] if alias != "champion"]
    assert here["versions"] == there["versions"]
    assert [one["version"] for one in here["versions"] if one["name"] == "fraud"] == [1, 3, 4]


def missing(brought: Brought) -> dict[str, int]:
    return {one.kind: one.missing for one in brought.counts if one.missing}


def brought_twice(yard: Yard, uri: str, artifacts: Path | None = None) -> None:
    first = import_(yard, uri, user="ana@example.com", artifacts=artifacts)
    assert missing(first) == {"aliases": 1}, first  # the champion is not in production
    counts = {one.kind: one.there for one in first.counts}
    assert counts["metric values"] == 2_500 + 5 + 1 + 2 + 1 + 1 + 1
    assert (counts["experiments"], counts["runs"], counts["versions"]) == (3, 7, 4)
    again = import_(yard, uri, user="ana@example.com", artifacts=artifacts)
    assert (again.new, missing(again)) == (0, {"aliases": 1})
    assert [one.there for one in again.counts] == [one.there for one in first.counts]
    told = yard.audit.events(event_type=EventType.TRACKING_IMPORTED) if hasattr(yard.audit, "events") else None
    assert told is None or len(told) == 1


def copied(found: Seen) -> Seen:
    again: Seen = json.loads(json.dumps(found))
    return again


def test_a_server_comes_over_and_its_client_sees_the_same(
    peer: Path, served: tuple[str, Path, Seen], new_yard: Callable[[str], Yard], tmp_path: Path
) -> None:
    uri, _, there = served
    with new_yard("yard") as yard:
        brought_twice(yard, uri)
    with ours(tmp_path / "yard") as address:
        check_same(copied(there), seen(peer, address))


def test_a_file_store_comes_over_from_where_it_was_moved_to(
    peer: Path, file_store: tuple[Path, Seen], new_yard: Callable[[str], Yard], tmp_path: Path
) -> None:
    folder, there = file_store
    moved = shutil.copytree(folder, tmp_path / "moved" / "mlruns")
    with new_yard("yard") as yard:
        brought_twice(yard, str(moved))
    with ours(tmp_path / "yard") as address:
        check_same(copied(there), seen(peer, address))


def test_a_database_comes_over_as_its_server_does(
    served: tuple[str, Path, Seen], new_yard: Callable[[str], Yard]
) -> None:
    uri, folder, _ = served
    with new_yard("one") as one, new_yard("other") as other:
        brought_twice(one, f"sqlite:///{folder}/mlflow.db", folder / "kept")
        import_(other, uri, user="ana@example.com")
        for yard in (one, other):
            yard.dispatch()
        records = [sorted(one.tracking.digest_run(run) for run in served[2]["runs"]) for one in (one, other)]
        assert records[0] == records[1]


def test_an_interrupted_import_goes_on(
    served: tuple[str, Path, Seen], new_yard: Callable[[str], Yard], monkeypatch: pytest.MonkeyPatch
) -> None:
    from modelyard.portable.mlflow import training
    from modelyard.portable.mlflow.database import Database

    _, folder, there = served
    uri, kept = f"sqlite:///{folder}/mlflow.db", folder / "kept"
    monkeypatch.setattr(training, "TOGETHER", 2)
    whole = Database.history
    asked = 0

    def breaks(self: Database, run: Any, key: str) -> Any:
        nonlocal asked
        asked += 1
        if asked == stops_at:
            raise KeyboardInterrupt
        return whole(self, run, key)

    with new_yard("yard") as yard:
        for stops_at in (2, 4, 6):  # noqa: B007 - which `breaks` looks at
            asked = 0
            monkeypatch.setattr(Database, "history", breaks)
            with pytest.raises(KeyboardInterrupt):
                import_(yard, uri, user="ana", artifacts=kept)
        monkeypatch.setattr(Database, "history", whole)
        brought = import_(yard, uri, user="ana", artifacts=kept)
        assert missing(brought) == {"aliases": 1}
        for run_id, run in there["runs"].items():
            for key, history in run["histories"].items():
                assert len(yard.tracking.metric_history(run_id, key, limit=3_000).items) == len(history)


def test_a_run_that_goes_on_is_followed_and_nothing_else_changes(
    peer: Path, tmp_path: Path, new_yard: Callable[[str], Yard]
) -> None:
    folder = tmp_path / "mlruns"
    (folder / "1" / "a1" / "metrics").mkdir(parents=True)
    (folder / "1" / "meta.yaml").write_text("name: one\nexperiment_id: '1'\ncreation_time: 5\n")
    meta = folder / "1" / "a1" / "meta.yaml"
    meta.write_text("run_id: a1\nstart_time: 7\nstatus: 1\nend_time: null\nlifecycle_stage: active\n")
    loss = folder / "1" / "a1" / "metrics" / "loss"
    loss.write_text("1 0.5 0\n1 0.5 0\n")
    with new_yard("yard") as yard:
        import_(yard, str(folder), user="ana")
        loss.write_text("1 0.5 0\n1 0.5 0\n2 inf 1\n")
        meta.write_text("run_id: a1\nstart_time: 7\nstatus: 3\nend_time: 9\nlifecycle_stage: active\n")
        brought = import_(yard, str(folder), user="ana")
        run = yard.tracking.get_run("a1")
        assert (brought.new, brought.complete, run.status.value, run.end_time) == (1, True, "FINISHED", 9)
        assert run.metrics == {"loss": float("inf")}


def write_store(folder: Path, name: str = "one", created: int = 5) -> Path:
    (folder / "1" / "a1" / "artifacts").mkdir(parents=True)
    (folder / "1" / "meta.yaml").write_text(f"name: {name}\nexperiment_id: '1'\ncreation_time: {created}\n")
    (folder / "1" / "a1" / "meta.yaml").write_text(
        f"run_id: a1\nstart_time: 7\nstatus: 3\nend_time: 8\nartifact_uri: file://{folder}/1/a1/artifacts\n"
    )
    return folder


def test_a_taken_name_ends_the_import_before_anything_is_written(
    tmp_path: Path, new_yard: Callable[[str], Yard]
) -> None:
    folder = write_store(tmp_path / "mlruns")
    with new_yard("yard") as yard:
        yard.tracking.create_experiment("one")
        with pytest.raises(Conflict, match="'one' \\(experiment 1 here\\)"):
            import_(yard, str(folder), user="ana")
        assert len(yard.tracking.search_experiments().items) == 2


def test_a_taken_id_is_mapped_and_told(tmp_path: Path, new_yard: Callable[[str], Yard]) -> None:
    folder = write_store(tmp_path / "mlruns")
    (folder / "1" / "a1" / "artifacts" / "a.txt").write_text("a")
    with new_yard("yard") as yard:
        yard.tracking.create_experiment("another")
        for _ in range(2):
            brought = import_(yard, str(folder), user="ana")
            assert brought.complete
        run = yard.tracking.get_run("a1")
        assert (run.experiment_id, run.artifact_uri) == ("2", "mlflow-artifacts:/2/a1/artifacts")
        assert [file.path for file in yard.tracking.list_artifacts("a1")] == ["a.txt"]


def test_a_store_cannot_name_files_outside_of_it(tmp_path: Path, new_yard: Callable[[str], Yard]) -> None:
    folder = write_store(tmp_path / "mlruns")
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key.txt").write_text("secret")
    (folder / "1" / "a1" / "artifacts" / "link.txt").symlink_to(secret / "key.txt")
    (folder / "1" / "a1" / "artifacts" / "folder").symlink_to(secret)
    (folder / "1" / "b2").mkdir()
    (folder / "1" / "b2" / "meta.yaml").write_text(
        f"run_id: b2\nstart_time: 7\nstatus: 3\nartifact_uri: file://{secret}\n"
    )
    with new_yard("yard") as yard:
        brought = import_(yard, str(folder), user="ana")
        assert list(yard.tracking.files.walk("")) == []
        assert missing(brought) == {"run files": 1}
        assert "cannot be read from here" in next(one for one in brought.counts if one.missing).reasons[0]


@pytest.mark.parametrize("text", ["a: &x [1]\n<<: {b: *x}\n", "- 1\n", "a: [\n", "a: !!python/object:os.system x\n"])
def test_a_damaged_store_is_told_by_its_file(text: str, tmp_path: Path, new_yard: Callable[[str], Yard]) -> None:
    folder = write_store(tmp_path / "mlruns")
    (folder / "1" / "a1" / "meta.yaml").write_text(text)
    with new_yard("yard") as yard, pytest.raises(Damaged, match=r"a1/meta\.yaml"):
        import_(yard, str(folder), user="ana")


def test_what_cannot_be_kept_is_counted_with_its_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], new_yard: Callable[[str], Yard]
) -> None:
    folder = write_store(tmp_path / "mlruns")
    (folder / "1" / "a1" / "params").mkdir()
    (folder / "1" / "a1" / "params" / "p").write_text("x" * 6_001)
    new_yard("yard").close()
    code = main(
        ["import", "mlflow", str(folder), "--yard", str(tmp_path / "yard"), "--user", "ana", "--format", "json"]
    )
    runs = next(one for one in json.loads(capsys.readouterr().out)["counts"] if one["kind"] == "runs")
    assert (code, runs["there"], runs["here"]) == (1, 1, 0)
    assert "6,001 characters" in runs["reasons"][0]


def test_what_is_no_store_is_refused_with_what_to_name(tmp_path: Path, new_yard: Callable[[str], Yard]) -> None:
    (tmp_path / "text.db").write_text("no database" * 100)
    with new_yard("yard") as yard:
        for uri in (str(tmp_path), "postgresql://host/db", f"sqlite:///{tmp_path}/text.db", "http://me:pw@127.0.0.1:1"):
            with pytest.raises(Invalid):
                import_(yard, uri, user="ana")
        with pytest.raises(Unavailable, match="cannot be asked"):
            import_(yard, f"http://127.0.0.1:{servers.free_port()}", user="ana")


def test_only_administrators_import(tmp_path: Path, new_yard: Callable[[str], Yard]) -> None:
    folder = write_store(tmp_path / "mlruns")
    with new_yard("yard") as yard:
        yard.access.create_user("eve", created_by="root")
        with pytest.raises(Forbidden):
            import_(yard, str(folder), user="eve")


def test_an_import_does_not_approve(served: tuple[str, Path, Seen], new_yard: Callable[[str], Yard]) -> None:
    _, folder, _ = served
    with new_yard("yard") as yard:
        brought = import_(yard, f"sqlite:///{folder}/mlflow.db", user="ana@example.com", artifacts=folder / "kept")
        version = yard.registry.version_by_number("fraud", 4)
        assert version.stage is ModelStage.DEVELOPMENT
        assert "mlflow.stage=Production" in version.tags
        assert version.created_by == "ana@example.com"
        assert any("fraud 4 was Production" in note for note in brought.notes)
