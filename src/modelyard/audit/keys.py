"""The log's signing keys: made on first use in the store's folder, readable by their owner alone."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterable
from pathlib import Path

from modelyard.audit.keyring import Keyring
from modelyard.audit.notes import PublicKey, SigningKey
from modelyard.core.errors import Damaged, Unavailable, YardError
from modelyard.core.files import PRIVATE, place_whole, replace_whole


class KeyFolder:
    """`FOLDER/keys/audit.ed25519` (secret, mode 0600) and `audit.ed25519.pub` beside it.

    `audit.ed25519.next` is there while the log goes over to a new key; `audit.mldsa44` if checkpoints are signed by
    ML-DSA-44 too.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "keys"
        self.secret = self.folder / "audit.ed25519"
        self.public_file = self.folder / "audit.ed25519.pub"
        self.next = self.folder / "audit.ed25519.next"
        self.cosigning = self.folder / "audit.mldsa44"

    def signing(self) -> SigningKey | None:
        """The signing key, None where this folder has none."""
        text = _read(self.secret)
        return None if text is None else SigningKey.parse(text)

    def public(self) -> PublicKey:
        """The public key; Unavailable where this folder has neither file."""
        text = _read(self.public_file)
        if text is not None:
            return PublicKey.parse(text.partition("\n\n")[0])
        key = self.signing()
        if key is None:
            raise Unavailable(f"{self.public_file} is missing. Restore it, or pass public_key_path.")
        return key.public

    def created(self) -> SigningKey:
        """The signing key, made now unless it exists; when two make it at once, both get the first one's."""
        key = self.signing() or self._made()
        if not self.public_file.exists():
            place_whole(self.public_file, f"{key.public}\n")
        return key

    def pending(self) -> SigningKey | None:
        """The key that the log is going over to, None unless it is."""
        text = _read(self.next)
        return None if text is None else SigningKey.parse(text)

    def stage(self, name: str) -> SigningKey:
        """A new key of the same log, kept beside the present one until `promote`."""
        key = SigningKey(name, secrets.token_bytes(32))
        replace_whole(self.next, key.text() + "\n", PRIVATE)
        return key

    def promote(self, key: SigningKey, statements: Iterable[str]) -> None:
        """Sign with the staged key from now on. The public key's file leads to the older keys by the statements."""
        replace_whole(self.public_file, "\n".join([f"{key.public}\n", *statements]))
        replace_whole(self.secret, key.text() + "\n", PRIVATE)
        with contextlib.suppress(FileNotFoundError):
            self.next.unlink()

    def cosigner_seed(self) -> bytes | None:
        """The seed of the ML-DSA-44 key, None where there is none."""
        text = _read(self.cosigning)
        if text is None:
            return None
        try:
            return bytes.fromhex(text)
        except ValueError as error:
            raise Damaged(f"{self.cosigning} is no key file. Restore it from a backup.") from error

    def made_cosigner_seed(self) -> bytes:
        """The seed of the ML-DSA-44 key, made now unless it exists."""
        place_whole(self.cosigning, secrets.token_bytes(32).hex() + "\n", PRIVATE)
        seed = self.cosigner_seed()
        if seed is None:
            raise Damaged(f"{self.cosigning} vanished as it was written. Check who else uses the folder.")
        return seed

    def _made(self) -> SigningKey:
        key = SigningKey(f"modelyard/audit/{secrets.token_hex(8)}", secrets.token_bytes(32))
        place_whole(self.secret, key.text() + "\n", PRIVATE)
        found = self.signing()
        if found is None:
            raise Damaged(f"{self.secret} vanished as it was written. Check who else uses the folder.")
        return found


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise Damaged(f"{path} is no key file. Restore it from a backup.") from error
    except OSError as error:
        raise Unavailable(f"{path} cannot be read: {error.strerror}. Only its owner may read it.") from error


def keyring_at(path: str | Path) -> Keyring:
    """The public key in a file someone passed, with the keys that statements behind it lead to."""
    text = _read(Path(path))
    if text is None:
        raise Unavailable(f"There is no public key file {path}.")
    try:
        return Keyring.parse(text)
    except YardError as error:
        raise Damaged(f"{path} holds no public key of a log: {error}") from error
