"""Checks of zip files, and of the model formats that are zips: skops, Keras, torch, NumPy's npz.

The container is checked first: what one reader takes from the directory at its end and another from the headers before
each member must be the same, or the file is malformed.
"""

from __future__ import annotations

import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, cast

from modelyard.artifacts import trusted
from modelyard.artifacts.inspection import Foreign, Inspection, Malformed
from modelyard.artifacts.pickles import unlisted
from modelyard.artifacts.tensors import strict_json

MEMBER_LIMIT = 10_000
UNPACKED_LIMIT = 16 << 30
FREE_RATIO = 256 << 20  # bytes that may unpack from nearly nothing: zeros compress a thousandfold
RATIO_LIMIT = 200
CONFIG_LIMIT = 64 << 20
IN_MEMORY = 16 << 20
CHUNK = 1 << 20
SKOPS_NODES = {  # skops.io node types that only rebuild data; methods and operators are left out
    "BytearrayNode", "BytesNode", "CachedNode", "ConstructorFromReduceNode", "DTypeNode", "DefaultDictNode", "DictNode",
    "FunctionNode", "JsonNode", "ListNode", "LossNode", "MaskedArrayNode", "NdArrayNode", "ObjectNode", "PartialNode",
    "RandomGeneratorNode", "RandomStateNode", "SetNode", "SliceNode", "SparseMatrixNode", "TreeNode", "TupleNode",
    "TypeNode",
}  # fmt: skip
KERAS_MODULES = {
    "keras", "keras.activations", "keras.constraints", "keras.initializers", "keras.layers", "keras.losses",
    "keras.metrics", "keras.models", "keras.optimizers", "keras.optimizers.schedules", "keras.regularizers",
}  # fmt: skip
KERAS_CODE = {"Lambda", "__lambda__", "TorchModuleWrapper", "TFSMLayer", "JaxLayer", "FlaxLayer", "function"}

InspectMember = Callable[[BinaryIO, int], Inspection]


def inspect(stream: BinaryIO, size: int, member: InspectMember) -> Inspection:
    """What the zip is, and whether it is safe to load. `member` inspects a file within."""
    try:
        with zipfile.ZipFile(stream) as archive:
            entries = archive.infolist()
            _check_container(stream, size, archive, entries)
            names = [entry.filename for entry in entries if not entry.is_dir()]
            return _inspect(archive, names, member)
    except Malformed:
        raise
    except (zipfile.BadZipFile, struct.error, zlib.error, EOFError, ValueError, NotImplementedError, OSError) as error:
        raise Malformed(f"it is no sound zip file: {str(error)[:160]}") from error


def _inspect(archive: zipfile.ZipFile, names: list[str], member: InspectMember) -> Inspection:
    found = set(names)
    if "schema.json" in found:
        return _skops(archive, names)
    if {"config.json", "metadata.json"} <= found:
        return _keras(archive, names, member)
    pickles = [name for name in names if name.rpartition("/")[2] == "data.pkl" and name.count("/") == 1]
    if len(pickles) == 1:
        return _torch(archive, names, pickles[0])
    return _plain(archive, names, member)


def _check_container(stream: BinaryIO, size: int, archive: zipfile.ZipFile, entries: list[zipfile.ZipInfo]) -> None:
    stream.seek(max(size - 22, 0))
    tail = stream.read(22)
    if tail[:4] != b"PK\x05\x06" or archive.comment:
        raise Malformed("bytes follow its directory")
    if not entries or len(entries) > MEMBER_LIMIT:
        raise Malformed(f"it has {len(entries):,} members; 1 to {MEMBER_LIMIT:,} are allowed")
    seen: set[str] = set()
    for entry in entries:
        _check_entry(entry)
        folded = entry.filename.rstrip("/").casefold()
        if folded in seen:
            raise Malformed(f"it has two members named {entry.filename[:80]!r}")
        seen.add(folded)
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > UNPACKED_LIMIT or unpacked > max(FREE_RATIO, RATIO_LIMIT * size):
        raise Malformed(f"it unpacks to {unpacked:,} bytes, too many for its {size:,}")
    _check_headers(stream, archive.start_dir, entries)


def _check_entry(entry: zipfile.ZipInfo) -> None:
    name = entry.filename
    if entry.orig_filename != name or not _plain_path(name.rstrip("/")):
        raise Malformed(f"its member {entry.orig_filename[:80]!r} has no plain relative name")
    kind = entry.external_attr >> 16 & 0o170000
    if kind not in (0, 0o100000, 0o040000):
        raise Malformed(f"its member {name[:80]!r} is a link or a device")
    if entry.flag_bits & 0x41 or entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise Malformed(f"its member {name[:80]!r} is encrypted or compressed in an unusual way")
    if entry.compress_type == zipfile.ZIP_STORED and entry.compress_size != entry.file_size:
        raise Malformed(f"its member {name[:80]!r} has two sizes")


def _plain_path(name: str) -> bool:
    parts = name.split("/")
    drive = len(parts[0]) > 1 and parts[0][1] == ":"
    return name.isprintable() and "\\" not in name and not drive and all(p not in ("", ".", "..") for p in parts)


