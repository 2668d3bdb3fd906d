"""The package format: one ZIP file with a model, everything that is told of it, and a signature over all of it.

    package.dsse.json                a DSSE envelope; its payload is the manifest
    model/NAME or model/NAME/...     the file or package folder as it was admitted
    metadata.json                    the version: framework, figures, signature, references
    card.md, bom.json                the model card, the CycloneDX bill of materials
    approvals.json                   who approved the version for which stage
    proof/registration.tlog-proof    the log's proof of the version's registration, with a signed checkpoint
    proof/log.pub                    the log's public key

The manifest names every other member with its SHA-256 and size, so that the one signature covers all of them.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from modelyard.core import plugins
from modelyard.core.canonical import dumps
from modelyard.core.errors import Damaged, Invalid
from modelyard.marketplace import signing

FORMAT, VERSION = "modelyard-package", 1
ENVELOPE = "package.dsse.json"
METADATA, CARD, BOM, APPROVALS = "metadata.json", "card.md", "bom.json", "approvals.json"
PROOF, LOG_KEY = "proof/registration.tlog-proof", "proof/log.pub"
TEXTS = {METADATA, CARD, BOM, APPROVALS, PROOF, LOG_KEY}
NEEDED = {METADATA, CARD, APPROVALS}
MODEL = "model/"
TEXT_LIMIT = 16 << 20  # bytes of any member that is no model's
CHUNK = 1 << 20
EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that a ZIP file can tell: the same content is the same bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """An unpacked package whose signature and digests hold."""

    folder: Path
    manifest: Mapping[str, Any]
    key_id: str

    @property
    def model(self) -> Path:
        """The model's file or folder."""
        return next((self.folder / "model").iterdir())

    def text(self, name: str) -> str:
        """A member that is text; "" where there is none."""
        path = self.folder / name
        return path.read_text(encoding="utf-8") if name in self.manifest["files"] else ""

    def json(self, name: str) -> Any:
        """A member that is JSON; Damaged if it is none."""
        try:
            return json.loads(self.text(name))
        except (ValueError, RecursionError) as error:
            raise Damaged(f"The package's {name} is no JSON: {error!r:.200}") from error


def write(path: Path, model: Path, texts: Mapping[str, str], head: Mapping[str, Any], key: Ed25519PrivateKey) -> None:
    """Write a package: the texts by member, the model's file or folder, and the signed manifest last."""
    files: dict[str, dict[str, Any]] = {}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, text in sorted(texts.items()):
            files[name] = _add(archive, name, text.encode())
        for name, file in _model_files(model):
            files[name] = _copy(archive, name, file)
        manifest = {"format": FORMAT, "format_version": VERSION, **head, "files": files}
        _add(archive, ENVELOPE, signing.envelope(dumps(manifest).encode(), key).encode())


def unpack(source: Path, folder: Path, trusted: Mapping[str, Ed25519PublicKey]) -> Package:
    """The package in a new folder, once its container, its signature and every digest have been checked.

    The container is held to what every uploaded archive is held to. Forbidden if nobody trusted signed it.
    """
    plugins.load("unpacker", "zip")(source, folder)
    place = folder / ENVELOPE
    if not place.is_file() or place.stat().st_size > TEXT_LIMIT:
        raise Damaged(f"{source.name} is no model package: it has no {ENVELOPE}.")
    payload, key_id = signing.opened(place.read_bytes(), trusted)
    manifest = _manifest(payload)
    there = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file() and path != place}
    files = manifest["files"]
    if odd := sorted(there.keys() ^ files.keys()):
        raise Damaged(f"{source.name} has not the members that its publisher signed: {', '.join(odd[:5])}.")
    for name, kept in files.items():
        _check(source, name, there[name], kept)
    if not files.keys() >= NEEDED or len({name.split("/")[1] for name in files if name.startswith(MODEL)}) != 1:
        raise Damaged(f"{source.name} lacks a part of a model package.")
    return Package(folder=folder, manifest=manifest, key_id=key_id)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check(source: Path, name: str, path: Path, kept: Mapping[str, Any]) -> None:
    if name not in TEXTS and not name.startswith(MODEL):
        raise Damaged(f"{source.name} has a member that no package has: {name[:80]!r}.")
    size = path.stat().st_size
    if name in TEXTS and size > TEXT_LIMIT:
        raise Damaged(f"{source.name} has a {name} of {size:,} bytes; {TEXT_LIMIT:,} are allowed.")
    if size != kept["size"] or sha256_of(path) != kept["sha256"]:
        raise Damaged(f"{source.name} has another {name[:80]} than its publisher signed.")
    if name in TEXTS:
        try:
            path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise Damaged(f"The package's {name} is no UTF-8 text.") from error


def _manifest(payload: bytes) -> dict[str, Any]:
    """The manifest that a payload holds. It is signed, and is read like anything else all the same."""
    try:
        found: dict[str, Any] = json.loads(payload)
        known = found["format"] == FORMAT
        version, files = found["format_version"], found["files"]
        shaped = all(type(kept["size"]) is int and isinstance(kept["sha256"], str) for kept in files.values())
        texts = all(isinstance(found[name], str) for name in ("model", "version", "digest", "listing_id", "licence"))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Damaged(f"The package's manifest cannot be read: {error!r:.200}") from error
    if not known or not shaped or not texts or type(version) is not int:
        raise Damaged("The package's manifest is none of a model package.")
    if version > VERSION:
        raise Invalid(f"The package has the format version {version}. Upgrade modelyard: pip install -U modelyard")
    return found


def _model_files(model: Path) -> Iterator[tuple[str, Path]]:
    name = model.name if model.name not in ("", ".", "..") else "package"
    if model.is_file():
        yield f"{MODEL}{name}", model
        return
    for path in sorted(path for path in model.rglob("*") if path.is_file()):
        yield f"{MODEL}{name}/{path.relative_to(model).as_posix()}", path


def _entry(name: str, size: int) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, EPOCH)
    entry.external_attr = 0o100644 << 16
    entry.file_size = size
    return entry


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> dict[str, Any]:
    archive.writestr(_entry(name, len(data)), data)
    return {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}


def _copy(archive: zipfile.ZipFile, name: str, file: Path) -> dict[str, Any]:
    size = file.stat().st_size
    with file.open("rb") as source, archive.open(_entry(name, size), "w") as out:
        shutil.copyfileobj(source, out, CHUNK)
    return {"sha256": sha256_of(file), "size": size}
