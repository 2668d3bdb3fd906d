"""Events reach their receivers: signed, in order, again and again until they are taken, and never lost."""

from __future__ import annotations

import json
import threading
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from receiving import Opening, Receiver, happen, signed_by, told

from modelyard.core.canonical import plain
from modelyard.core.errors import Conflict, NotFound
from modelyard.core.events import EventType
from modelyard.core.instants import FixedClock
from modelyard.webhooks import DeliveryStatus, Round, Webhooks, WebhookStatus, outbox, rules

EVENTS = ["stage_changed"]


def test_an_event_is_sent_as_it_is_and_signed(opened: Opening, place, receiver: Receiver, clock: FixedClock) -> None:
    webhooks = opened(place)
    hook = webhooks.create_webhook("chat", receiver.url, EVENTS, secret="s3cret")
    (event,) = happen(webhooks, to="production")
    assert webhooks.deliver() == Round(collected=1, delivered=1)
    (request,) = receiver.requests
    assert request.json == json.loads(json.dumps(plain(event)))
    assert signed_by("s3cret", request)
    assert signed_by("s3cret", request, "x-mlflow")
    assert not signed_by("other", request)
    assert request.headers["x-modelyard-event"] == "stage_changed"
    assert request.headers["x-modelyard-timestamp"] == str(int(clock.now().timestamp()))
    assert request.headers["content-type"] == "application/json"
    (delivery,) = webhooks.list_deliveries(hook.webhook_id).items
    assert (delivery.delivery_id, delivery.status, delivery.attempts) == (request.delivery, DeliveryStatus.DELIVERED, 1)
    assert (delivery.response_status, delivery.ended_at, delivery.position) == (200, clock.now(), event.position)
    assert webhooks.deliver() == Round()


def test_only_subscribed_events_are_sent_and_none_from_before(webhooks: Webhooks, receiver: Receiver) -> None:
    happen(webhooks)
    webhooks.create_webhook("chat", receiver.url, EVENTS)
    happen(webhooks, kind=EventType.DRIFT_DETECTED)
    assert webhooks.deliver() == Round()
    happen(webhooks, 3)
    assert webhooks.deliver() == Round(collected=3, delivered=3)
    assert "x-modelyard-signature" not in receiver.requests[0].headers


def test_a_failing_receiver_gets_everything_in_order_once_it_recovers(
    opened: Opening, place, receiver: Receiver, clock: FixedClock
) -> None:
    webhooks = opened(place)
    hook = webhooks.create_webhook("chat", receiver.url, EVENTS)
    happen(webhooks, 5)
    receiver.answer(200, 500, 503)
    assert webhooks.deliver() == Round(collected=5, delivered=1, failed=1)
    clock.advance(4.9)
    assert webhooks.deliver() == Round()
    clock.advance(0.1)
    assert webhooks.deliver() == Round(failed=1)
    clock.advance(9.9)
    assert webhooks.deliver() == Round()
    clock.advance(0.1)
    assert webhooks.deliver() == Round(delivered=4)
    assert receiver.events == [0, 1, 1, 1, 2, 3, 4]
    again = {request.delivery for request in receiver.requests[1:4]}
    assert len(again) == 1, "the same delivery keeps its id"
    assert len({request.delivery for request in receiver.requests}) == 5
    assert webhooks.get_webhook(hook.webhook_id).failures == 0


def test_the_wait_doubles_up_to_an_hour_and_then_the_delivery_is_given_up(
    webhooks: Webhooks, receiver: Receiver, clock: FixedClock
) -> None:
    hook = webhooks.create_webhook("chat", receiver.url, EVENTS)
    happen(webhooks, 2)
    receiver.answer(*[500] * rules.MAX_ATTEMPTS)
    waits = []
    for _ in range(rules.MAX_ATTEMPTS - 1):
        webhooks.deliver()
        (head,) = [one for one in webhooks.list_deliveries(hook.webhook_id).items if one.attempts]
        assert head.next_attempt_at is not None
        waits.append((head.next_attempt_at - clock.now()).total_seconds())
        clock.advance(waits[-1])
    assert waits == [5, 10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600]
    assert webhooks.deliver() == Round(delivered=1, failed=1), "the next one is not held up for ever"
    assert receiver.events == [0] * rules.MAX_ATTEMPTS + [1]
    (dead,) = webhooks.list_deliveries(hook.webhook_id, status=DeliveryStatus.DEAD).items
    assert (dead.attempts, dead.error, dead.next_attempt_at) == (12, "the receiver answered 500", None)


