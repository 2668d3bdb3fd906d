"""Signing secrets: named by reference, or encrypted under a key that lies beside the database and never in it."""

from __future__ import annotations

import base64
import binascii
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from modelyard.core.errors import Damaged, Invalid, Unavailable
from modelyard.core.files import PRIVATE, place_whole

LONGEST = 4096
MOUNTED = Path("/run/secrets")  # where containers put secrets
ENVIRONMENT = "MODELYARD_SECRET_"  # a caller must not have messages signed with any other variable of the server's
STORED = "stored:"


class Vault:
    """Keeps the secrets of a store's webhooks. What it returns for storing is safe to store: never the secret itself."""

    def __init__(self, folder: Path, environment: Mapping[str, str] = os.environ) -> None:
        self.key_file = folder / "keys" / "webhooks.aes256"
        self.roots = (folder / "secrets", MOUNTED)
        self._environment = environment

    def kept(self, secret: str, webhook_id: str) -> str:
        """What is stored for a secret: "" for none, the reference itself, or the encrypted secret.

        A reference is looked up now, so that a misspelt one is refused before anything is signed with it.
        """
        if not secret:
            return ""
        if _is_reference(secret):
            self._referred(secret)
            return secret
        text = _checked(secret.encode("utf-8", "surrogatepass"), "The secret")
        nonce = secrets.token_bytes(12)
        sealed = AESGCM(self._key(make=True)).encrypt(nonce, text, webhook_id.encode())
        return STORED + base64.b64encode(nonce + sealed).decode()

    def secret(self, kept: str, webhook_id: str) -> bytes:
        """The secret to sign with; b"" where there is none. Unavailable or Damaged where it cannot be had."""
        if not kept:
            return b""
        if not kept.startswith(STORED):
            return self._referred(kept)
        try:
            sealed = base64.b64decode(kept.removeprefix(STORED), validate=True)
            return AESGCM(self._key(make=False)).decrypt(sealed[:12], sealed[12:], webhook_id.encode())
        except (InvalidTag, binascii.Error, ValueError) as error:
            raise Damaged(
                f"The secret of {webhook_id} cannot be decrypted with {self.key_file}. Set it anew: "
                f"modelyard webhooks update-webhook {webhook_id} --secret env:{ENVIRONMENT}NAME"
            ) from error

    def _referred(self, reference: str) -> bytes:
        kind, _, name = reference.partition(":")
        return self._variable(name) if kind == "env" else self._file(name)

    def _variable(self, name: str) -> bytes:
        if not name.startswith(ENVIRONMENT):
            raise Invalid(f"The secret env:{name} cannot be used: the variable's name must start with {ENVIRONMENT}.")
        value = self._environment.get(name, "")
        if not value:
            raise Unavailable(
                f"The environment variable {name} with a webhook's secret is not set. Set it and restart."
            )
        return _checked(value.encode("utf-8", "surrogateescape"), f"The secret in {name}")

    def _file(self, name: str) -> bytes:
        """The content of a file without the newline at its end. Only files that are kept for this can be named."""
        path = self.roots[0] / name  # an absolute name stands for itself
        try:
            real = path.resolve(strict=True)
            if not any(real.is_relative_to(root.resolve()) for root in self.roots):
                raise Invalid(f"The secret file:{name} lies outside. Put it into {self.roots[0]} or {MOUNTED}.")
            with real.open("rb") as file:
                content = file.read(LONGEST + 2)
        except (OSError, ValueError, RuntimeError) as error:
            if isinstance(error, Invalid):
                raise
            raise Unavailable(
                f"The secret file:{name} cannot be read. Put it into {self.roots[0]} or {MOUNTED}, readable for the server."
            ) from error
        return _checked(content.removesuffix(b"\n").removesuffix(b"\r"), f"The secret in file:{name}")

    def _key(self, *, make: bool) -> bytes:
        """The key of this folder, made on first use, readable by its owner alone."""
        try:
            if make and not self.key_file.exists():
                place_whole(self.key_file, base64.b64encode(AESGCM.generate_key(256)).decode(), PRIVATE)
            return base64.b64decode(self.key_file.read_bytes(), validate=True)
        except FileNotFoundError as error:
            raise Unavailable(
                f"Webhook secrets are encrypted with a key that is not in {self.key_file.parent}. "
                "Copy keys/webhooks.aes256 from where they were set."
            ) from error
        except binascii.Error as error:
            raise Damaged(f"{self.key_file} is no key file. Restore it from a backup.") from error
        except OSError as error:
            raise Unavailable(f"{self.key_file} cannot be used: {error.strerror}. Check its permissions.") from error


def origin(kept: str) -> str:
    """Where a stored secret comes from, as it may be shown."""
    return "stored" if kept.startswith(STORED) else kept


def _is_reference(secret: str) -> bool:
    return secret.startswith(("env:", "file:"))


def _checked(secret: bytes, what: str) -> bytes:
    if not 0 < len(secret) <= LONGEST:
        raise Invalid(f"{what} must have 1 to {LONGEST} bytes.")
    return secret
