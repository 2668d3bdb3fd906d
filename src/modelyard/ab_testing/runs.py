"""What is remembered by key for as long as a test is there, by the million: sorted runs, merged as they grow.

A key is 16 bytes of a hash, a value some bytes; no bytes at all say that there is nothing any more. What is put at once is a
run: entries in the order of their keys, in parts of some ten thousand, one row each. A newer run's value goes before an
older one's. Of runs of like size several are merged into one (O'Neil et al. 1996, "The log-structured merge-tree"), so there
are few, and an entry is written some four times in its life. In a table with a row for each of them, a result would write
the page of four kilobytes that its row lies in.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelyard.ab_testing import store
from modelyard.ab_testing.store import Part
from modelyard.core.ids import ordered_id
from modelyard.core.ports import Connection

PART = 1 << 16  # entries of one row, so that no row is larger than some megabytes
ALIKE = 4  # runs of like size that become one
MOST = max(512 << 20, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 8)  # bytes of parts kept in memory
Keys = NDArray[np.uint64]  # (n, 2)
Halves = NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Entries:
    """Keys in order, with a value each: that of key i is values[starts[i] : starts[i + 1]]."""

    high: NDArray[np.uint64]
    low: NDArray[np.uint64]
    starts: NDArray[np.int64]
    values: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.high)

    @property
    def nbytes(self) -> int:
        """What they take in memory."""
        return self.high.nbytes + self.low.nbytes + self.starts.nbytes + self.values.nbytes

    def value(self, place: int) -> bytes:
        """One value."""
        return self.values[self.starts[place] : self.starts[place + 1]].tobytes()

    def picked(self, places: NDArray[Any]) -> Entries:
        """Some entries, in the order given."""
        lengths = np.diff(self.starts)
        word = np.uint32 if not (lengths % 4).any() else np.uint8  # a quarter of the places to work out
        size, begins = np.dtype(word).itemsize, self.starts[:-1][places]
        lengths = lengths[places]
        starts = _starts(lengths)
        whole, values = self.values.view(word), np.empty(starts[-1] // size, word)
        for begin in range(0, len(places), PART):  # a place a word is some memory: not for all of them at once
            end = min(begin + PART, len(places))
            shift = np.repeat((begins[begin:end] - starts[begin:end]) // size, lengths[begin:end] // size)
            first, last = starts[begin] // size, starts[end] // size
            shift += np.arange(first, last)
            np.take(whole, shift, out=values[first:last], mode="clip")  # unchecked: no copy in between
        return Entries(self.high[places], self.low[places], starts, values.view(np.uint8))

    def within(self, low: int, high: int) -> Entries:
        """The entries whose keys' first halves are from `low` to below `high`, which may be beyond them all."""
        begin = int(np.searchsorted(self.high, np.uint64(low)))
        return self.between(begin, int(np.searchsorted(self.high, np.uint64(high))) if high < 1 << 64 else len(self))

    def between(self, begin: int, end: int) -> Entries:
        """Neighbouring entries."""
        first, last = self.starts[begin], self.starts[end]
        starts = self.starts[begin : end + 1] - first
        return Entries(self.high[begin:end], self.low[begin:end], starts, self.values[first:last])


def entries(keys: Keys, values: Sequence[bytes]) -> Entries:
    """Entries of keys that are in order, each there once."""
    lengths = np.fromiter(map(len, values), np.int64, len(values))
    return Entries(keys[:, 0].copy(), keys[:, 1].copy(), _starts(lengths), np.frombuffer(b"".join(values), np.uint8))


class Shelf:
    """Parts that were read lately. They never change, so they are read once."""

    def __init__(self) -> None:
        self._held: OrderedDict[str, Entries | Halves] = OrderedDict()
        self._bytes = 0

    def high(self, rows: Connection, part: Part) -> Halves:
        """The first halves of a part's keys: all that it takes to know what is not there."""
        found = self._taken(part.name)
        if found is None:
            found = np.frombuffer(store.part_keys(rows, part.name), "<u8")
            self._put(part.name, found)
        return found.high if isinstance(found, Entries) else found

    def entries(self, rows: Connection, part: Part) -> Entries:
        """All of a part."""
        found = self._taken(part.name)
        if isinstance(found, Entries):
            return found
        rest, n, high = store.part_rest(rows, part.name), part.entries, self.high(rows, part)
        low, lengths = np.frombuffer(rest, "<u8", n), np.frombuffer(rest, "<u4", n, 8 * n)
        whole = Entries(high, low, _starts(lengths), np.frombuffer(rest, np.uint8, offset=12 * n))
        self.keep(part, whole)
        return whole

    def keep(self, part: Part, found: Entries | Halves) -> None:
        """Have a part at hand, or the first halves of its keys."""
        self.drop(part)
        self._put(part.name, found)

    def drop(self, part: Part) -> None:
        """Let go of a part."""
        found = self._held.pop(part.name, None)
        self._bytes -= 0 if found is None else found.nbytes

    def _taken(self, name: str) -> Entries | Halves | None:
        found = self._held.get(name)
        if found is not None:
            self._held.move_to_end(name)
        return found

    def _put(self, name: str, found: Entries | Halves) -> None:
        self._held[name] = found
        self._bytes += found.nbytes
        while self._bytes > MOST and len(self._held) > 1:
            self._bytes -= self._held.popitem(last=False)[1].nbytes


