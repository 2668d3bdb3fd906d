"""The routes of webhooks, which hear of what happens in the registry."""

from __future__ import annotations

from typing import Any

from modelyard.core.errors import NotFound
from modelyard.server.mlflow import filters, views
from modelyard.server.mlflow.calls import NOTHING, Call, instead, route
from modelyard.server.mlflow.errors import Refused
from modelyard.server.mlflow.fields import anything, integer, objects, text, wrong_kind
from modelyard.webhooks import WebhookStatus
from modelyard.webhooks.mlflow import is_mlflow

READ, WRITE = "webhooks.read", "webhooks.write"
ONE = "/webhooks/{webhook_id}"
STATUSES = {
    "ACTIVE": WebhookStatus.ACTIVE,
    "DISABLED": WebhookStatus.DISABLED,
    1: WebhookStatus.ACTIVE,
    2: WebhookStatus.DISABLED,
}


def create(call: Call) -> dict[str, Any]:
    """A new webhook."""
    if not call["events"]:
        raise Refused("Missing value for required parameter 'events'.")
    made = call.yard.webhooks.create_webhook(
        call["name"],
        call["url"],
        _events(call),
        secret=call.text("secret"),
        description=call.text("description"),
        status=_status(call) or WebhookStatus.ACTIVE,
        created_by=call.who,
    )
    return {"webhook": views.webhook(made)}


def listed(call: Call) -> dict[str, Any]:
    """A page of webhooks."""
    page = call.yard.webhooks.list_webhooks(
        only_mlflow=True, page_token=filters.token(call.text("page_token")), max_results=call.get("max_results", 100)
    )
    told: dict[str, Any] = {"webhooks": [views.webhook(one) for one in page.items]} if page.items else {}
    return told | ({"next_page_token": page.next_page_token} if page.next_page_token else {})


def get(call: Call) -> dict[str, Any]:
    """One webhook."""
    with _found(call):
        return {"webhook": views.webhook(call.yard.webhooks.get_webhook(call["webhook_id"]))}


def update(call: Call) -> dict[str, Any]:
    """A webhook with what is given replaced; of its events those that MLflow knows, since its clients see no others."""
    with _found(call):
        own = [name for name in call.yard.webhooks.get_webhook(call["webhook_id"]).events if not is_mlflow(name)]
        events = _events(call)
        made = call.yard.webhooks.update_webhook(
            call["webhook_id"],
            name=call.text("name") or None,
            url=call.text("url") or None,
            events=[*events, *own] if events else None,
            secret=call.get("secret"),
            description=call.get("description"),
            status=_status(call),
            user=call.who,
        )
    return {"webhook": views.webhook(made)}


def delete(call: Call) -> dict[str, Any]:
    """Remove a webhook."""
    with _found(call):
        call.yard.webhooks.delete_webhook(call["webhook_id"], call.who)
    return NOTHING


def test(call: Call) -> dict[str, Any]:
    """What came of sending an example."""
    event = call.get("event")
    with _found(call):
        made = call.yard.webhooks.test_webhook(call["webhook_id"], _event(event) if event else "")
    told: dict[str, Any] = {"success": made.success}
    if made.response_status is not None:
        told |= {"response_status": made.response_status, "response_body": made.response_body}
    return {"result": told | ({"error_message": made.error} if made.error else {})}


def _found(call: Call) -> Any:
    return instead(NotFound, f"Webhook with ID {call['webhook_id']} not found.")


def _events(call: Call) -> list[str]:
    return [_event(one) for one in call.get("events", [])]


def _event(sent: Any) -> str:
    """An event's two words as one name."""
    words = [sent.get("entity"), sent.get("action")] if isinstance(sent, dict) else []
    told = [word for word in words if isinstance(word, str) and word]
    if len(told) != 2:
        raise Refused(wrong_kind("events", sent))
    return ".".join(told).lower()


def _status(call: Call) -> WebhookStatus | None:
    sent = call.get("status")
    if sent is None:
        return None
    if not isinstance(sent, str | int) or sent not in STATUSES:
        raise Refused(wrong_kind("status", sent))
    return STATUSES[sent]


ROUTES = (
    route(
        "POST",
        "/webhooks",
        WRITE,
        create,
        text("name", required=True),
        text("url", required=True),
        objects("events", required=True),
        text("description"),
        text("secret"),
        anything("status"),
    ),
    route("GET", "/webhooks", READ, listed, integer("max_results"), text("page_token")),
    route("GET", ONE, READ, get),
    route(
        "PATCH",
        ONE,
        WRITE,
        update,
        text("name"),
        text("url"),
        objects("events"),
        text("description"),
        text("secret"),
        anything("status"),
    ),
    route("DELETE", ONE, WRITE, delete),
    route("POST", f"{ONE}/test", WRITE, test, anything("event")),
)