def test_a_dead_letter_is_sent_again_under_its_own_id(webhooks: Webhooks, receiver: Receiver) -> None:
    hook = webhooks.create_webhook("chat", receiver.url, EVENTS)
    happen(webhooks)
    receiver.answer(422)
    assert webhooks.deliver() == Round(collected=1, failed=1), "the receiver refuses the message itself"
    (dead,) = webhooks.list_deliveries(hook.webhook_id, status="dead").items
    back = webhooks.redeliver(dead.delivery_id, user="ana@example.com")
    assert (back.status, back.attempts) == (DeliveryStatus.PENDING, 0)
    assert webhooks.deliver() == Round(delivered=1)
    assert [request.delivery for request in receiver.requests] == [dead.delivery_id] * 2
    assert told(webhooks, EventType.WEBHOOK_UPDATED)[-1]["redelivered"] == dead.delivery_id
    webhooks.update_webhook(hook.webhook_id, status="disabled")
    with pytest.raises(Conflict, match="--status active"):
        webhooks.redeliver(dead.delivery_id)
    with pytest.raises(NotFound, match="list-deliveries"):
        webhooks.redeliver("dlv_none")


@pytest.mark.parametrize(
    ("asked", "waits"), [("90", 90), ("2", 5), ("86400", 3600), ("soon", 5), ("", 5), ("9" * 40, 3600)]
)
def test_a_receiver_may_ask_to_be_left_alone(
    webhooks: Webhooks, receiver: Receiver, clock: FixedClock, asked: str, waits: int
) -> None:
    hook = webhooks.create_webhook("chat", receiver.url, EVENTS)
    happen(webhooks)
    receiver.answer(429, Retry_After=asked)
    webhooks.deliver()
    (waiting,) = webhooks.list_deliveries(hook.webhook_id).items
    assert waiting.next_attempt_at == clock.now() + timedelta(seconds=waits)


def test_a_webhook_that_fails_too_often_is_disabled_and_told_of(
    opened: Opening, place, receiver: Receiver, clock: FixedClock
) -> None:
    webhooks = opened(place)
    hook = webhooks.create_webhook("chat", receiver.url, EVENTS)
    watch = webhooks.create_webhook("watch", receiver.url + "/watch", ["webhook_failed"])
    happen(webhooks, 10)
    receiver.always = 500
    for _ in range(rules.DISABLE_AFTER):
        webhooks.deliver()
        clock.advance(rules.LONGEST_DELAY_S)
    found = webhooks.get_webhook(hook.webhook_id)
    assert (found.status, found.failures, found.last_error) == (WebhookStatus.DISABLED, 50, "the receiver answered 500")
    (failed,) = told(webhooks, EventType.WEBHOOK_FAILED)
    assert failed == {
        "name": "chat",
        "place": f"http://127.0.0.1:{receiver.port}",
        "failures": 50,
        "error": "the receiver answered 500",
    }
    receiver.always = 200
    receiver.requests.clear()
    webhooks.deliver()
    assert [request.path for request in receiver.requests] == ["/hook/watch"], "only who watches is told"
    happen(webhooks, kind=EventType.STAGE_CHANGED, meanwhile=True)
    assert webhooks.deliver() == Round()
    webhooks.update_webhook(hook.webhook_id, status=WebhookStatus.ACTIVE)
    receiver.requests.clear()
    assert webhooks.deliver().delivered == 6, "50 failures are 4 dead letters and 2 attempts: what waited is sent"
    assert receiver.events == [4, 5, 6, 7, 8, 9]
    assert len(webhooks.list_deliveries(hook.webhook_id, status="dead").items) == 4
    assert webhooks.get_webhook(watch.webhook_id).status is WebhookStatus.ACTIVE


def test_a_receiver_that_is_gone_is_asked_once(webhooks: Webhooks, receiver: Receiver) -> None:
    hook = webhooks.create_webhook("chat", receiver.url, EVENTS)
    happen(webhooks, 3)
    receiver.answer(410)
    assert webhooks.deliver() == Round(collected=3, failed=1)
    assert webhooks.get_webhook(hook.webhook_id).status is WebhookStatus.DISABLED
    assert [one.status.value for one in webhooks.list_deliveries(hook.webhook_id).items] == [
        "pending",
        "pending",
        "dead",
    ]


