"""Local passwords: argon2id hashes, checked at the same cost whether or not there is such a person."""

from __future__ import annotations

import secrets
import threading
from functools import cache

from cryptography.exceptions import InvalidKey
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from modelyard.core.errors import Invalid

# OWASP Password Storage Cheat Sheet: argon2id with 19 MiB, two passes, one lane.
MEMORY_KIB, PASSES, LANES = 19 * 1024, 2, 1
SHORTEST, LONGEST = 12, 1024  # characters; NIST SP 800-63B asks for no rules beyond length
_AT_ONCE = threading.BoundedSemaphore(2)  # each takes 19 MiB


def hashed(password: str) -> str:
    """The argon2id hash of a password, in PHC form with its salt."""
    if not SHORTEST <= len(password) <= LONGEST:
        raise Invalid(f"A password has {SHORTEST} to {LONGEST} characters. Choose a longer phrase.")
    with _AT_ONCE:
        return _function(secrets.token_bytes(16)).derive_phc_encoded(_bytes(password))


def matches(password: str, phc: str | None) -> bool:
    """True if the hash is that of the password. Without a hash as much work is done, and the answer is False."""
    with _AT_ONCE:
        stranger = _nobodys()
        try:
            Argon2id.verify_phc_encoded(_bytes(password[: LONGEST + 1]), phc or stranger)
        except InvalidKey:
            return False
    return phc is not None


@cache
def _nobodys() -> str:
    return _function(bytes(16)).derive_phc_encoded(secrets.token_bytes(32))


def _function(salt: bytes) -> Argon2id:
    return Argon2id(salt=salt, length=32, iterations=PASSES, lanes=LANES, memory_cost=MEMORY_KIB)


def _bytes(password: str) -> bytes:
    return password.encode("utf-8", "surrogatepass")
