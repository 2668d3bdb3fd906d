"""From events to deliveries, and from deliveries to receivers: at least once, in order for each webhook.

A delivery is a row before it is sent, and is recorded after; a process killed in between sends it again, with the same
delivery id. Events are read behind the caller's transaction, so no change ever waits for a receiver.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from datetime import timedelta

from modelyard.core.background import Lease
from modelyard.core.errors import YardError
from modelyard.core.events import Event, EventSeverity, EventType
from modelyard.core.ids import new_id
from modelyard.core.instants import Instant, micros
from modelyard.core.ports import Connection
from modelyard.core.refs import Resource
from modelyard.core.work import Store, Work
from modelyard.webhooks import mlflow, rules, signing, store
from modelyard.webhooks.hooks import Answer, Delivery, DeliveryStatus, Round, WebhookStatus
from modelyard.webhooks.sending import send
from modelyard.webhooks.store import Kept, Waiting
from modelyard.webhooks.targets import Aim, place_of
from modelyard.webhooks.vault import Vault

log = logging.getLogger("modelyard.webhooks")

BATCH = 500  # events a transaction: other writers wait for it no longer than a few milliseconds
SENDERS = 8  # webhooks that are sent to at once, so that a slow receiver does not hold up the others
LEASE = Lease("webhooks.deliverer", 15.0)
RENEW_S = 5.0
LOOK_S = 0.5  # while messages are under way, how often to look for others
KEPT = timedelta(days=30)  # for which ended deliveries can be listed and sent again
FORGET_EVERY = timedelta(hours=1)


def collect(rows: Connection, now: Instant, after: int = 0) -> tuple[int, bool]:
    """Make deliveries of at most BATCH events that active webhooks have not seen; (how many, whether there may be more).

    Up to the position `after` it is known that there is nothing for anybody.
    """
    hooks = store.active(rows)
    if not hooks:
        return 0, False
    top = store.last_position(rows)
    events = store.events_between(rows, max(after, min(kept.seen for kept in hooks)), top, _kinds(hooks), BATCH)
    made = [one for event in events for kept in hooks for one in _deliveries(kept, event, now)]
    store.insert_deliveries(rows, made)
    store.set_seen(rows, (events[-1].position or top) if events else top)
    return len(made), bool(events)


def collect_all(rows: Connection, now: Instant) -> None:
    """Make deliveries of everything that has happened so far."""
    while collect(rows, now)[1]:
        pass


def _kinds(hooks: list[Kept]) -> set[str]:
    """The values of the event types that some webhook hears of."""
    names = {name for kept in hooks for name in kept.webhook.events}
    own = {name for name in names if not mlflow.is_mlflow(name)}
    return own | {kind.value for kind in mlflow.TABLE} if len(own) < len(names) else own


def _deliveries(kept: Kept, event: Event, now: Instant) -> list[tuple[Delivery, int]]:
    """What a webhook is told of an event: it itself, and each of MLflow's names for it, where subscribed."""
    if (event.position or 0) <= kept.seen:
        return []
    told = [(event.event_type.value, 0), *((name, part) for part, (name, _) in enumerate(mlflow.parts(event)))]
    return [
        (
            Delivery(
                delivery_id=new_id("dlv"),
                webhook_id=kept.webhook.webhook_id,
                event=name,
                position=event.position or 0,
                status=DeliveryStatus.PENDING,
                attempts=0,
                created_at=now,
            ),
            part,
        )
        for name, part in told
        if name in kept.webhook.events
    ]