class Kept:
    """What one test remembers under the keys of one owner: an arm's units, or the results that were told with an id."""

    def __init__(self, rows: Connection, shelf: Shelf, test_id: str, owner: str) -> None:
        self._rows, self._shelf = rows, shelf
        self._test_id, self._owner = test_id, owner
        self._parts = store.parts(rows, test_id, owner)  # oldest run first, in the order of their keys

    def known(self, keys: Keys) -> NDArray[np.bool_]:
        """Which of the keys are there. They are in order, each there once."""
        found = np.zeros(len(keys), np.bool_)
        for _, which, _ in self._hits(keys):
            found[which] = True
        return found

    def find(self, keys: Keys) -> list[bytes]:
        """The value of each key, empty where there is none. They are in order, each there once."""
        found = [b""] * len(keys)
        for part, which, places in self._hits(keys):
            held = self._shelf.entries(self._rows, part)
            begins, ends = held.starts[places].tolist(), held.starts[places + 1].tolist()
            whole = held.values.data
            for key, begin, end in zip(which.tolist(), begins, ends, strict=True):
                found[key] = bytes(whole[begin:end])
        return found

    def put(self, new: Entries) -> None:
        """Remember values, in the place of those that were there."""
        if not len(new):
            return
        sizes: dict[int, int] = {}
        for part in self._parts:
            sizes[part.run] = sizes.get(part.run, 0) + part.entries
        kept = len(sizes) - _joined([*sizes.values(), len(new)])
        old = [part for part in self._parts if part.run in list(sizes)[kept:]]
        run = max(sizes, default=0) + 1
        for whole in self._together(old, new, gone=not kept) if old else [new]:
            self._add(whole, run)
        self._forget(old)

    def everything(self) -> Iterator[tuple[bytes, bytes]]:
        """Every key that has a value, and the value."""
        shelved = [self._shelf.entries(self._rows, part) for part in reversed(self._parts)]
        whole = _merged(shelved, gone=True) if shelved else entries(np.empty((0, 2), np.uint64), [])
        for place in range(len(whole)):
            yield packed_key(whole.high[place], whole.low[place]), whole.value(place)

    def drop(self, keys: Keys) -> int:
        """Leave out keys with all that was ever remembered of them; returns how many had a value."""

        def unwanted(held: Entries) -> list[int]:
            return [int(at) for high, low in keys for at in np.flatnonzero((held.high == high) & (held.low == low))]

        return self.rewrite_without(unwanted)

    def rewrite_without(self, unwanted: Callable[[Entries], list[int]]) -> int:
        """Leave out the entries that `unwanted` says of a part, from the files too; returns how many keys that were."""
        gone: set[bytes] = set()
        for part in list(self._parts):
            held = self._shelf.entries(self._rows, part)
            places = unwanted(held)
            if not len(places):
                continue
            gone |= {packed_key(held.high[at], held.low[at]) for at in places if held.starts[at] < held.starts[at + 1]}
            self._forget([part])
            self._add(held.picked(np.delete(np.arange(len(held)), places)), part.run)
        return len(gone)

    def _hits(self, keys: Keys) -> Iterator[tuple[Part, NDArray[np.int64], NDArray[np.int64]]]:
        """(part, which of the keys, their places in it) of each key's newest entry."""
        high, low = np.ascontiguousarray(keys[:, 0]), keys[:, 1]
        wanted = np.ones(len(keys), np.bool_)
        for part in reversed(self._parts):
            begin, end = (
                np.searchsorted(high, np.uint64(part.first)),
                np.searchsorted(high, np.uint64(part.last), "right"),
            )
            which = begin + np.flatnonzero(wanted[begin:end])
            if not len(which):
                continue
            halves = self._shelf.high(self._rows, part)
            places = np.searchsorted(halves, high[which])
            alike = halves[places] == high[which]
            which, places = which[alike], places[alike]
            if not len(which):
                continue
            held = self._shelf.entries(self._rows, part)
            same = held.low[places] == low[which]
            for at in np.flatnonzero(~same):  # other keys that share their first half
                while not same[at] and places[at] + 1 < len(held) and halves[places[at] + 1] == high[which[at]]:
                    places[at] += 1
                    same[at] = held.low[places[at]] == low[which[at]]
            wanted[which[same]] = False
            yield part, which[same], places[same]

    def _together(self, old: Sequence[Part], new: Entries, *, gone: bool) -> Iterator[Entries]:
        """What is new and old parts as one run, a stretch of keys after another: of a large run memory holds little at once."""
        newest = sorted(old, key=lambda part: -part.run)
        cuts, entries_ = [0], 0
        for part in sorted(old, key=lambda part: part.first):
            if entries_ >= PART and part.first > cuts[-1]:
                cuts.append(part.first)
                entries_ = 0
            entries_ += part.entries
        for low, high in zip(cuts, [*cuts[1:], 1 << 64], strict=True):
            some = [part for part in newest if part.first < high and low <= part.last]
            held = [self._shelf.entries(self._rows, part).within(low, high) for part in some]
            yield _merged([new.within(low, high), *held], gone=gone)
            for part in some:
                if part.last < high:
                    self._shelf.drop(part)

    def _add(self, whole: Entries, run: int) -> None:
        """Write entries as parts of a run."""
        for begin in range(0, len(whole), 2 * PART):
            some = whole.between(begin, min(begin + 2 * PART, len(whole)))
            first, last = int(some.high[0]), int(some.high[-1])
            part = Part(ordered_id("part"), self._test_id, self._owner, run, first, last, len(some))
            rest = (
                some.low.astype("<u8").tobytes() + np.diff(some.starts).astype("<u4").tobytes() + some.values.tobytes()
            )
            store.add_part(self._rows, part, some.high.astype("<u8").tobytes(), rest)
            self._shelf.keep(part, some if self._owner else some.high)  # of results it is asked whether they are there
            self._parts.append(part)
        self._parts.sort(key=lambda part: (part.run, part.first))

    def _forget(self, old: Sequence[Part]) -> None:
        """Delete parts."""
        for part in old:
            self._shelf.drop(part)
        store.drop_parts(self._rows, old)
        self._parts = [part for part in self._parts if part not in old]


