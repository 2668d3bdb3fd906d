"""Signed tokens of an OpenID Connect issuer: a closed list of algorithms, and keys from nowhere but the configured place.

What a token says about its own key (jku, jwk, x5u, x5c) is never looked at; the algorithm follows from the key, and not
from the token (RFC 8725, 3.1).
"""

from __future__ import annotations

import json
import threading
import time
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jwt

from modelyard.access.rules import EVERY, Grant, checked_project, checked_role
from modelyard.core.errors import Forbidden, Invalid, Unavailable, YardError, nearest
from modelyard.core.instants import Instant, from_micros

ALGORITHMS = ("RS256", "ES256", "EdDSA")
_FAMILY = {("RSA", None): "RS256", ("EC", "P-256"): "ES256", ("OKP", "Ed25519"): "EdDSA"}
LEEWAY_S = 60
LONGEST = 16_384  # characters of a token
SMALLEST_RSA = 2048  # bits
REFETCH_S, REFRESH_S, KEPT_S = 60.0, 3600.0, 86_400.0
LARGEST = 1 << 20  # bytes of a key set
TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """Which issuer is trusted, for which audience, and which roles its groups have."""

    issuer: str
    audience: str
    keys: str = ""  # a file or URL; by default what the issuer's discovery document names
    algorithms: tuple[str, ...] = ALGORITHMS
    groups_claim: str = "groups"
    roles: Mapping[str, tuple[Grant, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """What a verified token says: who, until when, and the roles that the person's groups have."""

    issuer: str
    subject: str  # ISSUER#SUB, which no name of a local subject looks like
    expires_at: Instant
    grants: frozenset[Grant]


def trust_from(file: str | Path) -> Trust:
    """The trust that a TOML file states: issuer, audience, keys, algorithms, groups_claim, and [roles] by group.

    A role is written ROLE, or ROLE@PROJECT for one project only.
    """
    try:
        told = tomllib.loads(Path(file).read_text())
    except OSError as error:
        raise Unavailable(f"{file} cannot be read: {error.strerror}. Check the setting `oidc`.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Invalid(f"{file} is no TOML: {error}. Correct it.") from error
    known = ["issuer", "audience", "keys", "algorithms", "groups_claim", "roles"]
    for name in told:
        if name not in known:
            raise Invalid(f"{file} has an unknown key {name!r}. {nearest(name, known)}")
    for name in ("issuer", "audience"):
        if not isinstance(told.get(name), str) or not told[name]:
            raise Invalid(f"{file} has no {name}. Without one, tokens made for others would be taken.")
    _checked_url(told["issuer"], "issuer")
    algorithms = tuple(told.get("algorithms", ALGORITHMS))
    for name in algorithms:
        if name not in ALGORITHMS:
            raise Invalid(f"{file}: the algorithm {name!r} is not taken. {nearest(str(name), list(ALGORITHMS))}")
    roles = {str(group): _grants(roles, file) for group, roles in dict(told.get("roles", {})).items()}
    keys = str(told.get("keys", ""))
    if "://" in keys:
        _checked_url(keys, "keys")
    elif keys:
        keys = str(Path(file).parent / keys)
    return Trust(
        issuer=told["issuer"],
        audience=told["audience"],
        keys=keys,
        algorithms=algorithms,
        groups_claim=str(told.get("groups_claim", "groups")),
        roles=roles,
    )


def _grants(roles: Any, file: str | Path) -> tuple[Grant, ...]:
    if not isinstance(roles, list) or not all(isinstance(role, str) for role in roles):
        raise Invalid(f'{file}: [roles] has a list for each group, such as team = ["contributor", "approver@fraud"].')
    pairs = [role.partition("@") for role in roles]
    return tuple(Grant(checked_role(role), checked_project(project or EVERY)) for role, _, project in pairs)


def _checked_url(url: str, what: str) -> str:
    parts = urlsplit(url)
    loopback = parts.hostname in ("localhost", "127.0.0.1", "::1")
    if parts.scheme != "https" and not (parts.scheme == "http" and loopback):
        raise Invalid(f"The {what} {url!r} is not an https URL. Only on this machine may it be http.")
    if "#" in url or parts.username is not None:
        raise Invalid(f"The {what} {url!r} has a fragment or a user in it. Leave them out.")
    return url


class KeySet:
    """The issuer's public keys by id: read from its place, again after an hour, and for an unknown id once a minute."""

    def __init__(self, trust: Trust, seconds: Callable[[], float] = time.monotonic) -> None:
        self._trust, self._seconds = trust, seconds
        self._keys: dict[str | None, jwt.PyJWK] = {}
        self._read_at = self._tried_at = float("-inf")
        self._lock = threading.Lock()

    def key(self, kid: str | None) -> jwt.PyJWK:
        """The key of that id, or the only one for a token that names none."""
        with self._lock:
            now = self._seconds()
            known = self._found(kid)
            due = now - self._read_at >= REFRESH_S
            if (known is None or due) and now - self._tried_at >= REFETCH_S:
                self._tried_at = now
                self._renew(now)
                known = self._found(kid)
        if known is None:
            raise Forbidden("The token is signed with a key that its issuer does not show. Sign in again.")
        return known

    def _found(self, kid: str | None) -> jwt.PyJWK | None:
        if kid is None:
            return next(iter(self._keys.values())) if len(self._keys) == 1 else None
        return self._keys.get(kid)

    def _renew(self, now: float) -> None:
        try:
            self._keys, self._read_at = self._load(), now
        except YardError:
            if not self._keys or now - self._read_at >= KEPT_S:  # a short outage of the issuer locks nobody out
                raise

    def _load(self) -> dict[str | None, jwt.PyJWK]:
        place = self._trust.keys or self._discovered()
        told = _json(place)
        found: dict[str | None, jwt.PyJWK] = {}
        for entry in told.get("keys", []) if isinstance(told.get("keys"), list) else []:
            key = _usable(entry, self._trust.algorithms)
            if key is not None:
                found[key.key_id] = key
        if not found:
            raise Unavailable(f"{place} shows no key for {', '.join(self._trust.algorithms)}. Check `keys`.")
        return found

    def _discovered(self) -> str:
        told = _json(self._trust.issuer.rstrip("/") + "/.well-known/openid-configuration")
        if told.get("issuer") != self._trust.issuer:  # OpenID Connect Discovery 1.0, 4.3
            raise Unavailable(f"{self._trust.issuer} calls itself {told.get('issuer')!r}. Write `issuer` as it does.")
        try:
            return _checked_url(str(told.get("jwks_uri")), "key set")
        except Invalid as error:
            raise Unavailable(str(error)) from error


def _usable(entry: Any, algorithms: tuple[str, ...]) -> jwt.PyJWK | None:
    """The key, with the one algorithm of its family; None for any other, and for RSA keys that are too short."""
    if not isinstance(entry, dict) or entry.get("use", "sig") != "sig":
        return None
    curve = entry.get("crv") if entry.get("kty") != "RSA" else None
    algorithm = _FAMILY.get((str(entry.get("kty")), curve))
    if algorithm not in algorithms or entry.get("alg", algorithm) != algorithm:
        return None
    public = {name: entry[name] for name in ("kty", "crv", "x", "y", "n", "e", "kid") if name in entry}
    try:
        key = jwt.PyJWK(public, algorithm=algorithm)
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):
        return None
    return key if getattr(key.key, "key_size", SMALLEST_RSA) >= (SMALLEST_RSA if algorithm == "RS256" else 0) else None


def _json(place: str) -> dict[str, Any]:
    try:
        content = _fetched(place) if "://" in place else Path(place).read_bytes()[: LARGEST + 1]
        if len(content) > LARGEST:
            raise Unavailable(f"{place} is larger than {LARGEST} bytes, too large for a key set.")
        told = json.loads(content)
    except OSError as error:
        raise Unavailable(f"{place} cannot be read: {error}. Check the setting `oidc`.") from error
    except (ValueError, RecursionError) as error:
        raise Unavailable(f"{place} holds no JSON: {error}. Check the setting `oidc`.") from error
    return told if isinstance(told, dict) else {}


def _fetched(url: str) -> bytes:
    """The answer of a GET: no redirect is followed, and no more is read than a key set has."""
    import httpx

    content = b""
    try:
        with httpx.stream("GET", url, timeout=TIMEOUT_S, follow_redirects=False, trust_env=False) as answer:
            if answer.status_code != 200:
                raise Unavailable(f"{url} answered {answer.status_code}. Check the setting `oidc`.")
            for part in answer.iter_bytes():
                content += part
                if len(content) > LARGEST:
                    break
    except httpx.HTTPError as error:
        raise Unavailable(f"{url} cannot be reached: {error}. Check the setting `oidc`.") from error
    return content


class Issuer:
    """Verifies the tokens of one issuer."""

    def __init__(self, trust: Trust, seconds: Callable[[], float] = time.monotonic) -> None:
        self.trust = trust
        self._keys = KeySet(trust, seconds)

    def claims(self, token: str, now: Instant) -> Claims:
        """What the token says; Forbidden with the reason if it is not to be believed."""
        try:
            return self._verified(token, now)
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError) as error:
            raise Forbidden(f"The token is not accepted: {error}. Sign in again.") from error

    def _verified(self, token: str, now: Instant) -> Claims:
        if len(token) > LONGEST:
            raise Forbidden(f"The token is longer than {LONGEST} characters.")
        header = jwt.get_unverified_header(token)
        kid = header.get("kid")
        if "crit" in header or not (kid is None or isinstance(kid, str)):
            raise Forbidden("The token's header asks for what this server does not know.")
        key = self._keys.key(kid)
        said = jwt.decode(
            token,
            key.key,
            algorithms=[key.algorithm_name],
            audience=self.trust.audience,
            issuer=self.trust.issuer,
            options={
                "require": ["iss", "aud", "exp", "sub"],
                "verify_exp": False,  # below, by the store's own clock
                "verify_nbf": False,
                "verify_iat": False,
            },
        )
        return self._told(said, now)

    def _told(self, said: Mapping[str, Any], now: Instant) -> Claims:
        sub, expires = said["sub"], _seconds(said, "exp")
        if not isinstance(sub, str) or not sub.strip() or len(sub) > 255 or not sub.isprintable():
            raise Forbidden("The token names nobody.")
        at = now.timestamp()
        if at >= expires + LEEWAY_S:
            raise Forbidden("The token has expired. Sign in again.")
        if any(name in said and at < _seconds(said, name) - LEEWAY_S for name in ("nbf", "iat")):
            raise Forbidden("The token is not valid yet. Check the clocks of both machines.")
        groups = said.get(self.trust.groups_claim, [])
        names = [groups] if isinstance(groups, str) else groups if isinstance(groups, list) else []
        given = [grant for name in names if isinstance(name, str) for grant in self.trust.roles.get(name, ())]
        return Claims(
            issuer=self.trust.issuer,
            subject=f"{self.trust.issuer}#{sub}",
            expires_at=from_micros(int((expires + LEEWAY_S) * 1_000_000)),
            grants=frozenset(given),
        )


def _seconds(said: Mapping[str, Any], name: str) -> float:
    value = said[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e11:
        raise Forbidden(f"The token's {name} is no time.")
    return float(value)
