"""Checks of PyTorch's archives: state dicts, exported programs (.pt2) and TorchScript.

A state dict is one pickle and raw bytes. A program is a JSON graph: each operator that it calls must be on the list, and
nothing in it may be unpickled or evaluated but tensors and sizes. TorchScript is source code in a language of its own,
with operators that read files; it is foreign. Sources: torch/_export/serde/serialize.py, torch/csrc/jit/serialization.
"""

from __future__ import annotations

import ast
import re
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO, cast

from modelyard.artifacts import trusted, zips
from modelyard.artifacts.inspection import Foreign, Inspection, Malformed
from modelyard.artifacts.pickles import unlisted
from modelyard.artifacts.tensors import strict_json
from modelyard.bounds.documents import objects
from modelyard.core.sizes import is_size

_MEMBERS = re.compile(
    r"archive_format|archive_version|byteorder|version|\.data/(version|serialization_id)|\.format_version"
    r"|\.storage_alignment|models/model\.json|data/weights/(weight_\d+|model_weights_config\.json)"
    r"|data/constants/(tensor_\d+|model_constants_config\.json)|data/sample_inputs/model\.pt"
)
_CONTAINERS = {"builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict", None}
_INPUTS = {"parameter", "buffer", "tensor_constant", "user_input"}
_GUARD = (
    ast.Expression, ast.BoolOp, ast.And, ast.Or, ast.Not, ast.UnaryOp, ast.USub, ast.BinOp, ast.Add, ast.Sub, ast.Mult,
    ast.FloorDiv, ast.Mod, ast.Compare, ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Constant, ast.Subscript,
    ast.Load,
)  # fmt: skip


def is_archive(names: list[str]) -> bool:
    """True if PyTorch would read members of these names: it looks within whatever folder the first lies in."""
    inner = {name.partition("/")[2] for name in names}
    return bool({"data.pkl", "archive_format", "constants.pkl"} & inner)


def torch(archive: zipfile.ZipFile, names: list[str]) -> Inspection | None:
    """What an archive of PyTorch's holds; None if it is none."""
    folders = {name.partition("/")[0] for name in names}
    inner = {name.partition("/")[2]: name for name in names}
    if len(folders) != 1 or len(inner) != len(names):
        return None
    if "archive_format" in inner:
        return _program(archive, inner)
    if "data.pkl" in inner:
        return _state_dict(archive, inner)
    return None


def _state_dict(archive: zipfile.ZipFile, members: Mapping[str, str]) -> Inspection:
    unsafe = []
    for inner, name in members.items():
        if inner == "constants.pkl" or inner.startswith("code/"):
            unsafe.append("it is TorchScript, which is code. Save the program: torch.export.save(...)")
        if inner != "data.pkl":
            zips.drain(archive, name)
    unsafe += _pickled(zips.read(archive, members["data.pkl"]))
    return Inspection(format="torch", unsafe=tuple(dict.fromkeys(unsafe)))


def _pickled(data: bytes) -> list[str]:
    with tempfile.SpooledTemporaryFile(max_size=zips.IN_MEMORY) as copy:
        copy.write(data)
        copy.seek(0)
        try:
            return unlisted(cast(BinaryIO, copy), trusted.TORCH, persistent=True)
        except Foreign as error:
            return [str(error)]


def _program(archive: zipfile.ZipFile, members: Mapping[str, str]) -> Inspection:
    unsafe = [f"it holds {inner[:80]!r}, which no exported program needs" for inner in members if not _expected(inner)]
    for name in members.values():
        zips.drain(archive, name)
    if "models/model.json" not in members:
        raise Malformed("it is a PyTorch archive without a program")
    for config in ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json"):
        if config in members:
            unsafe += _payload(strict_json(zips.read(archive, members[config])), members, config.rpartition("/")[0])
    if "data/sample_inputs/model.pt" in members:
        unsafe += _samples(archive, members["data/sample_inputs/model.pt"])
    unsafe += _graph(strict_json(zips.read(archive, members["models/model.json"])))
    return Inspection(format="torch-program", unsafe=tuple(dict.fromkeys(unsafe)))


def _expected(inner: str) -> bool:
    return _MEMBERS.fullmatch(inner) is not None