def test_what_happened_before_a_change_goes_by_what_stood_then(webhooks: Webhooks, receiver: Receiver) -> None:
    hook = webhooks.create_webhook("chat", receiver.url, EVENTS)
    happen(webhooks, 2)
    webhooks.update_webhook(hook.webhook_id, events=["drift_detected"])
    happen(webhooks, 2)
    happen(webhooks, kind=EventType.DRIFT_DETECTED)
    assert webhooks.deliver().delivered == 3
    assert [request.headers["x-modelyard-event"] for request in receiver.requests] == ["stage_changed"] * 2 + [
        "drift_detected"
    ]
    happen(webhooks, kind=EventType.DRIFT_DETECTED)
    webhooks.update_webhook(hook.webhook_id, status="disabled")
    happen(webhooks, kind=EventType.DRIFT_DETECTED, meanwhile=True)
    webhooks.update_webhook(hook.webhook_id, status="active")
    assert webhooks.deliver().delivered == 1


def test_one_slow_or_failing_receiver_does_not_hold_up_another(webhooks: Webhooks, receiver: Receiver) -> None:
    let_go = threading.Event()
    webhooks.create_webhook("slow", receiver.url + "/slow", EVENTS)
    webhooks.create_webhook("fast", receiver.url + "/fast", EVENTS)
    happen(webhooks, 20)
    fast: list[str] = []

    def wait_for_the_fast_one(request) -> None:
        if request.path.endswith("slow"):
            assert let_go.wait(120)
        else:
            fast.append(request.path)
            if len(fast) == 20:
                let_go.set()

    receiver.on_request = wait_for_the_fast_one
    assert webhooks.deliver() == Round(collected=40, delivered=40)


def test_an_event_that_was_removed_meanwhile_is_given_up(webhooks: Webhooks, receiver: Receiver) -> None:
    hook = webhooks.create_webhook("chat", receiver.url, EVENTS)
    first, *_ = happen(webhooks, 3)
    receiver.answer(500)
    webhooks.deliver()
    with webhooks.store.database.write() as rows:
        rows.run("DELETE FROM events WHERE position = :position", position=first.position)
    webhooks.store.clock.advance(5)  # type: ignore[attr-defined]
    assert webhooks.deliver().delivered == 2
    assert receiver.events == [0, 1, 2]
    (dead,) = webhooks.list_deliveries(hook.webhook_id, status="dead").items
    assert "removed" in dead.error


def test_large_backlogs_are_collected_in_batches(webhooks: Webhooks, receiver: Receiver, monkeypatch) -> None:
    monkeypatch.setattr(outbox, "BATCH", 7)
    webhooks.create_webhook("chat", receiver.url, EVENTS)
    happen(webhooks, 30)
    assert webhooks.deliver() == Round(collected=30, delivered=30)
    assert receiver.events == list(range(30))


def test_ended_deliveries_are_forgotten_after_a_month(
    webhooks: Webhooks, receiver: Receiver, clock: FixedClock
) -> None:
    hook = webhooks.create_webhook("chat", receiver.url, EVENTS)
    happen(webhooks, 2)
    webhooks.deliver()
    clock.advance(31 * 86_400)
    happen(webhooks)
    webhooks.deliver()
    assert len(webhooks.list_deliveries(hook.webhook_id).items) == 1


def test_a_clock_that_jumps_back_delays_nothing(opened: Opening, place, receiver: Receiver, clock: FixedClock) -> None:
    webhooks = opened(place)
    webhooks.create_webhook("chat", receiver.url, EVENTS)
    happen(webhooks, 2)
    receiver.answer(500)
    assert webhooks.deliver_as("one", threading.Event()).failed == 1
    clock.advance(-7 * 86_400)
    assert webhooks.deliver() == Round(delivered=2), "neither the lease nor the next attempt lies a week ahead"
    happen(webhooks)
    clock.advance(-7 * 86_400)
    assert webhooks.deliver() == Round(collected=1, delivered=1)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from([200, 204, 301, 403, 404, 429, 500, 503]), max_size=14), st.integers(1, 6))
def test_whatever_the_receiver_answers_nothing_is_lost_or_overtaken(
    opened: Opening, receiver: Receiver, clock: FixedClock, tmp_path_factory, answers: list[int], count: int
) -> None:
    folder = tmp_path_factory.mktemp("yard")
    webhooks = opened((str(folder), folder))
    webhooks.create_webhook("chat", receiver.url, EVENTS)
    happen(webhooks, count)
    receiver.requests.clear()
    receiver.answers.clear()
    receiver.answer(*answers)
    while webhooks.deliver() != Round():
        clock.advance(rules.LONGEST_DELAY_S)
    assert list(dict.fromkeys(receiver.events)) == list(range(count))
    assert receiver.events == sorted(receiver.events)
    assert len({request.delivery for request in receiver.requests}) == count
