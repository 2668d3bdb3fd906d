"""Identifiers for new things: a readable prefix and random hexadecimal digits."""

from __future__ import annotations

import re
import secrets
import time

from modelyard.core.errors import Invalid

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@+ -]{0,127}\Z")


def new_id(prefix: str) -> str:
    """A new identifier, for example `dep_4f1d09c2ab7e61c3`."""
    return f"{prefix}_{secrets.token_hex(8)}"


def ordered_id(prefix: str) -> str:
    """A new identifier that sorts behind those of earlier milliseconds, so that an index of very many fills in order."""
    return f"{prefix}_{time.time_ns() // 1_000_000:012x}{secrets.token_hex(6)}"


def checked_name(name: str, what: str) -> str:
    """The name itself if it is a good one: 1 to 128 letters, digits, spaces and `_.@+-`, starting with a letter or digit.

    >>> checked_name("fraud_detector", "model")
    'fraud_detector'
    >>> checked_name("../etc", "model")
    Traceback (most recent call last):
    modelyard.core.errors.Invalid: '../etc' is no model name. Use 1 to 128 letters, ...
    """
    if not isinstance(name, str) or not _NAME.match(name):
        raise Invalid(
            f"{name!r} is no {what} name. Use 1 to 128 letters, digits, spaces "
            "and _.@+-, starting with a letter or digit."
        )
    return name
