"""Signing in with a local password: slowly for those who guess, and at the same cost whoever is named."""

from __future__ import annotations

from modelyard.access import store
from modelyard.access.limits import Backoff, Limiter, Rate
from modelyard.access.passwords import matches
from modelyard.access.service import AccessManager
from modelyard.access.values import NewToken
from modelyard.core.errors import Forbidden
from modelyard.core.events import EventSeverity, EventType
from modelyard.core.people import folded
from modelyard.core.refs import Resource
from modelyard.core.work import Store
from modelyard.server.callers import TooMany

SESSION_HOURS = 8.0
ACCOUNT_S = 60.0  # the longest pause of an account: its owner must not be locked out for long by somebody who guesses
ADDRESS_S = 900.0
TOLD = Rate(per_second=0.2, burst=20)  # failures that become events; the others are counted in the next one


class WrongPassword(Forbidden):
    """No such person, or not that password: which of both is not told."""

    status = 401


class Login:
    """Checks passwords for one server. Failures are counted for each account and each address, in this process."""

    def __init__(self, at: Store) -> None:
        self._store = at
        self._accounts = Backoff(self._seconds, longest=ACCOUNT_S)
        self._addresses = Backoff(self._seconds, longest=ADDRESS_S)
        self._told = Limiter(TOLD, self._seconds)
        self._untold = 0

    def session(self, subject: str, password: str, address: str) -> NewToken:
        """A token of eight hours; WrongPassword or TooMany otherwise."""
        account = folded(subject)[:200]
        wait = max(self._accounts.wait(account), self._addresses.wait(address))
        if wait:
            raise TooMany(f"Too many failed sign-ins. Wait {wait:.0f} s.", wait)
        self._accounts.failed(account)  # before the slow check, so that many at once are no way around it
        self._addresses.failed(address)
        with self._store.reading() as rows:
            phc = store.password(rows, subject)
        if not matches(password, phc):
            self._tell(account, address)
            raise WrongPassword("The name or the password is wrong.")
        self._accounts.succeeded(account)
        self._addresses.succeeded(address)
        return AccessManager(self._store).session(subject, hours=SESSION_HOURS)

    def _tell(self, account: str, address: str) -> None:
        if self._told.wait("all"):
            self._untold += 1
            return
        details = {"address": address, "untold_before": self._untold}
        self._untold = 0
        with self._store.work("unknown") as work:
            shown = account if account.isprintable() else repr(account)
            work.emit(EventType.LOGIN_FAILED, Resource("user", shown), details, severity=EventSeverity.WARNING)

    def _seconds(self) -> float:
        return self._store.clock.now().timestamp()
