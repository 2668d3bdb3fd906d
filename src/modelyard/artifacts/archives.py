"""Unpacking: the one way in which a ZIP archive becomes a folder."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO, cast

from modelyard.artifacts import zips
from modelyard.artifacts.inspection import Malformed, Unsound
from modelyard.core.errors import Damaged, Invalid

LEAST = 1 << 20  # bytes that an archive may always unpack to


def unzip(archive: Path, target: Path) -> None:
    """The archive's regular files in a new folder; Invalid, with nothing written, for one that could do harm.

    Refused are absolute and parent names, backslashes and drives, links and devices, members that are named twice (also
    but for case), encryption, members that differ between directory and headers, bytes between members, more than
    10,000 members, 16 GiB, or 200 times the archive's own size (1 MiB at least). Damaged if it breaks off or is no ZIP.

    >>> import zipfile
    >>> with zipfile.ZipFile(folder / "m.zip", "w") as archive:
    ...     archive.writestr("model/notes.txt", "hello")
    >>> unzip(folder / "m.zip", folder / "out")
    >>> (folder / "out" / "model" / "notes.txt").read_text()
    'hello'
    """
    size = archive.stat().st_size
    try:
        with archive.open("rb") as stream, zips.opened(cast(BinaryIO, stream), size) as opened:
            _check_ratio(sum(entry.file_size for entry in opened.infolist()), size)
            members = [entry for entry in opened.infolist() if not entry.is_dir()]
            _check_folders({entry.filename for entry in members})
            for entry in members:
                zips.drain(opened, entry.filename)  # every checksum is compared before a byte is written
            target.mkdir(parents=True)
            for entry in members:
                place = target / entry.filename
                place.parent.mkdir(parents=True, exist_ok=True)
                with opened.open(entry) as source, place.open("xb") as out:
                    while chunk := source.read(zips.CHUNK):
                        out.write(chunk)
    except Unsound as error:
        raise Damaged(f"{archive.name} is damaged: {error}. Pack and send it again.") from error
    except Malformed as error:
        raise Invalid(f"{archive.name} is refused: {error}. Pack plain files under relative names.") from error


def _check_ratio(unpacked: int, size: int) -> None:
    if unpacked > max(LEAST, zips.RATIO_LIMIT * size):
        raise Malformed(f"it unpacks to {unpacked:,} bytes, too many for its {size:,}")


def _check_folders(names: set[str]) -> None:
    """No member may be a file and a folder at once."""
    folders = {name[:at].casefold() for name in names for at in range(len(name)) if name[at] == "/"}
    for name in names:
        if name.casefold() in folders:
            raise Malformed(f"its member {name[:80]!r} is a file and a folder")
