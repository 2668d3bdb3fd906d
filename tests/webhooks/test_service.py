"""Making, listing, changing and removing webhooks."""

from __future__ import annotations

import pytest
from receiving import Opening, Receiver, happen, told

from modelyard.core.errors import Invalid, NotFound
from modelyard.core.events import EventType
from modelyard.core.instants import FixedClock
from modelyard.webhooks import Webhooks, WebhookStatus

EVENTS = ["stage_changed"]


def test_a_webhook_is_kept_as_it_was_made(opened: Opening, place, receiver: Receiver, clock: FixedClock) -> None:
    webhooks = opened(place)
    made = webhooks.create_webhook(
        "chat",
        receiver.url,
        ["STAGE_CHANGED", "model_version.created", "stage_changed"],
        description="Tells the team.\nAll of it.",
        status=WebhookStatus.DISABLED,
        created_by="ana@example.com",
    )
    assert opened(place).get_webhook(made.webhook_id) == made
    assert made.events == ("stage_changed", "model_version.created")
    assert (made.created_by, made.created_at, made.updated_at) == ("ana@example.com", clock.now(), clock.now())
    (details,) = told(webhooks, EventType.WEBHOOK_CREATED)
    assert details == {
        "name": "chat",
        "place": f"http://127.0.0.1:{receiver.port}",
        "events": ["stage_changed", "model_version.created"],
        "status": "disabled",
        "signed": False,
    }


def test_pages_walk_over_all_webhooks_the_newest_first(
    opened: Opening, place, receiver: Receiver, clock: FixedClock
) -> None:
    webhooks = opened(place)
    made = []
    for number in range(7):
        events = ["model_version.created"] if number % 2 else EVENTS
        made.append(webhooks.create_webhook(f"hook-{number}", receiver.url, events).name)
        clock.advance(1 if number % 3 else 0)  # some at the same moment
    seen, token = [], ""
    while True:
        page = webhooks.list_webhooks(page_token=token, max_results=2)
        seen += [hook.name for hook in page.items]
        token = page.next_page_token
        if not token:
            break
    assert sorted(seen) == made
    assert seen[-1] in ("hook-0", "hook-1")
    mlflow = webhooks.list_webhooks(only_mlflow=True)
    assert sorted(hook.name for hook in mlflow.items) == ["hook-1", "hook-3", "hook-5"]
    assert mlflow.next_page_token == ""
    token = webhooks.list_webhooks(max_results=1).next_page_token
    with pytest.raises(Invalid, match="page token"):
        webhooks.list_webhooks(only_mlflow=True, page_token=token)


def test_pages_walk_over_deliveries(opened: Opening, place, receiver: Receiver) -> None:
    webhooks = opened(place)
    hook = webhooks.create_webhook("chat", receiver.url, EVENTS)
    happen(webhooks, 5)
    webhooks.deliver()
    seen, token = [], ""
    for _ in range(3):
        page = webhooks.list_deliveries(hook.webhook_id, page_token=token, max_results=2)
        seen += [one.delivery_id for one in page.items]
        token = page.next_page_token
    assert token == ""
    assert seen == [request.delivery for request in reversed(receiver.requests)]
    with pytest.raises(Invalid, match="page token"):
        webhooks.list_webhooks(page_token=webhooks.list_deliveries(hook.webhook_id, max_results=1).next_page_token)


@pytest.mark.parametrize("name", ["", "-chat", "chat-", "a b", "a/b", "x" * 64, "chät", "a\n", "<b>", None, 7])
def test_a_bad_name_is_refused(webhooks: Webhooks, receiver: Receiver, name) -> None:
    with pytest.raises(Invalid, match=r"Webhook name .* is invalid"):
        webhooks.create_webhook(name, receiver.url, EVENTS)


@pytest.mark.parametrize("name", ["a", "x" * 63, "a.b_c-d", "7"])
def test_a_good_name_is_taken(webhooks: Webhooks, receiver: Receiver, name: str) -> None:
    assert webhooks.create_webhook(name, receiver.url, EVENTS).name == name


@pytest.mark.parametrize("events", [[], "stage_changed", ["stage_chnged"], ["model_version.updated"], [""], [None]])
def test_unknown_events_are_refused(webhooks: Webhooks, receiver: Receiver, events) -> None:
    with pytest.raises(Invalid, match="event"):
        webhooks.create_webhook("chat", receiver.url, events)


def test_a_misspelt_event_is_answered_with_the_nearest(webhooks: Webhooks, receiver: Receiver) -> None:
    with pytest.raises(Invalid, match="Did you mean stage_changed"):
        webhooks.create_webhook("chat", receiver.url, ["stage_chnged"])


