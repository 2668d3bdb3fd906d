"""Files sent to the server stay where they belong."""

from __future__ import annotations

import asyncio
import io
import os
import stat
import time
import zipfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from modelyard.core.errors import Damaged, Invalid, NotFound
from modelyard.server.uploads import Uploads, unzip


def archive(*members: tuple[str | zipfile.ZipInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in members:
            packed.writestr(name, content)
    return buffer.getvalue()


async def stream(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), 7):
        yield content[start : start + 7]


def send(uploads: Uploads, name: str, content: bytes, *, unpack: bool = False) -> str:
    return asyncio.run(uploads.receive(name, stream(content), "ana", unpack=unpack))


def link() -> bytes:
    info = zipfile.ZipInfo("link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return archive((info, b"/etc/passwd"))


def test_a_file_comes_back_as_it_was_sent_and_can_be_dropped(tmp_path: Path) -> None:
    uploads = Uploads(tmp_path)
    upload = send(uploads, "model.onnx", b"0123456789")
    assert uploads.path(upload, "ana").read_bytes() == b"0123456789"
    uploads.drop(upload, "ana")
    with pytest.raises(NotFound, match="upl_"):
        uploads.path(upload, "ana")


def test_a_folder_travels_as_an_archive(tmp_path: Path) -> None:
    uploads = Uploads(tmp_path)
    upload = send(uploads, "package.zip", archive(("modelyard.json", b"{}"), ("sub/model.onnx", b"x")), unpack=True)
    folder = uploads.path(upload, "ana")
    assert sorted(str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file()) == [
        "modelyard.json",
        "sub/model.onnx",
    ]


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (lambda: archive(("../outside", b"x")), Invalid),
        (lambda: archive(("/etc/outside", b"x")), Invalid),
        (lambda: archive(("a\\..\\b", b"x")), Invalid),
        (link, Invalid),
        (lambda: archive(("bomb", b"0" * 50_000_000)), Invalid),
        (lambda: archive(("a", b"x"))[:-10], Damaged),
        (lambda: b"no archive at all", Damaged),
    ],
    ids=["parent", "absolute", "backslash", "link", "bomb", "truncated", "no archive"],
)
def test_a_hostile_archive_is_refused_and_leaves_nothing(
    content: Callable[[], bytes], error: type[Exception], tmp_path: Path
) -> None:
    uploads = Uploads(tmp_path / "uploads")
    with pytest.raises(error):
        send(uploads, "package.zip", content(), unpack=True)
    assert list((tmp_path / "uploads").rglob("upl_*")) == []
    assert not (tmp_path / "outside").exists()


@pytest.mark.parametrize("upload", ["../../etc", "upl_x/../..", "nothing", ""])
def test_only_an_upload_id_names_a_file(upload: str, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        Uploads(tmp_path).path(upload, "ana")


@pytest.mark.parametrize("upload", ["../kept", ".", "", "upl_x/../../kept", "/etc"])
def test_only_an_upload_can_be_dropped(upload: str, tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    uploads = Uploads(tmp_path / "uploads")
    kept = send(uploads, "a", b"1")
    uploads.drop(upload, "ana")
    assert (tmp_path / "kept").is_dir()
    assert uploads.path(kept, "ana").is_file()


def test_unpacking_writes_nothing_before_every_member_was_checked(tmp_path: Path) -> None:
    file = tmp_path / "a.zip"
    file.write_bytes(archive(("good", b"x"), ("../bad", b"x")))
    with pytest.raises(Invalid):
        unzip(file, tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_an_upload_that_nobody_used_is_forgotten_after_a_day(tmp_path: Path) -> None:
    uploads = Uploads(tmp_path)
    old, young = send(uploads, "a", b"1"), send(uploads, "a", b"2")
    folder = uploads.path(old, "ana").parent
    os.utime(folder, (time.time() - 86_500,) * 2)
    send(uploads, "a", b"3")
    assert not folder.exists()
    assert uploads.path(young, "ana").read_bytes() == b"2"
