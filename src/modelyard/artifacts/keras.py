"""Checks of Keras models: .keras files, and the configuration within HDF5 files.

A configuration is JSON that names classes; each must be on the list of Keras' own. Lambda layers hold marshalled code.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from typing import Any, BinaryIO

from modelyard.artifacts import trusted, zips
from modelyard.artifacts.hdf5 import hdf5
from modelyard.artifacts.inspection import Inspection, Malformed
from modelyard.artifacts.tensors import strict_json
from modelyard.artifacts.zips import InspectMember
from modelyard.bounds.documents import objects

PLAIN_NODES = {"__tuple__", "__numpy__", "__tensor__", "__keras_tensor__", "__slice__", "__ellipsis__", "__bytes__"}
PATHS = ("vocabulary", "filepath", "path", "url", "directory")  # StringLookup and its like read the file that is named


def packed(archive: zipfile.ZipFile, names: list[str], member: InspectMember) -> Inspection:
    """A .keras file: its configuration, its weights as HDF5, and assets."""
    unsafe = dict.fromkeys(_findings(strict_json(zips.read(archive, "config.json"))))
    for name in names:
        for why in zips.known(archive, name, member).unsafe:
            unsafe.setdefault(f"in {name[:80]}: {why}")
    return Inspection(format="keras", unsafe=tuple(unsafe))


def weights(stream: BinaryIO, size: int) -> Inspection:
    """An HDF5 file: weights, or a whole model of Keras' older kind, which carries its configuration."""
    found, config = hdf5(stream, size)
    if config is None:
        return found
    unsafe = dict.fromkeys([*found.unsafe, *_findings(strict_json(config))])
    return Inspection(format="keras-h5", unsafe=tuple(unsafe))


def _findings(config: Any) -> Iterator[str]:
    known = trusted.names(trusted.KERAS)
    bare = {name for _, name in known}  # Keras 2 wrote class names alone
    for node in objects(config):
        name, module = node.get("class_name"), node.get("module")
        if not (isinstance(name, str | None) and isinstance(module, str | None)):
            raise Malformed("its configuration names a class in an unknown way")
        if name is not None and name not in PLAIN_NODES:
            listed = name in bare if module is None else (module, name) in known
            if not listed:
                yield f"it holds {module or 'Keras'}.{name}, which is not on the list of Keras' own layers"
        if node.get("registered_name") not in (None, name):
            yield f"it holds the custom object {node.get('registered_name')!r}"
        if name is None and module is not None:
            yield f"it imports {module!r}"
        for key in PATHS:
            if isinstance(node.get(key), str):
                yield f"it names the file {node[key][:80]!r}, which would be read"
