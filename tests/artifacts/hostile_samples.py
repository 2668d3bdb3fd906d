"""Files that no store may let in, by what they try: for the tests of admission, of unpacking and of the fuzzer."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import struct
import zipfile
import zlib

import joblib
import numpy as np

MARKER = "touch /tmp/modelyard-was-here"


class Evil:
    def __init__(self, function=os.system, *arguments):
        self.call = function, arguments or (MARKER,)

    def __reduce__(self):
        return self.call


def _text(value: str) -> bytes:
    return b"\x8c" + bytes([len(value)]) + value.encode()


def _stack_global(module: str, name: str) -> bytes:
    return b"\x80\x04" + _text(module) + _text(name) + b"\x93" + _text(MARKER) + b"\x85R."


def _joined_name() -> bytes:
    """Puts `os` and `system` through the memo and a POP, out of the order in which they are used."""
    return (
        b"\x80\x04"
        + _text("system")
        + b"\x94"
        + _text("os")
        + b"\x94"
        + b"00"
        + b"h\x01h\x00\x93"
        + _text(MARKER)
        + b"\x85R."
    )


def _zip(members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return made.getvalue()


def _joblib(value: object, compress: object = 0) -> bytes:
    made = io.BytesIO()
    joblib.dump(value, made, compress=compress)
    return made.getvalue()


def _linked_zip() -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        entry = zipfile.ZipInfo("link")
        entry.external_attr = 0o120777 << 16
        archive.writestr(entry, "/etc/passwd")
    return made.getvalue()


def _twice() -> bytes:
    return _zip({"a.txt": b"one", "b.txt": b"two"}).replace(b"b.txt", b"a.txt")


def _torch(pickled: bytes) -> bytes:
    return _zip({"model/data.pkl": pickled, "model/data/0": b"\0" * 16, "model/version": b"3\n"}, zipfile.ZIP_STORED)


def _wrong_checksum() -> bytes:
    data = bytearray(_torch(_TORCH_GOOD))
    data[data.index(b"\0" * 16)] = 1
    return bytes(data)


def _two_names() -> bytes:
    """The header before the member says other.txt, the directory says a.txt."""
    return _zip({"note1.txt": b"hello there"}).replace(b"note1.txt", b"note2.txt", 1)


def _skops(module: str, name: str, loader: str = "ObjectNode") -> bytes:
    schema = {"__class__": name, "__module__": module, "__loader__": loader, "content": {}, "protocol": 2}
    return _zip({"schema.json": json.dumps(schema).encode()})


def _raw_bytes_that_are_opcodes() -> bytes:
    """joblib skips an array's bytes; pickle.load of the same file would run them."""
    call = b"cos\nsystem\n" + _text(MARKER) + b"\x85R."
    data = _joblib(np.frombuffer(call, np.uint8))
    padding = data.index(call) - 1
    while data[padding] == 0xFF:
        padding -= 1
    wanted = ord("0")  # POP: any length that is an opcode lets pickle.load go on
    return data[:padding] + bytes([wanted]) + b"N" + b"0N" * 23 + b"0" + data[data.index(call) :]


def _npy(dtype: object) -> bytes:
    made = io.BytesIO()
    np.save(made, np.array([1, 2], dtype=dtype), allow_pickle=True)
    return made.getvalue()


def _dtype_that_becomes_objects() -> bytes:
    """A joblib array whose dtype is 'f8' by name and made of objects by its state: joblib would unpickle what follows."""
    data = _joblib(np.arange(4.0))
    state = pickle.dumps((3, "<", None, None, None, -1, -1, 0), protocol=4)[11:-2]
    flagged = pickle.dumps((3, "<", None, None, None, -1, -1, 63), protocol=4)[11:-2]
    assert len(state) == len(flagged)
    flags = data.index(b"K\x00t", data.index(b"dtype", data.index(b"dtype") + 5))
    return data[:flags] + b"K\x3f" + data[flags + 2 :]


_TORCH_GOOD = (
    b"\x80\x02ccollections\nOrderedDict\nq\x00)Rq\x01X\x01\x00\x00\x00wq\x02"
    b"ctorch._utils\n_rebuild_tensor_v2\nq\x03((X\x07\x00\x00\x00storageq\x04ctorch\nFloatStorage\nq\x05"
    b"X\x01\x00\x00\x000q\x06X\x03\x00\x00\x00cpuq\x07K\x04tq\x08QK\x00K\x04\x85q\tK\x01\x85q\n\x89"
    b"ccollections\nOrderedDict\nq\x0b)Rq\x0ctq\rRq\x0es."
)

