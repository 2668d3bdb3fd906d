"""What every area's class shares: it opens alone on a folder or URL, or on a store that it shares."""

from __future__ import annotations

from pathlib import Path

from modelyard.core.instants import SYSTEM_CLOCK
from modelyard.core.ports import Clock
from modelyard.core.work import Store


class Area:
    """Opens on a folder, a database URL, or another area's store."""

    def __init__(self, storage_path: str | Path | Store, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self.store = Store.at(storage_path, clock=clock)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.store.database.url!r})"

    def close(self) -> None:
        """Give connections back. Not closing loses nothing."""
        self.store.close()
