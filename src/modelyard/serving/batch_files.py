"""The rows of a batch prediction's input: CSV, JSON lines or Parquet, cut into chunks that can be read by themselves.

A chunk of text is a range of bytes that begins and ends between records (a line break within quotes ends none); a chunk
of Parquet is a range of rows. A row's place is its number in its file, from 1, and for text its line.
"""

from __future__ import annotations

import csv
import gzip
import io
import shutil
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from modelyard.core import plugins
from modelyard.core.errors import Damaged, Invalid, NotFound, Unavailable, nearest
from modelyard.core.models import FeatureSpec, Signature

ENDINGS = {".csv": "csv", ".jsonl": "lines", ".ndjson": "lines", ".parquet": "parquet", ".pq": "parquet"}
PIECE = 4 << 20
_TRUTHS = {"true": True, "false": False, "1": True, "0": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One input file: its name below the input, how it is read, and the columns that are carried to the answers.

    `plain` is where it stands uncompressed, empty for one that is not compressed.
    """

    name: str
    path: str
    kind: str
    plain: str = ""
    size: int
    modified: int  # nanoseconds since 1970
    header: tuple[str, ...] = ()  # of CSV
    carried: Mapping[str, str] = field(default_factory=dict)  # column -> type

    @property
    def readable(self) -> Path:
        """The file that is read."""
        return Path(self.plain or self.path)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Some rows of one file: a range of bytes, or of Parquet the rows from `first` on."""

    number: int
    source: int
    first: int  # the number of its first row in the file, from 1
    line: int  # and its line; 0 in Parquet
    start: int = 0
    end: int = 0
    rows: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class BadRow:
    """A row that cannot be predicted: where it stands and what is wrong with it. `line` is 0 in Parquet."""

    file: str
    row: int
    line: int
    error: str

    def __str__(self) -> str:
        where = f"line {self.line}" if self.line else f"row {self.row}"
        return f"{self.file}, {where}: {self.error}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """The rows of a chunk that could be read: records by feature, carried values, and the places of both."""

    records: Sequence[Mapping[str, Any]] | np.ndarray  # records, or already the batch of plain numbers
    carried: Mapping[str, list[Any]]
    row: list[int]
    line: list[int]
    bad: list[BadRow]


def sources(given: Path, signature: Signature, keep: Sequence[str] | None, room: Path) -> list[Source]:
    """The input's files in order, every one with a column for each feature; Invalid or NotFound for what cannot be read.

    Compressed ones are laid down uncompressed in the folder `room`, as hidden files. An empty file of a folder has no rows.
    """
    if not given.exists():
        raise NotFound(f"There is no file or folder {given}. Check the path.")
    files = [given] if given.is_file() else sorted(path for path in given.rglob("*") if _kind(path) and path.is_file())
    files = [path for path in files if room not in path.absolute().parents]  # the answers are no input
    if not files:
        raise NotFound(f"{given} holds no file that ends in {', '.join(ENDINGS)} (.gz). Choose another folder.")
    base = given.parent if given.is_file() else given
    found = []
    for number, path in enumerate(files):
        if not path.stat().st_size and not given.is_file():
            continue
        found.append(_source(path, path.relative_to(base).as_posix(), signature, keep, room / f".plain-{number:05d}"))
    return found


def _kind(path: Path) -> str | None:
    """How a file is read, by its ending before .gz."""
    return ENDINGS.get(Path(path.stem if path.suffix.lower() == ".gz" else path.name).suffix.lower())


def _unpacked(path: Path, plain: Path) -> Path:
    """The file uncompressed."""
    part = plain.with_suffix(".part")
    try:
        with gzip.open(path) as packed, part.open("wb") as stream:
            shutil.copyfileobj(packed, stream, PIECE)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise Damaged(f"{path} cannot be uncompressed: {error}. Copy it anew.") from error
    except OSError as error:
        raise Unavailable(f"{path} cannot be uncompressed into {plain.parent}: {error}. Make room there.") from error
    part.replace(plain)
    return plain


def _source(path: Path, name: str, signature: Signature, keep: Sequence[str] | None, plain: Path) -> Source:
    kind = _kind(path)
    if kind is None:
        raise Invalid(
            f"{path} has the unknown ending {path.suffix!r}. Use {', '.join(ENDINGS)}, or one of them and .gz."
        )
    packed = path.suffix.lower() == ".gz"
    read_from = _unpacked(path, plain) if packed else path
    columns = _COLUMNS[kind](read_from, name)
    lacking = [feature for feature in signature.names if feature not in columns]
    if columns and lacking:
        extra = [column for column in columns if column not in signature.names]
        raise Invalid(f"{name} has no column {lacking[0]!r}. {nearest(lacking[0], extra or list(columns))}")
    wanted = [column for column in columns if column not in signature.names] if keep is None else list(keep)
    for column in wanted:
        if columns and column not in columns:
            raise Invalid(f"{name} has no column {column!r} to keep. {nearest(column, list(columns))}")
    stat = path.stat()
    return Source(
        name=name,
        path=str(path.absolute()),
        kind=kind,
        plain=str(plain) if packed else "",
        size=stat.st_size,
        modified=stat.st_mtime_ns,
        header=tuple(columns) if kind == "csv" else (),
        carried={column: columns.get(column, "string") for column in wanted},
    )


def _csv_columns(path: Path, file: str) -> dict[str, str]:
    with path.open("rb") as binary:
        start = binary.read(PIECE)
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise Invalid(f"{file} is UTF-16. Save it as UTF-8.")
    if b"\n" not in start and b"\r" in start:
        raise Invalid(f"{file} ends its lines with a carriage return alone. Save it with line feeds.")
    with path.open(encoding="utf-8-sig", newline="", errors="replace") as stream:
        header = next(csv.reader(stream), [])
    twice = {name for name in header if header.count(name) > 1}
    if twice:
        raise Invalid(f"{file} has two columns {sorted(twice)[0]!r}. Name each column once.")
    if not header:
        raise Invalid(f"{file} is empty. Its first line names the columns.")
    return dict.fromkeys(header, "string")


def _lines_columns(path: Path, file: str) -> dict[str, str]:  # noqa: ARG001 - as the others
    """The keys of the first whole object: others are not carried."""
    with path.open("rb") as stream:
        for line in stream:
            try:
                found = msgspec.json.decode(line)
            except (msgspec.MsgspecError, ValueError, RecursionError):
                continue
            if isinstance(found, dict):
                return dict.fromkeys(found, "string")
    return {}


def _parquet_columns(path: Path, file: str) -> dict[str, str]:  # noqa: ARG001 - as the others
    found: dict[str, str] = plugins.load("parquet", "rows")(path).types()
    return found


_COLUMNS = {"csv": _csv_columns, "lines": _lines_columns, "parquet": _parquet_columns}


def chunks(found: Sequence[Source], rows: int) -> list[Chunk]:
    """The files cut after every so many rows."""
    cut: list[Chunk] = []
    for place, source in enumerate(found):
        ranges = _row_ranges(source, rows) if source.kind == "parquet" else _byte_ranges(source, rows)
        cut.extend(Chunk(number=len(cut) + n, source=place, **one) for n, one in enumerate(ranges))
    return cut


def _row_ranges(source: Source, rows: int) -> Iterator[dict[str, int]]:
    count = plugins.load("parquet", "rows")(source.readable).count()
    for first in range(0, count, rows):
        yield {"first": first + 1, "line": 0, "rows": min(rows, count - first)}


def _byte_ranges(source: Source, rows: int) -> Iterator[dict[str, int]]:
    """Ranges between records: for CSV line breaks that an even number of quotes precede."""
    start = line = records = begun = begun_line = 0
    first = 0 if source.kind == "csv" else 1  # the header is no row
    for offset, lines in _breaks(source.readable, quoted=source.kind == "csv"):
        line = lines
        records += 1
        if source.kind == "csv" and records == 1:
            start, begun, begun_line = offset, 1, line  # the header
            continue
        if records - begun >= rows:
            yield {
                "first": begun + first,
                "line": begun_line + 1,
                "start": start,
                "end": offset,
                "rows": records - begun,
            }
            start, begun, begun_line = offset, records, line
    if records > begun:
        yield {
            "first": begun + first,
            "line": begun_line + 1,
            "start": start,
            "end": source.readable.stat().st_size,
            "rows": records - begun,
        }


def _breaks(path: Path, *, quoted: bool) -> Iterator[tuple[int, int]]:
    """(where the next record begins, how many lines lie before it) after each record."""
    at = lines = quotes = 0
    ended = True
    with path.open("rb") as stream:
        while piece := stream.read(PIECE):
            array = np.frombuffer(piece, np.uint8)
            breaks = np.flatnonzero(array == 10)
            outside = np.ones(len(breaks), dtype=bool)
            if quoted:
                before = np.cumsum(array == 34)
                outside = (quotes + before[breaks]) % 2 == 0
                quotes += int(before[-1])
            for place, number in zip(breaks[outside].tolist(), np.flatnonzero(outside).tolist(), strict=True):
                yield at + place + 1, lines + number + 1
            at += len(piece)
            lines += len(breaks)
            ended = piece.endswith(b"\n")
    if not ended or quotes % 2:
        yield at, lines + 1


def read(source: Source, chunk: Chunk, signature: Signature) -> Rows:
    """A chunk's rows; those that are no record are told as bad. Invalid if the file has changed."""
    stat = Path(source.path).stat()
    if (stat.st_size, stat.st_mtime_ns) != (source.size, source.modified):
        raise Invalid(f"{source.path} has changed since the prediction began. Begin again with another output folder.")
    return _READERS[source.kind](source, chunk, signature)


def _bytes(source: Source, chunk: Chunk) -> bytes:
    with source.readable.open("rb") as stream:
        stream.seek(chunk.start)
        return stream.read(chunk.end - chunk.start)


def _read_csv(source: Source, chunk: Chunk, signature: Signature) -> Rows:
    text, clean = _decoded(_bytes(source, chunk))
    quick = _quick_csv(text, source, chunk, signature) if clean else None
    if quick is not None:
        return quick
    reader = csv.reader(io.StringIO(text, newline=""))
    places = {name: source.header.index(name) for name in (*signature.names, *source.carried)}
    specs = [(spec, places[spec.name]) for spec in signature.inputs]
    records: list[dict[str, Any]] = []
    kept: list[list[str]] = []
    row, line, bad = [], [], []
    number, at = chunk.first - 1, chunk.line
    for values in _records(reader):
        number += 1
        here, at = at, chunk.line + reader.line_num
        if not values:
            continue  # an empty line
        error = _unlike(values, source.header, clean=clean)
        try:
            record = {} if error else {spec.name: _typed(values[place], spec) for spec, place in specs}
        except ValueError as wrong:
            error = str(wrong)
        if error:
            bad.append(BadRow(file=source.name, row=number, line=here, error=error))
            continue
        records.append(record)
        kept.append(values)
        row.append(number)
        line.append(here)
    carried = {name: [values[places[name]] for values in kept] for name in source.carried}
    return Rows(records=records, carried=carried, row=row, line=line, bad=bad)


def _quick_csv(text: str, source: Source, chunk: Chunk, signature: Signature) -> Rows | None:
    """The rows of a chunk in which every line is a row and every input a finite number; None where a closer look is due."""
    if any(spec.kind != "float" for spec in signature.inputs):
        return None
    try:
        found = list(csv.reader(io.StringIO(text, newline="")))
        if any(len(values) != len(source.header) for values in found):
            return None
        columns = dict(zip(source.header, zip(*found, strict=True), strict=True))
        if any("_" in value for name in signature.names for value in columns[name]):
            return None  # float takes 1_0 for 10
        batch = np.array([list(map(float, columns[name])) for name in signature.names]).T
    except (csv.Error, ValueError):
        return None
    if not np.isfinite(batch).all():
        return None
    row = list(range(chunk.first, chunk.first + len(found)))
    carried = {name: list(columns[name]) for name in source.carried}
    return Rows(records=np.ascontiguousarray(batch), carried=carried, row=row, line=[0] * len(row), bad=[])


def _records(reader: Any) -> Iterator[list[str]]:
    while True:
        try:
            yield next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield [f"\0{error}"]


def _decoded(data: bytes) -> tuple[str, bool]:
    """The text, and whether all of it is UTF-8."""
    try:
        return data.decode(), True
    except UnicodeDecodeError:
        return data.decode("utf-8", "surrogateescape"), False


def _unlike(values: list[str], header: Sequence[str], *, clean: bool) -> str:
    """Why a line is no row of the table; empty if it is one."""
    if values[0].startswith("\0"):
        return f"it is no CSV: {values[0][1:]}."
    if len(values) != len(header):
        return f"it has {len(values)} values, and the header names {len(header)} columns."
    if not clean and any("\udc80" <= letter <= "\udcff" for value in values for letter in value):
        return "it is not UTF-8."
    return ""


def _typed(text: str, spec: FeatureSpec) -> Any:
    """A CSV value as its feature's kind; empty is missing. ValueError for what is no number."""
    if spec.kind == "string":
        return text if text or not spec.nullable else None
    if not text:
        return None
    if spec.kind == "bool":
        truth = _TRUTHS.get(text.strip().lower())
        if truth is not None:
            return truth
    try:
        if "_" in text:
            raise ValueError
        return int(text) if spec.kind == "int" else float(text)
    except ValueError:
        pass
    try:
        if "_" not in text:
            return float(text)  # a whole number may be written 3.0
    except ValueError:
        pass
    wanted = {"bool": "true or false", "int": "a whole number"}.get(spec.kind, "a number")
    raise ValueError(f"the feature {spec.name!r} is {text[:40]!r}. Write {wanted}.")


def _read_lines(source: Source, chunk: Chunk, signature: Signature) -> Rows:
    decode, names = msgspec.json.decode, signature.names
    records, row, line, bad = [], [], [], []
    carried: dict[str, list[Any]] = {name: [] for name in source.carried}
    for offset, text in enumerate(_bytes(source, chunk).split(b"\n")):
        if not text.strip():
            continue
        number = chunk.first + offset
        try:
            found = decode(text)
            if not isinstance(found, dict):
                raise ValueError(f"it is a {type(found).__name__}. Write an object of named features.")  # noqa: TRY004
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            bad.append(BadRow(file=source.name, row=number, line=chunk.line + offset, error=str(error)))
            continue
        records.append({name: found[name] for name in names if name in found})
        for name, values in carried.items():
            value = found.get(name)
            values.append(value if value is None or isinstance(value, str) else msgspec.json.encode(value).decode())
        row.append(number)
        line.append(chunk.line + offset)
    return Rows(records=records, carried=carried, row=row, line=line, bad=bad)


def _read_parquet(source: Source, chunk: Chunk, signature: Signature) -> Rows:
    wanted = list(dict.fromkeys((*signature.names, *source.carried)))
    columns = plugins.load("parquet", "rows")(source.readable).slice(wanted, chunk.first - 1, chunk.rows)
    row = list(range(chunk.first, chunk.first + chunk.rows))
    records: Any = _numbers(columns, signature)
    if records is None:
        lists = {name: _plain(columns[name]) for name in signature.names}
        records = [dict(zip(lists, values, strict=True)) for values in zip(*lists.values(), strict=True)]
    carried = {name: _plain(columns[name]) for name in source.carried}
    return Rows(records=records, carried=carried, row=row, line=[0] * len(row), bad=[])


def _numbers(columns: Mapping[str, Any], signature: Signature) -> np.ndarray | None:
    """The batch itself where every input is a finite number and no value is missing; None where a closer look is due."""
    if any(spec.kind != "float" for spec in signature.inputs):
        return None
    values = [columns[name] for name in signature.names]
    if any(one.dtype.kind not in "iuf" or np.ma.getmaskarray(one).any() for one in values):
        return None
    batch = np.column_stack([np.asarray(one, dtype=np.float64) for one in values])
    return batch if np.isfinite(batch).all() else None


def _plain(column: Any) -> list[Any]:
    """A column as plain values; what is masked or no number is None."""
    values = column.tolist()
    return [None if value is None or value != value else value for value in values]  # noqa: PLR0124 - not-a-number


_READERS = {"csv": _read_csv, "lines": _read_lines, "parquet": _read_parquet}
