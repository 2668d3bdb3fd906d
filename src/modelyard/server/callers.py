"""Who is calling and whether they may: the door that every route goes through."""

from __future__ import annotations

import dataclasses
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.requests import HTTPConnection

from modelyard.access import delegation, scopes
from modelyard.access.identity import Identities
from modelyard.access.limits import Limiter, Rate, network
from modelyard.access.rules import EVERY, Grant, Identity, projects_of, refusal
from modelyard.access.scopes import Touch
from modelyard.core.errors import Forbidden, YardError
from modelyard.core.events import EventSeverity, EventType
from modelyard.core.operations import Operation
from modelyard.core.refs import Resource
from modelyard.core.work import Store

if TYPE_CHECKING:
    from modelyard.access.oidc import Issuer

PUBLIC = "public"  # what anybody may ask
SIGNED_IN = "signed in"  # what anybody may ask who has a token
CALLS = Rate(per_second=1_000, burst=5_000)  # of one token: far more than people do, fewer than one process can answer
STRANGERS = Rate(per_second=1, burst=60)  # refused calls of one address
TOLD_EVERY_S = 60.0  # refusals of strangers become an event at most once a minute

F = TypeVar("F", bound=Callable[..., Any])


class Unauthorized(Forbidden):
    """Nobody has signed in, or with a token that is not good."""

    status = 401


class TooMany(YardError):
    """More calls than one caller may make; `wait` is in seconds."""

    status = 429

    def __init__(self, message: str, wait: float) -> None:
        super().__init__(message)
        self.wait = wait


def declares(needs: str) -> Callable[[F], F]:
    """Mark a route's endpoint with what its caller needs: a permission, PUBLIC or SIGNED_IN. Without, no server starts."""

    def mark(endpoint: F) -> F:
        endpoint.needs = needs  # type: ignore[attr-defined]  # functions take attributes
        return endpoint

    return mark


