"""What a pickle would import, found by walking its opcodes without running any.

The walk keeps the unpickler's stack and memo with stand-ins, because names may be put together there (STACK_GLOBAL).
Whatever it cannot follow exactly is malformed: what a reader sees differently is where hostile files hide.
Opcodes: CPython, Lib/pickletools.py.
"""

from __future__ import annotations

import math
import pickletools
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from modelyard.artifacts import boosters, trusted
from modelyard.artifacts.inspection import Foreign, Malformed
from modelyard.artifacts.opcodes import operations

MAX_OPCODES = 5_000_000  # a forest of a thousand trees has some hundred thousand
_STORAGE = re.compile(r"[a-z0-9_:]{1,64}\Z")
_ITEM = re.compile(r"[<>=|]?([?biufcSUVMm])(\d{1,6})")


class _Opaque:
    """A value whose content does not matter."""

    def __repr__(self) -> str:
        return "?"


OPAQUE = _Opaque()
_MARK = object()


@dataclass(frozen=True, slots=True)
class Name:
    """A global: a module and an object's name in it."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


WRAPPER = Name("joblib.numpy_pickle", "NumpyArrayWrapper")
DTYPE = Name("numpy", "dtype")
ARRAYS = (Name("numpy", "ndarray"), Name("numpy", "memmap"))
LIGHTGBM, XGBOOST = Name("lightgbm.basic", "Booster"), Name("xgboost.core", "Booster")
ENCODE, BYTEARRAYS = Name("_codecs", "encode"), (Name("builtins", "bytearray"), Name("__builtin__", "bytearray"))


@dataclass(slots=True)
class Made:
    """What calling a global gave."""

    maker: Any
    arguments: Any
    state: Any = None
    built: bool = False


@dataclass(slots=True)
class Walk:
    """The unpickler's machine with stand-ins for values. `names` grows as globals are met, in order."""

    stream: BinaryIO
    persistent: bool = False  # a torch file's storages are referred to by persistent ids
    plain: bool = False  # as pickle.load reads: joblib alone takes what follows an array's description as raw bytes
    names: dict[Name, None] = field(default_factory=dict)
    called: set[Name] = field(default_factory=set)
    stack: list[Any] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)
    frame_end: int = 0
    opcodes: int = 0
    arrays: int = 0  # that joblib wrote as raw bytes
    calls: int = 0  # what runs code beyond an import: without a global it cannot

    def run(self) -> None:
        """Walk to STOP."""
        try:
            for opcode, argument, position in operations(self.stream):
                self.opcodes += 1
                if self.opcodes > MAX_OPCODES:
                    raise Malformed(f"it has more than {MAX_OPCODES:,} opcodes")
                if opcode.name == "STOP":
                    self._pop()
                    if self.stack:
                        raise Malformed("values are left on its stack")
                    return
                self._step(opcode, argument, position)
        except Malformed:
            raise
        except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, EOFError) as error:
            raise Malformed(f"it cannot be read as a pickle: {str(error)[:200]}") from error

    def _step(self, opcode: pickletools.OpcodeInfo, argument: Any, position: int | None) -> None:
        special = _SPECIAL.get(opcode.name)
        if special is not None:
            special(self, argument, position)
            return
        if opcode.name not in _GENERIC:
            raise Foreign(f"it uses the opcode {opcode.name} at byte {position}")
        before = opcode.stack_before
        if pickletools.markobject in before:
            self._pop_to_mark()
            before = before[: before.index(pickletools.markobject)]
        for _ in before:
            self._pop()
        for made in opcode.stack_after:
            self.stack.append(_MARK if made is pickletools.markobject else _literal(opcode.name, argument))

    def _pop(self) -> Any:
        if not self.stack or self.stack[-1] is _MARK:
            raise Malformed("its stack runs empty")
        return self.stack.pop()

    def _top(self) -> Any:
        if not self.stack or self.stack[-1] is _MARK:
            raise Malformed("its stack runs empty")
        return self.stack[-1]

    def _pop_to_mark(self) -> list[Any]:
        items: list[Any] = []
        while self.stack and self.stack[-1] is not _MARK:
            items.append(self.stack.pop())
        if not self.stack:
            raise Malformed("a mark is missing on its stack")
        self.stack.pop()
        return items[::-1]

    def import_name(self, module: Any, name: Any) -> None:
        """Push a global and remember it."""
        if type(module) is not str or type(name) is not str:
            raise Foreign("it computes the name of what it imports")
        found = Name(module, name)
        self.names.setdefault(found)
        self.stack.append(found)


