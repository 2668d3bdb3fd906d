"""Decisions of webhooks: which names and addresses are good, and what becomes of an attempt."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Literal

from modelyard.core.errors import Invalid, nearest
from modelyard.core.events import EventType
from modelyard.webhooks.hooks import Answer, DeliveryStatus
from modelyard.webhooks.mlflow import NAMES

MAX_ATTEMPTS = 12  # about three hours in all
FIRST_DELAY_S = 5.0
LONGEST_DELAY_S = 3600.0
DISABLE_AFTER = 50  # failed attempts in a row: about four deliveries given up, over half a day
# The receiver finds fault with the message itself, so that sending it again changes nothing.
REFUSED = (400, 413, 415, 422)
GONE = 410

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Standing = Literal["public", "private", "loopback", "never"]

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?\Z", re.ASCII)  # MLflow's rule
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")

# Answer to whoever asks with the machine's own credentials; two of them look public.
_METADATA = tuple(
    map(ip_address, ("169.254.169.254", "168.63.129.16", "100.100.100.200", "192.0.0.192", "fd00:ec2::254"))
)
# https://www.iana.org/assignments/iana-ipv4-special-registry; the standard library's list changes with its version.
_SPECIAL_4 = tuple(
    IPv4Network(text)
    for text in (
        *("10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24"),
        *("192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24"),
    )
)
_NEVER_4 = tuple(map(IPv4Network, ("0.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4")))
_GLOBAL_6 = IPv6Network("2000::/3")  # all that is assigned to the public network
_PRIVATE_6 = IPv6Network("fc00::/7")
_SPECIAL_6 = tuple(map(IPv6Network, ("2001::/23", "2001:db8::/32", "3fff::/20")))
_NAT64, _SIX_TO_FOUR = IPv6Network("64:ff9b::/96"), IPv6Network("2002::/16")


def checked_webhook_name(name: str) -> str:
    """The name if it is a good one: 1 to 63 letters, digits and `._-`, first and last a letter or digit.

    >>> checked_webhook_name("../hook")
    Traceback (most recent call last):
    modelyard.core.errors.Invalid: Webhook name '../hook' is invalid. Use 1 to 63 letters, digits, dots, ...
    """
    if not isinstance(name, str) or not _NAME.match(name):
        raise Invalid(
            f"Webhook name {name!r} is invalid. Use 1 to 63 letters, digits, dots, underscores and hyphens; "
            "the first and the last must be a letter or digit."
        )
    return name


def checked_events(events: Sequence[str]) -> tuple[str, ...]:
    """The events by their names, each once, in the order given: our own (`stage_changed`) and MLflow's (`model_version.created`).

    >>> checked_events(["STAGE_CHANGED", "model_version.created", "stage_changed"])
    ('stage_changed', 'model_version.created')
    """
    if isinstance(events, str) or not events:
        raise Invalid("Webhook events must be a non-empty list of names, for example ['stage_changed'].")
    return tuple(dict.fromkeys(checked_event(event) for event in events))


def checked_event(event: str) -> str:
    """The name of a known event in lower case."""
    known = [*(kind.value for kind in EventType), *NAMES]
    name = event.value if isinstance(event, EventType) else str(event).lower()
    if name not in known:
        hint = nearest(name, known).partition("Known:")[0]
        raise Invalid(f"There is no event {event!r}. {hint}The documentation of events lists all names.")
    return name


def checked_text(text: str, what: str, longest: int) -> str:
    """The text if it is one, is not too long and has no control characters."""
    if not isinstance(text, str) or len(text) > longest or _CONTROL.search(text):
        raise Invalid(f"{what} must be text of at most {longest} characters without control characters.")
    return text


def shown(text: str, longest: int) -> str:
    """A foreign text as it may be stored and shown: cut, without control characters.

    >>> shown("no\\x00 room", 6)
    'no roo'
    """
    return _CONTROL.sub("", text)[:longest]


@dataclass(frozen=True, slots=True, kw_only=True)
class AllowList:
    """Hosts by name and networks by address that may be told although they are not public."""

    names: frozenset[str] = frozenset()
    networks: tuple[Network, ...] = ()

    @classmethod
    def parse(cls, text: str) -> AllowList:
        """The list that a setting spells, with commas between its entries.

        >>> AllowList.parse("127.0.0.1, hooks.internal").names
        frozenset({'hooks.internal'})
        """
        names, networks = set(), []
        for entry in filter(None, (part.strip().lower() for part in text.split(","))):
            try:
                networks.append(ip_network(entry, strict=False))
            except ValueError:
                if not re.fullmatch(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?", entry):
                    raise Invalid(
                        f"webhook_hosts has {entry!r}, which is neither a host name nor an address or network such as "
                        "10.1.0.0/16. Correct the setting."
                    ) from None
                names.add(entry.rstrip("."))
        return cls(names=frozenset(names), networks=tuple(networks))

    def has(self, host: str, address: Address) -> bool:
        """True if the host is listed by name, or the address lies in a listed network."""
        return host.rstrip(".").lower() in self.names or any(
            address.version == network.version and address in network for network in self.networks
        )


def standing(address: Address) -> Standing:
    """Where an address leads. `never`: link-local, metadata services, multicast, reserved.

    >>> [standing(ip_address(text)) for text in ("1.1.1.1", "10.0.0.1", "::1", "169.254.169.254")]
    ['public', 'private', 'loopback', 'never']
    """
    if isinstance(address, IPv6Address):
        return _standing_6(address)
    if address in _METADATA or any(address in network for network in _NEVER_4):
        return "never"
    if address.is_loopback:
        return "loopback"
    return "private" if any(address in network for network in _SPECIAL_4) else "public"


def _standing_6(address: IPv6Address) -> Standing:
    if address.ipv4_mapped is not None:
        return standing(address.ipv4_mapped)
    if address in _METADATA or address.scope_id:
        return "never"
    if address in _NAT64 or address in _SIX_TO_FOUR:  # they carry an IPv4 address, which a gateway will call
        inner = int(address) & 0xFFFFFFFF if address in _NAT64 else int(address) >> 80 & 0xFFFFFFFF
        return "public" if standing(IPv4Address(inner)) == "public" else "never"
    if address.is_loopback:
        return "loopback"
    if address in _PRIVATE_6:
        return "private"
    return "public" if address in _GLOBAL_6 and not any(address in network for network in _SPECIAL_6) else "never"


def why_not(scheme: str, host: str, address: Address, allowed: AllowList) -> str:
    """Why the address must not be called for a URL's host; "" if it may be."""
    found = standing(address)
    listed = allowed.has(host, getattr(address, "ipv4_mapped", None) or address)
    if found == "never":
        return f"{host} resolves to {address}, which no webhook may reach"
    if found != "public" and not listed:
        return f"{host} resolves to {address}, which is not public. An operator can allow it: setting webhook_hosts"
    if scheme == "http" and not (found == "loopback" and listed):
        return f"{host} would be told in the clear. Use https; http is for loopback addresses that webhook_hosts lists"
    return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What becomes of a delivery after an attempt, how long until the next one, and whether its webhook is disabled."""

    status: DeliveryStatus
    error: str = ""
    delay_s: float = 0.0
    disable: bool = False


def outcome(answer: Answer, *, attempts: int, failures: int, jitter: float) -> Outcome:
    """What an answer means after `attempts` attempts, this one included, and `failures` failed ones in a row before it.

    The delay doubles from 5 s to at most an hour; `jitter` in [0, 1] takes away up to half of it, so that many webhooks
    do not come back at once. A longer wait that the receiver asks for is kept, up to an hour.

    >>> outcome(Answer(status=500), attempts=3, failures=2, jitter=0.0).delay_s
    20.0
    """
    if answer.success:
        return Outcome(status=DeliveryStatus.DELIVERED)
    error = answer.error or told(answer)
    disable = answer.status == GONE or failures + 1 >= DISABLE_AFTER
    if attempts >= MAX_ATTEMPTS or answer.status in (GONE, *REFUSED):
        return Outcome(status=DeliveryStatus.DEAD, error=error, disable=disable)
    delay = min(LONGEST_DELAY_S, FIRST_DELAY_S * 2 ** (attempts - 1)) * (1 - jitter / 2)
    delay = max(delay, min(answer.retry_after, LONGEST_DELAY_S))
    return Outcome(status=DeliveryStatus.PENDING, error=error, delay_s=delay, disable=disable)


def told(answer: Answer) -> str:
    """An answer that is no success, in words."""
    if answer.status is not None and 300 <= answer.status < 400:
        return f"the receiver answered {answer.status}; redirects are not followed: update the URL"
    return f"the receiver answered {answer.status}"