class Callers:
    """The callers of one server: identified, limited, and told apart by project."""

    def __init__(self, store: Store, *, local_user: str = "", issuer: Issuer | None = None) -> None:
        self.store = store
        self.identities = Identities(store, issuer)
        self._local = local_user
        self._calls = Limiter(CALLS, self._seconds)
        self._told_slow = Limiter(Rate(per_second=1 / TOLD_EVERY_S, burst=1), self._seconds)
        self._strangers = Limiter(STRANGERS, self._seconds)
        self._refused: Counter[str] = Counter()
        self._told_at = float("-inf")
        self._lock = threading.Lock()

    def identify(self, request: HTTPConnection) -> Identity:
        """Whom the request speaks for: its token's owner, its certificate's, or the local user while nobody can sign in."""
        scheme, _, presented = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and presented.strip():
            return self._known(request, self.identities.of, presented.strip())
        named = request.scope.get("client_certificate_subject")
        if named:
            return self._known(request, self.identities.certified, named)
        if self._local and not self.identities.guarded():
            everything = frozenset({Grant("admin"), Grant("breaker"), Grant("issuer")})
            return Identity(subject=self._local, owner=self._local, grants=everything)
        raise self._stranger(request, "An access token is needed: send it as `Authorization: Bearer TOKEN`.")

    def permitted(self, request: HTTPConnection, needs: str, projects: Iterable[str] = (EVERY,)) -> Identity:
        """The caller, if they have the permission in each of the projects; a refusal is an event."""
        caller = self.identify(request)
        for project in projects:
            if not caller.may(needs, project):
                raise self.refused(request, caller, needs, refusal(caller, needs, project))
        return caller

    def permitted_to(
        self, request: HTTPConnection, needs: str, touch: Touch, values: Mapping[str, Any]
    ) -> tuple[Identity, bool]:
        """The caller, if they may do this to what it touches; and whether the answer is to be narrowed to their projects."""
        caller = self.identify(request)
        if caller.may(needs):
            return caller, False
        with self.store.reading() as rows:
            touched = scopes.touched(rows, touch, values)
        for project in sorted(touched):
            if not caller.may(needs, project):
                raise self.refused(request, caller, needs, refusal(caller, needs, project))
        if touched:
            return caller, False
        if (touch.shown or touch.anywhere) and projects_of(caller, needs):
            return caller, touch.shown is not None
        raise self.refused(request, caller, needs, refusal(caller, needs, EVERY))

    def check_handed_out(
        self, request: HTTPConnection, caller: Identity, entry: Operation, values: Mapping[str, Any]
    ) -> None:
        """Refuse tokens and roles with which the caller could do what they may not do themselves."""
        if entry.name not in delegation.CHECKS:
            return
        with self.store.reading() as rows:
            why = delegation.refusal_of(rows, caller, entry.name, values)
        if why:
            raise self.refused(request, caller, entry.needs, why)

    def refused(self, request: HTTPConnection, caller: Identity, needs: str, why: str) -> Forbidden:
        """The refusal to raise, once it has been written as an event."""
        self.tell_refused(request, caller, needs, why)
        return Forbidden(why)

    def tell_refused(self, request: HTTPConnection, caller: Identity, needs: str, why: str) -> None:
        """Write the refusal of a signed-in caller as an event."""
        details = {
            "needs": needs,
            "roles": sorted({grant.role for grant in caller.grants}),
            "owner": caller.owner,
            "method": request.scope.get("method", ""),
            "path": request.url.path[:500],
            "reason": why[:500],
        }
        with self.store.work(caller.subject) as work:
            resource = Resource("operation", needs)
            work.emit(EventType.SECURITY_VIOLATION, resource, details, severity=EventSeverity.WARNING)

    def visible(self, caller: Identity, needs: str, touch: Touch, answer: Any) -> Any:
        """The answer without the items of projects in which the caller lacks the permission."""
        assert touch.shown is not None
        kind, field = touch.shown
        mine = projects_of(caller, needs)
        found: dict[str, bool] = {}

        def shown(item: Any) -> bool:
            name = str(getattr(item, field))
            if name not in found:
                found[name] = scopes.projects(rows, kind, name) <= mine
            return found[name]

        with self.store.reading() as rows:
            if isinstance(answer, list | tuple):
                return [item for item in answer if shown(item)]
            return dataclasses.replace(answer, items=tuple(item for item in answer.items if shown(item)))

    def _known(self, request: HTTPConnection, identify: Callable[[str], Identity], shown: str) -> Identity:
        """The caller that a token or a certificate shows, unless they call too often."""
        try:
            caller = identify(shown)
        except Forbidden as error:
            raise self._stranger(request, str(error)) from error
        wait = self._calls.wait(caller.subject)
        if wait:
            why = f"{caller.subject} calls more than {CALLS.per_second:g} times a second. Slow down."
            if not self._told_slow.wait(caller.subject):
                self.tell_refused(request, caller, "rate", why)
            raise TooMany(why, wait)
        return caller

    def _stranger(self, request: HTTPConnection, why: str) -> YardError:
        """The refusal of somebody unknown: counted, and an event at most once a minute, since anybody can cause them."""
        wait = self._strangers.wait(address(request))
        with self._lock:
            self._refused[address(request)] += 1
            now = self._seconds()
            due = now - self._told_at >= TOLD_EVERY_S
            if due:
                self._told_at = now
                counts, self._refused = self._refused, Counter()
        if due:
            with self.store.work("unknown") as work:
                details = {"refused": counts.total(), "addresses": dict(counts.most_common(10))}
                work.emit(EventType.SECURITY_VIOLATION, Resource("server", "sign-in"), details)
        return TooMany(f"Too many refused calls. Wait {wait:.0f} s.", wait) if wait else Unauthorized(why)

    def _seconds(self) -> float:
        return self.store.clock.now().timestamp()


def address(request: HTTPConnection) -> str:
    """The address, or network of addresses, that the request came from; what a proxy claims is not believed."""
    return network(request.client.host) if request.client else "unknown"


def permitted(request: HTTPConnection, needs: str, *touched: tuple[str, str]) -> Identity:
    """The caller if they have the permission for what is touched, (kind, name) each, or else for the whole yard.

    For routes that are not operations: `permitted(request, "registry.read", ("model", "fraud"))`. It reads the
    database, so call it in a thread. A refusal is an event.
    """
    callers: Callers = request.app.state.callers
    if not touched:
        return callers.permitted(request, needs)
    with callers.store.reading() as rows:
        found = set().union(*(scopes.projects(rows, kind, name) for kind, name in touched))
    return callers.permitted(request, needs, sorted(found))
