"""Files sent to the server: a request body becomes a file that operations can name, and never a path of the server's own."""

from __future__ import annotations

import asyncio
import hashlib
import re
import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path, PurePosixPath

from modelyard.artifacts.archives import unzip
from modelyard.core.errors import Invalid, NotFound
from modelyard.core.ids import checked_name, new_id

LARGEST = 8 * 1024**3  # bytes of one upload
UPLOAD = re.compile(r"upl_[0-9a-f]+")
KEPT_S = 86_400.0


class Uploads:
    """A folder with one subfolder a caller, and in it one an upload: nobody can name another's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    async def receive(self, name: str, body: AsyncIterator[bytes], caller: str, *, unpack: bool) -> str:
        """Store a body under a new id; with `unpack` it is a ZIP archive that becomes a folder."""
        upload = new_id("upl")
        target = self._own(caller) / upload
        target.mkdir(parents=True)
        forget_old(target.parent)
        file = target / PurePosixPath(checked_name(name, "file")).name
        size = 0
        try:
            with file.open("xb") as out:
                async for chunk in body:
                    size += len(chunk)
                    if size > LARGEST:
                        raise Invalid(
                            f"{name} is larger than {LARGEST // 1024**3} GiB. Store it in an object store instead."
                        )
                    out.write(chunk)
            if unpack:
                await asyncio.to_thread(unzip, file, target / "folder")
                file.unlink()
        except BaseException:
            shutil.rmtree(target, ignore_errors=True)
            raise
        return upload

    def path(self, upload: str, caller: str) -> Path:
        """The file or folder of an upload of the caller's."""
        target = self._own(caller) / upload
        if not UPLOAD.fullmatch(upload) or not target.is_dir():
            raise NotFound(f"There is no upload {upload!r}. Send the file first: POST /api/v1/uploads?name=FILE")
        return next(target.iterdir())

    def drop(self, upload: str, caller: str) -> None:
        """Forget an upload once it has been used; what is no upload's id names nothing here."""
        if not UPLOAD.fullmatch(upload):
            return
        target = self._own(caller) / upload
        try:
            for file in target.iterdir():
                file.unlink()
            target.rmdir()
        except OSError:  # a folder, or gone already
            shutil.rmtree(target, ignore_errors=True)

    def _own(self, caller: str) -> Path:
        return self.folder / hashlib.sha256(caller.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def forget_old(folder: Path) -> None:
    """Remove the subfolders that nobody has asked for within a day."""
    for target in folder.iterdir():
        try:
            if target.stat().st_mtime < time.time() - KEPT_S:
                shutil.rmtree(target, ignore_errors=True)
        except FileNotFoundError:  # used meanwhile
            continue
