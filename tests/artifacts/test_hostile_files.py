"""Files made to run code, to reach outside, or to mean two things are refused; honest ones of every format come in."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import pickle
import pickletools
import warnings
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hostile_samples import _TORCH_GOOD, HOSTILE, Evil, _joblib, _torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modelyard.artifacts import ArtifactStore, trusted
from modelyard.artifacts.admission import inspect
from modelyard.artifacts.inspection import Inspection, Malformed
from modelyard.artifacts.opcodes import operations
from modelyard.core.errors import Forbidden, Invalid
from modelyard.core.events import EventType
from modelyard.core.instants import FixedClock


@pytest.fixture
def artifacts(yard: Path, clock: FixedClock) -> ArtifactStore:
    return ArtifactStore(yard, clock=clock)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_whatever_its_name(name: str, artifacts: ArtifactStore, tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(HOSTILE[name])
    with pytest.raises(Invalid, match=r"model\.onnx is refused"):
        artifacts.admit(file, by="mallory")
    assert list(artifacts.store.blobs.keys()) == []
    assert artifacts.list_artifacts() == []
    with artifacts.store.reading() as rows:
        event = rows.one("SELECT event_type, actor FROM events")
    assert event == {"event_type": EventType.SECURITY_VIOLATION.value, "actor": "mallory"}
    assert not Path("/tmp/modelyard-was-here").exists()


def test_a_foreign_global_is_named_and_the_file_kept_only_in_quarantine(
    artifacts: ArtifactStore, tmp_path: Path
) -> None:
    (tmp_path / "m.pkl").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(Invalid, match=r"imports (posix|os)\.system"):
        artifacts.admit(tmp_path / "m.pkl")
    kept = artifacts.quarantine(tmp_path / "m.pkl", user="ana")
    assert kept.admission == "quarantined"
    with pytest.raises(Forbidden, match="quarantine"):
        artifacts.fetch(kept.digest)
    with pytest.raises(Invalid, match="refused"):
        artifacts.admit(tmp_path / "m.pkl")
    assert artifacts.get(kept.digest) == kept, "a later refusal leaves what is in quarantine"


def test_a_malformed_file_is_not_even_kept_in_quarantine(artifacts: ArtifactStore, tmp_path: Path) -> None:
    (tmp_path / "m.zip").write_bytes(HOSTILE["zip with a parent member"])
    with pytest.raises(Invalid, match="plain relative name"):
        artifacts.quarantine(tmp_path / "m.zip")


@given(st.binary(max_size=300))
def test_any_bytes_are_judged_without_a_crash(data: bytes) -> None:
    with suppress(Malformed):
        inspect(io.BytesIO(data), len(data))


@given(
    st.sampled_from(sorted(set(HOSTILE) - {"an inflating bomb", "zip bomb", "zip with too many members"})), st.data()
)
def test_hostile_files_with_changed_bytes_are_judged_without_a_crash(name: str, data: st.DataObject) -> None:
    changed = bytearray(HOSTILE[name])
    for _ in range(data.draw(st.integers(1, 4))):
        if changed:
            changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    with suppress(Malformed):
        inspect(io.BytesIO(bytes(changed)), len(changed))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner) | st.frozensets(st.text())
    ),
    max_leaves=20,
)


# `optimize` warns of names with a backslash, which it decodes as the unpickler does not
@pytest.mark.filterwarnings("ignore:.*invalid escape sequence.*:DeprecationWarning")
@given(VALUES, st.integers(2, 4))
def test_a_pickle_of_plain_values_is_always_safe(value: object, protocol: int) -> None:
    for data in (pickle.dumps(value, protocol), pickletools.optimize(pickle.dumps(value, protocol))):
        found = inspect(io.BytesIO(data), len(data))
        assert (found.format, found.unsafe) == ("pickle", ())


@given(st.sampled_from(["f8", "f4", "i8", "?", "U5", "S3", "M8[D]", "c16", [("a", "i4"), ("b", "U3")]]), st.data())
def test_a_joblib_file_with_arrays_of_numbers_is_safe(dtype: object, data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(0, 4), max_size=3)))
    order = data.draw(st.sampled_from("CF"))
    raw = _joblib(
        [np.zeros(shape, dtype, order=order), "text", np.ones(3)], data.draw(st.sampled_from([0, ("zlib", 1)]))
    )
    assert inspect(io.BytesIO(raw), len(raw)).unsafe == ()


@pytest.mark.parametrize(
    ("pack", "name"), [(gzip.compress, "gzip"), (bz2.compress, "bz2"), (lzma.compress, "xz"), (zlib.compress, "zlib")]
)
def test_a_compressed_pickle_is_judged_by_what_it_holds(pack, name: str) -> None:
    data = pack(pickle.dumps({"a": [1, 2, 3]}))
    assert inspect(io.BytesIO(data), len(data)).format == f"{name}+pickle"


@pytest.mark.parametrize(
    "text", ["city\nParis\nLima\n", "import os\nimport sys\n", "Paris. It is\n", "I am.\n", "a,b\n1,2\n", "c\nd\n"]
)
def test_text_that_begins_like_a_pickle_is_still_text(text: str) -> None:
    assert inspect(io.BytesIO(text.encode()), len(text)).format in ("text", "csv")


def test_a_torch_state_dict_is_safe() -> None:
    data = _torch(_TORCH_GOOD)
    assert inspect(io.BytesIO(data), len(data)) == Inspection(format="torch")


class Harmless:
    """Stands in for every global while the real unpickler runs."""

    def __init__(self, *arguments, **keywords):
        pass

    def __setitem__(self, key, value):
        pass

    def __setstate__(self, state):
        pass


def _imports(unpickler: type, data: bytes) -> set[tuple[str, str]]:
    """What Python's own unpickler asks for, up to where it fails."""
    seen = set()

    class Recording(unpickler):
        def find_class(self, module, name):
            seen.add((module, name))
            return Harmless

    with suppress(Exception):
        Recording(io.BytesIO(data)).load()
    return seen


