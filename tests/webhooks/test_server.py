"""Webhooks through a running server: made by a client, sent by the server's own controller."""

from __future__ import annotations

import threading
from pathlib import Path

import httpx
import pytest
from receiving import Receiver, signed_by

from modelyard import Client
from modelyard.core.errors import NotFound
from modelyard.testing.serving import YardServer

SECRET = "correct-horse-battery-staple"  # no real one


@pytest.fixture
def served(tmp_path: Path):
    with YardServer(tmp_path / "yard", MODELYARD_WEBHOOK_HOSTS="127.0.0.1") as running:
        yield running


def test_the_server_sends_what_a_client_has_subscribed_to(served: YardServer, receiver: Receiver) -> None:
    arrived = threading.Semaphore(0)
    receiver.on_request = lambda _: arrived.release()
    with Client(served.url) as client:
        names = ["registered_model_created", "registered_model.created"]
        hook = client.webhooks.create_webhook("chat", receiver.url, names, secret=SECRET)
        assert client.webhooks.list_webhooks().items == (hook,)
        client.registry.create_model("fraud")
        assert arrived.acquire(timeout=120)
        assert arrived.acquire(timeout=120)
        assert {request.headers["x-modelyard-event"] for request in receiver.requests} == set(names)
        assert all(signed_by(SECRET, request) for request in receiver.requests)
        assert client.webhooks.test_webhook(hook.webhook_id).success
        assert client.webhooks.update_webhook(hook.webhook_id, status="disabled").secret_from == "stored"
        client.webhooks.delete_webhook(hook.webhook_id)
        with pytest.raises(NotFound, match="not found"):
            client.webhooks.get_webhook(hook.webhook_id)
    good = {"name": "chat", "url": receiver.url, "events": ["stage_changed"], "secret": SECRET}
    for change in ({"name": "-"}, {"url": "https://10.0.0.1"}, {"events": []}, {"status": "on"}, {"secret": [SECRET]}):
        answer = httpx.post(f"{served.url}/api/v1/webhooks", json=good | change)
        assert answer.status_code == 422
        assert SECRET not in answer.text
    assert served.stop() == 0
    assert SECRET not in served.log.read_text()
