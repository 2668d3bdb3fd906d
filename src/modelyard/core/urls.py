"""URLs as they may be shown: what is secret in them stands for itself only where it is used."""

from __future__ import annotations

import re

HIDDEN = "(hidden)"
# As far as the last @, since a password may hold any character by mistake.
_PASSWORD = re.compile(r"(://[^:/?#@\s]*:)\S*(?=@)")
_QUERY = re.compile(r"(?i)([?&;](?:[\w-]*(?:password|passwd|secret|token|key|signature|credential)[\w-]*)=)[^&;#\s]*")


def without_secrets(text: str) -> str:
    """The text with the passwords of its URLs hidden, and what their queries call a secret. It need not be a good URL.

    >>> without_secrets("postgresql://ann:hunter2@db/yard?sslmode=require&sslpassword=x")
    'postgresql://ann:(hidden)@db/yard?sslmode=require&sslpassword=(hidden)'
    """
    return _QUERY.sub(rf"\1{HIDDEN}", _PASSWORD.sub(rf"\1{HIDDEN}", text))
