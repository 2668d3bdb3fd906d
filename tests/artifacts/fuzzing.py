"""Fuzzes every parser of uploaded bytes: whatever they are, it judges them or calls them malformed, soon and in little memory.

    .venv/bin/python tests/artifacts/fuzzing.py CORPUS -max_total_time=60

needs atheris, and takes libFuzzer's options. `one` is what a single input must hold; the tests call it too.
"""

from __future__ import annotations

import base64
import io
import json
import pickle
import struct
import sys
import tempfile
import warnings
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

SECONDS = 60  # for one input, on a busy machine
MEGABYTES = 2_048
LARGEST_SEED = 60_000


def one(data: bytes) -> None:
    """Judge the bytes; the first says for which parser they are."""
    from modelyard.artifacts import bundles, mlflow
    from modelyard.artifacts.admission import inspect
    from modelyard.artifacts.inspection import Inspection, Malformed
    from modelyard.core.errors import Damaged

    kind, body = data[:1], data[1:]
    with suppress(Malformed, Damaged):
        if kind == b"B":
            bundles.read(body)
        elif kind == b"Y":
            mlflow.plain_yaml(body, "x.yaml")
        else:
            whole = _wrapped(kind, body)
            assert isinstance(inspect(io.BytesIO(whole), len(whole)), Inspection)


def _wrapped(kind: bytes, body: bytes) -> bytes:
    """The bytes as the part of an archive that is read first, whose checksum no chance would get right."""
    name, others = PARTS.get(kind, ("", {}))
    if not name:
        return body
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for member, content in {name: body, **others}.items():
            archive.writestr(member, content)
    return made.getvalue()


PARTS: dict[bytes, tuple[str, dict[str, bytes]]] = {
    b"K": ("config.json", {"metadata.json": b"{}"}),
    b"W": ("model.weights.h5", {"metadata.json": b"{}", "config.json": b"{}"}),
    b"P": ("m/models/model.json", {"m/archive_format": b"pt2"}),
    b"Q": ("m/data/weights/model_weights_config.json", {"m/archive_format": b"pt2", "m/models/model.json": b"{}"}),
    b"S": ("schema.json", {}),
    b"T": ("m/data.pkl", {"m/version": b"3"}),
    b"Z": ("anything", {}),
}


def seeds() -> list[bytes]:
    """Small files of every format, honest and hostile."""
    import numpy as np
    from hostile_samples import HOSTILE

    found_parts: list[bytes] = []
    text = Path(__file__).with_name("network_samples.json").read_text()
    found = [zlib.decompress(base64.b85decode(packed)) for packed in json.loads(text).values()]
    found += [data for data in HOSTILE.values() if len(data) < LARGEST_SEED]
    found += [pickle.dumps({"a": [1, 2.0, "x"], "b": np.arange(3)}, protocol) for protocol in range(6)]
    header = json.dumps({"w": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}).encode()
    found.append(struct.pack("<Q", len(header)) + header + bytes(16))
    for array in (np.arange(4.0), np.zeros(2, dtype=[("a", "i4"), ("b", "U3")])):
        raw = io.BytesIO()
        np.save(raw, array)
        found.append(raw.getvalue())
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("schema.json", '{"__class__": "dict", "__module__": "builtins", "__loader__": "DictNode"}')
    found += [
        packed.getvalue(),
        b"{L\0\0\0\0\0\0\0\x07learner{}L\0\0\0\0\0\0\0\x07version[$l#L\0\0\0\0\0\0\0\x02" + bytes(8) + b"}",
    ]
    found.append(b"tree\nversion=v4\nnum_class=1\nmax_feature_idx=2\nfeature_names=a\ntree_sizes=1\nend of trees\n")
    found.append(b'{"learner": {}, "version": [3, 0, 0]}')
    found.append(b"PAR1" + bytes(20) + struct.pack("<I", 4) + b"PAR1")
    bundle = b'{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","verificationMaterial":{"publicKey":{}},"dsseEnvelope":{}}'
    for data in list(found):
        with (
            suppress(zipfile.BadZipFile, RuntimeError, NotImplementedError, ValueError),
            zipfile.ZipFile(io.BytesIO(data)) as archive,
        ):
            for kind, (name, _) in PARTS.items():
                last = name.rpartition("/")[2]
                found_parts += [kind + archive.read(member) for member in archive.namelist() if member.endswith(last)]
    return [b"I" + data for data in found] + found_parts + [b"B" + bundle, b"Yflavors: {a: {code: null}}\n"]


def main() -> None:
    """Fuzz with atheris, from the seeds and whatever the corpus folder holds already."""
    import atheris

    warnings.simplefilter("ignore")
    with atheris.instrument_imports(include=["modelyard.artifacts", "zipfile", "pickletools"]):
        from modelyard.artifacts import bundles, mlflow  # noqa: F401 - imported here to be watched
        from modelyard.artifacts.admission import inspect  # noqa: F401
    with tempfile.TemporaryDirectory() as place:
        for number, data in enumerate(seeds()):
            (Path(place) / f"{number:04}").write_bytes(data)
        options = [
            f"-timeout={SECONDS}",
            f"-rss_limit_mb={MEGABYTES}",
            "-print_final_stats=1",
            f"-max_len={LARGEST_SEED}",
        ]
        atheris.Setup([sys.argv[0], *sys.argv[1:], place, *options], one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
