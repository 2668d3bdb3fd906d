"""Copies of artifacts for reading: a folder for each digest, rebuilt whenever it is not exactly what was admitted.

What is handed out is always a copy: whoever writes to it, even as root, does not reach the stored bytes.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from modelyard.artifacts import rules
from modelyard.artifacts.intake import files_of, measured
from modelyard.core.errors import Damaged, Invalid, NotFound
from modelyard.core.ports import Blobs

CHUNK = 1 << 20


def materialised(cache: Path, blobs: Blobs, digest: str, files: Mapping[str, str]) -> Path:
    """The folder `cache/digest` with exactly these files (path -> digest), made if it is missing or differs."""
    target = cache / digest
    if _is_exactly(target, files):
        return target
    with _building(cache) as part:
        for path, member in files.items():
            _copy(blobs, member, part / path)
        _replace(part, target)
    if not _is_exactly(target, files):
        raise Damaged(f"{target} changes while it is read. Stop what writes there and try again.")
    return target


def check_blob(blobs: Blobs, digest: str) -> None:
    """Damaged unless the stored bytes have their digest."""
    with _blob(blobs, digest) as stream:
        found, _ = measured(stream)
    if found != digest:
        raise _damaged(digest)


def _is_exactly(folder: Path, files: Mapping[str, str]) -> bool:
    if not folder.is_dir() or folder.is_symlink():
        return False
    try:
        found = dict(files_of(folder))
        return found.keys() == files.keys() and all(_digest_of(found[path]) == files[path] for path in files)
    except (Invalid, OSError):  # links, or files that vanish while they are read
        return False


def _digest_of(path: Path) -> str:
    with path.open("rb") as stream:
        return measured(stream)[0]


def _copy(blobs: Blobs, digest: str, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with _blob(blobs, digest) as source, target.open("xb") as copy:
        shutil.copyfileobj(source, copy, CHUNK)
        os.fchmod(copy.fileno(), stat.S_IRUSR | stat.S_IRGRP | stat.S_IROTH)
    if _digest_of(target) != digest:
        raise _damaged(digest)


def _blob(blobs: Blobs, digest: str) -> BinaryIO:
    try:
        return blobs.open(rules.blob_key(digest))
    except NotFound as error:
        raise Damaged(f"The bytes of {digest} are gone. Restore the blobs folder from a backup.") from error


def _damaged(digest: str) -> Damaged:
    return Damaged(f"The stored bytes of {digest} are not what was admitted. Restore the blobs folder from a backup.")


@contextmanager
def _building(cache: Path) -> Iterator[Path]:
    part = cache / f".{secrets.token_hex(16)}"
    part.mkdir(parents=True)
    try:
        yield part
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _replace(part: Path, target: Path) -> None:
    """Put a built folder in place; another process may do the same at the same time."""
    old = part.with_name(f".{secrets.token_hex(16)}")
    try:
        target.rename(old)
    except FileNotFoundError:
        pass
    else:
        shutil.rmtree(old, ignore_errors=True)
    try:
        part.rename(target)
    except OSError:
        if not target.is_dir():
            raise  # else another process was faster; what it built is checked as ours would be
