"""What a Python service is given: other versions, loaded in the same process and pinned by the digest of their content."""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from modelyard.core.errors import Damaged, Invalid, NotFound, nearest
from modelyard.core.models import FeatureSpec, Signature
from modelyard.core.ports import Output
from modelyard.serving.values import Installed, Used

Array = np.ndarray[Any, np.dtype[Any]]
Columns = Mapping[str, Array]
Reader = Callable[[Any], list[list[Any]]]
SHOWN = 10  # categories in an error


class Part:
    """One of the models that a service is given. It answers a table of named columns, or a matrix in its own order."""

    def __init__(self, name: str, signature: Signature, answer: Callable[[Array], Output]) -> None:
        self.name, self.signature = name, signature
        self._answer = answer

    def predict(self, rows: Columns | Array) -> Output:
        """The model's answer to n rows: predictions (n,) and, of a classifier, probabilities (n, classes).

        Of named columns it takes those that it knows; ValueError names one that is not there.
        """
        return self._answer(rows if isinstance(rows, np.ndarray) else self._batch(rows))

    def _batch(self, columns: Columns) -> Array:
        for name in self.signature.names:
            if name not in columns:
                raise ValueError(f"{self.name} takes {name!r}, which it was not given. {nearest(name, list(columns))}")
        kind = np.float64 if self.signature.numeric else object
        return np.column_stack([np.asarray(columns[name], dtype=kind) for name in self.signature.names])


def columns_of(signature: Signature, batch: Array) -> dict[str, Array]:
    """A batch as named columns: text as objects (a missing one None), the rest as float64 (a missing one not-a-number)."""
    return {
        spec.name: batch[:, place] if spec.kind == "string" else batch[:, place].astype(np.float64)
        for place, spec in enumerate(signature.inputs)
    }


def closed(signature: Signature, read: Reader) -> Reader:
    """The reader of records that refuses a text that is none of its column's categories, where those are known."""
    known = [
        (place, spec, frozenset(spec.categories)) for place, spec in enumerate(signature.inputs) if spec.categories
    ]
    if not known:
        return read

    def checked(records: Any) -> list[list[Any]]:
        rows = read(records)
        for position, row in enumerate(rows):
            for place, spec, categories in known:
                if row[place] not in categories and row[place] is not None:
                    raise _uncategorised(position, spec, row[place])
        return rows

    return checked


def _uncategorised(position: int, spec: FeatureSpec, value: str) -> Invalid:
    known = list(spec.categories or ())
    close = difflib.get_close_matches(value[:80], known, n=1)
    hint = f"Did you mean {close[0]!r}? " if close else ""
    more = ", ..." if len(known) > SHOWN else ""
    return Invalid(
        f"Row {position}: the feature {spec.name!r} is {value[:40]!r}, none of its categories. "
        f"{hint}Known: {', '.join(known[:SHOWN])}{more}."
    )


def used(wanted: Mapping[str, str], installed: Mapping[tuple[str, str], Installed]) -> tuple[Used, ...]:
    """The versions `name -> "model:version"` that a service is given, each pinned by what its file holds now."""
    return tuple(_used(name, reference, installed) for name, reference in sorted(wanted.items()))


def _used(name: str, reference: str, installed: Mapping[tuple[str, str], Installed]) -> Used:
    model, colon, version = reference.partition(":")
    if not name.isidentifier() or not colon:
        raise Invalid(f"uses names {name!r}: {reference!r}. Write a Python name and model:version.")
    found = installed.get((model, version))
    if found is None:
        known = [":".join(pair) for pair in installed]
        raise NotFound(f"{reference} is not installed. Install it first. {nearest(reference, known)}")
    if found.framework == "python":
        raise Invalid(f"{reference} is Python code, which has no digest of its own. Import it from the service's code.")
    return Used(name=name, installed=found, digest=content_digest(Path(found.path)))


def check_pin(user: Installed, one: Used) -> None:
    """Damaged if a version's content is another than when the service was installed with it."""
    path, found = Path(one.installed.path), one.installed
    if not path.exists():
        raise NotFound(f"{user.model} {user.version} uses {found.model} {found.version}, which has no file {path}.")
    if content_digest(path) != one.digest:
        raise Damaged(
            f"{user.model} {user.version} was installed with {found.model} {found.version} of the digest "
            f"{one.digest[:12]}, and {path} holds something else now. Restore it, or install the service again."
        )


def code_digest(reference: str) -> str:
    """The SHA-256 of the file that a reference `module:factory` or `/path/file.py:factory` is in; empty where it has none."""
    where = reference.partition("@")[0].rpartition(":")[0]
    if where.endswith(".py"):
        path = Path(where)
    else:
        try:
            spec = importlib.util.find_spec(where) if where else None
        except (ImportError, ValueError):
            spec = None
        path = Path(spec.origin) if spec is not None and spec.has_location and spec.origin else Path()
    return _file_digest(path) if path.is_file() else ""


def check_code(installed: Installed) -> None:
    """Damaged if Python code is another than when it was installed."""
    if installed.code and code_digest(installed.path) != installed.code:
        raise Damaged(
            f"{installed.model} {installed.version} was installed with {installed.path} of the digest "
            f"{installed.code[:12]}, and its file holds something else now. Restore it, or install the version again."
        )


def content_digest(path: Path) -> str:
    """The SHA-256 of a file's bytes, or of a folder's names and bytes, as 64 hex digits."""
    if path.is_file():
        return _file_digest(path)
    whole = hashlib.sha256()
    for file in sorted(one for one in path.rglob("*") if one.is_file()):
        whole.update(f"{file.relative_to(path).as_posix()}\0{_file_digest(file)}\n".encode())
    return whole.hexdigest()


def _file_digest(path: Path) -> str:
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