def unlisted(stream: BinaryIO, listed: str, *, persistent: bool = False) -> list[str]:
    """Why the pickle in the stream is unsafe; empty if each of its globals is on the allow-list."""
    walk = Walk(stream, persistent=persistent)
    walk.run()
    if stream.read(1):
        raise Malformed("bytes follow its end")
    if walk.arrays:
        _as_plain(stream, walk)
    known, made_only = trusted.names(listed), trusted.not_callable(listed)
    bad = [name for name in walk.names if (name.module, name.name) not in known]
    called = [name for name in walk.called if (name.module, name.name) in made_only]
    return [f"it imports {name}, which is not on the list of harmless names" for name in bad] + [
        f"it calls {name}, which may only be rebuilt" for name in called
    ]


def _as_plain(stream: BinaryIO, walk: Walk) -> None:
    """Add what pickle.load would import from a joblib file before it stumbles over an array's raw bytes."""
    stream.seek(0)
    other = Walk(stream, plain=True)
    try:
        other.run()
    except Foreign:
        raise
    except Malformed:
        pass  # the usual case: raw bytes are no opcodes
    walk.names.update(other.names)
    walk.called.update(other.called)


def acts(stream: BinaryIO) -> bool:
    """True if unpickling the bytes would call anything before it fails: what is text to one reader may be code to another."""
    walk = Walk(stream)
    with suppress(Malformed):
        walk.run()
    return walk.calls > 0


def _literal(name: str, argument: Any) -> Any:
    if name in _TEXT or name in _NUMBERS:
        return argument
    if (
        name in _BYTES and argument[:1] == b"{"
    ):  # as XGBoost's boosters begin; the bytes of arrays would fill the memory
        return argument
    if name in _CONSTANTS:
        return _CONSTANTS[name]
    if name == "EMPTY_TUPLE":
        return ()
    if name == "EMPTY_DICT":
        return {}
    return OPAQUE


