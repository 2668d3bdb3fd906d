"""Compiled forms that are more than trees on bare numbers: categories looked up first, lines for trees, calibration behind.

A batch becomes a matrix by a `Front`, the matrix becomes sums by trees or by one product, and the sums become an answer.
"""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from modelyard.core.canonical import dumps
from modelyard.core.errors import Damaged, Invalid, NotFound, Unfit
from modelyard.core.models import Signature
from modelyard.core.packages import signature_of
from modelyard.core.ports import Output
from modelyard.engines.answers import TIE, likeliest
from modelyard.engines.trees import Ensemble, Link, TreesRuntime, forest, packed
from modelyard.engines.trees import save as save_trees

Array = np.ndarray[Any, np.dtype[Any]]

_BROKEN = (OSError, EOFError, ValueError, KeyError, TypeError, IndexError, AttributeError, zipfile.BadZipFile)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lookup:
    """The columns that stand for the categories of one input: `table` (categories + 2, columns) ends with what stands for a
    missing value and for any other category, which the model may refuse."""

    source: int
    known: tuple[Any, ...]
    table: Array
    refuses: tuple[bool, bool] = (False, False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Front:
    """How a batch becomes a matrix: first the inputs `numbers` as they are, then each lookup's columns.

    A missing number becomes the one in `fills`, where that is one; a number above `holes[0]` and up to `holes[1]` (numbers,)
    becomes a missing one.
    """

    numbers: tuple[int, ...]
    lookups: tuple[Lookup, ...] = ()
    fills: Array | None = None
    holes: Array | None = None

    def plain(self, inputs: int) -> bool:
        """Whether the matrix is the batch."""
        return self.numbers == tuple(range(inputs)) and not self.lookups and self.fills is None and self.holes is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lines:
    """Sums of a matrix's columns times `weights` (columns, outputs), from `base` (outputs,) on."""

    weights: Array
    base: Array
    link: Link


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """What makes a probability of one sum: expit(-(a s + b)) of the points (a, b), or the line through `points` (2, n)."""

    kind: Literal["sigmoid", "isotonic"]
    points: Array
    logistic: bool  # of the sum, before it


@dataclass(frozen=True, slots=True, kw_only=True)
class Flat:
    """A compiled model. With `curves`, one for each sum, the answer to a row is the mean of what they make of them."""

    front: Front
    core: Ensemble | Lines
    curves: tuple[Curve, ...] = ()


def save(path: Path, flat: Flat, signature: Signature) -> None:
    """Write the compiled form: a NumPy archive with the signature."""
    if isinstance(flat.core, Ensemble) and not flat.curves and flat.front.plain(len(signature.inputs)):
        save_trees(path, flat.core, signature)
        return
    trees = isinstance(flat.core, Ensemble)
    arrays = packed(flat.core) if isinstance(flat.core, Ensemble) else _of_lines(flat.core)
    for place, one in enumerate(flat.front.lookups):
        arrays[f"table{place}"] = one.table
    for place, curve in enumerate(flat.curves):
        arrays[f"curve{place}"] = curve.points
    for name in ("fills", "holes"):
        if getattr(flat.front, name) is not None:
            arrays[name] = getattr(flat.front, name)
    about = {
        "signature": signature,
        "flat": 1,
        "trees": trees,
        "link": flat.core.link,
        "single": isinstance(flat.core, Ensemble) and flat.core.single,
        "numbers": flat.front.numbers,
        "lookups": [{"source": one.source, "known": one.known, "refuses": one.refuses} for one in flat.front.lookups],
        "curves": [{"kind": one.kind, "logistic": one.logistic} for one in flat.curves],
    }
    text = np.frombuffer(dumps(about).encode(), np.uint8)
    with path.open("wb") as stream:
        np.savez(stream, allow_pickle=False, about=text, **arrays)


def _of_lines(lines: Lines) -> dict[str, Array]:
    return {name: np.asarray(value, np.float64) for name, value in asdict(lines).items() if name != "link"}


def opened(path: Path, signature: Signature | None = None) -> TreesRuntime | FlatRuntime:
    """The compiled model in a file: bare trees, or more than that."""
    if not path.exists():
        raise NotFound(f"There is no model file {path}. Check the path.")
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            about = json.loads(archive["about"].tobytes())
            if "flat" not in about:
                return TreesRuntime(path, signature)
            return FlatRuntime(about, {name: archive[name] for name in archive.files}, signature)
    except Damaged:
        raise
    except _BROKEN as error:
        raise Damaged(f"{path} is no compiled model ({type(error).__name__}: {error}). Compile it again.") from error


class FlatRuntime:
    """Answers with a compiled model that looks categories up, adds up lines or is calibrated."""

    marked = False  # its calls need not be noted: it can neither end nor hang a process
    native = None

    def __init__(self, about: Mapping[str, Any], arrays: Mapping[str, Array], signature: Signature | None) -> None:
        self._signature = signature or signature_of(about["signature"])
        self._regression = self._signature.task == "regression"
        self._classes = np.asarray(self._signature.classes)
        self._reader = _Reader(about, arrays, self._signature)
        self._curves = [
            Curve(kind=one["kind"], logistic=one["logistic"], points=arrays[f"curve{place}"])
            for place, one in enumerate(about["curves"])
        ]
        link: Link = about["link"]
        self._sums: _Trees | _Product
        if about["trees"]:
            self._sums = _Trees(arrays, self._reader.width, "identity" if self._curves else link, about["single"])
        else:
            self._sums = _Product(arrays["weights"], arrays["base"], link)
            if arrays["weights"].shape != (self._reader.width, len(arrays["base"])) or link not in get_args(Link):
                raise ValueError("its lines are of other columns")
        columns = 2 if self._curves else self._sums.columns
        if columns != (1 if self._regression else len(self._classes)):
            raise ValueError(f"it gives {columns} numbers a row, its signature asks for others")
        if self._curves and len(self._curves) != self._sums.columns:
            raise ValueError("its curves are of other sums")

    @property
    def signature(self) -> Signature:
        """What the model takes and gives."""
        return self._signature

    def predict(self, batch: Array) -> Output:
        """The answer to a batch of shape (n, inputs); Unfit for a category that the model refuses."""
        out, likely = self._sums.ask(self._reader.matrix(batch))
        if self._curves:
            out = _calibrated(self._curves, out)
            likely = likeliest(out)
        if self._regression:
            return Output(predictions=out[:, 0])
        return Output(predictions=self._classes.take(likely), probabilities=out)

    def contributions(self, batch: Array) -> tuple[Array, Array]:  # noqa: ARG002
        """Always Invalid: the compiled form keeps no cover of its nodes."""
        raise Invalid("A compiled model has no contributions of its own. Load its model package, or use SHAP.")

    def unload(self) -> None:
        """Free the arrays."""
        del self._sums


class _Reader:
    """Makes matrices of batches."""

    def __init__(self, about: Mapping[str, Any], arrays: Mapping[str, Array], signature: Signature) -> None:
        self._names = signature.names
        self._numbers = [int(place) for place in about["numbers"]]
        self._fills, self._holes = arrays.get("fills"), arrays.get("holes")
        self._all = self._numbers == list(range(len(self._names)))
        self._tables = []
        self.width = len(self._numbers)
        for place, one in enumerate(about["lookups"]):
            table = np.asarray(arrays[f"table{place}"], np.float64)
            if len(table) != len(one["known"]) + 2:
                raise ValueError("a table is of other categories")
            rows = {known: row for row, known in enumerate(one["known"])}
            missing, other = one["refuses"]
            refused = {len(rows): bool(missing), len(rows) + 1: bool(other)}
            self._tables.append((int(one["source"]), rows, table, table.tolist(), refused))
            self.width += table.shape[1]
        sources = [*self._numbers, *(one[0] for one in self._tables)]
        if any(not 0 <= source < len(self._names) for source in sources):
            raise ValueError("it reads inputs that its signature does not name")

    def matrix(self, batch: Array) -> Array:
        """The matrix (n, width), as float64."""
        if len(batch) == 1 and self._tables:
            made = np.array((self._row(batch[0].tolist()),), dtype=np.float64)
        elif self._all and not self._tables:
            made = np.array(batch, dtype=np.float64, order="C")
        else:
            parts = [batch[:, self._numbers].astype(np.float64, order="C")]
            for source, rows, table, _, refused in self._tables:
                parts.append(table.take(self._codes(batch, source, rows, refused), axis=0))
            made = np.ascontiguousarray(np.concatenate(parts, axis=1))
        if self._fills is not None or self._holes is not None:
            self._filled(made[:, : len(self._numbers)])
        return made

    def _row(self, row: list[Any]) -> list[float]:
        values: list[float] = [row[place] for place in self._numbers]
        for source, rows, _, table, refused in self._tables:
            value = row[source]
            code = rows.get(value)
            if code is None:
                code = len(rows) if _missing(value) else len(rows) + 1
                if refused[code]:
                    raise self._unfit(0, source, value)
            values += table[code]
        return values

    def _codes(self, batch: Array, source: int, rows: dict[Any, int], refused: dict[int, bool]) -> list[int]:
        last = len(rows)
        values = batch[:, source].tolist()
        codes = [rows.get(value, -1) for value in values]
        for position, code in enumerate(codes):
            if code < 0:
                codes[position] = last if _missing(values[position]) else last + 1
                if refused[codes[position]]:
                    raise self._unfit(position, source, values[position])
        return codes

    def _unfit(self, row: int, source: int, value: Any) -> Unfit:
        return Unfit(
            f"Row {row}: the model refuses the feature {self._names[source]!r}, which is {repr(value)[:40]}: "
            "none of the categories that it was trained with."
        )

    def _filled(self, numbers: Array) -> None:
        if self._fills is not None:
            np.copyto(numbers, self._fills, where=np.isnan(numbers) & ~np.isnan(self._fills))
        if self._holes is not None:
            numbers[(numbers > self._holes[0]) & (numbers <= self._holes[1])] = np.nan


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


class _Trees:
    """Sums by trees; the link is the kernel's."""

    def __init__(self, arrays: Mapping[str, Array], width: int, link: Link, single: bool) -> None:
        self._forest = forest(dict(arrays), width=width, link=link, single=single)
        self.columns = self._forest.columns

    def ask(self, matrix: Array) -> tuple[Array, Array]:
        """What the trees answer (n, columns), and the likeliest (n,)."""
        out, likely = np.empty((len(matrix), self.columns)), np.empty(len(matrix), np.int64)
        self._forest.predict(matrix, out, likely)
        return out, likely


class _Product:
    """Sums by one product of matrices."""

    def __init__(self, weights: Array, base: Array, link: Link) -> None:
        self._weights, self._base, self._link = np.ascontiguousarray(weights), base, link
        self._single = self._weights.shape[1] == 1
        self._column, self._first = np.ascontiguousarray(weights[:, 0]), float(base[0])
        self.columns = 2 if link == "logistic_pair" else len(base)

    def ask(self, matrix: Array) -> tuple[Array, Array]:
        """What the lines answer (n, columns), and the likeliest (n,)."""
        if self._single:
            return self._of_one(matrix)
        sums = matrix @ self._weights + self._base
        if self._link == "softmax":
            sums -= sums.max(axis=1, keepdims=True)
            np.exp(sums, out=sums)
            sums /= sums.sum(axis=1, keepdims=True)
        return sums, likeliest(sums)

    def _of_one(self, matrix: Array) -> tuple[Array, Array]:
        """The same for one output, where a row is answered without an array more than it takes."""
        if len(matrix) == 1 and self._link != "exponential":
            total = float(matrix[0].dot(self._column)) + self._first
            if self._link == "logistic_pair":
                share = _expit(total)
                return np.array(((1.0 - share, share),)), np.array((share - (1.0 - share) > TIE,), np.int64)
            return np.array(((total,),)), np.zeros(1, np.int64)
        sums = matrix @ self._column + self._first
        if self._link == "logistic_pair":
            pair = np.empty((len(sums), 2))
            pair[:, 1] = _logistic(sums)
            np.subtract(1.0, pair[:, 1], out=pair[:, 0])
            return pair, likeliest(pair)
        return (np.exp(sums) if self._link == "exponential" else sums)[:, None], np.zeros(len(sums), np.int64)


def _expit(value: float) -> float:
    if value >= 0:
        return 1.0 / (1.0 + math.exp(-value))
    grown = math.exp(value)
    return grown / (1.0 + grown)


def _logistic(sums: Array) -> Array:
    with np.errstate(over="ignore"):
        return np.asarray(1.0 / (1.0 + np.exp(-sums)))


def _point(curve: Curve, value: float) -> float:
    """What a curve makes of one sum."""
    if curve.logistic:
        value = _expit(value)
    if curve.kind == "sigmoid":
        return _expit(-(float(curve.points[0, 0]) * value + float(curve.points[1, 0])))
    return float(np.interp(value, curve.points[0], curve.points[1]))


def _calibrated(curves: Sequence[Curve], sums: Array) -> Array:
    """The mean of what the curves make of their sums, as the probabilities of two classes."""
    if len(sums) == 1:
        share = math.fsum(map(_point, curves, sums[0].tolist())) / len(curves)
        return np.array(((1.0 - share, share),))
    total = np.zeros(len(sums))
    for place, curve in enumerate(curves):
        value = _logistic(sums[:, place]) if curve.logistic else sums[:, place]
        if curve.kind == "sigmoid":
            rate, shift = curve.points.ravel()
            total += _logistic(-(rate * value + shift))
        else:
            total += np.interp(value, curve.points[0], curve.points[1])
    total /= len(curves)
    return np.column_stack([1.0 - total, total])