class Outbox:
    """Sends what is waiting. One process at a time does: whoever holds the lease."""

    def __init__(self, place: Store, vault: Vault, aim: Aim, jitter: Callable[[], float]) -> None:
        self._store, self._vault, self._aim, self._jitter = place, vault, aim, jitter
        self._looked = 0  # up to here nobody hears of anything that has not been collected
        self._forgot: Instant | None = None

    def round(self, holder: str, stop: threading.Event) -> Round:
        """Collect and send until nothing is due, or until told to stop; what is under way is then still recorded."""
        done = Round()
        if not self._anything() or not self._hold(holder):
            return done
        mine, held_at = True, self._store.clock.now()
        flying: dict[Future[Answer], Waiting] = {}
        with ThreadPoolExecutor(SENDERS, thread_name_prefix="modelyard-webhook") as pool:
            while True:
                if mine and not stop.is_set():
                    done = replace(done, collected=done.collected + self._collect())
                    self._submit(pool, flying)
                if not flying:
                    return done
                for future in wait(flying, LOOK_S, FIRST_COMPLETED).done:
                    delivered = self._record(flying.pop(future), future.result())
                    done = replace(done, delivered=done.delivered + delivered, failed=done.failed + (not delivered))
                if self._store.clock.now() - held_at >= timedelta(seconds=RENEW_S):
                    mine, held_at = self._hold(holder), self._store.clock.now()

    def attempt(self, waiting: Waiting, body: bytes) -> Answer:
        """What came of sending one message now; also why it could not be sent."""
        kept, delivery = waiting.kept, waiting.delivery
        try:
            secret = self._vault.secret(kept.secret, kept.webhook.webhook_id)
            target = self._aim(kept.webhook.url)
        except YardError as error:
            return Answer(error=rules.shown(str(error), 500))
        now = self._store.clock.now()
        return send(target, signing.headers(delivery.event, delivery.delivery_id, now, body, secret), body)

    def release(self, holder: str) -> None:
        """Give the lease back, so that another process need not wait for its end."""
        with self._store.work("webhooks") as work:
            LEASE.drop(work, holder)

    def _anything(self) -> bool:
        """True if an event or a delivery waits. Only reads, so an idle deliverer writes nothing."""
        with self._store.reading() as rows:
            return self._behind(rows) or bool(self._first_due(rows))

    def _first_due(self, rows: Connection) -> list[Waiting]:
        now = self._store.clock.now()
        return store.first_due(rows, micros(now), micros(now + timedelta(seconds=rules.LONGEST_DELAY_S)))

    def _behind(self, rows: Connection) -> bool:
        top = store.last_position(rows)
        if top <= self._looked:
            return False
        hooks = store.active(rows)
        after = max(self._looked, min((kept.seen for kept in hooks), default=top))
        if hooks and store.events_between(rows, after, top, _kinds(hooks), 1):
            return True
        self._looked = top
        return False

    def _hold(self, holder: str) -> bool:
        with self._store.work("webhooks") as work:
            return LEASE.take(work, holder)

    def _collect(self) -> int:
        """Make deliveries of the events that wait, and forget old ones now and then."""
        total = 0
        while self._is_behind():
            with self._store.work("webhooks") as work:
                total += collect(work.rows, work.now, self._looked)[0]
        now = self._store.clock.now()
        if self._forgot is None or now - self._forgot >= FORGET_EVERY:
            self._forgot = now
            with self._store.work("webhooks") as work:
                store.forget(work.rows, micros(now - KEPT))
        return total

    def _is_behind(self) -> bool:
        with self._store.reading() as rows:
            return self._behind(rows)

    def _submit(self, pool: ThreadPoolExecutor, flying: dict[Future[Answer], Waiting]) -> None:
        """Start an attempt for every webhook that has a delivery due and none under way."""
        busy = {waiting.delivery.webhook_id for waiting in flying.values()}
        for waiting in self._due():
            if len(flying) == SENDERS:
                return
            body = _body(waiting)
            if body is not None and waiting.delivery.webhook_id not in busy:
                try:
                    flying[pool.submit(self.attempt, waiting, body)] = waiting
                except RuntimeError:  # the interpreter is ending and starts no thread any more: it stays pending
                    return

    def _due(self) -> list[Waiting]:
        """What is to be sent now, one for each webhook. Deliveries whose event is no more are given up on the way."""
        while True:
            with self._store.reading() as rows:
                due = self._first_due(rows)
            lost = [waiting for waiting in due if _body(waiting) is None]
            if not lost:
                return due
            with self._store.work("webhooks") as work:
                for waiting in lost:
                    error = "the event was removed or erased since"
                    dead = replace(
                        waiting.delivery,
                        status=DeliveryStatus.DEAD,
                        next_attempt_at=None,
                        ended_at=work.now,
                        error=error,
                    )
                    store.record(work.rows, dead, waiting.delivery.attempts)

    def _record(self, waiting: Waiting, answer: Answer) -> bool:
        """Write what an attempt has led to; True if it was delivered."""
        before = waiting.delivery
        with self._store.work("webhooks") as work:
            kept = store.find(work.rows, before.webhook_id)
            if kept is None:  # deleted meanwhile
                return answer.success
            hook = kept.webhook
            result = rules.outcome(answer, attempts=before.attempts + 1, failures=hook.failures, jitter=self._jitter())
            pending = result.status is DeliveryStatus.PENDING
            after = replace(
                before,
                status=result.status,
                attempts=before.attempts + 1,
                next_attempt_at=work.now + timedelta(seconds=result.delay_s) if pending else None,
                ended_at=None if pending else work.now,
                response_status=answer.status,
                error=result.error,
            )
            if not store.record(work.rows, after, before.attempts):
                return answer.success
            if answer.success and hook.failures:
                store.count_failures(work.rows, hook.webhook_id, 0, "")
            if not answer.success:
                _failed(work, kept, result)
        return answer.success


def _failed(work: Work, kept: Kept, result: rules.Outcome) -> None:
    """Count a failed attempt, and disable the webhook where it was one too many."""
    hook = replace(kept.webhook, failures=kept.webhook.failures + 1, last_error=result.error)
    log.warning("webhook %s (%s): %s", hook.webhook_id, hook.name, result.error)
    if not result.disable or hook.status is not WebhookStatus.ACTIVE:
        store.count_failures(work.rows, hook.webhook_id, hook.failures, hook.last_error)
        return
    collect_all(work.rows, work.now)  # what happened until now is not lost: it waits until the webhook is active again
    disabled = replace(hook, status=WebhookStatus.DISABLED, updated_at=work.now)
    store.write(work.rows, replace(kept, webhook=disabled, seen=store.last_position(work.rows)))
    details = {"name": hook.name, "place": place_of(hook.url), "failures": hook.failures, "error": hook.last_error}
    work.emit(EventType.WEBHOOK_FAILED, Resource("webhook", hook.webhook_id), details, severity=EventSeverity.ERROR)


def _body(waiting: Waiting) -> bytes | None:
    if waiting.event is None:
        return None
    return signing.payload(waiting.event, waiting.delivery.event, waiting.part)