SEEDS = [
    data
    for name, data in HOSTILE.items()
    if data[:1] in (b"\x80", b"c", b"(") and len(data) < 2_000 and "gigabytes" not in name
] + [pickle.dumps([{"a": (1, "b")}, range(3), slice(1), {1.5, None}, b"x" * 300], protocol) for protocol in (2, 4)]


@settings(max_examples=400)
@given(st.data())
def test_whatever_is_called_safe_imports_only_listed_names_in_both_of_pythons_unpicklers(data: st.DataObject) -> None:
    """Two pickles are cut and joined and their bytes changed; the C and the Python unpickler are the judges."""
    one, two = data.draw(st.sampled_from(SEEDS)), data.draw(st.sampled_from(SEEDS))
    changed = bytearray(one[: data.draw(st.integers(0, len(one)))] + two[data.draw(st.integers(0, len(two))) :])
    for _ in range(data.draw(st.integers(0, 3))):
        if changed:
            changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    raw = bytes(changed)
    try:
        found = inspect(io.BytesIO(raw), len(raw))
    except Malformed:
        return
    if found.format != "pickle" or found.unsafe:
        return
    for unpickler in (pickle.Unpickler, pickle._Unpickler):
        assert _imports(unpickler, raw) <= trusted.names(trusted.PICKLE)


@settings(max_examples=500)
@given(st.text("\\x0123456789abnt'\"qzé", max_size=10))
def test_an_escaped_text_is_read_as_pickle_reads_it(body: str) -> None:
    """Names may be given as texts of protocol 0, with escapes."""
    raw = b"S'" + body.encode() + b"'\n."
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            expected = pickle.loads(raw)
        except (pickle.UnpicklingError, ValueError):
            expected = None
    try:
        found = next(operations(io.BytesIO(raw)))[1]
    except ValueError:
        found = None
    assert found == expected
