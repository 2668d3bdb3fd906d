"""Checks of zip files as containers, and reading their members within bounds.

What one reader takes from the directory at its end and another from the headers before each member must be the same, or
the file is malformed.
"""

from __future__ import annotations

import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO, cast

from modelyard.artifacts.inspection import Foreign, Inspection, Malformed, Unsound

MEMBER_LIMIT = 10_000
UNPACKED_LIMIT = 16 << 30
FREE_RATIO = 256 << 20  # bytes that may unpack from nearly nothing: zeros compress a thousandfold
RATIO_LIMIT = 200
CONFIG_LIMIT = 64 << 20
IN_MEMORY = 16 << 20
CHUNK = 1 << 20

InspectMember = Callable[[BinaryIO, int], Inspection]
UNSOUND = (zipfile.BadZipFile, struct.error, zlib.error, EOFError, ValueError, NotImplementedError, OSError)


@contextmanager
def opened(stream: BinaryIO, size: int) -> Iterator[zipfile.ZipFile]:
    """The archive, once its container is known to be sound; Malformed for what zipfile stumbles over, also later."""
    try:
        with zipfile.ZipFile(stream) as archive:
            _check_container(stream, size, archive, archive.infolist())
            yield archive
    except Malformed:
        raise
    except UNSOUND as error:
        raise Unsound(f"it is no sound zip file: {str(error)[:160]}") from error


def _check_container(stream: BinaryIO, size: int, archive: zipfile.ZipFile, entries: list[zipfile.ZipInfo]) -> None:
    stream.seek(max(size - 22, 0))
    tail = stream.read(22)
    if tail[:4] != b"PK\x05\x06" or archive.comment:
        raise Malformed("bytes follow its directory")
    if not entries or len(entries) > MEMBER_LIMIT:
        raise Malformed(f"it has {len(entries):,} members; 1 to {MEMBER_LIMIT:,} are allowed")
    seen: set[str] = set()
    for entry in entries:
        _check_entry(entry)
        folded = entry.filename.rstrip("/").casefold()
        if folded in seen:
            raise Malformed(f"it has two members named {entry.filename[:80]!r}")
        seen.add(folded)
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > UNPACKED_LIMIT or unpacked > max(FREE_RATIO, RATIO_LIMIT * size):
        raise Malformed(f"it unpacks to {unpacked:,} bytes, too many for its {size:,}")
    _check_headers(stream, archive.start_dir, entries)


def _check_entry(entry: zipfile.ZipInfo) -> None:
    name = entry.filename
    if entry.orig_filename != name or not _plain_path(name.rstrip("/")):
        raise Malformed(f"its member {entry.orig_filename[:80]!r} has no plain relative name")
    kind = entry.external_attr >> 16 & 0o170000
    if kind not in (0, 0o100000, 0o040000):
        raise Malformed(f"its member {name[:80]!r} is a link or a device")
    if entry.flag_bits & 0x41 or entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise Malformed(f"its member {name[:80]!r} is encrypted or compressed in an unusual way")
    if entry.compress_type == zipfile.ZIP_STORED and entry.compress_size != entry.file_size:
        raise Malformed(f"its member {name[:80]!r} has two sizes")


def _plain_path(name: str) -> bool:
    parts = name.split("/")
    drive = len(parts[0]) > 1 and parts[0][1] == ":"
    return name.isprintable() and "\\" not in name and not drive and all(p not in ("", ".", "..") for p in parts)


def _check_headers(stream: BinaryIO, directory: int, entries: list[zipfile.ZipInfo]) -> None:
    """Members follow each other from byte 0 to the directory, each with the name and method that the directory gives."""
    end = 0
    for entry in sorted(entries, key=lambda entry: entry.header_offset):
        gap = entry.header_offset - end
        if gap not in (0, 12, 16, 20, 24):  # what a data descriptor may take (APPNOTE 4.3.9)
            raise Malformed(f"bytes lie hidden before its member {entry.filename[:80]!r}")
        stream.seek(entry.header_offset)
        head = struct.unpack("<4s5H3I2H", stream.read(30))
        name = stream.read(head[9])
        encoding = "utf-8" if head[2] & 0x800 else "cp437"
        if head[0] != b"PK\x03\x04" or head[3] != entry.compress_type or name.decode(encoding) != entry.orig_filename:
            raise Malformed(f"its member {entry.filename[:80]!r} is described in two ways")
        end = entry.header_offset + 30 + head[9] + head[10] + entry.compress_size
    if directory - end not in (0, 12, 16, 20, 24):
        raise Malformed("bytes lie hidden before its directory")


def read(archive: zipfile.ZipFile, name: str) -> bytes:
    """A member's bytes; Malformed if they are more than a description takes."""
    if archive.getinfo(name).file_size > CONFIG_LIMIT:
        raise Malformed(f"its {name[:80]} is larger than {CONFIG_LIMIT:,} bytes")
    return archive.read(name)


def drain(archive: zipfile.ZipFile, name: str) -> None:
    """Read a member to its end, where its checksum is compared."""
    with archive.open(name) as source:
        while source.read(CHUNK):
            pass


@contextmanager
def copied(archive: zipfile.ZipFile, name: str) -> Iterator[tuple[BinaryIO, int]]:
    """A member as a file of its own, and its size."""
    with tempfile.SpooledTemporaryFile(max_size=IN_MEMORY) as copy:
        with archive.open(name) as source:
            while chunk := source.read(CHUNK):
                copy.write(chunk)
        size = copy.tell()
        copy.seek(0)
        yield cast(BinaryIO, copy), size


def known(archive: zipfile.ZipFile, name: str, member: InspectMember) -> Inspection:
    """What a member is, by its content; Malformed for none of the known formats."""
    with copied(archive, name) as (copy, size):
        try:
            found = member(copy, size)
        except Foreign as error:
            raise Foreign(f"in {name[:80]}: {error}") from error
        except Malformed as error:
            raise Malformed(f"in {name[:80]}: {error}") from error
    if found.needs:
        raise Malformed(f"in {name[:80]}: it refers to other files")
    if found.format == "binary":
        raise Malformed(f"its member {name[:80]!r} is none of the formats that modelyard knows")
    return found
