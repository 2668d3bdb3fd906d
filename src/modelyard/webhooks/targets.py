"""Where a webhook leads: its URL taken apart, and the addresses that were checked and may be called."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from ipaddress import ip_address
from urllib.parse import SplitResult, urlsplit, urlunsplit

from modelyard.core.errors import Invalid
from modelyard.settings import settings
from modelyard.webhooks.rules import AllowList, why_not

LONGEST_URL = 2000
MOST_ADDRESSES = 16
PORTS = {"https": 443, "http": 80}
FORM = "Write it as https://host/path."

_CHARACTERS = re.compile(r"[!#-;=?-\[\]_a-z~]+")  # RFC 3986's, and no backslash, which some take for a slash
_HOST = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?")

Resolver = Callable[[str, int], Sequence[str]]  # (host, port) -> addresses


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A receiver whose every address was checked. `path` is the request's target; `place` names it without its path,
    which may hold a token."""

    scheme: str
    host: str
    port: int
    path: str
    host_header: str
    addresses: tuple[str, ...]

    @property
    def place(self) -> str:
        """Scheme, host and port."""
        return f"{self.scheme}://{self.host_header}"


def system_addresses(host: str, port: int) -> list[str]:
    """The addresses of a host as the machine's own resolver tells them."""
    return list(dict.fromkeys(str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)))


def target(url: str, allowed: AllowList, resolve: Resolver = system_addresses) -> Target:
    """The checked target of a URL. Invalid if one of its addresses may not be called: a name that leads to both is a trap.

    >>> target("https://10.0.0.1/hook", AllowList())
    Traceback (most recent call last):
    modelyard.core.errors.Invalid: Webhook URL refused: 10.0.0.1 resolves to 10.0.0.1, which is not public. ...
    """
    parts = _parts(url)
    host, port = str(parts.hostname), parts.port or PORTS[parts.scheme]
    try:
        addresses = tuple(resolve(host, port))[:MOST_ADDRESSES]
        checked = [ip_address(text) for text in addresses]
    except (OSError, UnicodeError, ValueError) as error:
        raise Invalid(f"Webhook URL refused: {host} cannot be resolved ({error}). Correct the host name.") from error
    if not checked:
        raise Invalid(f"Webhook URL refused: {host} has no address. Correct the host name.")
    for address in checked:
        reason = why_not(parts.scheme, host, address, allowed)
        if reason:
            raise Invalid(f"Webhook URL refused: {reason}.")
    return Target(
        scheme=parts.scheme,
        host=host,
        port=port,
        path=urlunsplit(("", "", parts.path or "/", parts.query, "")),
        host_header=_named(parts),
        addresses=addresses,
    )


class Aim:
    """Finds the checked target of a URL by one list of hosts, that of the setting `webhook_hosts` where none is given."""

    def __init__(self, hosts: str | None, resolve: Resolver) -> None:
        self._hosts, self._resolve = hosts, resolve

    def __call__(self, url: str) -> Target:
        """The checked target; Invalid if it may not be called."""
        return target(url, self._allowed, self._resolve)

    @cached_property
    def _allowed(self) -> AllowList:
        return AllowList.parse(settings()["webhook_hosts"].value if self._hosts is None else self._hosts)


def place_of(url: str) -> str:
    """Scheme, host and port of a checked URL, which may be told to others; its path may hold a token.

    >>> place_of("https://hooks.example.com:8443/T0/B1/secret")
    'https://hooks.example.com:8443'
    """
    parts = urlsplit(url)
    return f"{parts.scheme}://{_named(parts)}"


def _named(parts: SplitResult) -> str:
    """Host and port as the Host header has them."""
    host = str(parts.hostname)
    host = f"[{host}]" if ":" in host else host
    return host if parts.port in (None, PORTS[parts.scheme]) else f"{host}:{parts.port}"


def _parts(url: str) -> SplitResult:
    if not isinstance(url, str) or not url.strip():
        raise Invalid(f"Webhook URL cannot be empty or just whitespace. {FORM}")
    if len(url) > LONGEST_URL:
        raise Invalid(f"Webhook URL is longer than {LONGEST_URL} characters. Shorten it.")
    if not _CHARACTERS.fullmatch(url):
        raise Invalid(
            "Invalid webhook URL: it has spaces or other characters than ASCII's. Write them as %20 or punycode."
        )
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
        if ":" in host:
            ip_address(host)
    except ValueError as error:
        raise Invalid(f"Invalid webhook URL: {error}. {FORM}") from error
    if parts.scheme not in PORTS:
        raise Invalid(f"Invalid webhook URL scheme: {parts.scheme!r}. {FORM}")
    if not host:
        raise Invalid(f"Webhook URL must include a hostname. {FORM}")
    if parts.username is not None or parts.password is not None:
        raise Invalid("Webhook URL must not hold a user or a password. Have messages signed instead: secret=env:...")
    if port == 0 or not (":" in host or _HOST.fullmatch(host)):
        raise Invalid(f"Invalid webhook URL: no such host or port. {FORM}")
    return parts
