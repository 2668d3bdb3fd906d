"""Secrets: the text of a token, its keyed digest, the pepper's file, and secrets that are named instead of written."""

from __future__ import annotations

import hmac
import os
import re
import secrets
import zlib
from pathlib import Path

from modelyard.core.errors import Damaged, Invalid, Unavailable
from modelyard.core.files import PRIVATE, place_whole

PREFIX = "myd_"  # lets secret scanners recognise a token
DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
BODY, CHECK = 43, 6  # base-62 digits of 256 bits, and of a CRC-32
_TOKEN = re.compile(rf"{PREFIX}[0-9A-Za-z]{{{BODY + CHECK}}}\Z", re.ASCII)


def token_of(entropy: bytes) -> str:
    """The token that 32 random bytes make: prefix, 43 base-62 digits, and their CRC-32 in 6 more.

    A scanner tells a token from any other text by its checksum, without asking the server.

    >>> token_of(bytes(32))
    'myd_00000000000000000000000000000000000000000002CZclj'
    """
    body = _base62(int.from_bytes(entropy), BODY)
    return PREFIX + body + _base62(zlib.crc32(body.encode()), CHECK)


def new_token() -> str:
    """A token of 256 random bits."""
    return token_of(secrets.token_bytes(32))


def well_formed(token: str) -> bool:
    """True if the text is a token, its checksum included.

    >>> well_formed(token_of(bytes(32))), well_formed(token_of(bytes(32))[:-1] + "x")
    (True, False)
    """
    if not _TOKEN.match(token):
        return False
    body = token[len(PREFIX) : -CHECK]
    return _base62(zlib.crc32(body.encode()), CHECK) == token[-CHECK:]


def _base62(number: int, width: int) -> str:
    digits = []
    while number:
        number, rest = divmod(number, 62)
        digits.append(DIGITS[rest])
    return "".join(reversed(digits)).rjust(width, "0")


class Pepper:
    """`FOLDER/keys/token.pepper`, 32 random bytes of mode 0600: without it the digests of tokens are of no use."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "keys" / "token.pepper"
        self._value = b""

    @property
    def value(self) -> bytes:
        """The pepper; made on first use, and the same for all that use the folder."""
        if not self._value:
            self._value = self._read() or self._made()
        return self._value

    def key(self, token: str) -> bytes:
        """What is kept of a token: HMAC-SHA-256 under the pepper. 256 random bits need no slow hash."""
        return hmac.digest(self.value, token.encode("utf-8", "replace"), "sha256")

    def _read(self) -> bytes:
        try:
            found = bytes.fromhex(self.file.read_text().strip())
        except FileNotFoundError:
            return b""
        except ValueError as error:
            raise Damaged(f"{self.file} is no pepper. Restore it from a backup.") from error
        except OSError as error:
            raise Unavailable(f"{self.file} cannot be read: {error.strerror}. Only its owner may read it.") from error
        if len(found) != 32:
            raise Damaged(f"{self.file} is no pepper. Restore it from a backup.")
        return found

    def _made(self) -> bytes:
        place_whole(
            self.file, f"{secrets.token_hex(32)}\n", PRIVATE
        )  # when two make it at once, both take the first one's
        return self._read()


def told(reference: str, what: str) -> str:
    """The secret that a reference names: env:NAME for a variable, file:PATH for a file. A secret itself is refused.

    >>> told("hunter2", "password")
    Traceback (most recent call last):
    modelyard.core.errors.Invalid: The password is named, not written: env:NAME or file:PATH.
    """
    kind, _, name = reference.partition(":")
    if kind == "env" and name:
        found = os.environ.get(name, "")
    elif kind == "file" and name:
        try:
            found = Path(name).read_text().rstrip("\r\n")
        except (OSError, ValueError) as error:
            raise Unavailable(
                f"The {what} cannot be read from {name!r}. Check the path and its permissions."
            ) from error
    else:
        raise Invalid(f"The {what} is named, not written: env:NAME or file:PATH.")
    if not found:
        raise Unavailable(f"{reference} holds no {what}. Set it and try again.")
    return found
