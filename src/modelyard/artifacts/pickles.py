"""What a pickle would import, found by walking its opcodes without running any.

The walk keeps the unpickler's stack and memo with stand-ins, because names may be put together there (STACK_GLOBAL).
Whatever it cannot follow exactly is malformed: what a reader sees differently is where hostile files hide.
Opcodes: CPython, Lib/pickletools.py.
"""

from __future__ import annotations

import pickletools
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from modelyard.artifacts import joblib_arrays, pickled_boosters, trusted
from modelyard.artifacts.inspection import Foreign, Malformed
from modelyard.artifacts.opcodes import operations
from modelyard.artifacts.standins import OPAQUE, Made, Name

MAX_OPCODES = 5_000_000  # a forest of a thousand trees has some hundred thousand
_STORAGE = re.compile(r"[a-z0-9_:]{1,64}\Z")
_MARK = object()


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
                    self.pop()
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
            self.pop_to_mark()
            before = before[: before.index(pickletools.markobject)]
        for _ in before:
            self.pop()
        for made in opcode.stack_after:
            self.stack.append(_MARK if made is pickletools.markobject else _literal(opcode.name, argument))

    def pop(self) -> Any:
        """Take the value on top."""
        if not self.stack or self.stack[-1] is _MARK:
            raise Malformed("its stack runs empty")
        return self.stack.pop()

    def top(self) -> Any:
        """The value on top, which stays there."""
        if not self.stack or self.stack[-1] is _MARK:
            raise Malformed("its stack runs empty")
        return self.stack[-1]

    def pop_to_mark(self) -> list[Any]:
        """Take the values above the newest mark, in the order in which they came, and the mark."""
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
    name, module = walk.pop(), walk.pop()
    walk.import_name(module, name)


def _tuple(count: int | None) -> Callable[[Walk, Any, int | None], None]:
    def make(walk: Walk, _: Any, __: int | None) -> None:
        items = walk.pop_to_mark() if count is None else [walk.pop() for _ in range(count)][::-1]
        walk.stack.append(tuple(items))

    return make


def _dict(walk: Walk, _: Any, __: int | None) -> None:
    items = walk.pop_to_mark()
    made: dict[Any, Any] = {}
    walk.stack.append(made)
    _set(made, items)


def _setitem(walk: Walk, _: Any, __: int | None) -> None:
    items = [walk.pop(), walk.pop()][::-1]
    _set(walk.top(), items)


def _setitems(walk: Walk, _: Any, __: int | None) -> None:
    items = walk.pop_to_mark()
    _set(walk.top(), items)


def _set(target: Any, items: list[Any]) -> None:
    if len(items) % 2:
        raise Malformed("a mapping has a key without a value")
    if isinstance(target, bytearray) or (isinstance(target, Made) and target.maker in pickled_boosters.BYTEARRAYS):
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
    walk.memo[int(argument)] = walk.top()


def _memoize(walk: Walk, _: Any, __: int | None) -> None:
    walk.memo[len(walk.memo)] = walk.top()


def _get(walk: Walk, argument: int, _: int | None) -> None:
    if int(argument) not in walk.memo:
        raise Malformed(f"it refers to memo {argument}, which was never set")
    walk.stack.append(walk.memo[int(argument)])


def _pop(walk: Walk, _: Any, __: int | None) -> None:
    if not walk.stack:
        raise Malformed("its stack runs empty")
    walk.stack.pop()  # may be a mark, as in the unpickler


def _pop_mark(walk: Walk, _: Any, __: int | None) -> None:
    walk.pop_to_mark()


def _dup(walk: Walk, _: Any, __: int | None) -> None:
    walk.stack.append(walk.top())


def _proto(_: Walk, argument: int, __: int | None) -> None:
    if argument > 5:
        raise Malformed(f"it has the unknown protocol {argument}")


def _call(walk: Walk, _: Any, __: int | None) -> None:
    made = _make(walk)
    walk.called.add(made.maker)


def _new(walk: Walk, _: Any, __: int | None) -> None:
    _make(walk)


def _new_keywords(walk: Walk, _: Any, __: int | None) -> None:
    walk.pop()
    _make(walk)


def _make(walk: Walk) -> Made:
    arguments, maker = walk.pop(), walk.pop()
    if not isinstance(maker, Name):
        raise Foreign("it calls something that is no plain global")
    walk.calls += 1
    made = Made(maker, arguments)
    walk.stack.append(made)
    return made


def _build(walk: Walk, _: Any, position: int | None) -> None:
    state = walk.pop()
    target = walk.top()
    walk.calls += 1
    if isinstance(target, Name):
        raise Foreign(f"it sets attributes of {target} itself")
    if isinstance(target, Made):
        if target.built:  # a second state could undo what was checked of the first
            raise Foreign("it sets an object's state twice")
        target.state, target.built = state, True
        pickled_boosters.check_built(target)
        if target.maker == joblib_arrays.WRAPPER and not walk.plain:
            _skip_array(walk, state, (position or 0) + 1)
            walk.stack[-1] = OPAQUE


def _instance(walk: Walk, argument: Any, _: int | None) -> None:
    """INST and OBJ, which no writer has used since Python 2.3."""
    walk.pop_to_mark()
    walk.calls += 1
    raise Foreign(f"it makes an instance by an obsolete opcode ({argument or 'OBJ'})")


def _persistent(walk: Walk, _: Any, __: int | None) -> None:
    found = walk.pop()
    # torch: ("storage", storage class, key, location, number of elements)
    if not walk.persistent or not isinstance(found, tuple) or len(found) != 5 or found[0] != "storage":
        raise Foreign("it refers to objects outside itself (a persistent id)")
    if not isinstance(found[1], Name) or not all(isinstance(x, str) and _STORAGE.match(x) for x in found[2:4]):
        raise Foreign("it names a tensor's storage in an unknown way")
    walk.stack.append(OPAQUE)


def _skip_array(walk: Walk, state: Any, here: int) -> None:
    """Step over what joblib writes after an array's description (joblib, numpy_pickle.py, read_array)."""
    if here != walk.stream.tell() or here < walk.frame_end:
        raise Malformed("an array starts within a frame")
    size = joblib_arrays.raw_size(state)
    walk.arrays += 1
    if size is None:
        # joblib reads such an array by pickle.load, as a pickle within the pickle
        Walk(walk.stream, plain=True, names=walk.names, called=walk.called).run()
        return
    if state.get("numpy_array_alignment_bytes") is not None:
        padding = walk.stream.read(1)
        _step_over(walk.stream, padding[0] if padding else 1)
    _step_over(walk.stream, size)


def _step_over(stream: BinaryIO, size: int) -> None:
    if size and (stream.seek(size - 1, 1) < 0 or len(stream.read(1)) != 1):
        raise Malformed("an array is cut short")


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