def _payload(config: Any, members: Mapping[str, str], folder: str) -> Iterator[str]:
    """The tensors that a program names: raw bytes in a member of their own."""
    entries = config.get("config") if isinstance(config, dict) else None
    if not isinstance(entries, dict):
        raise Malformed("it does not describe its tensors")
    for name, entry in entries.items():
        if not isinstance(entry, dict) or f"{folder}/{entry.get('path_name')}" not in members:
            raise Malformed(f"its tensor {name[:80]!r} is missing")
        if entry.get("use_pickle") is not False or not isinstance(entry.get("tensor_meta"), dict):
            yield f"its tensor {name[:80]!r} is pickled"


def _samples(archive: zipfile.ZipFile, name: str) -> list[str]:
    """The arguments that it was exported with: a torch file within."""
    with zips.copied(archive, name) as (copy, size), zips.opened(copy, size) as inner:
        names = [entry.filename for entry in inner.infolist() if not entry.is_dir()]
        found = torch(inner, names)
    if found is None or found.format != "torch":
        raise Malformed("its sample inputs are no torch file")
    return list(found.unsafe)


def _graph(program: Any) -> Iterator[str]:
    if not isinstance(program, dict) or not isinstance(program.get("graph_module"), dict):
        raise Malformed("its program is written in an unknown way")
    module = program["graph_module"]
    if module.get("treespec_namedtuple_fields"):
        yield "it names classes of its maker's (named tuples)"
    for guard in program.get("guards_code") or ():
        if not isinstance(guard, str) or not _is_guard(guard):
            yield f"it has a guard that is code: {str(guard)[:80]!r}"
    for spec in _at(module, "signature", "input_specs"):
        if not isinstance(spec, dict) or not set(spec) <= _INPUTS:
            yield f"it takes an input of the unknown kind {str(spec)[:80]!r}"
    for node in objects(program):
        yield from _node(node)


def _at(value: Any, *keys: str) -> list[Any]:
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    if not isinstance(value, list):
        raise Malformed(f"its program lacks {'.'.join(keys)}")
    return value


def _node(node: Mapping[str, Any]) -> Iterator[str]:
    """Anything in a program's JSON that its reader imports, evaluates or calls."""
    if "target" in node and not _is_listed(node["target"]):
        yield f"it calls {str(node['target'])[:80]}, which is not on the list of operators"
    if "expr_str" in node and not (isinstance(node["expr_str"], str) and is_size(node["expr_str"])):
        yield f"it gives a size as code: {str(node['expr_str'])[:80]!r}"
    for key in ("in_spec", "out_spec"):
        if node.get(key) is not None:
            yield from _tree(node[key])
    if node.get("custom_obj_values") or {"as_custom_obj", "as_operator", "as_graph"} & set(node):
        yield "it holds objects that are no tensors"


def _is_listed(target: Any) -> bool:
    if not isinstance(target, str):
        return False
    known = trusted.names(trusted.TORCH_OPS)
    parts = target.split(".")
    match parts:
        case ["torch", "ops", space, name, overload]:
            return (space, name) in known and overload.isidentifier()
        case ["torch", name] if name.startswith("sym_"):
            return ("sym", name) in known
        case [("_operator" | "math") as space, name]:
            return (space, name) in known
    return False


def _tree(text: Any) -> Iterator[str]:
    """A tree of containers, as JSON text: [version, spec]."""
    spec = strict_json(text) if isinstance(text, str) else None
    if not isinstance(spec, list) or len(spec) != 2:
        raise Malformed("it describes its arguments in an unknown way")
    for node in objects(spec[1]):
        context = node.get("context")
        names = strict_json(context) if isinstance(context, str) else None
        plain = names is None or (isinstance(names, list) and all(isinstance(name, str) for name in names))
        kind = node.get("type", "")
        if not isinstance(kind, str | None) or kind not in _CONTAINERS or not plain:
            yield f"its arguments are of the kind {str(kind)[:80]!r}, which its reader would import"


def _is_guard(text: str) -> bool:
    """A comparison of sizes, such as L['args'][0].size()[0] <= 8."""
    try:
        nodes = list(ast.walk(ast.parse(text, mode="eval")))
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return False
    return all(isinstance(node, _GUARD) or _is_size_of(node) for node in nodes)


def _is_size_of(node: ast.AST) -> bool:
    match node:
        case ast.Name(id="L") | ast.Attribute(attr="size" | "stride" | "storage_offset"):
            return True
        case ast.Call(func=ast.Attribute(), args=[], keywords=[]):
            return True
    return False
