"""Checks of HDF5 files (Keras weights) without the HDF5 library: every object header is walked from the superblock.

HDF5 can read other files through external links, external storage and virtual datasets, and load plug-ins for
unknown filters and links. Such a file is foreign. Structures that this walk does not know are foreign too.
Format: HDF5 File Format Specification 3.0, https://support.hdfgroup.org/documentation/hdf5/latest/_f_m_t3.html
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import BinaryIO

from modelyard.artifacts.inspection import Foreign, Inspection, Malformed

NOWHERE = 0xFFFF_FFFF_FFFF_FFFF
MOST_STRUCTURES = 200_000
MOST_MESSAGES = 2_000_000
FREE_BYTES = 256 << 20  # datasets may declare as much without holding it: unwritten parts read as fill values
RATIO_LIMIT = 200
FILTERS = {1, 2, 3, 4, 5, 6}  # deflate, shuffle, fletcher32, szip, nbit, scale-offset: built in; others are plug-ins
CONFIG = b"model_config"  # the attribute in which Keras' older files keep the model itself
CONFIG_LIMIT = 64 << 20


@dataclass(frozen=True, slots=True)
class Attribute:
    """A named value of an object, as its bytes lie in the file."""

    name: bytes
    variable: bool  # a variable-length string, which lies in a global heap
    value: bytes


@dataclass(slots=True)
class Walk:
    """What was met from the superblock on. `config` is the text of Keras' model_config, if there is one."""

    stream: BinaryIO
    size: int
    waiting: list[int] = field(default_factory=list)
    headers: set[int] = field(default_factory=set)
    groups_seen: set[tuple[int, int]] = field(default_factory=set)
    structures: int = 0
    messages: int = 0
    declared: int = 0
    config: bytes | None = None

    def bytes_at(self, address: int, length: int) -> bytes:
        """Exactly these bytes of the file."""
        if address < 0 or address + length > self.size:
            raise Malformed("a structure lies past its end")
        self.stream.seek(address)
        data = self.stream.read(length)
        if len(data) != length:
            raise Malformed("it is cut short")
        return data

    def count(self) -> None:
        """One more structure."""
        self.structures += 1
        if self.structures > MOST_STRUCTURES:
            raise Malformed(f"it has more than {MOST_STRUCTURES:,} structures")

    def meet(self, address: int) -> None:
        """An object header, to be walked once."""
        if address not in self.headers:
            self.headers.add(address)
            self.waiting.append(address)


def hdf5(stream: BinaryIO, size: int) -> tuple[Inspection, bytes | None]:
    """What the file is, and Keras' model configuration if one lies in it."""
    walk = Walk(stream, size)
    try:
        _superblock(walk)
        while walk.waiting:
            _Object(walk).header(walk.waiting.pop())
    except Foreign as error:
        return Inspection(format="hdf5", unsafe=(str(error),)), walk.config
    except (struct.error, IndexError) as error:
        raise Malformed("a structure is cut short") from error
    if walk.declared > max(FREE_BYTES, RATIO_LIMIT * size):
        raise Malformed(f"its datasets declare {walk.declared:,} bytes, too many for its {size:,}")
    return Inspection(format="hdf5"), walk.config


def _superblock(walk: Walk) -> None:
    head = walk.bytes_at(0, 16)
    version = head[8]
    if version in (0, 1):
        sizes, at = head[13:15], 24 + 4 * version
    elif version in (2, 3):
        sizes, at = head[9:11], 12
    else:
        raise Foreign(f"its superblock has the unknown version {version}")
    if sizes != b"\x08\x08":
        raise Foreign("its addresses or lengths are not of eight bytes")
    base, first, end, last = struct.unpack("<4Q", walk.bytes_at(at, 32))
    if base != 0 or end > walk.size:
        raise Malformed("its superblock does not fit the file")
    if version < 2:  # base, free space, end, driver information; then the root group's entry
        if (first, last) != (NOWHERE, NOWHERE):
            raise Foreign("it keeps free-space or driver information in its superblock")
        _entry(walk, walk.bytes_at(at + 32, 40))
    else:  # base, extension, end, root
        if first != NOWHERE:
            raise Foreign("it has a superblock extension")
        walk.meet(last)


def _entry(walk: Walk, entry: bytes) -> None:
    """A symbol table entry: name offset, object header, kind of what is cached, the cached value."""
    _, header, cached, _, tree, heap = struct.unpack("<QQIIQQ", entry)
    if cached == 1:
        _group(walk, tree, heap)
    elif cached not in (0, 2):  # 2: a soft link, which stays within the file
        raise Foreign("a group's entry is of an unknown kind")
    if cached != 2:
        walk.meet(header)


