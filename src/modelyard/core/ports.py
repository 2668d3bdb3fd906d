"""Ports: what the areas need from the outside, five methods or fewer each. Adapters live in storage/ and engines/."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol, runtime_checkable

from modelyard.core.instants import Instant
from modelyard.core.models import Artifact, Signature

if TYPE_CHECKING:
    import numpy as np

Row = Mapping[str, Any]


class Clock(Protocol):
    """Tells the time."""

    def now(self) -> Instant:
        """The current moment in UTC."""
        ...


class Connection(Protocol):
    """One open transaction. SQL is text with `:name` parameters, the same for every database."""

    def all(self, sql: str, **values: Any) -> list[Row]:
        """Every row of the answer."""
        ...

    def tuples(self, sql: str, **values: Any) -> list[tuple[Any, ...]]:
        """Every row of the answer as a plain tuple: for reading very many."""
        ...

    def one(self, sql: str, **values: Any) -> Row | None:
        """The first row, or None."""
        ...

    def run(self, sql: str, **values: Any) -> int:
        """Change rows; returns how many."""
        ...

    def many(self, sql: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """The same change for many rows."""
        ...


@runtime_checkable
class Database(Protocol):
    """A transactional store, migrated to this version's schema when it is opened."""

    @property
    def url(self) -> str:
        """Where it is, without secrets."""
        ...

    def write(self) -> AbstractContextManager[Connection]:
        """A transaction that no other writer shares: commits at the end, undone by any exception."""
        ...

    def read(self) -> AbstractContextManager[Connection]:
        """A consistent view for reading; waits for no writer."""
        ...

    def scrub(self) -> None:
        """Overwrite or give back what deleted rows left in the files, as far as the database can."""
        ...

    def close(self) -> None:
        """Give connections back. Not closing loses nothing."""
        ...


class Blobs(Protocol):
    """Named bytes. A key is a relative path of plain segments; a blob appears whole or not at all."""

    def put(self, key: str, source: BinaryIO) -> bool:
        """Store the stream under the key unless it is taken; True if this call stored it."""
        ...

    def open(self, key: str) -> BinaryIO:
        """The bytes as a binary stream; NotFound for an unknown key."""
        ...

    def path(self, key: str) -> Path:
        """A local file with the bytes (a read-only cached copy where the store is remote)."""
        ...

    def delete(self, key: str) -> bool:
        """Remove the blob; True if it was there."""
        ...

    def keys(self, prefix: str = "") -> Iterator[str]:
        """The keys that start with the prefix, in order."""
        ...


class Artifacts(Protocol):
    """Admits model files by their content and keeps them by digest."""

    def admit(self, source: Path, *, by: str = "system") -> Artifact:
        """Inspect and store a file or a folder; Invalid if its content is refused."""
        ...

    def fetch(self, digest: str) -> Path:
        """A local path with exactly the admitted bytes, verified."""
        ...

    def verify(self, digest: str) -> Artifact:
        """The artifact, after reading every stored byte; Damaged if any has changed."""
        ...

    def hold(self, rows: Connection, digest: str, holder: str) -> None:
        """Keep the artifact, within the caller's transaction, until the holder releases it."""
        ...

    def release(self, rows: Connection, digest: str, holder: str) -> None:
        """The holder needs the artifact no longer."""
        ...


class OnlineStore(Protocol):
    """The newest feature values of each entity, for reading in microseconds."""

    def write(self, view: str, rows: Sequence[tuple[str, int, bytes]]) -> int:
        """Store (entity key, event time in microseconds, packed values), each only if it is newer; returns how many were.

        Newer: a later event time; at the same event time, the first 16 packed bytes sort no lower than those that are there.
        """
        ...

    def read(self, view: str, keys: Sequence[str]) -> list[tuple[int, bytes] | None]:
        """(event time, packed values) for each key in order, None where there is none."""
        ...

    def delete(self, view: str, keys: Sequence[str]) -> int:
        """Forget entities; returns how many were there."""
        ...

    def close(self) -> None:
        """Give connections back."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """Some columns of Parquet segments, given in writing order. Each segment has the columns __entity (text), __event and
    __created (microseconds since 1970). `ttl` is each column's time to live in microseconds, None for ever."""

    segments: Sequence[Path]
    ttl: Mapping[str, int | None]


class OfflineStore(Protocol):
    """Feature values of all times in Parquet segments: what was true, and known, at any moment."""

    def write(self, path: Path, columns: Mapping[str, np.ndarray], types: Mapping[str, str]) -> None:
        """Write a segment; types are float, int, bool or string by column. Masked entries are null."""
        ...

    def at(self, entities: np.ndarray, moments: np.ndarray, history: History, *, created: bool) -> Mapping[str, Any]:
        """Each column's value at (entity, moment in microseconds), in that order, as masked arrays.

        The newest by (event time, created time, writing order) of an event time up to the moment; with `created`, of
        those created up to the moment too. Null past the ttl, where there is none, and for a null entity or moment.
        """
        ...

    def newest(self, history: History, *, up_to: int | None) -> Mapping[str, Any]:
        """The newest row of each entity, with its __entity, __event, __created and __segment (an index), as masked arrays."""
        ...

    def summary(self, history: Sequence[Path], column: str) -> Mapping[str, Any]:
        """Counts, moments, quantiles and frequent values of one column, each (entity, event time) counted once."""
        ...

    def merge(self, history: Sequence[Path], path: Path, *, without: Sequence[str] = ()) -> int:
        """Write one segment with the rows of several, in writing order, except those of some entities; returns how many."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """A model's answer to a batch of n rows: predictions (n,) and, for a classifier, probabilities (n, classes)."""

    predictions: np.ndarray
    probabilities: np.ndarray | None = None


class Runtime(Protocol):
    """One loaded model. A batch is a 2-D array in the signature's column order: float64 where every input is
    numeric (missing = NaN), else object (missing = None)."""

    @property
    def signature(self) -> Signature:
        """What the model takes and gives."""
        ...

    def predict(self, batch: np.ndarray) -> Output:
        """The answer to a batch of shape (n, inputs)."""
        ...

    def contributions(self, batch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """SHAP values (n, inputs) on the model's own scale and the base value (n,), for the last class of a classifier.

        Raises Invalid where the model has no own contributions.
        """
        ...

    def unload(self) -> None:
        """Free what the model holds."""
        ...


class Runner(Protocol):
    """Runs independent calls, in processes or on a cluster."""

    def map(self, function: Callable[..., Any], calls: Sequence[tuple[Any, ...]]) -> Iterator[tuple[int, Any]]:
        """(index, result) of each call as it finishes."""
        ...

    def close(self) -> None:
        """Stop the workers."""
        ...
