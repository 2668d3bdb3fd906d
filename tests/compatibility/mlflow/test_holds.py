"""Files under legal hold are not deleted through the proxy either, and who deletes others is known."""

from __future__ import annotations

import io
from pathlib import Path

from starlette.testclient import TestClient

from modelyard import Yard
from modelyard.core.events import EventType
from modelyard.server.app import create_app

FILES = "/api/2.0/mlflow-artifacts/artifacts"


def test_a_hold_on_a_run_keeps_its_files(tmp_path: Path) -> None:
    with Yard(tmp_path / "yard") as yard:
        held, free = (yard.tracking.create_run("0").run_id for _ in range(2))
        for run_id in (held, free):
            yard.tracking.write_artifact(run_id, "notes.md", io.BytesIO(b"good"))
        yard.audit.legal_hold("run", held, user="dpo", reason="a case")
        client = TestClient(create_app(yard, local_user="ana"))
        for path in (f"0/{held}/artifacts/notes.md", f"0/{held}/artifacts", f"0/{held}", "0"):
            answer = client.delete(f"{FILES}/{path}")
            assert (answer.status_code, answer.json()["error_code"]) == (409, "RESOURCE_CONFLICT")
        assert client.get(f"{FILES}/0/{held}/artifacts/notes.md").content == b"good"
        assert client.delete(f"{FILES}/0/{free}/artifacts/notes.md").json() == {}
        (told,) = yard.audit.query_events(EventType.RUN_FILES_REMOVED)
        assert (told.actor, told.resource_id) == ("ana", f"0/{free}/artifacts/notes.md")