HOSTILE = {
    "os.system by protocol 4": pickle.dumps(Evil(), protocol=4),
    "os.system by protocol 0, which is text": pickle.dumps(Evil(), protocol=0),
    "a text pickle that breaks after it has run": b"cos\nsystem\n(S'true'\ntR and then no pickle",
    "os.system by protocol 2": pickle.dumps(Evil(), protocol=2),
    "builtins.eval": pickle.dumps(Evil(eval, "1"), protocol=4),
    "numpy.load, which unpickles": pickle.dumps(Evil(np.load, "x.npy"), protocol=4),
    "joblib.load of a path": pickle.dumps(Evil(joblib.load, "x"), protocol=4),
    "logging.config": _stack_global("logging.config", "_resolve"),
    "a dotted name in a listed module": _stack_global("numpy", "lib._npyio_impl.os.system"),
    "a dotted name of a listed class": _stack_global("collections", "OrderedDict.fromkeys"),
    "names put together through the memo": _joined_name(),
    "a name that is computed": b"\x80\x04" + _text("os") + b"]\x93.",
    "an extension code": b"\x80\x02\x82\x01" + b"U\x04true\x85R.",
    "INST": b"(S'true'\nios\nsystem\n.",
    "OBJ": b"\x80\x02(cos\nsystem\nU\x04trueo.",
    "a persistent id": b"\x80\x02U\x01xQ.",
    "a pickle behind a pickle": pickle.dumps(1) + pickle.dumps(Evil()),
    "a pickle cut short": pickle.dumps(list(range(1000)))[:-5],
    "an empty stack": b"\x80\x04R.",
    "a memo number that takes gigabytes": b"\x80\x02Nr\xff\xff\xff\x7f.",
    "BUILD on a class": b"\x80\x04" + _text("collections") + _text("OrderedDict") + b"\x93}b.",
    "LightGBM's Booster called with a path": b"\x80\x02clightgbm.basic\nBooster\nNNU\x01x\x87R.",
    "joblib": _joblib(Evil()),
    "joblib with zlib": _joblib(Evil(), ("zlib", 3)),
    "joblib with gzip": _joblib(Evil(), ("gzip", 3)),
    "joblib with bz2": _joblib(Evil(), ("bz2", 3)),
    "joblib with xz": _joblib(Evil(), ("xz", 3)),
    "joblib with lzma": _joblib(Evil(), ("lzma", 3)),
    "joblib with an array of objects": _joblib({"a": np.array([Evil()], dtype=object)}),
    "joblib with a dtype that becomes objects": _dtype_that_becomes_objects(),
    "joblib with an array whose bytes are opcodes": _raw_bytes_that_are_opcodes(),
    "gzip within gzip": gzip.compress(gzip.compress(pickle.dumps(1))),
    "zlib with bytes behind": zlib.compress(pickle.dumps(1)) + b"more",
    "zlib cut short": zlib.compress(os.urandom(4096))[:-9],
    "an inflating bomb": gzip.compress(b"\0" * (300 << 20), 9),
    "zip with a parent member": _zip({"../evil.txt": b"x"}),
    "zip with an absolute member": _zip({"/etc/cron.d/x": b"x"}),
    "zip with a backslash": _zip({"..\\evil.txt": b"x"}),
    "zip with a drive": _zip({"C:/evil.txt": b"x"}),
    "zip with a link": _linked_zip(),
    "zip with two members of one name": _twice(),
    "zip with names that differ in case": _zip({"a.txt": b"1", "A.txt": b"2"}),
    "zip with two names for a member": _two_names(),
    "zip bomb": _zip({"zeros.npy": b"\0" * (300 << 20)}),
    "zip cut short": _zip({"a.txt": os.urandom(4096)})[:-30],
    "zip with bytes before": b"\x00\x00" + _zip({"a.txt": b"x"}),
    "zip with bytes behind": _zip({"a.txt": b"x"}) + b"more",
    "zip with too many members": _zip({f"{i}.txt": b"" for i in range(10_001)}, zipfile.ZIP_STORED),
    "zip within zip": _zip({"a.zip": _zip({"a.txt": b"x"})}),
    "zip with a hostile pickle": _zip({"a.pkl": pickle.dumps(Evil())}),
    "zip with unknown bytes": _zip({"a.bin": b"\x00\xff\x00\xff"}),
    "zip without members": _zip({}),
    "torch with a foreign global": _torch(pickle.dumps(Evil(), protocol=2)),
    "torch with a wrong checksum": _wrong_checksum(),
    "TorchScript": _zip(
        {"m/data.pkl": b"\x80\x02}.", "m/code/__torch__.py": b"def f(): pass", "m/constants.pkl": b"N."}
    ),
    "skops with os.system": _skops("os", "system"),
    "skops with a prefix of a trusted module": _skops("sklearn.datasets._base", "load_files"),
    "skops with a method": _skops("builtins", "dict", "MethodNode"),
    "skops that is no JSON": _zip({"schema.json": b"{"}),
    "keras with a Lambda": _zip(
        {"metadata.json": b"{}", "config.json": b'{"class_name": "Lambda", "module": "keras.layers"}'}
    ),
    "keras with a function of another module": _zip(
        {"metadata.json": b"{}", "config.json": b'{"class_name": "system", "module": "os"}'}
    ),
    "numpy with objects": _npy(object),
    "numpy cut short": _npy("f8")[:-1],
    "safetensors with a hole": struct.pack("<Q", 59)
    + b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}      '
    + b"12",
    "safetensors with more data": struct.pack("<Q", 53)
    + b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'
    + b"12",
    "safetensors with a repeated key": struct.pack("<Q", 105)
    + b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'
    + b"1",
    "HDF5": b"\x89HDF\r\n\x1a\n" + bytes(100),
    "ONNX without a graph": b"\x08\x08\x42\x04\x0a\x00\x10\x11",
    "LightGBM cut short": b"tree\nversion=v4\nnum_class=1\n",
    "UBJ with bytes behind": b"{i\x07learner{}i\x07version[]}x",
    "JSON cut short": b'{"learner": {',
    "JSON nested endlessly": b"[" * 200_000,
    "unknown bytes": b"\x00\x01\x02\xff" * 10,
    "ELF": b"\x7fELF" + bytes(60),
    "nothing": b"",
}
