"""What every `OnlineStore` must do."""

from __future__ import annotations

import pytest

from modelyard.core.ports import OnlineStore
from modelyard.testing.contracts.concurrency import in_threads


def packed(stamp: int, text: str = "") -> bytes:
    """Packed values as the feature store writes them: 16 bytes that order equal event times, then the values."""
    return stamp.to_bytes(16, "big") + text.encode()


class OnlineStoreContract:
    """For an `OnlineStore`. Needs the fixture `online`: an empty store."""

    @pytest.fixture
    def online(self) -> OnlineStore:
        """Must be given by the subclass."""
        raise NotImplementedError  # a contract alone runs nothing: only its subclass knows what is under test

    def test_values_come_back_in_the_order_of_the_keys(self, online: OnlineStore) -> None:
        assert online.write("v", [("a", 1, packed(1, "A")), ("b", 2, packed(1, "B"))]) == 2
        assert online.read("v", ["b", "none", "a", "b"]) == [
            (2, packed(1, "B")),
            None,
            (1, packed(1, "A")),
            (2, packed(1, "B")),
        ]

    def test_only_something_newer_replaces(self, online: OnlineStore) -> None:
        online.write("v", [("a", 10, packed(1, "ten"))])
        assert online.write("v", [("a", 9, packed(2, "nine"))]) == 0
        assert online.read("v", ["a"]) == [(10, packed(1, "ten"))]
        assert online.write("v", [("a", 11, packed(0, "eleven"))]) == 1
        assert online.read("v", ["a"]) == [(11, packed(0, "eleven"))]

    @pytest.mark.parametrize("times", [(-5, 3), (-(2**60), -1), (255, 256), (2**31 - 1, 2**31), (2**62 - 1, 2**62)])
    def test_times_are_compared_as_numbers(self, online: OnlineStore, times: tuple[int, int]) -> None:
        older, newer = times
        for order in ((older, newer), (newer, older)):
            key = str(order)
            for time in order:
                online.write("v", [(key, time, packed(1))])
            assert online.read("v", [key]) == [(newer, packed(1))]

    def test_one_call_may_hold_a_key_twice(self, online: OnlineStore) -> None:
        online.write("v", [("a", 2, packed(1, "two")), ("a", 1, packed(1, "one")), ("a", 3, packed(1, "three"))])
        assert online.read("v", ["a"]) == [(3, packed(1, "three"))]

    def test_views_are_apart(self, online: OnlineStore) -> None:
        online.write("v", [("a", 1, packed(1, "v"))])
        online.write("w", [("a", 1, packed(1, "w"))])
        assert online.read("v", ["a"]) == [(1, packed(1, "v"))]
        assert online.delete("v", ["a"]) == 1
        assert online.read("w", ["a"]) == [(1, packed(1, "w"))]

    @pytest.mark.parametrize("key", ["", "a:b", "ключ", "a b\n", "'", "%s", "x" * 1_000])
    def test_any_text_is_a_key(self, online: OnlineStore, key: str) -> None:
        online.write("v", [(key, 1, packed(1, "x"))])
        assert online.read("v", [key, key + "!"]) == [(1, packed(1, "x")), None]

    def test_many_rows_at_once(self, online: OnlineStore) -> None:
        rows = [(f"k{i}", i, packed(1, str(i))) for i in range(1_203)]
        assert online.write("v", rows) == len(rows)
        assert online.read("v", [key for key, _, _ in rows]) == [(time, data) for _, time, data in rows]

    def test_nothing_is_a_valid_request(self, online: OnlineStore) -> None:
        assert (online.write("v", []), online.read("v", []), online.delete("v", [])) == (0, [], 0)

    def test_delete_tells_how_many_were_there(self, online: OnlineStore) -> None:
        online.write("v", [("a", 5, packed(1)), ("b", 5, packed(1))])
        assert online.delete("v", ["a", "none"]) == 1
        assert online.read("v", ["a", "b"]) == [None, (5, packed(1))]
        assert online.write("v", [("a", 1, packed(1))]) == 1  # nothing is remembered of what was forgotten

    def test_writers_in_threads_leave_the_newest(self, online: OnlineStore) -> None:
        in_threads(4, lambda n: [online.write("v", [("a", 4 * i + n, packed(1, str(n)))]) for i in range(10)])
        assert online.read("v", ["a"]) == [(39, packed(1, "3"))]

    def test_closing_twice_is_allowed(self, online: OnlineStore) -> None:
        online.write("v", [("a", 1, packed(1))])
        online.close()
        online.close()
