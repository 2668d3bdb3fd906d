"""What a PyTorch file holds, told from the archive without PyTorch, and whether opening it would run code of the file's.

`torch.export.load` may unpickle, load a compiled library, and evaluate the sizes that a program gives as text (sympify).
"""

from __future__ import annotations

import json
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from modelyard.core.errors import Damaged, Invalid
from modelyard.core.sizes import is_size

Kind = Literal["script", "program"]

_BROKEN = (zipfile.BadZipFile, zlib.error, struct.error, NotImplementedError, RuntimeError, EOFError, OSError,
           UnicodeDecodeError)  # fmt: skip  # what zipfile raises, and RecursionError


def kind_of(path: Path) -> Kind:
    """`script` for what `torch.jit.save` wrote, `program` for what `torch.export.save` wrote.

    Raises Invalid for weights alone, for a pickle and for a program that would run code when opened, Damaged for a file
    that is no archive of PyTorch's.
    """
    if path.is_dir():
        raise Invalid(f"{path} is a folder. Pass the file that torch.export.save wrote.")
    with path.open("rb") as opened:
        if opened.read(1) == b"\x80":
            raise Invalid(_unfit(path, "a pickle, which runs code when opened"))
    try:
        with zipfile.ZipFile(path) as archive:
            return _kind(path, archive)
    except _BROKEN as error:
        raise Damaged(f"{path} is no whole PyTorch file: {error}. Save it again with torch.export.save.") from error


def _kind(path: Path, archive: zipfile.ZipFile) -> Kind:
    names = archive.namelist()
    if len({name.casefold() for name in names}) < len(names) or len({name.partition("/")[0] for name in names}) != 1:
        raise zipfile.BadZipFile("its members are not one folder of files with names of their own")
    within = {name.partition("/")[2] for name in names}
    if "archive_format" in within:
        _check_program(path, archive, names)
        return "program"
    if "constants.pkl" in within:
        return "script"
    if "data.pkl" in within:
        raise Invalid(_unfit(path, "weights (a state dict) or a pickled module, not a network that can be run"))
    raise zipfile.BadZipFile("it has none of the members that torch.save, torch.jit.save and torch.export.save write")


def _unfit(path: Path, what: str) -> str:
    return (
        f"{path.name} holds {what}. Load the weights into the module and save that: "
        "torch.export.save(torch.export.export(module.eval(), (rows,), "
        'dynamic_shapes=({0: torch.export.Dim("n")},)), "model.pt2").'
    )


def _check_program(path: Path, archive: zipfile.ZipFile, names: list[str]) -> None:
    if any("/aotinductor/" in name for name in names):
        raise Invalid(f"{path.name} holds a library compiled for one machine. Save the program with torch.export.save.")
    for name in names:
        if name.endswith(".json"):
            for text in _expressions(_json(archive, name)):
                if not is_size(text):
                    raise Invalid(f"{path.name} gives a size as code: {text[:80]!r}. Export it again; do not open it.")


def _json(archive: zipfile.ZipFile, name: str) -> Any:
    try:
        return json.loads(archive.read(name))
    except ValueError as error:
        raise zipfile.BadZipFile(f"its member {name} is no JSON") from error


def _expressions(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(text := value.get("expr_str"), str):
            yield text
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            yield from _expressions(one)