_TEXT = {"SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE", "STRING", "BINSTRING", "SHORT_BINSTRING"}
_NUMBERS = {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_BYTES = {"SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"}
_OTHERS = {"FLOAT", "BINFLOAT", "EMPTY_LIST", "EMPTY_SET"}
_HARMLESS = {"APPEND", "APPENDS", "ADDITEMS", "LIST", "FROZENSET", "EMPTY_TUPLE", "EMPTY_DICT", "MARK"}
_GENERIC = _TEXT | _NUMBERS | set(_CONSTANTS) | _BYTES | _OTHERS | _HARMLESS


def _frame(walk: Walk, argument: int, position: int | None) -> None:
    start = (position or 0) + 9
    if start < walk.frame_end:
        raise Malformed("a frame starts within another")
    walk.frame_end = start + argument


def _global(walk: Walk, argument: str, _: int | None) -> None:
    module, _space, name = argument.partition(" ")  # the two lines are joined with a space
    if " " in name:
        raise Foreign(f"it imports {argument!r}")
    walk.import_name(module, name)


def _stack_global(walk: Walk, _: Any, __: int | None) -> None:
    name, module = walk._pop(), walk._pop()
    walk.import_name(module, name)


def _tuple(count: int | None) -> Callable[[Walk, Any, int | None], None]:
    def make(walk: Walk, _: Any, __: int | None) -> None:
        items = walk._pop_to_mark() if count is None else [walk._pop() for _ in range(count)][::-1]
        walk.stack.append(tuple(items))

    return make


def _dict(walk: Walk, _: Any, __: int | None) -> None:
    items = walk._pop_to_mark()
    made: dict[Any, Any] = {}
    walk.stack.append(made)
    _set(made, items)


def _setitem(walk: Walk, _: Any, __: int | None) -> None:
    items = [walk._pop(), walk._pop()][::-1]
    _set(walk._top(), items)


def _setitems(walk: Walk, _: Any, __: int | None) -> None:
    items = walk._pop_to_mark()
    _set(walk._top(), items)


def _set(target: Any, items: list[Any]) -> None:
    if len(items) % 2:
        raise Malformed("a mapping has a key without a value")
    if isinstance(target, bytearray) or (isinstance(target, Made) and target.maker in BYTEARRAYS):
        raise Foreign("it changes bytes after they were made")
    if isinstance(target, dict):
        for key, value in zip(items[::2], items[1::2], strict=True):
            if isinstance(key, str):
                target[key] = value
            else:
                target[OPAQUE] = OPAQUE  # keys of other types are never looked up here


def _put(walk: Walk, argument: int, _: int | None) -> None:
    if int(argument) > walk.opcodes:  # the C unpickler makes room for every number below it
        raise Malformed(f"it sets memo {argument}, which is far beyond its other ones")
    walk.memo[int(argument)] = walk._top()


def _memoize(walk: Walk, _: Any, __: int | None) -> None:
    walk.memo[len(walk.memo)] = walk._top()


def _get(walk: Walk, argument: int, _: int | None) -> None:
    if int(argument) not in walk.memo:
        raise Malformed(f"it refers to memo {argument}, which was never set")
    walk.stack.append(walk.memo[int(argument)])


def _pop(walk: Walk, _: Any, __: int | None) -> None:
    if not walk.stack:
        raise Malformed("its stack runs empty")
    walk.stack.pop()  # may be a mark, as in the unpickler


def _pop_mark(walk: Walk, _: Any, __: int | None) -> None:
    walk._pop_to_mark()


def _dup(walk: Walk, _: Any, __: int | None) -> None:
    walk.stack.append(walk._top())


def _proto(_: Walk, argument: int, __: int | None) -> None:
    if argument > 5:
        raise Malformed(f"it has the unknown protocol {argument}")


def _call(walk: Walk, _: Any, __: int | None) -> None:
    made = _make(walk)
    walk.called.add(made.maker)


def _new(walk: Walk, _: Any, __: int | None) -> None:
    _make(walk)


def _new_keywords(walk: Walk, _: Any, __: int | None) -> None:
    walk._pop()
    _make(walk)


def _make(walk: Walk) -> Made:
    arguments, maker = walk._pop(), walk._pop()
    if not isinstance(maker, Name):
        raise Foreign("it calls something that is no plain global")
    walk.calls += 1
    made = Made(maker, arguments)
    walk.stack.append(made)
    return made


def _build(walk: Walk, _: Any, position: int | None) -> None:
    state = walk._pop()
    target = walk._top()
    walk.calls += 1
    if isinstance(target, Name):
        raise Foreign(f"it sets attributes of {target} itself")
    if isinstance(target, Made):
        if target.built:  # a second state could undo what was checked of the first
            raise Foreign("it sets an object's state twice")
        target.state, target.built = state, True
        _check_booster(target)
        if target.maker == WRAPPER and not walk.plain:
            _skip_array(walk, state, (position or 0) + 1)
            walk.stack[-1] = OPAQUE


def _check_booster(made: Made) -> None:
    """A booster hands its state to its library as it is built, which reads it without a look at its indices."""
    named = (made.maker, *(made.arguments if isinstance(made.arguments, tuple) else ()))
    if LIGHTGBM in named or XGBOOST in named:
        kind, key = ("lightgbm", "_handle") if LIGHTGBM in named else ("xgboost-snapshot", "handle")
        state = made.state if isinstance(made.state, dict) else {}
        held = _held_bytes(state.get(key))
        if held is None or OPAQUE in state or {"handle", "_handle"} & state.keys() != {key}:
            raise Foreign("it holds a booster in an unknown way")
        boosters.refuse_out_of_bounds(kind, held)


def _held_bytes(value: Any) -> bytes | None:
    """What a str or a bytearray holds, as pickles of any protocol write it; None for what is neither."""
    match value:
        case str():
            return value.encode("utf-8", "surrogatepass")
        case bytes() | bytearray():
            return bytes(value)
        case Made(maker=maker, arguments=(inner,)) if maker in BYTEARRAYS and not isinstance(inner, str):
            return _held_bytes(inner)
        case Made(maker=maker, arguments=(str(text), "latin1")) if maker == ENCODE and not re.search(
            "[^\x00-\xff]", text
        ):
            return text.encode("latin-1")
    return None


def _instance(walk: Walk, argument: Any, _: int | None) -> None:
    """INST and OBJ, which no writer has used since Python 2.3."""
    walk._pop_to_mark()
    walk.calls += 1
    raise Foreign(f"it makes an instance by an obsolete opcode ({argument or 'OBJ'})")


def _persistent(walk: Walk, _: Any, __: int | None) -> None:
    found = walk._pop()
    # torch: ("storage", storage class, key, location, number of elements)
    if not walk.persistent or not isinstance(found, tuple) or len(found) != 5 or found[0] != "storage":
        raise Foreign("it refers to objects outside itself (a persistent id)")
    if not isinstance(found[1], Name) or not all(isinstance(x, str) and _STORAGE.match(x) for x in found[2:4]):
        raise Foreign("it names a tensor's storage in an unknown way")
    walk.stack.append(OPAQUE)


def _skip_array(walk: Walk, state: Any, here: int) -> None:
    """Step over the raw bytes that joblib writes after an array's description (joblib, numpy_pickle.py, read_array)."""
    if here != walk.stream.tell() or here < walk.frame_end:
        raise Malformed("an array starts within a frame")
    if not isinstance(state, dict) or not {"subclass", "shape", "order", "dtype"} <= set(state):
        raise Foreign("an array is described in an unknown way")
    if state["subclass"] not in ARRAYS:
        raise Foreign("an array has an unknown class")
    walk.arrays += 1
    if _holds_objects(state["dtype"]):
        # joblib reads such an array by pickle.load, as a pickle within the pickle
        Walk(walk.stream, plain=True, names=walk.names, called=walk.called).run()
        return
    size = _item_size(state["dtype"])
    shape = state["shape"]
    if not isinstance(shape, tuple) or not all(type(side) is int and side >= 0 for side in shape):
        raise Malformed("an array's shape is no tuple of numbers")
    if state.get("numpy_array_alignment_bytes") is not None:
        padding = walk.stream.read(1)
        _step_over(walk.stream, padding[0] if padding else 1)
    _step_over(walk.stream, math.prod(shape, start=size))


def _step_over(stream: BinaryIO, size: int) -> None:
    if size and (stream.seek(size - 1, 1) < 0 or len(stream.read(1)) != 1):
        raise Malformed("an array is cut short")


def _holds_objects(dtype: Any) -> bool:
    """True for NumPy's plain object type, as NumPy writes it: neither a record, nor one whose flags say otherwise."""
    if not isinstance(dtype, Made) or dtype.maker != DTYPE or not isinstance(dtype.arguments, tuple):
        return False
    if dtype.arguments[:1] not in (("O8",), ("O4",)) or not isinstance(dtype.state, tuple) or len(dtype.state) < 8:
        return False
    return dtype.state[2:5] == (None, None, None) and type(dtype.state[7]) is int and dtype.state[7] & 1 == 1


def _item_size(dtype: Any) -> int:
    """Bytes of one item of a dtype that holds no Python objects (numpy: dtype.__reduce__)."""
    arguments = dtype.arguments if isinstance(dtype, Made) and dtype.maker == DTYPE else None
    if not isinstance(arguments, tuple) or not arguments or not isinstance(arguments[0], str):
        raise Foreign("an array has a type that is not written as NumPy writes it")
    match = _ITEM.fullmatch(arguments[0])
    if match is None:
        raise Foreign(f"an array holds items of type {arguments[0]!r}, which may be objects")
    size = int(match[2]) * (4 if match[1] == "U" else 1)
    if dtype.built:
        _check_dtype_state(dtype.state, size, record=match[1] == "V", sized=match[1] in "SUV")
    return size


def _check_dtype_state(state: Any, size: int, *, record: bool, sized: bool) -> None:
    """A dtype's state may not change its size or let it hold objects: (version, byte order, sub-array, field names,
    fields, item size, alignment, flags, ...). Flags 1, 2 and 4 say that items are objects."""
    if not isinstance(state, tuple) or len(state) < 8 or state[2] is not None:
        raise Foreign("an array's type is written in an unknown way")
    if type(state[7]) is not int or state[7] & 0x07:
        raise Foreign("an array's type says that its items are objects")
    if state[5] != (size if sized else -1):
        raise Malformed("an array's type gives two sizes")
    fields = state[4]
    if fields is None and state[3] is None:
        return
    if not record or not isinstance(fields, dict):
        raise Foreign("an array's record type is written in an unknown way")
    for value in fields.values():
        if not isinstance(value, tuple) or not value:
            raise Foreign("an array's record type is written in an unknown way")
        _item_size(value[0])


_SPECIAL: dict[str, Callable[[Walk, Any, int | None], None]] = {
    "PROTO": _proto,
    "FRAME": _frame,
    "GLOBAL": _global,
    "STACK_GLOBAL": _stack_global,
    "TUPLE": _tuple(None),
    "TUPLE1": _tuple(1),
    "TUPLE2": _tuple(2),
    "TUPLE3": _tuple(3),
    "DICT": _dict,
    "SETITEM": _setitem,
    "SETITEMS": _setitems,
    "PUT": _put,
    "BINPUT": _put,
    "LONG_BINPUT": _put,
    "MEMOIZE": _memoize,
    "GET": _get,
    "BINGET": _get,
    "LONG_BINGET": _get,
    "POP": _pop,
    "POP_MARK": _pop_mark,
    "DUP": _dup,
    "REDUCE": _call,
    "NEWOBJ": _new,
    "NEWOBJ_EX": _new_keywords,
    "BUILD": _build,
    "INST": _instance,
    "OBJ": _instance,
    "BINPERSID": _persistent,
}
