"""Checks of an ONNX model on the protobuf wire, without loading it: what it refers to outside itself.

Field numbers: onnx/onnx.proto (IR version 13).
"""

from __future__ import annotations

from typing import BinaryIO

from modelyard.artifacts.inspection import External, Inspection, Malformed
from modelyard.artifacts.protobuf import fields, text_of

SIZE_LIMIT = 2**31  # protobuf's own; larger models keep their weights beside them
DEPTH = 60
KNOWN_DOMAINS = {  # https://onnxruntime.ai/docs/reference/operators/ContribOperators.html
    "", "ai.onnx", "ai.onnx.ml", "ai.onnx.training", "ai.onnx.preview.training", "com.microsoft", "com.microsoft.nchwc",
}  # fmt: skip
# message -> field -> the message that the field holds
SHAPE = {
    "model": {7: "graph", 8: "opset", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 9: "opset", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "external"},
    "external": {},
    "opset": {},
}
MODEL_FIELDS = {1, 2, 3, 4, 5, 6, 7, 8, 14, 20, 25, 26}
WIRES = {1: 0, 2: 2, 3: 2, 4: 2, 5: 0, 6: 2, 7: 2, 8: 2, 14: 2, 20: 2, 25: 2, 26: 2}


def looks_like(start: bytes) -> bool:
    """True if the bytes begin as an ONNX model does: a small IR version first, as every writer puts it, then another field."""
    if len(start) < 4 or start[0] != 0x08 or not 0 < start[1] < 0x30:
        return False
    return start[2] >= 0x80 or WIRES.get(start[2] >> 3) == start[2] & 7


def onnx(stream: BinaryIO, size: int) -> Inspection:
    """The model's external data and unknown operator domains."""
    if size > SIZE_LIMIT:
        raise Malformed("it is larger than a protobuf message can be. Save its weights as external data")
    data = memoryview(stream.read(size + 1))
    if len(data) != size:
        raise Malformed("it changed while it was read")
    seen = _Seen()
    seen.message("model", data, 0)
    if not seen.graphs or not seen.opsets:
        raise Malformed("it has no graph or no operator set")
    domains = sorted(seen.domains - KNOWN_DOMAINS - seen.own_domains)
    unsafe = tuple(f"operators of the unknown domain {domain[:80]!r} run code from elsewhere" for domain in domains)
    return Inspection(format="onnx", unsafe=unsafe, needs=tuple(seen.external))


class _Seen:
    """What a walk over the messages meets."""

    def __init__(self) -> None:
        self.graphs = 0
        self.opsets = 0
        self.domains: set[str] = set()
        self.own_domains: set[str] = set()
        self.external: list[External] = []

    def message(self, kind: str, data: memoryview, depth: int) -> None:
        if depth > DEPTH:
            raise Malformed("its graphs are nested too deeply")
        inside = SHAPE[kind]
        entries: dict[str, str] = {}
        for number, wire, value in fields(data):
            if kind == "model" and (number not in MODEL_FIELDS or WIRES[number] != wire):
                raise Malformed(f"it has the unknown field {number}")
            if number in inside:
                if wire != 2:
                    raise Malformed(f"field {number} of its {kind} has the wrong type")
                self._field(inside[number], value, depth, entries)
            elif wire == 2 and (kind, number) in (("node", 7), ("function", 10)):
                (self.domains if kind == "node" else self.own_domains).add(text_of(value))
        if kind == "tensor" and entries:
            self.external.append(_external(entries))

    def _field(self, kind: str, value: memoryview, depth: int, entries: dict[str, str]) -> None:
        self.graphs += kind == "graph"
        self.opsets += kind == "opset"
        if kind == "external":
            pair = {number: text_of(text) for number, wire, text in fields(value) if wire == 2}
            key = pair.get(1, "")
            if key in entries:
                raise Malformed(f"its external data gives {key[:40]!r} twice")
            entries[key] = pair.get(2, "")
            return
        self.message(kind, value, depth + 1)


def _external(entries: dict[str, str]) -> External:
    try:
        offset = int(entries.get("offset", "0") or 0)
        length = int(entries["length"]) if entries.get("length") else None
    except ValueError as error:
        raise Malformed("its external data has an offset or length that is no number") from error
    if offset < 0 or (length is not None and length < 0):
        raise Malformed("its external data has a negative offset or length")
    return External(path=entries.get("location", ""), offset=offset, length=length)
