"""Files of a store on this machine, and nothing but those: a store's own notes say where files lie, and are not trusted."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

from modelyard.core.errors import Damaged
from modelyard.portable.mlflow.values import FoundFile
from modelyard.tracking import Run

OURS = "mlflow-artifacts"


class LocalFiles:
    """Files below some folders; `proxied` is where an artifact proxy kept its own."""

    def __init__(self, roots: list[Path], proxied: Path | None = None) -> None:
        self._roots = [root.resolve() for root in roots]
        self._proxied = proxied.resolve() if proxied is not None else None

    def files(self, location: str, inner: str) -> Iterator[FoundFile] | None:
        """The files at a location, which MLflow's layout has at `inner`; None if it lies elsewhere."""
        place = self._place(location, inner)
        return None if place is None else self._below(place)

    def close(self) -> None:
        """Nothing is held open between two files."""

    def whole(self, run: Run) -> Run:
        """The run itself: nothing was left out of it."""
        return run

    @contextmanager
    def open(self, location: str, inner: str, path: str) -> Iterator[BinaryIO]:
        """A file's bytes."""
        place = self._place(location, inner)
        file = self._within(place / path) if place is not None else None
        if file is None:
            raise Damaged(
                f"{path!r:.200} leads out of the folder that is imported. Leave links out, or copy what they name."
            )
        with file.open("rb") as stream:
            yield stream

    def _below(self, place: Path) -> Iterator[FoundFile]:
        for folder, inside, names in os.walk(place):  # which follows no links
            inside.sort()
            for name in sorted(names):
                file = Path(folder) / name
                if self._within(file) is not None and file.is_file():
                    yield FoundFile(file.relative_to(place).as_posix(), file.stat().st_size)

    def _place(self, location: str, inner: str) -> Path | None:
        parts = urlsplit(location)
        if parts.scheme == OURS and self._proxied is not None:
            proxied = (self._proxied / unquote(parts.path).strip("/")).resolve()
            return proxied if proxied.is_relative_to(self._proxied) else None
        if parts.scheme not in ("", "file"):
            return None
        told = Path((unquote(parts.path) if parts.scheme else location) or f"/{inner}")
        named = self._within(told)
        if named is not None and named.is_dir():
            return named
        tried = (root / above / inner for root in self._roots for above in ("", ".trash"))
        moved = [found for one in tried if (found := self._within(one)) is not None and found.parent.is_dir()]
        if not moved or not (moved[0].is_dir() or told.as_posix().endswith(f"/{inner}")):
            return named
        return moved[0]  # which need not be there: nothing was logged then

    def _within(self, path: Path) -> Path | None:
        found = path.resolve()
        return found if any(found.is_relative_to(root) for root in (*self._roots, *self._proxy())) else None

    def _proxy(self) -> list[Path]:
        return [] if self._proxied is None else [self._proxied]
