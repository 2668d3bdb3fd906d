"""The admitted bytes of versions as files that clients download: what was approved is what is loaded, whatever became of
the run's own files since."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from modelyard.artifacts.rules import blob_key
from modelyard.core.errors import Damaged, Forbidden, Invalid, NotFound
from modelyard.core.models import Artifact, ModelVersion
from modelyard.server.mlflow import views
from modelyard.yard import Yard

PLACE = "modelyard/models"  # below the artifact root; nobody writes there
CHUNK = 1 << 20


def place_of(version: ModelVersion) -> str:
    """The path of the version's files.

    >>> is_place("modelyard/models/fraud/3"), is_place("1/ab/artifacts")
    (True, False)
    """
    return f"{PLACE}/{version.name}/{version.number}"


def is_place(path: str) -> bool:
    """Whether a path is one of versions' files, or above them."""
    return path == "modelyard" or path.startswith("modelyard/")


def model_of(path: str) -> str:
    """The model whose files lie at a path."""
    parts = path.split("/")
    if len(parts) < 4 or "/".join(parts[:2]) != PLACE or not parts[3].isdigit():
        raise NotFound(f"There is no file {path!r:.300}. Versions lie at {PLACE}/NAME/NUMBER.")
    return parts[2]


def listed(yard: Yard, path: str) -> list[views.View]:
    """What lies right in a folder of a version's files."""
    artifact, inner = _artifact(yard, path)
    above = f"{inner}/" if inner else ""
    files, folders = {}, set()
    for member in artifact.members:
        if member.startswith(above):
            name, deeper, _ = member[len(above) :].partition("/")
            if deeper:
                folders.add(name)
            else:
                files[name] = _size(yard, artifact.members[member])
    told: list[views.View] = [{"path": name, "is_dir": True} for name in folders]
    told += [{"path": name, "is_dir": False, "file_size": size} for name, size in files.items()]
    return sorted(told, key=lambda one: str(one["path"]))


def opened(yard: Yard, path: str) -> tuple[int, Iterator[bytes]]:
    """A file's size, and its bytes in pieces; Damaged before the last one if they are not those that were admitted."""
    artifact, inner = _artifact(yard, path)
    digest = artifact.members.get(inner)
    if digest is None:
        raise NotFound(f"There is no file {path!r:.300}.")
    return _size(yard, digest), _verified(yard, digest, path)


def check_released(yard: Yard, version: ModelVersion) -> None:
    """Forbidden for bytes in quarantine."""
    artifact = yard.artifacts.get(version.digest)
    if artifact.admission == "quarantined":
        raise Forbidden(
            f"{version.name} {version.version} is in quarantine: {artifact.findings[0]}. "
            "Log it as ONNX, skops, safetensors or its framework's own text or JSON, and register that."
        )


def _artifact(yard: Yard, path: str) -> tuple[Artifact, str]:
    name = model_of(path)
    number, _, inner = path.removeprefix(f"{PLACE}/{name}/").partition("/")
    version = yard.registry.version_by_number(name, int(number[:18]))
    if not version.digest:
        raise NotFound(f"The bytes of {name} {version.version} are not here: {version.source}")
    check_released(yard, version)
    artifact = yard.artifacts.get(version.digest)
    if not artifact.members:
        artifact = Artifact(
            digest=artifact.digest,
            size=artifact.size,
            format=artifact.format,
            name=artifact.name,
            members={artifact.name: artifact.digest},
        )
    return artifact, inner


def _size(yard: Yard, digest: str) -> int:
    with yard.store.blobs.open(blob_key(digest)) as stream:
        return stream.seek(0, 2)


def _verified(yard: Yard, digest: str, path: str) -> Iterator[bytes]:
    found, before = hashlib.sha256(), b""
    with yard.store.blobs.open(blob_key(digest)) as stream:
        while chunk := stream.read(CHUNK):
            found.update(chunk)
            if before:
                yield before
            before = chunk
    if found.hexdigest() != digest:
        raise Damaged(f"{path} is damaged: its bytes are not those that were admitted. Register the model anew.")
    yield before


def checked_free(path: str) -> str:
    """The path itself if callers may write there."""
    if is_place(path):
        raise Invalid(f"{path!r:.300} belongs to the registry. Write to a run's own files and register them.")
    return path
