"""A webhook that hears of our events and of MLflow's is shown to MLflow's clients without ours, and keeps them."""

from __future__ import annotations

from pathlib import Path

import pytest
from starlette.testclient import TestClient

from modelyard import Yard
from modelyard.server.app import create_app

API = "/api/2.0/mlflow/webhooks"
CREATED = {"entity": "MODEL_VERSION", "action": "CREATED"}
TAGGED = {"entity": "MODEL_VERSION_TAG", "action": "SET"}


def test_a_client_that_replaces_events_replaces_those_it_sees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELYARD_WEBHOOK_HOSTS", "127.0.0.1")
    with Yard(tmp_path / "yard") as yard:
        made = yard.webhooks.create_webhook(
            "mixed", "https://127.0.0.1:9/hook", ["stage_changed", "model_version.created", "run_ended"]
        )
        client = TestClient(create_app(yard, local_user="ana"))
        (shown,) = client.get(API).json()["webhooks"]
        assert shown["events"] == [CREATED]
        changed = client.patch(f"{API}/{made.webhook_id}", json={"events": [TAGGED]}).json()["webhook"]
        assert changed["events"] == [TAGGED]
        assert set(yard.webhooks.get_webhook(made.webhook_id).events) == {
            "stage_changed", "run_ended", "model_version_tag.set",
        }  # fmt: skip
        client.patch(f"{API}/{made.webhook_id}", json={"name": "other"})
        kept = yard.webhooks.get_webhook(made.webhook_id)
        assert (kept.name, len(kept.events)) == ("other", 3)
