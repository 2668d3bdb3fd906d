"""Signing in with a local password: slowly for those who guess, and at the same cost whoever is named."""

from __future__ import annotations

import math

from modelyard.access import store
from modelyard.access.attempts import Attempts
from modelyard.access.limits import Limiter, Rate
from modelyard.access.passwords import matches
from modelyard.access.service import AccessManager
from modelyard.access.values import NewToken
from modelyard.core.errors import Forbidden
from modelyard.core.events import EventSeverity, EventType
from modelyard.core.refs import Resource
from modelyard.core.work import Store
from modelyard.server.callers import TooMany

SESSION_HOURS = 8.0
TOLD = Rate(per_second=0.2, burst=20)  # failures that become events; the others are counted in the next one


class WrongPassword(Forbidden):
    """No such person, or not that password: which of both is not told."""

    status = 401


class Login:
    """Checks passwords for one server."""

    def __init__(self, at: Store) -> None:
        self._store, self._attempts = at, Attempts(at)
        self._told = Limiter(TOLD, lambda: at.clock.now().timestamp())
        self._untold = 0

    def session(self, subject: str, password: str, address: str) -> NewToken:
        """A token of eight hours; WrongPassword or TooMany otherwise."""
        wait = self._attempts.begin(subject, address)
        if wait:
            raise TooMany(f"Too many failed sign-ins. Wait {math.ceil(wait)} s.", wait)
        with self._store.reading() as rows:
            known, phc = store.subject(rows, subject), store.password(rows, subject)
        if not matches(password, phc):
            self._tell("unknown" if known is None else known.subject, address)
            raise WrongPassword("The name or the password is wrong.")
        self._attempts.succeeded(subject, address)
        return AccessManager(self._store).session(subject, hours=SESSION_HOURS)

    def _tell(self, known: str, address: str) -> None:
        """An event with the name of a known person; anything else that was typed as one could be a password."""
        if self._told.wait("all"):
            self._untold += 1
            return
        details = {"address": address, "untold_before": self._untold}
        self._untold = 0
        with self._store.work("unknown") as work:
            work.emit(EventType.LOGIN_FAILED, Resource("user", known), details, severity=EventSeverity.WARNING)
