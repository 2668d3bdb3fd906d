"""Where a webhook leads: its URL taken apart, and the addresses that were checked and may be called."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from ipaddress import ip_address

import httpx

from modelyard.core.errors import Invalid
from modelyard.settings import settings
from modelyard.webhooks.rules import AllowList, why_not

LONGEST_URL = 2000
MOST_ADDRESSES = 16

Resolver = Callable[[str, int], Sequence[str]]  # (host, port) -> addresses


class Refused(Invalid):
    """The target may not be called, or there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A receiver whose every address was checked. `path` is the request's target; `place` names it without its path,
    which may hold a token."""

    scheme: str
    host: str
    port: int
    path: bytes
    host_header: bytes
    addresses: tuple[str, ...]

    @property
    def place(self) -> str:
        """Scheme, host and port."""
        return f"{self.scheme}://{self.host_header.decode()}"


def system_addresses(host: str, port: int) -> list[str]:
    """The addresses of a host as the machine's own resolver tells them."""
    return list(dict.fromkeys(str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)))


def target(url: str, allowed: AllowList, resolve: Resolver = system_addresses) -> Target:
    """The checked target of a URL. Refused if one of its addresses may not be called: a name that leads to both is a trap.

    >>> target("https://10.0.0.1/hook", AllowList())
    Traceback (most recent call last):
    modelyard.webhooks.targets.Refused: Webhook URL refused: 10.0.0.1 resolves to 10.0.0.1, which is not public. ...
    """
    parts = _parts(url)
    host = str(parts.raw_host, "ascii")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        addresses = tuple(resolve(host, port))[:MOST_ADDRESSES]
        checked = [ip_address(text) for text in addresses]
    except (OSError, UnicodeError, ValueError) as error:
        raise Refused(f"Webhook URL refused: {host} cannot be resolved ({error}). Correct the host name.") from error
    if not checked:
        raise Refused(f"Webhook URL refused: {host} has no address. Correct the host name.")
    for address in checked:
        reason = why_not(parts.scheme, host, address, allowed)
        if reason:
            raise Refused(f"Webhook URL refused: {reason}.")
    return Target(
        scheme=parts.scheme,
        host=host,
        port=port,
        path=parts.raw_path,
        host_header=parts.netloc,
        addresses=addresses,
    )


class Aim:
    """Finds the checked target of a URL by one list of hosts, that of the setting `webhook_hosts` where none is given."""

    def __init__(self, hosts: str | None, resolve: Resolver) -> None:
        self._hosts, self._resolve = hosts, resolve

    def __call__(self, url: str) -> Target:
        """The checked target; Refused if it may not be called."""
        return target(url, self._allowed, self._resolve)

    @cached_property
    def _allowed(self) -> AllowList:
        return AllowList.parse(settings()["webhook_hosts"].value if self._hosts is None else self._hosts)


def place_of(url: str) -> str:
    """Scheme, host and port of a URL, which may be told to others; its path may hold a token."""
    found = httpx.URL(url)
    return f"{found.scheme}://{found.netloc.decode('ascii', 'replace')}"


def _parts(url: str) -> httpx.URL:
    if not isinstance(url, str) or not url.strip():
        raise Invalid("Webhook URL cannot be empty or just whitespace. Write it as https://host/path.")
    if len(url) > LONGEST_URL:
        raise Invalid(f"Webhook URL is longer than {LONGEST_URL} characters. Shorten it.")
    try:
        found = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise Invalid(f"Invalid webhook URL: {error}. Write it as https://host/path.") from error
    if found.scheme not in ("https", "http"):
        raise Invalid(f"Invalid webhook URL scheme: {found.scheme!r}. Write it as https://host/path.")
    if not found.host:
        raise Invalid("Webhook URL must include a hostname. Write it as https://host/path.")
    if found.port is not None and not 0 < found.port < 65_536:
        raise Invalid(f"Invalid webhook URL: {found.port} is no port. Use 1 to 65535.")
    if found.userinfo:
        raise Invalid("Webhook URL must not hold a user or a password. Have messages signed instead: secret=env:...")
    return found