def _group(walk: Walk, tree: int, heap: int) -> None:
    """An old-style group: a B-tree of symbol nodes, with names in a local heap."""
    if (tree, heap) in walk.groups_seen:
        return
    walk.groups_seen.add((tree, heap))
    if walk.bytes_at(heap, 8)[:5] != b"HEAP\x00":
        raise Malformed("a group's heap is missing")
    waiting, seen, siblings = [(tree, 0)], set(), set()
    while waiting:
        address, depth = waiting.pop()
        walk.count()
        head = walk.bytes_at(address, 24)
        if head[:4] == b"SNOD":
            _symbols(walk, address, head)
            continue
        kind, level, used, left, right = struct.unpack("<BBHQQ", head[4:])
        if head[:4] != b"TREE" or kind != 0 or address in seen or depth > 20:
            raise Malformed("a group's tree is broken")
        seen.add(address)
        siblings |= {left, right}
        keys = walk.bytes_at(address + 24, 16 * used + 8)
        children = struct.unpack(f"<{2 * used + 1}Q", keys)[1::2]
        for child in children:
            found = walk.bytes_at(child, 4)
            if found != (b"TREE" if level else b"SNOD"):
                raise Malformed("a group's tree is broken")
            waiting.append((child, depth + 1))
    if not siblings <= seen | {NOWHERE}:
        raise Malformed("a group's tree has hidden nodes")


def _symbols(walk: Walk, address: int, head: bytes) -> None:
    version, _, count = struct.unpack("<BBH", head[4:8])
    if version != 1:
        raise Foreign("a group's node has an unknown version")
    entries = walk.bytes_at(address + 8, 40 * count)
    for start in range(0, len(entries), 40):
        _entry(walk, entries[start : start + 40])


class _Object:
    """One object header and its messages."""

    def __init__(self, walk: Walk) -> None:
        self.walk = walk
        self.item = 0
        self.cells = 0

    def header(self, address: int) -> None:
        """Walk the header at an address, of either version."""
        self.walk.count()
        start = self.walk.bytes_at(address, 4)
        messages = self._version_2(address) if start == b"OHDR" else self._version_1(address, start)
        for kind, flags, data in messages:
            self.walk.messages += 1
            if self.walk.messages > MOST_MESSAGES:
                raise Malformed(f"it has more than {MOST_MESSAGES:,} header messages")
            self._message(kind, flags, data)
        self.walk.declared += self.item * self.cells

    def _version_1(self, address: int, start: bytes) -> Iterator[tuple[int, int, bytes]]:
        if start[0] != 1:
            raise Foreign("an object's header has an unknown version")
        count, _, length = struct.unpack("<xxHII", self.walk.bytes_at(address, 12))
        blocks, met = [(address + 16, length)], 0
        for begin, size in blocks:  # grows as continuations are met
            if len(blocks) > 1_000:
                raise Malformed("an object's header goes on without end")
            block, at = self.walk.bytes_at(begin, size), 0
            while at + 8 <= len(block):
                kind, length, flags = struct.unpack_from("<HHB", block, at)
                data = block[at + 8 : at + 8 + length]
                if len(data) != length:
                    raise Malformed("a header message is cut short")
                at, met = at + 8 + length, met + 1
                if kind == 0x10:
                    blocks.append(struct.unpack("<QQ", data[:16]))
                else:
                    yield kind, flags, data
        if met != count:
            raise Malformed("an object's header counts its messages wrongly")

    def _version_2(self, address: int) -> Iterator[tuple[int, int, bytes]]:
        version, flags = self.walk.bytes_at(address + 4, 2)
        if version != 2:
            raise Foreign("an object's header has an unknown version")
        at = address + 6 + 16 * (flags >> 5 & 1) + 4 * (flags >> 4 & 1)
        width = 1 << (flags & 3)
        length = int.from_bytes(self.walk.bytes_at(at, width), "little")
        blocks, extra = [(at + width, length)], 2 * (flags >> 2 & 1)
        for begin, size in blocks:
            if len(blocks) > 1_000:
                raise Malformed("an object's header goes on without end")
            block, at = self.walk.bytes_at(begin, size), 0
            while at + 4 + extra <= len(block):  # less than that is a gap
                kind, length, message_flags = struct.unpack_from("<BHB", block, at)
                data = block[at + 4 + extra : at + 4 + extra + length]
                if len(data) != length:
                    raise Malformed("a header message is cut short")
                at += 4 + extra + length
                if kind == 0x10:
                    blocks.append(self._continued(data))
                else:
                    yield kind, message_flags, data

    def _continued(self, data: bytes) -> tuple[int, int]:
        address, length = struct.unpack("<QQ", data[:16])
        if self.walk.bytes_at(address, 4) != b"OCHK" or length < 8:
            raise Malformed("a header's continuation is missing")
        return address + 4, length - 8

    def _message(self, kind: int, flags: int, data: bytes) -> None:
        if flags & 2:
            if kind != 0x03:  # a datatype may be kept apart and named
                raise Foreign("it shares header messages between objects")
            return
        if kind in HARMLESS:
            return
        check = _MESSAGES.get(kind)
        if check is None:
            raise Foreign(f"it has header messages of the unknown kind {kind}")
        check(self, data)


def _external_files(_: _Object, __: bytes) -> None:
    raise Foreign("it keeps data in external files (HDF5 external storage), which could be any file")


def _dataspace(target: _Object, data: bytes) -> None:
    version, rank = data[0], data[1]
    if version not in (1, 2) or rank > 32:
        raise Foreign("a dataset's shape is written in an unknown way")
    sides = struct.unpack_from(f"<{rank}Q", data, 8 if version == 1 else 4)
    target.cells = 0 if version == 2 and data[3] == 2 else math.prod(sides)  # kind 2: no elements at all


