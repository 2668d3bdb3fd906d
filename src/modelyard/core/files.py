"""Files that appear whole or not at all, whoever reads meanwhile and whenever the machine stops."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from modelyard.core.errors import Unavailable, YardError
from modelyard.core.ids import new_id

PRIVATE = 0o600


@contextlib.contextmanager
def draft(path: Path) -> Iterator[Path]:
    """A name beside the path to write under, to be moved there once all is well; what is left of it is removed.

    Missing folders are made. Unavailable where the disk refuses anything.

    >>> with draft(folder / "answer.txt") as part:
    ...     _ = part.write_text("42")
    ...     _ = part.replace(folder / "answer.txt")
    >>> [file.name for file in folder.iterdir()]
    ['answer.txt']
    """
    part = path.with_name(f".{path.name[:100]}.{new_id('part')}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
    except OSError as error:
        if isinstance(error, YardError):
            raise
        why = error.strerror or str(error)
        raise Unavailable(
            f"{path} cannot be written: {why}. Choose a folder you may write to, with room in it."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def replace_whole(path: Path, text: str, mode: int = 0o644) -> None:
    """Put a whole file at the path, in place of one that may stand there. It outlasts a power cut from here on."""
    with _written(path, text, mode) as part:
        part.replace(path)


def place_whole(path: Path, text: str, mode: int = 0o644) -> bool:
    """Put a whole file at the path unless one stands there already; True if this call did.

    >>> place_whole(folder / "key", "mine", PRIVATE), place_whole(folder / "key", "yours", PRIVATE)
    (True, False)
    """
    with _written(path, text, mode) as part:
        try:
            os.link(part, path)
        except FileExistsError:
            return False
    return True


@contextlib.contextmanager
def _written(path: Path, text: str, mode: int) -> Iterator[Path]:
    """The draft, filled; and the folder's own entry made safe once it has its name. A private file's folder is private."""
    if mode == PRIVATE:
        with contextlib.suppress(OSError):  # told by the draft
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with draft(path) as part:
        handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(handle, "wb") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(handle)
        yield part
        folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
