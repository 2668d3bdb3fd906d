"""What every `Blobs` must do."""

from __future__ import annotations

import io
from typing import Any

import pytest

from modelyard.core.errors import Invalid, NotFound
from modelyard.core.ports import Blobs
from modelyard.testing.contracts.concurrency import in_threads


class Failing(io.RawIOBase):
    """A stream that breaks after some bytes."""

    def __init__(self, good: bytes) -> None:
        self._left = good

    def readable(self) -> bool:
        """True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """The good bytes, then an error."""
        if not self._left:
            raise ConnectionResetError("the stream broke")
        n = min(len(buffer), len(self._left))
        buffer[:n], self._left = self._left[:n], self._left[n:]
        return n


class BlobsContract:
    """For `Blobs`. Needs the fixture `blobs`: an empty store."""

    @pytest.fixture
    def blobs(self) -> Blobs:
        """Must be given by the subclass."""
        raise NotImplementedError  # a contract alone runs nothing: only its subclass knows what is under test

    @pytest.mark.parametrize("data", [b"", b"x", bytes(range(256)) * 8_192], ids=["empty", "one byte", "2 MiB"])
    def test_bytes_come_back_as_they_were(self, blobs: Blobs, data: bytes) -> None:
        assert blobs.put("a/b", io.BytesIO(data)) is True
        with blobs.open("a/b") as stream:
            assert stream.read() == data
        assert blobs.path("a/b").read_bytes() == data

    def test_a_taken_key_keeps_its_first_bytes(self, blobs: Blobs) -> None:
        assert blobs.put("k", io.BytesIO(b"first")) is True
        assert blobs.put("k", io.BytesIO(b"second")) is False
        assert blobs.path("k").read_bytes() == b"first"

    def test_an_unknown_key_is_not_found(self, blobs: Blobs) -> None:
        with pytest.raises(NotFound, match="nothing/here"):
            blobs.open("nothing/here")
        with pytest.raises(NotFound, match="nothing/here"):
            blobs.path("nothing/here")

    def test_delete_tells_whether_the_blob_was_there(self, blobs: Blobs) -> None:
        blobs.put("k", io.BytesIO(b"x"))
        assert [blobs.delete("k"), blobs.delete("k")] == [True, False]
        with pytest.raises(NotFound):
            blobs.open("k")
        assert blobs.put("k", io.BytesIO(b"again")) is True
        assert blobs.path("k").read_bytes() == b"again"

    def test_keys_are_listed_in_order_by_prefix(self, blobs: Blobs) -> None:
        keys = ["a/x", "a-b", "a/b/c", "ab", "b", "a/b/a"]
        for key in keys:
            blobs.put(key, io.BytesIO(b""))
        assert list(blobs.keys()) == sorted(keys)
        for prefix in ("a", "a/", "a/b", "a/b/", "b", "zz"):
            assert list(blobs.keys(prefix)) == sorted(key for key in keys if key.startswith(prefix))

    @pytest.mark.parametrize(
        "key", ["", "/etc/passwd", "../x", "a/../../x", "a//b", "a/", ".", "a/./b", ".hidden", "a\\b", "a\x00b", "a\nb"]
    )
    def test_a_key_that_could_lead_elsewhere_is_refused(self, blobs: Blobs, key: str) -> None:
        for call in (blobs.open, blobs.path, blobs.delete):
            with pytest.raises(Invalid):
                call(key)
        with pytest.raises(Invalid):
            blobs.put(key, io.BytesIO(b"x"))
        assert list(blobs.keys()) == []

    def test_a_broken_upload_leaves_nothing(self, blobs: Blobs) -> None:
        with pytest.raises(ConnectionResetError):
            blobs.put("k", io.BufferedReader(Failing(b"half")))
        assert list(blobs.keys()) == []
        assert blobs.put("k", io.BytesIO(b"whole")) is True

    def test_of_several_writers_one_wins_and_no_bytes_mix(self, blobs: Blobs) -> None:
        wins: list[int] = []

        def put(number: int) -> None:
            if blobs.put("k", io.BytesIO(bytes([number]) * 300_000)):
                wins.append(number)

        in_threads(6, put)
        assert len(wins) == 1
        assert blobs.path("k").read_bytes() == bytes([wins[0]]) * 300_000
