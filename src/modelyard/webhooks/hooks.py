"""Webhooks, deliveries and test results as values."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from modelyard.core.instants import Instant


class WebhookStatus(Enum):
    """Whether a webhook is sent to."""

    ACTIVE = "active"
    DISABLED = "disabled"


class DeliveryStatus(Enum):
    """What has become of a delivery."""

    PENDING = "pending"
    DELIVERED = "delivered"
    DEAD = "dead"  # given up: it can be sent again by hand


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook:
    """Who is told of which events. `secret_from` says where the signing secret is: "" (none), stored, env:NAME, file:PATH.

    `failures` counts failed attempts in a row, `last_error` says why the last one failed.
    """

    webhook_id: str
    name: str
    url: str
    events: tuple[str, ...]
    status: WebhookStatus
    created_by: str
    created_at: Instant
    updated_at: Instant
    description: str = ""
    secret_from: str = ""
    failures: int = 0
    last_error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One message to one webhook: the event at `position` under the subscribed name `event`.

    `response_status` and `error` are those of the last attempt; `next_attempt_at` is None once it has ended.
    """

    delivery_id: str
    webhook_id: str
    event: str
    position: int
    status: DeliveryStatus
    attempts: int
    created_at: Instant
    next_attempt_at: Instant | None = None
    ended_at: Instant | None = None
    response_status: int | None = None
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a receiver answered: a status and the beginning of its body, or why there is no answer (status None).

    `retry_after` is how many seconds it asks to be left alone.
    """

    status: int | None = None
    body: str = ""
    error: str = ""
    retry_after: float = 0.0

    @property
    def success(self) -> bool:
        """True for a 2xx status."""
        return self.status is not None and 200 <= self.status < 300


@dataclass(frozen=True, slots=True, kw_only=True)
class TestResult:
    """What came of sending an example event."""

    __test__ = False  # no test case of pytest's

    success: bool
    response_status: int | None = None
    response_body: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What one look at the waiting events has done: deliveries made from events, and attempts by how they ended."""

    collected: int = 0
    delivered: int = 0
    failed: int = 0
