"""Names and digests of artifacts."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from modelyard.core.canonical import digest
from modelyard.core.errors import Invalid
from modelyard.core.instants import Instant
from modelyard.core.people import folded

FILES_LIMIT = 10_000
PATH_LIMIT = 1024
APPROVALS = 2  # for loading what is in quarantine: two people who neither asked nor brought it
TEXT_LIMIT = 4_000
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A request to load quarantined bytes in a sandbox, for exactly one digest, and who has approved it."""

    release_id: str
    digest: str
    requested_by: str
    justification: str
    status: Literal["open", "approved", "rejected", "withdrawn"]
    created_at: Instant
    approvers: tuple[str, ...] = ()
    reason: str = ""


def same(one: str, other: str) -> bool:
    """True for two spellings of one person's name.

    >>> same("Ana@example.com", " ana@EXAMPLE.com")
    True
    """
    return folded(one) == folded(other)


def checked_text(text: str, what: str, *, least: int = 0) -> str:
    """The text itself; Invalid for one that is too short to mean anything, too long, or no plain text."""
    if not isinstance(text, str) or not least <= len(text.strip()) or len(text) > TEXT_LIMIT or "\x00" in text:
        raise Invalid(f"{what} has {len(text):,} characters. Write {least or 0} to {TEXT_LIMIT:,}.")
    return text


def why_not(release: Release, uploader: str, person: str) -> str:
    """Why the person may not approve or reject the release; empty if they may."""
    if release.status != "open":
        return f"The release of {release.digest[:12]} is {release.status}; there is nothing to decide."
    if same(person, release.requested_by):
        return f"{person} asked for the release of {release.digest[:12]} and cannot decide on it. Ask someone else."
    if same(person, uploader):
        return f"{person} brought {release.digest[:12]} in and cannot decide on its release. Ask someone else."
    if any(same(person, approver) for approver in release.approvers):
        return f"{person} has approved the release of {release.digest[:12]} already. A second person must."
    return ""


def status_with(approvers: Sequence[str]) -> Literal["open", "approved"]:
    """Where a release stands that these people have approved."""
    return "approved" if len({folded(person) for person in approvers}) >= APPROVALS else "open"
