"""Failed sign-ins, counted in the store: the pauses hold for all of a yard's servers together and outlive a restart."""

from __future__ import annotations

from modelyard.access import store
from modelyard.access.limits import FORGET, Failures, failed, pause
from modelyard.access.secrets import Pepper
from modelyard.core.instants import micros
from modelyard.core.people import folded
from modelyard.core.ports import Connection
from modelyard.core.work import Store

ACCOUNT_S = 60.0  # the longest pause of an account: its owner must not be locked out for long by somebody who guesses
ADDRESS_S = 900.0


class Attempts:
    """Counts by account and by address. What was typed as a name may be a password, so digests stand for both."""

    def __init__(self, at: Store) -> None:
        self._store, self._pepper = at, Pepper(at.folder)

    def begin(self, subject: str, address: str) -> float:
        """The seconds to wait; else 0, and the attempt counts as a failure until it is known to be none.

        It counts before the password is checked, so that many at once are no way around the pause.
        """
        keys = self._keys(subject, address)
        with self._store.reading() as rows:  # those who are to wait keep no writer waiting
            wait, _ = self._waiting(rows, keys)
        if wait:
            return wait
        with self._store.work("unknown") as work:
            wait, before = self._waiting(work.rows, keys)
            if wait:
                return wait
            now = work.now.timestamp()
            for key, failures in before.items():
                work.rows.run(store.COUNT_FAILURE, key=key, count=failed(failures, now).count, at=micros(work.now))
            work.rows.run(store.FORGET_FAILURES, before=micros(work.now) - int(FORGET * 1e6))
        return 0.0

    def succeeded(self, subject: str, address: str) -> None:
        """Forget the failures of both."""
        with self._store.work(subject) as work:
            for key in self._keys(subject, address):
                work.rows.run(store.FORGIVE, key=key)

    def _keys(self, subject: str, address: str) -> dict[str, float]:
        """What is counted, and the longest pause of each."""
        named = {f"account {folded(subject)}": ACCOUNT_S, f"address {address}": ADDRESS_S}
        return {self._pepper.key(name).hex(): longest for name, longest in named.items()}

    def _waiting(self, rows: Connection, keys: dict[str, float]) -> tuple[float, dict[str, Failures | None]]:
        now = self._store.clock.now().timestamp()
        before = {key: store.failures(rows, key) for key in keys}
        return max(pause(before[key], now, longest) for key, longest in keys.items()), before
