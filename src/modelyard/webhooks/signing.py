"""What goes over the wire: the payload of an event, and headers that let the receiver check who sent it and when."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping
from typing import Any

from modelyard.core.canonical import dumps
from modelyard.core.events import Event, EventSeverity, EventType
from modelyard.core.instants import Instant
from modelyard.webhooks.mlflow import NAMES, envelope, is_mlflow, parts

FAMILIES = ("X-Modelyard", "X-MLflow")


def signature(secret: bytes, delivery_id: str, timestamp: str, payload: bytes) -> str:
    """`v1,` and the base64 HMAC-SHA256 over `delivery_id.timestamp.payload`, as MLflow and Standard Webhooks write it.

    >>> signature(b"secret", "dlv_1", "1700000000", b"{}")
    'v1,N61W7pyr7nckXBuFQlzF9uI44R9nKOqN11a0xwFhwhc='
    """
    content = f"{delivery_id}.{timestamp}.".encode() + payload
    return "v1," + base64.b64encode(hmac.new(secret, content, hashlib.sha256).digest()).decode()


def headers(name: str, delivery_id: str, now: Instant, payload: bytes, secret: bytes) -> dict[str, str]:
    """The headers of a message, each under our name and under MLflow's; no signature where there is no secret."""
    timestamp = str(int(now.timestamp()))
    values = {"Delivery-Id": delivery_id, "Timestamp": timestamp}
    if secret:
        values["Signature"] = signature(secret, delivery_id, timestamp, payload)
    found = {f"{family}-{key}": value for family in FAMILIES for key, value in values.items()}
    return {"Content-Type": "application/json", "X-Modelyard-Event": name, **found}


def payload(event: Event, name: str, part: int) -> bytes | None:
    """The message for an event under the name it was subscribed by; None if the event no longer tells that.

    The same event gives the same bytes however often it is sent.
    """
    if not is_mlflow(name):
        return dumps(event).encode()
    told = parts(event)
    if part >= len(told) or told[part][0] != name:
        return None
    return _mlflow(name, told[part][1], event.occurred_at)


def example(name: str, now: Instant) -> bytes:
    """A message such as the event's own, to test a webhook with."""
    if is_mlflow(name):
        return _mlflow(name, NAMES[name], now)
    event = Event(
        event_id="evt_example",
        event_type=EventType(name),
        severity=EventSeverity.INFO,
        actor="example",
        resource_type="model",
        resource_id="example_model:v1.0.0",
        occurred_at=now,
        details={"example": True},
    )
    return dumps(event).encode()


def _mlflow(name: str, data: Mapping[str, Any], at: Instant) -> bytes:
    return dumps(envelope(name, data, at.isoformat())).encode()
