"""Files that operations write, as answers: streamed in pieces, told apart by their digest, and gone once they are sent."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from starlette.responses import FileResponse
from starlette.types import Receive, Scope, Send

from modelyard.core.canonical import dumps
from modelyard.server.uploads import forget_old

ANSWER_HEADER, ANSWERED_PATH = "Modelyard-Answer", "{output_path}"
MEDIA = {".json": "application/json", ".csv": "text/csv", ".yaml": "application/yaml", ".html": "text/html"}
OTHER = "application/octet-stream"


class Download(FileResponse):
    """A file in a folder of its own, which goes with the answer. Ranges are answered where the method is GET."""

    def __init__(self, file: Path, answer: str) -> None:
        with file.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        headers = {"ETag": f'"{digest}"', ANSWER_HEADER: quote(answer.replace(str(file), ANSWERED_PATH))}
        media = MEDIA.get(file.suffix, OTHER)
        super().__init__(file, headers=headers, media_type=media, filename=file.name, stat_result=file.stat())
        self._folder = file.parent

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the file, or as much of it as its reader waits for."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)  # one file


class Downloads:
    """A folder for files that are on their way; what a killed server left in it goes with time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def answered(self, method: Callable[..., Any], values: Mapping[str, Any], name: str) -> Download:
        """What the method writes to its `output_path`; what it returns stands in a header, ANSWERED_PATH for the file."""
        self.folder.mkdir(parents=True, exist_ok=True)
        forget_old(self.folder)
        own = Path(tempfile.mkdtemp(prefix="dl_", dir=self.folder))
        try:
            answer = dumps(method(**values, output_path=str(own / name)))
            return Download(own / name, answer)
        except BaseException:
            shutil.rmtree(own, ignore_errors=True)
            raise