@pytest.mark.parametrize("limit", [0, -1, 1001, "5", 2.5])
def test_a_page_has_1_to_1000_items(webhooks: Webhooks, limit) -> None:
    with pytest.raises(Invalid, match="between 1 and 1000"):
        webhooks.list_webhooks(max_results=limit)


@pytest.mark.parametrize("token", ["x", "bm9uZQ==", "\ud800", "[]"])
def test_a_damaged_page_token_is_refused(webhooks: Webhooks, token: str) -> None:
    with pytest.raises(Invalid, match="page token"):
        webhooks.list_webhooks(page_token=token)


def test_what_is_not_given_stays_as_it_is(webhooks: Webhooks, receiver: Receiver, clock: FixedClock) -> None:
    made = webhooks.create_webhook("chat", receiver.url, EVENTS, secret="s3cret", description="old")
    clock.advance(60)
    new = webhooks.update_webhook(
        made.webhook_id, description="new", status=WebhookStatus.DISABLED, user="ben@example.com"
    )
    assert (new.name, new.url, new.events, new.secret_from) == (made.name, made.url, made.events, "stored")
    assert (new.description, new.status, new.updated_at) == ("new", WebhookStatus.DISABLED, clock.now())
    (details,) = told(webhooks, EventType.WEBHOOK_UPDATED)
    assert details["changed"] == ["description", "status"]


@pytest.mark.parametrize(
    "change",
    [
        {"name": "no good"},
        {"url": "http://10.0.0.1/"},
        {"url": ""},
        {"events": []},
        {"events": ["none"]},
        {"status": "on"},
        {"description": "x" * 1001},
        {"description": "\x00"},
        {"secret": "env:HOME"},
    ],
)
def test_a_bad_change_changes_nothing(webhooks: Webhooks, receiver: Receiver, change: dict) -> None:
    made = webhooks.create_webhook("chat", receiver.url, EVENTS)
    with pytest.raises(Invalid):
        webhooks.update_webhook(made.webhook_id, **{"name": "new", **change})
    assert webhooks.get_webhook(made.webhook_id) == made
    assert told(webhooks, EventType.WEBHOOK_UPDATED) == []


def test_a_removed_webhook_is_gone_with_what_waits(webhooks: Webhooks, receiver: Receiver) -> None:
    hook = webhooks.create_webhook("chat", receiver.url, EVENTS, secret="s3cret")
    happen(webhooks, 3)
    receiver.answer(200, 500)
    webhooks.deliver()
    webhooks.delete_webhook(hook.webhook_id, user="ana@example.com")
    assert told(webhooks, EventType.WEBHOOK_DELETED) == [{"name": "chat", "undelivered": 2}]
    with webhooks.store.reading() as rows:
        assert rows.all("SELECT * FROM webhooks") == rows.all("SELECT * FROM webhook_deliveries") == []
    for call in (webhooks.get_webhook, webhooks.delete_webhook, webhooks.test_webhook, webhooks.list_deliveries):
        with pytest.raises(NotFound, match=f"Webhook with ID {hook.webhook_id} not found"):
            call(hook.webhook_id)
    with pytest.raises(NotFound):
        webhooks.update_webhook(hook.webhook_id, name="new")


def test_a_webhook_removed_while_a_message_is_under_way_stays_removed(webhooks: Webhooks, receiver: Receiver) -> None:
    hook = webhooks.create_webhook("chat", receiver.url, EVENTS)
    happen(webhooks, 3)
    receiver.on_request = lambda _: webhooks.delete_webhook(hook.webhook_id)
    assert webhooks.deliver().delivered == 1
    with webhooks.store.reading() as rows:
        assert rows.all("SELECT * FROM webhook_deliveries") == []


def test_a_test_tells_what_the_receiver_said_and_changes_nothing(webhooks: Webhooks, receiver: Receiver) -> None:
    hook = webhooks.create_webhook("chat", receiver.url, EVENTS, status="disabled")
    receiver.answer(418, body=b"short and stout")
    result = webhooks.test_webhook(hook.webhook_id)
    assert (result.success, result.response_status, result.response_body) == (False, 418, "short and stout")
    assert result.error == "Failed to test webhook: the receiver answered 418"
    assert webhooks.get_webhook(hook.webhook_id) == hook
    assert webhooks.list_deliveries(hook.webhook_id).items == ()
    with pytest.raises(Invalid, match="There is no event"):
        webhooks.test_webhook(hook.webhook_id, event="none")
