"""The ways an import from MLflow can go: signed in, sent elsewhere, into PostgreSQL, cut short, with what is odd or deleted."""

from __future__ import annotations

import base64
import json
import pickle
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from modelyard import Yard
from modelyard.core.errors import Forbidden, Unavailable
from modelyard.core.events import EventType
from modelyard.core.models import ModelStage
from modelyard.portable.mlflow import Brought, import_
from modelyard.portable.mlflow.registering import name_here
from modelyard.portable.mlflow.server import Server
from modelyard.webhooks import outbox

EXPERIMENT = {"experiment_id": "7", "name": "one", "creation_time": 5, "lifecycle_stage": "active"}


class Guarded(BaseHTTPRequestHandler):
    """As much of MLflow's server as has one experiment, for whoever sends the right header."""

    wanted = ""
    moved = ""
    seen: list[tuple[str, str]]

    def do_GET(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.answer()

    def answer(self) -> None:
        sent = self.headers.get("Authorization", "")
        self.seen.append((self.path, sent))
        body = {"experiments": [EXPERIMENT]} if self.path.endswith("/experiments/search") else {}
        self.send_response(308 if self.moved else 200 if sent == self.wanted else 401)
        if self.moved:
            self.send_header("Location", self.moved + self.path)
        text = json.dumps(body).encode()
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def guarded(**options: str) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    seen: list[tuple[str, str]] = []
    handler = type("Handler", (Guarded,), {**options, "seen": seen})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", seen
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


BASIC = "Basic " + base64.b64encode(b"ana:p:w").decode()
SIGNED = [
    ({"MLFLOW_TRACKING_TOKEN": "t0ken"}, "Bearer t0ken"),
    ({"MLFLOW_TRACKING_USERNAME": "ana", "MLFLOW_TRACKING_PASSWORD": "p:w"}, BASIC),
    ({"MLFLOW_TRACKING_TOKEN": "t0ken", "MLFLOW_TRACKING_USERNAME": "ana"}, "Bearer t0ken"),
]


@pytest.mark.parametrize(("environment", "header"), SIGNED)
def test_a_server_that_asks_who_is_there_is_told_by_the_environment(
    environment: dict[str, str], header: str, new_yard: Callable[[str], Yard], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setitem(Server.__init__.__defaults__[0], name, value)
    with new_yard("yard") as yard, guarded(wanted=header) as (uri, seen):
        brought = import_(yard, uri, user="ana")
        assert brought.complete
        assert yard.tracking.get_experiment("7").name == "one"
        assert {sent for _, sent in seen} == {header}
        with yard.store.reading() as rows:
            told = str(rows.all("SELECT details FROM events"))
        assert not any(secret in told for secret in ("t0ken", "p:w"))


def test_nobodys_password_is_refused_with_what_to_set(new_yard: Callable[[str], Yard]) -> None:
    with new_yard("yard") as yard, guarded(wanted=BASIC) as (uri, _):
        with pytest.raises(Forbidden, match="MLFLOW_TRACKING_TOKEN"):
            import_(yard, uri, user="ana")
        assert [one.name for one in yard.tracking.search_experiments().items] == ["Default"]


def test_a_redirect_is_told_and_the_password_goes_nowhere_else(
    new_yard: Callable[[str], Yard], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "t0ken")
    with new_yard("yard") as yard, guarded() as (elsewhere, heard), guarded(moved=elsewhere) as (uri, _):
        with pytest.raises(Unavailable, match="follows nobody") as told:
            import_(yard, uri, user="ana")
        assert elsewhere in str(told.value)
        assert heard == []


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def write_run(root: Path, run_id: str, *, stage: str = "active", metrics: int = 1) -> Path:
    folder = root / "1" / run_id
    write(
        folder / "meta.yaml",
        f"run_id: {run_id}\nrun_name: {run_id}\nstart_time: 7\nend_time: 8\nstatus: 3\nlifecycle_stage: {stage}\n"
        f"artifact_uri: file://{folder}/artifacts\nuser_id: zoe\n",
    )
    for number in range(metrics):
        write(folder / "metrics" / f"m{number}", "".join(f"{step} {step}.5 {step}\n" for step in range(40)))
    return folder


def write_version(root: Path, name: str, number: int, run_id: str, *, stage: str = "None", created: int = 9) -> None:
    folder = root / "models" / name / f"version-{number}"
    write(
        folder / "meta.yaml",
        f"name: {json.dumps(name)}\nversion: {number}\ncurrent_stage: {stage}\nrun_id: {run_id}\n"
        f"source: runs:/{run_id}/model\ncreation_timestamp: {created}\ndescription: ''\n",
    )
    write(folder.parent / "meta.yaml", f"name: {json.dumps(name)}\ncreation_timestamp: 1\ndescription: ''\n")


class Evil:
    def __reduce__(self) -> Any:
        return print, ("run",)


@pytest.fixture
def kept(tmp_path: Path, files: dict[str, Path]) -> Path:
    """A file store: two runs, one of them deleted, with a model's file each, and one with a pickle that runs code."""
    root = tmp_path / "mlruns"
    write(root / "1" / "meta.yaml", "name: one\nexperiment_id: '1'\ncreation_time: 5\n")
    for run_id, stage in (("a1", "active"), ("gone", "deleted")):
        folder = write_run(root, run_id, stage=stage)
        (folder / "artifacts" / "model").mkdir(parents=True)
        shutil.copy(files["file"], folder / "artifacts" / "model" / "model.txt")
    evil = write_run(root, "evil") / "artifacts" / "model" / "model.pkl"
    write(evil, "")
    evil.write_bytes(pickle.dumps(Evil()))
    return root


def counts(brought: Brought) -> dict[str, tuple[int, int]]:
    return {one.kind: (one.there, one.here) for one in brought.counts}


def test_what_may_run_code_is_in_quarantine_and_a_version_of_a_deleted_run_comes_too(
    kept: Path, new_yard: Callable[[str], Yard]
) -> None:
    write_version(kept, "fraud", 1, "evil")
    write_version(kept, "fraud", 2, "gone", stage="Archived")
    write_version(kept, "fraud", 3, "a1", stage="Production")
    with new_yard("yard") as yard:
        brought = import_(yard, str(kept), user="ana")
        assert counts(brought)["versions"] == (3, 3), brought
        evil, gone, last = (yard.registry.version_by_number("fraud", number) for number in (1, 2, 3))
        assert "modelyard.admission=quarantined" in evil.tags
        assert yard.artifacts.get(evil.digest).admission == "quarantined"
        assert any("in quarantine" in note for note in brought.notes)
        assert (gone.stage, last.stage) == (ModelStage.ARCHIVED, ModelStage.DEVELOPMENT)
        assert yard.tracking.get_run("gone").lifecycle_stage.value == "deleted"
        assert (last.trained_by, last.metrics) == ("zoe", {"m0": 39.5})


def test_a_stage_that_the_policy_leaves_open_is_taken_over(kept: Path, new_yard: Callable[[str], Yard]) -> None:
    write_version(kept, "fraud", 1, "a1", stage="Production")
    write(kept / "models" / "fraud" / "aliases" / "champion", "1")
    with new_yard("yard") as yard:
        for stage in (ModelStage.STAGING, ModelStage.PRODUCTION):
            proposed = yard.registry.propose_policy("*", stage, "ana", quorum=0)
            yard.registry.approve_policy(proposed.policy_id, "max")
        assert import_(yard, str(kept), user="ana").complete
        assert yard.registry.version_by_number("fraud", 1).stage is ModelStage.PRODUCTION
        assert yard.registry.get_by_alias("fraud", "champion").number == 1


def test_a_model_whose_name_is_none_here_comes_under_a_plainer_one_with_its_aliases_and_copies(
    kept: Path, new_yard: Callable[[str], Yard]
) -> None:
    names = ["risk 2", "Größe", "Grüße", "欺诈", "fraud (old)?", "x" * 200]
    for name in names:
        write_version(kept, name, 1, "a1")
        write(kept / "models" / name / "aliases" / "best", "1")
    meta = kept / "models" / "risk 2" / "version-1" / "meta.yaml"
    meta.write_text(meta.read_text().replace("runs:/a1/model", "models:/Größe/1"), encoding="utf-8")
    with new_yard("yard") as yard:
        brought = import_(yard, str(kept), user="ana")
        assert brought.complete, brought
        here = [name_here(name) for name in names]
        assert len(set(here)) == len(names)
        assert here[0] == "risk 2"
        models = [yard.registry.get_registered_model(name) for name in here]
        assert [f"mlflow.name={name}" in model.tags for name, model in zip(names, models, strict=True)] == [
            False, True, True, True, True, True,
        ]  # fmt: skip
        assert all(yard.registry.get_by_alias(name, "best").digest for name in here)
        assert sum("is called" in note for note in brought.notes) == 5
        assert import_(yard, str(kept), user="ana").new == 0


def test_nobody_acts_on_what_comes_over_and_everybody_hears_of_the_import(
    kept: Path, new_yard: Callable[[str], Yard]
) -> None:
    write_version(kept, "fraud", 1, "a1", stage="Archived")
    names = ["registered_model.created", "model_version.created", "stage_changed", "tracking_imported"]
    with new_yard("yard") as yard:
        hook = yard.webhooks.create_webhook("all", "https://93.184.216.34/hook", names)
        import_(yard, str(kept), user="ana")
        yard.registry.create_model("ours", "ana")
        with yard.store.work() as work:
            outbox.collect_all(work.rows, work.now)
        told = [one.event for one in yard.webhooks.list_deliveries(hook.webhook_id).items]
        assert told == ["registered_model.created", "tracking_imported"]  # the newest first


@pytest.mark.postgres
def test_postgresql_takes_all_of_it_in(kept: Path, tmp_path: Path, postgres_url: str) -> None:
    write_version(kept, "fraud", 1, "a1", stage="Archived")
    write(kept / "models" / "fraud" / "aliases" / "best", "1")
    with Yard(postgres_url, files=tmp_path / "files") as yard:
        first, again = (import_(yard, str(kept), user="ana") for _ in range(2))
        assert (first.complete, again.complete, again.new) == (True, True, 0)
        assert counts(first) == counts(again)
        assert len(yard.tracking.metric_history("a1", "m0").items) == 40
        assert yard.registry.get_by_alias("fraud", "best").stage is ModelStage.ARCHIVED
        assert yard.audit.verify().ok


KILLED = """
import os, signal, sys
from modelyard import Yard
from modelyard.portable.mlflow import import_
yard, stop = Yard(sys.argv[1]), int(sys.argv[3])
whole, count = type(yard.store).work, 0
def counted(self, *arguments):
    global count
    count += 1
    if count == stop:
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(self, *arguments)
type(yard.store).work = counted
import_(yard, sys.argv[2], user="ana")
"""


@pytest.mark.parametrize("every", [3])
def test_an_import_that_is_killed_anywhere_goes_on_where_it_was(
    every: int, kept: Path, new_yard: Callable[[str], Yard], tmp_path: Path
) -> None:
    """Killed before every third transaction that it gets to, until one gets through."""
    for number, stage in enumerate(("Archived", "None", "Archived"), 1):
        write_version(kept, "fraud", number, "a1", stage=stage)
    write(kept / "models" / "fraud" / "aliases" / "best", "2")
    new_yard("yard").close()
    for _ in range(30):
        done = subprocess.run(
            [sys.executable, "-c", KILLED, str(tmp_path / "yard"), str(kept), str(every)],
            check=False,
            capture_output=True,
        )
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr.decode()
        every += 1
    with Yard(tmp_path / "yard") as yard:
        again = import_(yard, str(kept), user="ana")
        assert (again.complete, again.new) == (True, 0), again
        stages = [yard.registry.version_by_number("fraud", number).stage.value for number in (1, 2, 3)]
        assert stages == ["archived", "development", "archived"]
        assert yard.audit.verify().ok
        assert len(yard.audit.query_events(EventType.TRACKING_IMPORTED)) == 1
