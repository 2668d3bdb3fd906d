"""Identifiers for new things: a readable prefix and random hexadecimal digits."""

from __future__ import annotations

import os
import random
import re
import secrets
import time
from collections.abc import Iterable
from typing import TypeVar

from modelyard.core.errors import Invalid

# Its own, so that nobody's random.seed() makes ids repeat; unlike the kernel's, it is asked without letting other threads go
# first. What it gives is unique, not secret.
_chance = random.Random()  # noqa: S311
os.register_at_fork(after_in_child=_chance.seed)
T = TypeVar("T")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@+ -]{0,127}\Z")


def new_id(prefix: str) -> str:
    """A new identifier, for example `dep_4f1d09c2ab7e61c3`."""
    return f"{prefix}_{secrets.token_hex(8)}"


def ordered_id(prefix: str) -> str:
    """A new identifier that sorts behind those of earlier milliseconds, so that an index of very many fills in order."""
    return f"{prefix}_{time.time_ns() // 1_000_000:012x}{_chance.getrandbits(48):012x}"


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


def checked_list(values: Iterable[T], what: str) -> list[T]:
    """The values as a list; Invalid for one text, which would be taken apart into its letters.

    >>> checked_list("amount", "features")
    Traceback (most recent call last):
    modelyard.core.errors.Invalid: features is a list. Pass ['amount'].
    """
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise Invalid(f"{what} is a list. Pass [{values!r:.80}].")
    return list(values)
