"""The model formats that are zip files: skops, Keras, PyTorch, NumPy's npz."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from typing import Any, BinaryIO

from modelyard.artifacts import boosters, keras, torch, trusted, zips
from modelyard.artifacts.inspection import Inspection, Malformed
from modelyard.artifacts.tensors import strict_json
from modelyard.artifacts.zips import InspectMember
from modelyard.bounds.documents import objects

SKOPS_NODES = {  # skops.io node types that only rebuild data; methods and operators are left out
    "BytearrayNode", "BytesNode", "CachedNode", "ConstructorFromReduceNode", "DTypeNode", "DefaultDictNode", "DictNode",
    "FunctionNode", "JsonNode", "ListNode", "LossNode", "MaskedArrayNode", "NdArrayNode", "ObjectNode", "PartialNode",
    "RandomGeneratorNode", "RandomStateNode", "SetNode", "SliceNode", "SparseMatrixNode", "TreeNode", "TupleNode",
    "TypeNode",
}  # fmt: skip


def inspect(stream: BinaryIO, size: int, member: InspectMember) -> Inspection:
    """What the zip is, and whether it is safe to load. `member` inspects a file within."""
    with zips.opened(stream, size) as archive:
        names = [entry.filename for entry in archive.infolist() if not entry.is_dir()]
        found = set(names)
        kinds = ["schema.json" in found, {"config.json", "metadata.json"} <= found, torch.is_archive(names)]
        if sum(kinds) > 1:
            raise Malformed("it is a file of two libraries at once")
        if kinds[0]:
            return _skops(archive, names)
        if kinds[1]:
            return keras.packed(archive, names, member)
        return torch.torch(archive, names) or _plain(archive, names, member)


def _plain(archive: zipfile.ZipFile, names: list[str], member: InspectMember) -> Inspection:
    found = {name: zips.known(archive, name, member) for name in names}
    unsafe = tuple(f"in {name[:80]}: {why}" for name, one in found.items() for why in one.unsafe)
    arrays = {one.format for one in found.values()} == {"npy"}
    return Inspection(format="npz" if arrays else "zip", unsafe=unsafe)


def _skops(archive: zipfile.ZipFile, names: list[str]) -> Inspection:
    """The schema says what is built; the other members are arrays, which skops reads without pickle, and raw bytes."""
    schema = strict_json(zips.read(archive, "schema.json"))
    for name in names:
        zips.drain(archive, name)
    boosters.refuse_out_of_bounds("skops", schema, archive.read)
    return Inspection(format="skops", unsafe=tuple(dict.fromkeys(_skops_findings(schema))))


def _skops_findings(schema: Any) -> Iterator[str]:
    known = trusted.names(trusted.SKOPS)
    for node in objects(schema):
        for module_key, name_key in (("__module__", "__class__"), ("module_path", "function")):
            if module_key in node or name_key in node:
                module, name = str(node.get(module_key)), str(node.get(name_key))
                if (module, name) not in known:
                    yield f"it holds the type {module}.{name}, which is not on the trusted list"
        loader = node.get("__loader__")
        if loader is not None and str(loader) not in SKOPS_NODES:
            yield f"it uses the loader {loader!r}, which can run more than it shows"
