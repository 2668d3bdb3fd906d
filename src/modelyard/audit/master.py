"""The master key: wraps the keys of persons, so that a copy of their file alone opens nothing.

It is named by reference in the setting `master_key`: `env:NAME` or `file:PATH`, the base64 of 32 bytes. During a rotation
two stand there, with a space or a line end between them: the new key, then the old one. Without the setting it is made in
`keys/subjects.aes256`, beside what it wraps, where it guards against nothing but a copy of one of the two files.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import secrets
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap, aes_key_wrap

from modelyard.core.errors import Damaged, Invalid, Unavailable
from modelyard.core.files import PRIVATE, place_whole, replace_whole
from modelyard.settings import settings

MAKE_ONE = "Make one: openssl rand -base64 32"


@dataclass(frozen=True, slots=True, repr=False)
class MasterKey:
    """One master key: 32 bytes, for AES key wrap (RFC 3394)."""

    raw: bytes

    @property
    def key_id(self) -> str:
        """Its name, which tells nothing of it."""
        return "mk_" + hmac.new(self.raw, b"modelyard.audit master key", hashlib.sha256).hexdigest()[:16]

    def wrapped(self, key: bytes) -> bytes:
        """The key, of use only to who has this one."""
        return aes_key_wrap(self.raw, key)

    def unwrapped(self, wrapped: bytes) -> bytes:
        """The key; Damaged for what this one did not wrap."""
        try:
            return aes_key_unwrap(self.raw, wrapped)
        except (InvalidUnwrap, TypeError) as error:
            raise Damaged("A person's key was changed: its master key does not open it. Restore it.") from error


class Master:
    """Where a yard's master key is. It is looked up at each use, so that a changed one is in force at once."""

    def __init__(self, folder: Path, reference: str | None = None) -> None:
        self.file = folder / "keys" / "subjects.aes256"
        self._reference = reference

    @cached_property
    def reference(self) -> str:
        """env:NAME, file:PATH, or empty for the file beside the persons' keys."""
        found = settings()["master_key"].value if self._reference is None else self._reference
        if found and not found.startswith(("env:", "file:")):
            raise Invalid("The setting master_key must read env:NAME or file:PATH, not the key itself.")
        return found

    def newest(self) -> MasterKey:
        """The key that wraps, made now in the default file unless there is one."""
        if not self.reference and not self.file.exists():
            place_whole(self.file, f"{_new()}\n", PRIVATE)
        return self._keys()[0]

    def named(self, key_id: str) -> MasterKey:
        """The key that wrapped; Unavailable where it is not at hand."""
        for key in self._keys():
            if key.key_id == key_id:
                return key
        raise Unavailable(
            f"The keys of persons are wrapped by the master key {key_id}, which is not in {self._place}. "
            "Restore it there, or name its place in the setting master_key."
        )

    def renewed(self) -> MasterKey:
        """The key to wrap with from now on: a new one in the default file, or whatever stands first in the place named."""
        if not self.reference:
            old = self.file.read_text() if self.file.exists() else ""
            replace_whole(self.file, f"{_new()}\n{old}", PRIVATE)
        return self.newest()

    def forget_older(self) -> None:
        """Keep the newest key alone in the default file. A place that was named is its owner's to change."""
        if not self.reference:
            replace_whole(self.file, f"{self._text().split()[0]}\n", PRIVATE)

    @property
    def _place(self) -> str:
        return self.reference or str(self.file)

    def _keys(self) -> list[MasterKey]:
        try:
            raw = [base64.b64decode(line, validate=True) for line in self._text().split()]
        except (binascii.Error, ValueError) as error:
            raise Invalid(f"The master key in {self._place} is not base64. {MAKE_ONE}") from error
        if not raw or any(len(key) != 32 for key in raw):
            raise Invalid(f"{self._place} holds no master key: the base64 of 32 bytes. {MAKE_ONE}")
        return [MasterKey(key) for key in raw]

    def _text(self) -> str:
        kind, _, name = self.reference.partition(":")
        if kind == "env":
            found = os.environ.get(name, "")
            if not found:
                raise Unavailable(
                    f"The environment variable {name} with the master key is not set. Set it and restart."
                )
            return found
        path = Path(name) if kind == "file" else self.file
        try:
            return path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not text"
            raise Unavailable(
                f"The master key of the persons' keys cannot be read from {path}: {reason}. "
                "Restore it, or name its place in the setting master_key."
            ) from error


def _new() -> str:
    return base64.b64encode(secrets.token_bytes(32)).decode()