def packed_key(high: Any, low: Any) -> bytes:
    """A key's 16 bytes."""
    return int(high).to_bytes(8, "big") + int(low).to_bytes(8, "big")


def unpacked_keys(packed: bytes) -> Keys:
    """Keys of 16 bytes each."""
    return np.frombuffer(packed, ">u8").astype(np.uint64).reshape(-1, 2)


def _starts(lengths: NDArray[Any]) -> NDArray[np.int64]:
    found = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=found[1:])
    return found


def _joined(sizes: Sequence[int]) -> int:
    """How many of the runs before the last one are to become one with it: of four that are alike in size, all."""
    taken, total = 0, sizes[-1]
    while True:
        tier, alike = total.bit_length() // 2, 0  # each is four times as large as the one below
        while taken + alike + 1 < len(sizes) and sizes[-2 - taken - alike].bit_length() // 2 <= tier:
            alike += 1
        if alike < ALIKE - 1:
            return taken
        total += sum(sizes[-1 - taken - alike : -1 - taken])
        taken += alike


def _merged(runs: Sequence[Entries], *, gone: bool) -> Entries:
    """All entries in order, of each key the first run's; without those that say nothing any more if they are `gone`."""
    lengths = np.concatenate([np.diff(run.starts) for run in runs])
    whole = Entries(
        np.concatenate([run.high for run in runs]),
        np.concatenate([run.low for run in runs]),
        _starts(lengths),
        np.concatenate([run.values for run in runs]),
    )
    order = np.argsort(whole.high, kind="stable")
    high, low = whole.high[order], whole.low[order]
    if ((high[1:] == high[:-1]) & (low[1:] != low[:-1])).any():  # keys that share their first half
        order = np.lexsort((whole.low, whole.high))
        high, low = whole.high[order], whole.low[order]
    first = np.ones(len(order), np.bool_)
    first[1:] = (high[1:] != high[:-1]) | (low[1:] != low[:-1])
    if gone:
        first &= lengths[order] > 0
    return whole.picked(order[first])
