"""Checks of TensorFlow SavedModels on the protobuf wire: every operator of every function must be on the list.

The operators that save and restore variables touch files. Each SavedModel has them, for its own saver alone: here they
are allowed only in functions that nothing but the saver's nodes can reach.
Field numbers: tensorflow/core/protobuf/{saved_model,meta_graph,saved_object_graph}.proto, core/framework/{graph,function}.proto
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

from modelyard.artifacts import trusted
from modelyard.artifacts.inspection import Inspection, Malformed
from modelyard.artifacts.protobuf import fields, only, text_of, within

SIZE_LIMIT = 2**31
GRAPHS = 16
SAVER_OPS = {"SaveV2", "RestoreV2", "MergeV2Checkpoints", "ShardedFilename"}
BINARIES = re.compile(r"(.*/)?(fingerprint\.pb|variables/variables\.(index|data-\d{5}-of-\d{5}))")
OTHER_FORMS = ("saved_model.pbtxt", "saved_model.cpb", "keras_metadata.pb")


@dataclass(slots=True)
class Function:
    """What a function, or the graph itself, uses: operators and functions that it calls."""

    ops: set[str] = field(default_factory=set)
    calls: set[str] = field(default_factory=set)


def looks_like(stream: BinaryIO, start: bytes, size: int) -> bool:
    """True for a schema version and then nothing but graphs to the end; an ONNX model has more fields."""
    if start[:3] != b"\x08\x01\x12":
        return False
    position = 2
    for _ in range(GRAPHS):
        stream.seek(position)
        head = stream.read(11)
        if head[:1] != b"\x12":
            break
        length = shift = used = 0
        for used, byte in enumerate(head[1:], 1):  # noqa: B007 - how many were read is needed
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        position += 1 + used + length
        if position >= size:
            break
    stream.seek(0)
    return position == size


def saved_model(stream: BinaryIO, size: int) -> Inspection:
    """The operators and files that the model's graphs use."""
    if size > SIZE_LIMIT:
        raise Malformed("it is larger than a protobuf message can be")
    data = memoryview(stream.read(size + 1))
    unsafe: dict[str, None] = {}
    for graph in within(data, 2):
        unsafe.update(dict.fromkeys(_findings(graph)))
    return Inspection(format="saved-model", unsafe=tuple(unsafe))


def _findings(graph: memoryview) -> Iterator[str]:
    functions = _functions(graph)
    top, saver_nodes, inputs = Function(), _saver_nodes(graph), set()
    saving = _reaching(functions)
    for node in within(graph, 2, 1):
        used, name = Function(), only(node, 1)
        _use(node, used)
        if name not in saver_nodes:
            top.ops |= used.ops
            top.calls |= used.calls
            inputs |= {text_of(value).lstrip("^").partition(":")[0] for value in within(node, 3)}
        elif not (
            used.calls <= set(functions)
            and used.ops <= {"StatefulPartitionedCall", "PartitionedCall", "NoOp", "Identity", "Placeholder"}
        ):
            yield f"its saver's node {name[:80]!r} is none that TensorFlow 2 writes"
    known = trusted.names(trusted.TENSORFLOW)
    for use in (top, *functions.values()):
        allowed = set(functions) | (SAVER_OPS if use is not top else set())
        for op in sorted(use.ops - allowed):
            if ("op", op) not in known:
                yield f"it uses the operator {op[:80]}, which is not on the list"
    if top.calls & saving or (inputs | _started(graph)) & saver_nodes or _loaded(graph) & saving:
        yield "it saves or restores files outside its saver"
    for asset in map(text_of, within(graph, 6, 2)):
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,200}", asset):
            yield f"it names the asset {asset[:80]!r}, which is no plain file name"


def _functions(graph: memoryview) -> dict[str, Function]:
    found: dict[str, Function] = {}
    for function in within(graph, 2, 2, 1):
        name = only(function, 1, 1)
        if name in found:
            raise Malformed(f"it has two functions named {name[:80]!r}")
        found[name] = Function()
        for node in within(function, 3):
            _use(node, found[name])
    for used in found.values():
        used.calls |= used.ops & set(found)  # a function may be called by its own name as operator
    return found


def _use(node: memoryview, used: Function) -> None:
    used.ops.add(only(node, 2))
    for value in within(node, 5, 2):
        for number, wire, inner in fields(value):
            if wire == 2 and number == 10:
                used.calls |= _named(inner)
            elif wire == 2 and number == 1:
                for listed in within(inner, 9):
                    used.calls |= _named(listed)


def _named(attributes: memoryview) -> set[str]:
    """The function that a function-valued attribute names, with those that its own attributes name."""
    inner = Function()
    _attributes(attributes, inner, 0)
    return inner.calls


def _attributes(value: memoryview, used: Function, depth: int) -> None:
    if depth > 20:
        raise Malformed("its functions are nested too deeply")
    used.calls.add(only(value, 1))
    for inner in within(value, 2, 2, 10):
        _attributes(inner, used, depth + 1)
    for inner in within(value, 2, 2, 1, 9):
        _attributes(inner, used, depth + 1)


def _reaching(functions: dict[str, Function]) -> set[str]:
    """The functions from which a saver's operator can be reached."""
    found = {name for name, function in functions.items() if function.ops & SAVER_OPS}
    callers: dict[str, set[str]] = {}
    for name, function in functions.items():
        for called in function.calls:
            callers.setdefault(called, set()).add(name)
    waiting = list(found)
    while waiting:
        for caller in callers.get(waiting.pop(), ()):
            if caller not in found:
                found.add(caller)
                waiting.append(caller)
    return found


def _saver_nodes(graph: memoryview) -> set[str]:
    names = {only(graph, 3, number).partition(":")[0] for number in (2, 3)}
    return names - {""}


def _started(graph: memoryview) -> set[str]:
    """The nodes that a signature answers with, or that run when the model is loaded."""
    outputs = [text_of(name) for field_number in (1, 2) for name in within(graph, 5, 2, field_number, 2, 1)]
    collected = [text_of(name) for name in within(graph, 4, 2, 1, 1)]
    return {name.lstrip("^").partition(":")[0] for name in (*outputs, *collected)}


def _loaded(graph: memoryview) -> set[str]:
    """The functions that loading makes callable."""
    return {text_of(name) for name in within(graph, 7, 2, 1)}
