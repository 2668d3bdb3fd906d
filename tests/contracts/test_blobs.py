"""Files keep the promises of blobs."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelyard.core.ports import Blobs
from modelyard.storage.files import FileBlobs
from modelyard.testing.contracts import BlobsContract


class TestFiles(BlobsContract):
    @pytest.fixture
    def blobs(self, tmp_path: Path) -> Blobs:
        return FileBlobs(tmp_path / "blobs")
