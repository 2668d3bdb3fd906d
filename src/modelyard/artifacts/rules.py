"""Names and digests of artifacts."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping

from modelyard.core.canonical import digest
from modelyard.core.errors import Invalid

FILES_LIMIT = 10_000
PATH_LIMIT = 1024
_DIGEST = re.compile(r"[0-9a-f]{64}\Z")


def blob_key(digest: str) -> str:
    """Where the bytes with this SHA-256 lie among the blobs.

    >>> blob_key("ab" * 32)[:12]
    'sha256/ab/ab'
    """
    return f"sha256/{digest[:2]}/{digest}"


def blob_of(key: str) -> str:
    """The digest in a blob's key, or an empty text for a key of another kind."""
    digest = key.rpartition("/")[2]
    return digest if _DIGEST.match(digest) and key == blob_key(digest) else ""


def folder_digest(members: Mapping[str, str]) -> str:
    """The digest of a folder: SHA-256 over the canonical JSON of its paths and their digests."""
    return digest(dict(members))


def checked_digest(digest: str) -> str:
    """The digest itself if it is one; a leading `sha256:` is dropped."""
    bare = digest.removeprefix("sha256:") if isinstance(digest, str) else ""
    if not _DIGEST.match(bare):
        raise Invalid(f"{digest!r} is no artifact digest. Pass 64 hexadecimal digits (SHA-256).")
    return bare


def check_paths(paths: list[str]) -> None:
    """Invalid unless a folder's files have plain names that stay apart on every file system."""
    if not paths:
        raise Invalid("The folder holds no files. Save the model into it first.")
    if len(paths) > FILES_LIMIT:
        raise Invalid(f"The folder holds {len(paths):,} files; {FILES_LIMIT:,} are allowed.")
    seen: set[str] = set()
    for path in paths:
        if not path.isprintable() or "\\" in path or len(path) > PATH_LIMIT:
            raise Invalid(f"The file {path[:80]!r} has no plain name. Use printable characters without backslashes.")
        folded = unicodedata.normalize("NFC", path).casefold()
        if folded in seen:
            raise Invalid(f"The folder holds two files named {path!r} but for case or accents. Rename one.")
        seen.add(folded)
