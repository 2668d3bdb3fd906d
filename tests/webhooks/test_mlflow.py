"""What MLflow's clients can subscribe to, and that a registry's own changes become MLflow's messages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from receiving import Receiver, happen, signed_by

from modelyard import Yard
from modelyard.core.events import EventType
from modelyard.core.refs import Resource
from modelyard.webhooks import Round, Webhooks
from modelyard.webhooks.mlflow import NAMES

# MLflow 3.17, mlflow.webhooks.types: the fields of each payload
FIELDS = {
    "registered_model.created": {"name", "tags", "description"},
    "model_version.created": {"name", "version", "source", "run_id", "tags", "description"},
    "model_version_tag.set": {"name", "version", "key", "value"},
    "model_version_tag.deleted": {"name", "version", "key"},
    "model_version_alias.created": {"name", "alias", "version"},
    "model_version_alias.deleted": {"name", "alias"},
    "prompt.created": {"name", "tags", "description"},
    "prompt_version.created": {"name", "version", "template", "tags", "description"},
    "prompt_tag.set": {"name", "key", "value"},
    "prompt_tag.deleted": {"name", "key"},
    "prompt_version_tag.set": {"name", "version", "key", "value"},
    "prompt_version_tag.deleted": {"name", "version", "key"},
    "prompt_alias.created": {"name", "alias", "version"},
    "prompt_alias.deleted": {"name", "alias"},
}
PROMPT = {"mlflow.prompt.is_prompt": "true"}


def sent(webhooks: Webhooks, receiver: Receiver) -> list[tuple[str, dict[str, Any]]]:
    """(entity.action, data) of each message, after checking its frame."""
    webhooks.deliver()
    for request in receiver.requests:
        assert set(request.json) == {"entity", "action", "timestamp", "data"}
        assert request.json["timestamp"].endswith("+00:00")
        assert signed_by("s3cret", request, "x-mlflow")
    found = [(f"{r.json['entity']}.{r.json['action']}", r.json["data"]) for r in receiver.requests]
    receiver.requests.clear()
    return found


@pytest.fixture
def hook(webhooks: Webhooks, receiver: Receiver):
    return webhooks.create_webhook("mlflow", receiver.url, list(NAMES), secret="s3cret")


def test_the_names_are_mlflows() -> None:
    assert set(NAMES) == {*FIELDS, "budget_policy.exceeded"}
    assert {name: set(data) for name, data in NAMES.items() if name in FIELDS} == FIELDS


@pytest.mark.parametrize(
    ("kind", "resource", "details", "messages"),
    [
        (
            EventType.REGISTERED_MODEL_CREATED,
            "fraud",
            {"tags": ["team=risk"], "description": "Cards."},
            [("registered_model.created", {"name": "fraud", "tags": {"team": "risk"}, "description": "Cards."})],
        ),
        (
            EventType.MODEL_REGISTERED,
            "fraud:v1.2.0",
            {"number": 7, "source": "runs:/r1/model", "run_id": "r1", "tags": ["urgent", "a=b=c"]},
            [
                (
                    "model_version.created",
                    {
                        "name": "fraud",
                        "version": "7",
                        "source": "runs:/r1/model",
                        "run_id": "r1",
                        "tags": {"urgent": "", "a": "b=c"},
                        "description": None,
                    },
                )
            ],
        ),
        (
            EventType.MODEL_UPDATED,
            "fraud:v1.2.0",
            {"number": 7, "changes": {"tags": {"from": ["a=1", "b=2", "c=3"], "to": ["a=1", "b=4", "d=5"]}}},
            [
                ("model_version_tag.set", {"name": "fraud", "version": "7", "key": "b", "value": "4"}),
                ("model_version_tag.set", {"name": "fraud", "version": "7", "key": "d", "value": "5"}),
                ("model_version_tag.deleted", {"name": "fraud", "version": "7", "key": "c"}),
            ],
        ),
        (
            EventType.MODEL_UPDATED,
            "fraud:v1.2.0",
            {"number": 7, "changes": {"tags.team": {"from": "team=cards", "to": "team=risk"}}},
            [("model_version_tag.set", {"name": "fraud", "version": "7", "key": "team", "value": "risk"})],
        ),
        (
            EventType.MODEL_UPDATED,
            "fraud:v1.2.0",
            {"number": 7, "changes": {"tags.team": {"from": "team=cards", "to": None}}},
            [("model_version_tag.deleted", {"name": "fraud", "version": "7", "key": "team"})],
        ),
        (EventType.MODEL_UPDATED, "fraud:v1.2.0", {"changes": {"description": {"from": "", "to": "x"}}}, []),
        (
            EventType.ALIAS_SET,
            "fraud:v1.2.0",
            {"alias": "champion", "version": "v1.2.0"},
            [("model_version_alias.created", {"name": "fraud", "alias": "champion", "version": "v1.2.0"})],
        ),
        (
            EventType.ALIAS_SET,
            "fraud:v1.2.0",
            {"alias": "champion", "version": None},
            [("model_version_alias.deleted", {"name": "fraud", "alias": "champion"})],
        ),
        (
            EventType.REGISTERED_MODEL_CREATED,
            "greeting",
            {"tags": {**PROMPT, "team": "chat"}},
            [("prompt.created", {"name": "greeting", "tags": {"team": "chat"}, "description": None})],
        ),
        (
            EventType.MODEL_REGISTERED,
            "greeting:v1.0.0",
            {"number": 1, "tags": {**PROMPT, "mlflow.prompt.text": "Hi {{name}}", "_mlflow_prompt_type": "text"}},
            [
                (
                    "prompt_version.created",
                    {"name": "greeting", "version": "1", "template": "Hi {{name}}", "tags": {}, "description": None},
                )
            ],
        ),
        (
            EventType.ALIAS_SET,
            "greeting:v1.0.0",
            {"alias": "live", "version": "v1.0.0", "number": 1, "prompt": True},
            [("prompt_alias.created", {"name": "greeting", "alias": "live", "version": "1"})],
        ),
        (
            EventType.REGISTERED_MODEL_UPDATED,
            "greeting",
            {"prompt": True, "changes": {"tags": {"from": {"a": "1"}, "to": {"b": "2"}}}},
            [
                ("prompt_tag.set", {"name": "greeting", "key": "b", "value": "2"}),
                ("prompt_tag.deleted", {"name": "greeting", "key": "a"}),
            ],
        ),
        (EventType.REGISTERED_MODEL_UPDATED, "fraud", {"changes": {"tags": {"from": [], "to": ["a=1"]}}}, []),
        (EventType.STAGE_CHANGED, "fraud:v1.2.0", {"to": "production"}, []),
    ],
)
def test_an_event_becomes_mlflows_messages(
    webhooks: Webhooks, hook, receiver: Receiver, kind: EventType, resource: str, details: dict, messages: list
) -> None:
    with webhooks.store.work("ana@example.com") as work:
        work.emit(kind, Resource("model" if ":" in resource else "registered_model", resource), details)
    found = sent(webhooks, receiver)
    assert found == messages
    for name, data in found:
        assert set(data) == FIELDS[name]


def test_one_event_under_two_names_is_two_messages(webhooks: Webhooks, receiver: Receiver) -> None:
    webhooks.create_webhook("both", receiver.url, ["alias_set", "MODEL_VERSION_ALIAS.CREATED"])
    happen(webhooks, kind=EventType.ALIAS_SET, alias="champion", version="v1.0.0")
    assert webhooks.deliver() == Round(collected=2, delivered=2)
    assert [request.headers["x-modelyard-event"] for request in receiver.requests] == [
        "alias_set",
        "model_version_alias.created",
    ]
    assert len({request.delivery for request in receiver.requests}) == 2


@pytest.mark.parametrize("name", [*NAMES, "stage_changed"])
def test_every_event_can_be_tried_out(webhooks: Webhooks, hook, receiver: Receiver, name: str) -> None:
    result = webhooks.test_webhook(hook.webhook_id, event=name)
    assert (result.success, result.response_status, result.error) == (True, 200, "")
    (request,) = receiver.requests
    assert signed_by("s3cret", request, "x-mlflow")
    if name in NAMES:
        assert request.json["data"] == json.loads(json.dumps(NAMES[name]))
    else:
        assert (request.json["event_type"], request.json["details"]) == (name, {"example": True})


def test_a_registrys_own_changes_are_told(
    tmp_path: Path, small_model: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODELYARD_WEBHOOK_HOSTS", "127.0.0.1")
    with Yard(tmp_path / "yard") as yard:
        names = ["model_version.created", "model_version_alias.created", "model_version_tag.set"]
        yard.webhooks.create_webhook("mlflow", receiver.url, names, secret="s3cret")
        yard.registry.register_model("fraud", "v1.0.0", small_model, "lightgbm", "ana@example.com")
        yard.registry.set_alias("fraud", "challenger", "v1.0.0", user="ana@example.com")
        yard.registry.update("fraud", "v1.0.0", "ana@example.com", tags=["team=risk"])
        created, alias, tag = sent(yard.webhooks, receiver)
    assert (created[0], created[1]["name"]) == ("model_version.created", "fraud")
    assert (alias[0], alias[1]["alias"]) == ("model_version_alias.created", "challenger")
    assert (tag[0], tag[1]["key"], tag[1]["value"]) == ("model_version_tag.set", "team", "risk")
