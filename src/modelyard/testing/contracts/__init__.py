"""What every adapter of a port must do. Subclass the suite, give it the fixture it names, and pytest runs it:

class TestMyBlobs(BlobsContract):
    @pytest.fixture
    def blobs(self, tmp_path):
        return MyBlobs(tmp_path)
"""

from __future__ import annotations

from modelyard.testing.contracts.blobs import BlobsContract
from modelyard.testing.contracts.clocks import ClockContract
from modelyard.testing.contracts.concurrency import in_child, in_threads
from modelyard.testing.contracts.databases import CURSOR, DatabaseContract, ValuesContract
from modelyard.testing.contracts.online_stores import OnlineStoreContract

__all__ = [
    "CURSOR",
    "BlobsContract",
    "ClockContract",
    "DatabaseContract",
    "OnlineStoreContract",
    "ValuesContract",
    "in_child",
    "in_threads",
]
