"""Writes tests/artifacts/network_samples.json: small files of TensorFlow, Keras, h5py, PyTorch and CatBoost, compressed.

Those libraries live in environments of their own; run it once in each that has some of them:

    .peers/NAME/bin/python scripts/make_network_samples.py
"""

from __future__ import annotations

import base64
import json
import tempfile
import zlib
from contextlib import suppress
from pathlib import Path

PLACE = Path(__file__).parent.parent / "tests" / "artifacts" / "network_samples.json"


def hdf5(folder: Path) -> None:
    """Honest files of old and new layout, and those that reach outside themselves."""
    import h5py
    import numpy as np

    for library in ("earliest", "latest"):

        def made(name: str, library: str = library) -> h5py.File:
            return h5py.File(folder / f"{name}, {library}.h5", "w", libver=library)

        with made("honest: groups") as file:
            for number in range(3):
                group = file.create_group(f"g{number}")
                group["w"] = np.arange(10.0)
                group.attrs["name"] = "x"
                group["soft"] = h5py.SoftLink("/g0/w")
        with made("honest: chunks") as file:
            file.create_dataset("d", data=np.zeros((20, 20)), compression="gzip", shuffle=True, chunks=(10, 10))
            file.create_dataset("s", data=["a", "b"])
        with made("hostile: external link") as file:
            file["x"] = h5py.ExternalLink("/etc/passwd", "/a")
        with made("hostile: external link deep within") as file:
            file.create_group("a/b/c")["x"] = h5py.ExternalLink("other.h5", "/a")
        with made("hostile: external storage") as file:
            file.create_dataset("d", (100,), "u1", external=[("/etc/passwd", 0, 100)])
        with made("hostile: virtual dataset") as file:
            layout = h5py.VirtualLayout((4,), "f8")
            layout[:] = h5py.VirtualSource("o.h5", "d", (4,))
            file.create_virtual_dataset("v", layout)
        with made("hostile: a dataset of terabytes") as file:
            file.create_dataset("d", (1 << 40,), "f4", chunks=(1 << 20,))
    with h5py.File(folder / "hostile: links in a fractal heap.h5", "w", libver="latest") as file:
        for number in range(30):
            file[f"x{number}"] = h5py.ExternalLink("/etc/passwd", "/a")
    with h5py.File(folder / "hostile: a plug-in filter.h5", "w") as file:
        settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        settings.set_chunk((10,))
        settings.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, (3,))
        h5py.h5d.create(file.id, b"d", h5py.h5t.NATIVE_INT32, h5py.h5s.create_simple((10,)), settings)


def keras(folder: Path) -> None:
    """One small model in each form, and one that holds code."""
    import keras
    import numpy as np

    model = keras.Sequential(
        [keras.layers.Input((3,)), keras.layers.Dense(2, "relu"), keras.layers.Dense(1, "sigmoid")]
    )
    model.compile("sgd", "binary_crossentropy")
    model.fit(np.zeros((4, 3)), np.zeros(4), verbose=0)
    model.save(folder / "honest: model.keras")
    model.save(folder / "honest: model.h5")
    model.save_weights(folder / "honest: model.weights.h5")
    model.export(folder / "saved", verbose=False)
    (folder / "saved" / "saved_model.pb").rename(folder / "honest: saved_model.pb")
    code = keras.Sequential([keras.layers.Input((3,)), keras.layers.Lambda(lambda x: x + 1)])
    code.save(folder / "hostile: Lambda.keras")
    code.save(folder / "hostile: Lambda.h5")


def torch(folder: Path) -> None:
    """One small module in each form."""
    import torch

    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 1), torch.nn.Sigmoid()).eval()
    rows = torch.zeros(2, 3)
    torch.save(net.state_dict(), folder / "honest: state.pt")
    torch.save(net, folder / "hostile: module.pt")
    program = torch.export.export(net, (rows,), dynamic_shapes=({0: torch.export.Dim("n")},))
    torch.export.save(program, folder / "honest: program.pt2")
    torch.jit.save(torch.jit.script(net), folder / "hostile: script.pt")


def catboost(folder: Path) -> None:
    """One small classifier in each form."""
    import catboost

    model = catboost.CatBoostClassifier(iterations=2, depth=2, verbose=0, allow_writing_files=False, thread_count=1)
    model.fit([[0.0], [1.0], [2.0], [3.0]], [0, 0, 1, 1])
    model.save_model(str(folder / "honest: model.cbm"))
    model.save_model(str(folder / "honest: model.json"), format="json")


def main() -> None:
    """Add what this environment's libraries make to what others have made."""
    found = json.loads(PLACE.read_text()) if PLACE.exists() else {}
    with tempfile.TemporaryDirectory() as place:
        for make in (hdf5, keras, torch, catboost):
            with suppress(ImportError):
                make(Path(place))
        for file in sorted(Path(place).iterdir()):
            if file.is_file():
                found[file.name] = base64.b85encode(zlib.compress(file.read_bytes(), 9)).decode()
    PLACE.write_text(json.dumps(dict(sorted(found.items())), indent=0) + "\n")


if __name__ == "__main__":
    main()
