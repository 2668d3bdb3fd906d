"""Webhooks: other systems are told what happens here, by signed messages, at least once and in order."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from modelyard.core.area import Area
from modelyard.core.background import Background
from modelyard.core.errors import Conflict, Invalid, NotFound, YardError
from modelyard.core.events import EventType
from modelyard.core.ids import new_id
from modelyard.core.instants import SYSTEM_CLOCK, micros
from modelyard.core.operations import operation
from modelyard.core.pages import Page, page_token, read_token
from modelyard.core.ports import Clock, Connection
from modelyard.core.refs import Resource
from modelyard.core.work import Store
from modelyard.webhooks import rules, signing, store
from modelyard.webhooks.hooks import Answer, Delivery, DeliveryStatus, Round, TestResult, Webhook, WebhookStatus
from modelyard.webhooks.outbox import Outbox, collect_all
from modelyard.webhooks.sending import send
from modelyard.webhooks.store import Kept
from modelyard.webhooks.targets import Aim, Resolver, place_of, system_addresses
from modelyard.webhooks.vault import Vault


class Webhooks(Area):
    """Keeps webhooks and sends to them.

    `hosts` lists what may be told although it is not public, as the setting `webhook_hosts` does where it is not given:
    host names, addresses and networks with commas between them. `resolve` tells a host's addresses, `jitter` numbers in
    [0, 1] that spread attempts.
    """

    def __init__(
        self,
        storage_path: str | Path | Store,
        *,
        clock: Clock = SYSTEM_CLOCK,
        hosts: str | None = None,
        resolve: Resolver = system_addresses,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        super().__init__(storage_path, clock=clock)
        self._aim = Aim(hosts, resolve)
        self._vault = Vault(self.store.folder)
        self._outbox = Outbox(self.store, self._vault, self._aim, jitter)
        self._deliverers: list[Background[Webhooks]] = []

    @operation("POST", "/webhooks", needs="webhooks.write")
    def create_webhook(
        self,
        name: str,
        url: str,
        events: list[str],
        *,
        secret: str = "",
        description: str = "",
        status: WebhookStatus = WebhookStatus.ACTIVE,
        created_by: str = "system",
    ) -> Webhook:
        """The new webhook: from now on its URL is sent the events it names.

        An event is one of ours (`stage_changed`) or of MLflow's (`model_version.created`). `secret` signs the messages:
        env:NAME or file:PATH, looked up at each use, or the secret itself, which is stored encrypted and never shown.
        Invalid if the URL is not https, or leads to an address that is not public and not in the setting
        `webhook_hosts`.

        >>> from modelyard.webhooks import Webhooks
        >>> webhooks = Webhooks(folder, hosts="127.0.0.1")
        >>> webhook = webhooks.create_webhook("chat", "https://127.0.0.1:9/hook", ["stage_changed"], secret="not shown")
        >>> webhook.events, webhook.secret_from
        (('stage_changed',), 'stored')
        """
        self._aim(url)
        webhook_id = new_id("whk")
        kept = self._vault.kept(_text(secret, "secret"), webhook_id)
        with self.store.work(created_by) as work:
            webhook = Webhook(
                webhook_id=webhook_id,
                name=rules.checked_webhook_name(name),
                url=url,
                events=rules.checked_events(events),
                status=_status(status),
                created_by=created_by,
                created_at=work.now,
                updated_at=work.now,
                description=rules.checked_text(description, "description", 1000),
            )
            store.insert(work.rows, Kept(webhook=webhook, secret=kept, seen=store.last_position(work.rows)))
            work.emit(EventType.WEBHOOK_CREATED, Resource("webhook", webhook_id), _told(webhook, kept))
            return _found(work.rows, webhook_id).webhook

    @operation("GET", "/webhooks", needs="webhooks.read")
    def list_webhooks(
        self, *, only_mlflow: bool = False, page_token: str = "", max_results: int = 100
    ) -> Page[Webhook]:
        """A page of webhooks, the newest first; with `only_mlflow` those that name one of MLflow's events.

        >>> from modelyard.webhooks import Webhooks
        >>> Webhooks(folder).list_webhooks().items
        ()
        """
        query = f"webhooks {only_mlflow}"
        before = _position(page_token, query, (int, str))
        with self.store.reading() as rows:
            found = store.page(rows, mlflow=int(only_mlflow), before=before, limit=_limit(max_results) + 1)
        return _page(found, max_results, query, lambda last: [micros(last.created_at), last.webhook_id])

    @operation("GET", "/webhooks/{webhook_id}", needs="webhooks.read")
    def get_webhook(self, webhook_id: str) -> Webhook:
        """The webhook; NotFound if there is none.

        >>> from modelyard.webhooks import Webhooks
        >>> Webhooks(folder).get_webhook("whk_1")
        Traceback (most recent call last):
        modelyard.core.errors.NotFound: Webhook with ID whk_1 not found. List them: ...
        """
        with self.store.reading() as rows:
            return _found(rows, webhook_id).webhook

    @operation("PATCH", "/webhooks/{webhook_id}", needs="webhooks.write")
    def update_webhook(
        self,
        webhook_id: str,
        *,
        name: str | None = None,
        url: str | None = None,
        events: list[str] | None = None,
        secret: str | None = None,
        description: str | None = None,
        status: WebhookStatus | None = None,
        user: str = "system",
    ) -> Webhook:
        """The webhook with what is given replaced; `secret=""` ends signing.

        What happened before goes by the old events, and waiting deliveries to the new URL. A disabled webhook hears of
        nothing that happens meanwhile; made active, it starts anew and is sent what was waiting.

        >>> from modelyard.webhooks import Webhooks
        >>> webhooks = Webhooks(folder, hosts="127.0.0.1")
        >>> webhook = webhooks.create_webhook("chat", "https://127.0.0.1:9/hook", ["stage_changed"])
        >>> webhooks.update_webhook(webhook.webhook_id, status="disabled").status.value
        'disabled'
        """
        changes: dict[str, Any] = {}
        if name is not None:
            changes["name"] = rules.checked_webhook_name(name)
        if url is not None:
            self._aim(url)
            changes["url"] = url
        if events is not None:
            changes["events"] = rules.checked_events(events)
        if description is not None:
            changes["description"] = rules.checked_text(description, "description", 1000)
        if status is not None:
            changes["status"] = _status(status)
        if {"url", "status"} & set(changes):
            changes |= {"failures": 0, "last_error": ""}
        signed = None if secret is None else self._vault.kept(_text(secret, "secret"), webhook_id)
        return self._changed(webhook_id, changes, signed, user)

    @operation("DELETE", "/webhooks/{webhook_id}", needs="webhooks.write")
    def delete_webhook(self, webhook_id: str, user: str = "system") -> None:
        """Removes the webhook with its secret and its deliveries, also those that wait.

        >>> from modelyard.webhooks import Webhooks
        >>> webhooks = Webhooks(folder, hosts="127.0.0.1")
        >>> webhook = webhooks.create_webhook("chat", "https://127.0.0.1:9/hook", ["stage_changed"])
        >>> webhooks.delete_webhook(webhook.webhook_id)
        """
        with self.store.work(user) as work:
            webhook = _found(work.rows, webhook_id).webhook
            undelivered = store.remove(work.rows, webhook_id)
            details = {"name": webhook.name, "undelivered": undelivered}
            work.emit(EventType.WEBHOOK_DELETED, Resource("webhook", webhook_id), details)

    @operation("POST", "/webhooks/{webhook_id}/test", needs="webhooks.write")
    def test_webhook(self, webhook_id: str, event: str = "") -> TestResult:
        """What came of sending an example of the event (the webhook's first one unless given) now, active or not.

        >>> from modelyard.webhooks import Webhooks
        >>> webhooks = Webhooks(folder, hosts="127.0.0.1")
        >>> webhook = webhooks.create_webhook("chat", "https://127.0.0.1:9/hook", ["stage_changed"])
        >>> webhooks.test_webhook(webhook.webhook_id).success
        False
        """
        with self.store.reading() as rows:
            kept = _found(rows, webhook_id)
        name = rules.checked_event(event) if event else kept.webhook.events[0]
        now = self.store.clock.now()
        body = signing.example(name, now)
        try:
            secret = self._vault.secret(kept.secret, webhook_id)
            headers = signing.headers(name, new_id("dlv"), now, body, secret)
            answer = send(self._aim(kept.webhook.url), headers, body)
        except YardError as error:
            answer = Answer(error=str(error))
        failure = "" if answer.success else f"Failed to test webhook: {answer.error or rules.told(answer)}"
        return TestResult(
            success=answer.success, response_status=answer.status, response_body=answer.body, error=failure
        )

    @operation("GET", "/webhooks/{webhook_id}/deliveries", needs="webhooks.read")
    def list_deliveries(
        self,
        webhook_id: str,
        *,
        status: DeliveryStatus | None = None,
        page_token: str = "",
        max_results: int = 100,
    ) -> Page[Delivery]:
        """A page of a webhook's deliveries, the newest first: pending, delivered, or dead (given up). Kept for 30 days.

        >>> from modelyard.webhooks import Webhooks
        >>> webhooks = Webhooks(folder, hosts="127.0.0.1")
        >>> webhook = webhooks.create_webhook("chat", "https://127.0.0.1:9/hook", ["stage_changed"])
        >>> webhooks.list_deliveries(webhook.webhook_id, status="dead").items
        ()
        """
        wanted = "" if status is None else _delivery_status(status).value
        query = f"deliveries {webhook_id} {wanted}"
        position = _position(page_token, query, (int,))
        with self.store.reading() as rows:
            _found(rows, webhook_id)
            before = None if position is None else position[0]
            found = store.deliveries(rows, webhook_id, status=wanted, before=before, limit=_limit(max_results) + 1)
        page = _page(found, max_results, query, lambda last: [last[0]])
        return Page(items=tuple(delivery for _, delivery in page.items), next_page_token=page.next_page_token)

    @operation("POST", "/webhooks/deliveries/{delivery_id}/redeliver", needs="webhooks.write")
    def redeliver(self, delivery_id: str, user: str = "system") -> Delivery:
        """The delivery, to be sent (again) as soon as possible under its own id, whatever has become of it before.

        Conflict if its webhook is disabled.

        >>> from modelyard.webhooks import Webhooks
        >>> Webhooks(folder).redeliver("dlv_1")
        Traceback (most recent call last):
        modelyard.core.errors.NotFound: There is no delivery 'dlv_1'. List them: ...
        """
        with self.store.work(user) as work:
            delivery = store.find_delivery(work.rows, delivery_id)
            if delivery is None:
                raise NotFound(
                    f"There is no delivery {delivery_id!r}. List them: modelyard webhooks list-deliveries WEBHOOK_ID"
                )
            webhook = _found(work.rows, delivery.webhook_id).webhook
            if webhook.status is not WebhookStatus.ACTIVE:
                raise Conflict(
                    f"{delivery_id} cannot be sent: its webhook is disabled. Make it active first: "
                    f"modelyard webhooks update-webhook {webhook.webhook_id} --status active"
                )
            store.revive(work.rows, delivery_id)
            resource = Resource("webhook", webhook.webhook_id)
            work.emit(EventType.WEBHOOK_UPDATED, resource, {"name": webhook.name, "redelivered": delivery_id})
            return store.find_delivery(work.rows, delivery_id) or delivery

    @operation("POST", "/webhooks/deliver", needs="webhooks.write", remote=False)
    def deliver(self) -> Round:
        """What was sent: everything that is due now, unless another process is at it. `modelyard serve` does this all the time.

        >>> from modelyard.webhooks import Webhooks
        >>> Webhooks(folder).deliver()
        Round(collected=0, delivered=0, failed=0)
        """
        holder = new_id(f"whk{os.getpid()}")
        try:
            return self.deliver_as(holder, threading.Event())
        finally:
            self.release(holder)

    def start(self, interval: float = 0.5) -> Background[Webhooks]:
        """A running background thread that sends what is due every `interval` seconds. Call `stop()` to end it.

        Of several processes on one store, the one that holds the lease does the work.
        """
        turn, last = Webhooks.deliver_as, Webhooks.release
        deliverer = Background(self, interval, name="modelyard-webhooks", turn=turn, last=last)
        deliverer.start()
        self._deliverers.append(deliverer)
        return deliverer

    def deliver_as(self, holder: str, stop: threading.Event) -> Round:
        """Send what is due if the holder has the lease or can take it, until told to stop."""
        return self._outbox.round(holder, stop)

    def release(self, holder: str) -> None:
        """Give the deliverer's lease back."""
        self._outbox.release(holder)

    def close(self) -> None:
        """Stop the threads started here and give connections back. Not closing loses nothing."""
        while self._deliverers:
            self._deliverers.pop().stop()
        super().close()

    def _changed(self, webhook_id: str, changes: dict[str, Any], signed: str | None, user: str) -> Webhook:
        with self.store.work(user) as work:
            kept = _found(work.rows, webhook_id)
            collect_all(work.rows, work.now)
            new = replace(kept.webhook, **changes, updated_at=work.now)
            secret = kept.secret if signed is None else signed
            store.write(work.rows, Kept(webhook=new, secret=secret, seen=store.last_position(work.rows)))
            changed = [key for key in changes if getattr(new, key) != getattr(kept.webhook, key)]
            details = {"changed": sorted([*changed, *([] if signed is None else ["secret"])]), **_told(new, secret)}
            work.emit(EventType.WEBHOOK_UPDATED, Resource("webhook", webhook_id), details)
            return _found(work.rows, webhook_id).webhook


def _found(rows: Connection, webhook_id: str) -> Kept:
    kept = store.find(rows, webhook_id)
    if kept is None:
        raise NotFound(f"Webhook with ID {webhook_id} not found. List them: modelyard webhooks list-webhooks")
    return kept


def _told(webhook: Webhook, secret: str) -> dict[str, Any]:
    """What an event says of a webhook: where it leads without the path, which may hold a token, and no secret."""
    return {
        "name": webhook.name,
        "place": place_of(webhook.url),
        "events": webhook.events,
        "status": webhook.status,
        "signed": bool(secret),
    }


def _text(value: str, what: str) -> str:
    if not isinstance(value, str):
        raise Invalid(f"{what} must be text.")
    return value


def _status(status: WebhookStatus | str) -> WebhookStatus:
    try:
        return WebhookStatus(status.lower() if isinstance(status, str) else status)
    except ValueError as error:
        raise Invalid(f"status is {status!r}. Use active or disabled.") from error


def _delivery_status(status: DeliveryStatus | str) -> DeliveryStatus:
    try:
        return DeliveryStatus(status)
    except ValueError as error:
        raise Invalid(f"status is {status!r}. Use pending, delivered or dead.") from error


def _limit(max_results: int) -> int:
    if not isinstance(max_results, int) or not 1 <= max_results <= 1000:
        raise Invalid("max_results must be between 1 and 1000.")
    return max_results


def _position(token: str, query: str, kinds: tuple[type, ...]) -> Any:
    """What a page token stands for, None for the first page."""
    if not token:
        return None
    position = read_token(token, query)
    if len(position) != len(kinds) or not all(type(one) is kind for one, kind in zip(position, kinds, strict=True)):
        raise Invalid("The page token is none of this query's. Pass the next_page_token of its last answer.")
    return tuple(position)


def _page(found: Sequence[Any], limit: int, query: str, position: Callable[[Any], list[Any]]) -> Page[Any]:
    """A page of at most `limit` of the found things, of which there is one more if the answer goes on."""
    items = tuple(found[:limit])
    return Page(items=items, next_page_token=page_token(position(items[-1]), query) if len(found) > limit else "")