def _datatype(target: _Object, data: bytes) -> None:
    target.item = struct.unpack_from("<I", data, 4)[0]


def _link_info(_: _Object, data: bytes) -> None:
    at = 2 + 8 * (data[1] & 1)
    if struct.unpack_from("<Q", data, at)[0] != NOWHERE:
        raise Foreign("a group keeps its links in a fractal heap. Save the file with libver='earliest'")


def _attribute_info(_: _Object, data: bytes) -> None:
    at = 2 + 2 * (data[1] & 1)
    if struct.unpack_from("<Q", data, at)[0] != NOWHERE:
        raise Foreign("an object keeps its attributes in a fractal heap. Save the file with libver='earliest'")


def _link(target: _Object, data: bytes) -> None:
    version, flags = data[0], data[1]
    if version != 1:
        raise Foreign("a link has an unknown version")
    at, kind = 2, 0
    if flags & 8:
        kind, at = data[at], at + 1
    at += 8 * (flags >> 2 & 1) + (flags >> 4 & 1)
    width = 1 << (flags & 3)
    at += width + int.from_bytes(data[at : at + width], "little")
    if kind == 64:
        raise Foreign("it has an external link, which could lead to any file")
    if kind not in (0, 1):
        raise Foreign("it has a user-defined link, which a plug-in follows")
    if kind == 0:
        target.walk.meet(struct.unpack_from("<Q", data, at)[0])


def _layout(_: _Object, data: bytes) -> None:
    version, kind = (data[0], data[1]) if data[0] >= 3 else (data[0], data[2])
    if version not in (1, 2, 3, 4) or kind not in (0, 1, 2, 3):
        raise Foreign("a dataset's layout is unknown")
    if kind == 3:
        raise Foreign("it has a virtual dataset, which reads other files")


def _filters(_: _Object, data: bytes) -> None:
    version, count = data[0], data[1]
    if version not in (1, 2):
        raise Foreign("a dataset's filters are written in an unknown way")
    at = 8 if version == 1 else 2
    for _each in range(count):
        number = struct.unpack_from("<H", data, at)[0]
        if number not in FILTERS:
            raise Foreign(f"a dataset needs the filter {number}, which is a plug-in")
        named = version == 1 or number >= 256
        length = struct.unpack_from("<H", data, at + 2)[0] if named else 0
        values = struct.unpack_from("<H", data, at + (6 if named else 4))[0]
        at += (8 if named else 6) + length + 4 * (values + (values & 1 if version == 1 else 0))


def _symbol_table(target: _Object, data: bytes) -> None:
    _group(target.walk, *struct.unpack("<QQ", data[:16]))


def _attribute(target: _Object, data: bytes) -> None:
    found = _attribute_of(data)
    if found.name != CONFIG:
        return
    walk = target.walk
    if walk.config is not None:
        raise Malformed("it has two model configurations")
    walk.config = _from_heap(walk, found.value) if found.variable else found.value.rstrip(b"\0")


def _attribute_of(data: bytes) -> Attribute:
    version, flags = data[0], data[1]
    if version not in (1, 2, 3) or (version > 1 and flags & 3):
        raise Foreign("an attribute is written in an unknown way")
    name, kind, space = struct.unpack_from("<HHH", data, 2)
    at = 9 if version == 3 else 8
    text = data[at : at + name].rstrip(b"\0")
    if version == 1:  # its parts are padded to eight bytes
        name, kind, space = (size + -size % 8 for size in (name, kind, space))
    return Attribute(text, data[at + name] & 15 == 9, data[at + name + kind + space :])


def _from_heap(walk: Walk, value: bytes) -> bytes:
    """A variable-length string: its length, its collection's address and its number there."""
    length, address, number = struct.unpack_from("<IQI", value)
    head = walk.bytes_at(address, 16)
    size = struct.unpack("<Q", head[8:])[0]
    if head[:4] != b"GCOL" or not length <= size <= CONFIG_LIMIT:
        raise Malformed("its model configuration is missing")
    heap, at = walk.bytes_at(address, size), 16
    while at + 16 <= size:
        found, _, held = struct.unpack_from("<HHxxxxQ", heap, at)
        if found == number and length <= held:
            return heap[at + 16 : at + 16 + length]
        if found == 0:
            break
        at += 16 + held + -held % 8
    raise Malformed("its model configuration is missing")


# nothing, old and new fill values, group information, comment, modification times, B-tree sizes, reference count
HARMLESS = {0x00, 0x04, 0x05, 0x0A, 0x0D, 0x0E, 0x12, 0x13, 0x16}
_MESSAGES: Mapping[int, Callable[[_Object, bytes], None]] = {
    0x01: _dataspace,
    0x02: _link_info,
    0x03: _datatype,
    0x06: _link,
    0x07: _external_files,
    0x08: _layout,
    0x0B: _filters,
    0x0C: _attribute,
    0x11: _symbol_table,
    0x15: _attribute_info,
}
