"""The log's signing key: made on first use in the store's folder, readable by its owner alone."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from modelyard.audit.notes import PublicKey, SigningKey
from modelyard.core.errors import Damaged, Unavailable, YardError


class KeyFolder:
    """`FOLDER/keys/audit.ed25519` (secret, mode 0600) and `audit.ed25519.pub` beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "keys"
        self.secret = self.folder / "audit.ed25519"
        self.public_file = self.folder / "audit.ed25519.pub"

    def signing(self) -> SigningKey | None:
        """The signing key, None where this folder has none."""
        text = _read(self.secret)
        return None if text is None else SigningKey.parse(text)

    def public(self) -> PublicKey:
        """The public key; Unavailable where this folder has neither file."""
        text = _read(self.public_file)
        if text is not None:
            return PublicKey.parse(text)
        key = self.signing()
        if key is None:
            raise Unavailable(f"{self.public_file} is missing. Restore it, or pass public_key_path.")
        return key.public

    def created(self) -> SigningKey:
        """The signing key, made now unless it exists; when two make it at once, both get the first one's."""
        key = self.signing() or self._made()
        if not self.public_file.exists():
            self._place(self.public_file, f"{key.public}\n", 0o644)
        return key

    def _made(self) -> SigningKey:
        key = SigningKey(f"modelyard/audit/{secrets.token_hex(8)}", secrets.token_bytes(32))
        self._place(self.secret, key.text() + "\n", 0o600)
        found = self.signing()
        if found is None:
            raise Damaged(f"{self.secret} vanished as it was written. Check who else uses the folder.")
        return found

    def _place(self, target: Path, text: str, mode: int) -> None:
        """Put a whole file there unless one stands there already."""
        part = target.with_name(f"{target.name}.{secrets.token_hex(4)}.part")
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
            try:
                os.write(handle, text.encode())
                os.fsync(handle)
            finally:
                os.close(handle)
            with contextlib.suppress(FileExistsError):
                os.link(part, target)
            part.unlink()
        except OSError as error:
            raise Unavailable(
                f"{target} cannot be written: {error.strerror}. Check the folder's permissions."
            ) from error


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise Damaged(f"{path} is no key file. Restore it from a backup.") from error
    except OSError as error:
        raise Unavailable(f"{path} cannot be read: {error.strerror}. Only its owner may read it.") from error


def public_key_at(path: str | Path) -> PublicKey:
    """The public key in a file someone passed."""
    text = _read(Path(path))
    if text is None:
        raise Unavailable(f"There is no public key file {path}.")
    try:
        return PublicKey.parse(text)
    except YardError as error:
        raise Damaged(f"{path} holds no public key of a log: {error}") from error