def _check_headers(stream: BinaryIO, directory: int, entries: list[zipfile.ZipInfo]) -> None:
    """Members follow each other from byte 0 to the directory, each with the name and method that the directory gives."""
    end = 0
    for entry in sorted(entries, key=lambda entry: entry.header_offset):
        gap = entry.header_offset - end
        if gap not in (0, 12, 16, 20, 24):  # what a data descriptor may take (APPNOTE 4.3.9)
            raise Malformed(f"bytes lie hidden before its member {entry.filename[:80]!r}")
        stream.seek(entry.header_offset)
        head = struct.unpack("<4s5H3I2H", stream.read(30))
        name = stream.read(head[9])
        encoding = "utf-8" if head[2] & 0x800 else "cp437"
        if head[0] != b"PK\x03\x04" or head[3] != entry.compress_type or name.decode(encoding) != entry.orig_filename:
            raise Malformed(f"its member {entry.filename[:80]!r} is described in two ways")
        end = entry.header_offset + 30 + head[9] + head[10] + entry.compress_size
    if directory - end not in (0, 12, 16, 20, 24):
        raise Malformed("bytes lie hidden before its directory")


def _read(archive: zipfile.ZipFile, name: str) -> bytes:
    if archive.getinfo(name).file_size > CONFIG_LIMIT:
        raise Malformed(f"its {name[:80]} is larger than {CONFIG_LIMIT:,} bytes")
    return archive.read(name)


def _drain(archive: zipfile.ZipFile, name: str) -> None:
    """Read a member to its end, where its checksum is compared."""
    with archive.open(name) as source:
        while source.read(CHUNK):
            pass


def _inside(archive: zipfile.ZipFile, name: str, member: InspectMember) -> Inspection:
    """What a member is, by its content."""
    with tempfile.SpooledTemporaryFile(max_size=IN_MEMORY) as copy:
        with archive.open(name) as source:
            while chunk := source.read(CHUNK):
                copy.write(chunk)
        size = copy.tell()
        copy.seek(0)
        try:
            found = member(cast(BinaryIO, copy), size)
        except Foreign as error:
            raise Foreign(f"in {name[:80]}: {error}") from error
        except Malformed as error:
            raise Malformed(f"in {name[:80]}: {error}") from error
    if found.needs:
        raise Malformed(f"in {name[:80]}: it refers to other files")
    return found


def _known(archive: zipfile.ZipFile, name: str, member: InspectMember) -> Inspection:
    found = _inside(archive, name, member)
    if found.format == "binary":
        raise Malformed(f"its member {name[:80]!r} is none of the formats that modelyard knows")
    return found


def _plain(archive: zipfile.ZipFile, names: list[str], member: InspectMember) -> Inspection:
    found = {name: _known(archive, name, member) for name in names}
    unsafe = tuple(f"in {name[:80]}: {why}" for name, one in found.items() for why in one.unsafe)
    arrays = {one.format for one in found.values()} == {"npy"}
    return Inspection(format="npz" if arrays else "zip", unsafe=unsafe)


def _torch(archive: zipfile.ZipFile, names: list[str], pickled: str) -> Inspection:
    """A torch file is one pickle and raw tensor bytes; TorchScript adds code (torch/csrc/jit/serialization)."""
    folder = pickled.partition("/")[0]
    unsafe = []
    for name in names:
        inner = name.removeprefix(folder + "/")
        if inner == name:
            raise Malformed(f"its member {name[:80]!r} lies outside its folder")
        if inner == "constants.pkl" or inner.startswith("code/"):
            unsafe.append("it is TorchScript, which is code. Save the state dict: torch.save(model.state_dict(), ...)")
        if name != pickled:
            _drain(archive, name)
    with tempfile.SpooledTemporaryFile(max_size=IN_MEMORY) as copy:
        copy.write(_read(archive, pickled))
        copy.seek(0)
        try:
            unsafe += unlisted(cast(BinaryIO, copy), trusted.TORCH, persistent=True)
        except Foreign as error:
            unsafe.append(str(error))
    return Inspection(format="torch", unsafe=tuple(dict.fromkeys(unsafe)))


def _skops(archive: zipfile.ZipFile, names: list[str]) -> Inspection:
    """The schema says what is built; the other members are arrays, which skops reads without pickle, and raw bytes."""
    schema = strict_json(_read(archive, "schema.json"))
    for name in names:
        _drain(archive, name)
    return Inspection(format="skops", unsafe=tuple(dict.fromkeys(_skops_findings(schema))))


def _skops_findings(schema: Any) -> Iterator[str]:
    known = trusted.names(trusted.SKOPS)
    for node in _objects(schema):
        for module_key, name_key in (("__module__", "__class__"), ("module_path", "function")):
            if module_key in node or name_key in node:
                module, name = node.get(module_key), node.get(name_key)
                if (module, name) not in known:
                    yield f"it holds the type {module}.{name}, which is not on the trusted list"
        loader = node.get("__loader__")
        if loader is not None and loader not in SKOPS_NODES:
            yield f"it uses the loader {loader!r}, which can run more than it shows"


def _keras(archive: zipfile.ZipFile, names: list[str], member: InspectMember) -> Inspection:
    config = strict_json(_read(archive, "config.json"))
    unsafe = dict.fromkeys(_keras_findings(config))
    for name in names:
        for why in _known(archive, name, member).unsafe:
            unsafe.setdefault(f"in {name[:80]}: {why}")
    return Inspection(format="keras", unsafe=tuple(unsafe))


def _keras_findings(config: Any) -> Iterator[str]:
    for node in _objects(config):
        name, module = node.get("class_name"), node.get("module")
        if isinstance(name, str) and (name in KERAS_CODE or not name.isidentifier()):
            yield f"it holds a {name}, which is code. Build the model from plain layers"
        elif name is not None and module is not None and module not in KERAS_MODULES:
            yield f"it holds {module}.{name}, which is no layer of Keras itself"
        if node.get("registered_name") not in (None, name):
            yield f"it holds the custom object {node.get('registered_name')!r}"


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    """Every JSON object within a value, the outermost first."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            yield item
            waiting.extend(item.values())
        elif isinstance(item, list):
            waiting.extend(item)
