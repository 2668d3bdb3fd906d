"""Second places for checkpoints: a folder, an object store, or an address that takes them by HTTPS."""

from __future__ import annotations

import io
import re
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from modelyard.core import plugins
from modelyard.core.errors import Invalid, NotFound, Unavailable, YardError
from modelyard.core.ports import Blobs

SECONDS = 10  # for an answer
_STORES = ("s3", "gs", "az")
_NAME = re.compile(r"[0-9]{20}-[0-9a-f]{16}\.checkpoint")


def checked_target(target: str) -> str:
    """The target itself if checkpoints can be copied there: an absolute folder, s3://, gs://, az:// or https://.

    >>> checked_target("ftp://example.org")
    Traceback (most recent call last):
    modelyard.core.errors.Invalid: Checkpoints cannot be copied to 'ftp://example.org'. ...
    """
    scheme, colon, rest = str(target).partition("://")
    if colon and scheme in _STORES and rest.strip("/"):
        return str(target)
    if colon and scheme == "https":
        parts = urlsplit(str(target))
        if parts.hostname and not parts.username and not parts.password:
            return str(target)
    if not colon and Path(target).is_absolute():
        return str(Path(target))
    raise Invalid(
        f"Checkpoints cannot be copied to {target!r}. Pass an absolute folder, s3://bucket/prefix (or gs://, az://), "
        "or https://host/path without a password."
    )


def copy(target: str, name: str, note: str) -> None:
    """Put a checkpoint there under a name of its own; one that is there already stays as it is. Unavailable if it cannot."""
    if target.startswith("https://"):
        _send(target, name, note)
        return
    try:
        _blobs(target).put(name, io.BytesIO(note.encode()))
    except OSError as error:
        if isinstance(error, YardError):
            raise
        raise Unavailable(f"{target} cannot be written: {error.strerror}.") from error


def copy_name(size: int, root: bytes) -> str:
    """The file name of a checkpoint's copy: in the order of sizes, and another for another tree of the same size."""
    return f"{size:020d}-{root.hex()[:16]}.checkpoint"


def copies_at(target: str | Path) -> list[str]:
    """Every checkpoint that was copied to a folder or an object store, or the one in a file; NotFound where there is none."""
    text = str(target)
    if text.startswith(("http://", "https://")):
        raise Invalid(f"{text} takes checkpoints but does not list them. Fetch them into a folder and pass that.")
    if "://" not in text and Path(text).is_file():
        return [Path(text).read_text("utf-8", "replace")]
    if "://" not in text and not Path(text).is_dir():
        raise NotFound(f"There is no folder {text} with checkpoints.")
    blobs = _blobs(text if "://" in text else str(Path(text).absolute()))
    found = []
    for key in blobs.keys():  # noqa: SIM118 - a port's method
        if _NAME.fullmatch(key.rpartition("/")[2]):
            with blobs.open(key) as file:
                found.append(file.read().decode("utf-8", "replace"))
    if not found:
        raise NotFound(f"There are no checkpoints in {text}. Check the place that add_witness was given.")
    return found


def _blobs(target: str) -> Blobs:
    scheme, colon, _ = target.partition("://")
    made: Blobs = plugins.load("blobs", scheme)(target) if colon else plugins.load("blobs", "file")(Path(target))
    return made


class _Straight(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: a checkpoint goes where it was told to go."""

    def redirect_request(self, *_: Any) -> None:
        """None: the redirect's own answer is the error."""


def _send(target: str, name: str, note: str) -> None:
    request = urllib.request.Request(  # noqa: S310 - https only, see checked_target
        target,
        data=note.encode(),
        method="POST",
        headers={"Content-Type": "text/plain; charset=utf-8", "X-Checkpoint-Name": name},
    )
    try:
        with urllib.request.build_opener(_Straight).open(request, timeout=SECONDS) as answer:
            answer.read(1)
    except urllib.error.HTTPError as error:
        with error:
            raise Unavailable(f"{target} answers {error.code} to a checkpoint.") from error
    except (OSError, ValueError) as error:
        raise Unavailable(f"{target} cannot be reached: {getattr(error, 'reason', error)}.") from error
