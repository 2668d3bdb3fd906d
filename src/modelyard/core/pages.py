"""A page of a long answer, and the token that the next page is asked for with."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from modelyard.core.errors import Invalid

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Generic[T]):
    """Some items of a longer answer; `next_page_token` asks for those that follow and is "" on the last page."""

    items: tuple[T, ...]
    next_page_token: str = ""


def page_token(position: Sequence[str | float | None], query: str) -> str:
    """The token that goes on behind a position of the answer to a query, which is any text that tells queries apart.

    >>> read_token(page_token([0.9, "run_1"], "metrics.auc > 0.5"), "metrics.auc > 0.5")
    [0.9, 'run_1']
    """
    text = json.dumps([_digest(query), *position])  # not canonical JSON, which writes 1e16 as an integer
    return base64.urlsafe_b64encode(text.encode()).decode()


def read_token(token: str, query: str) -> list[str | float | None]:
    """The position that a token stands for; Invalid if it is damaged or belongs to another query.

    >>> read_token("nonsense", "")
    Traceback (most recent call last):
    modelyard.core.errors.Invalid: The page token is none of this query's. Pass the next_page_token of its last answer.
    """
    position: list[str | float | None]
    try:
        whose, *position = json.loads(base64.b64decode(token.encode(), altchars=b"-_", validate=True))
    except (binascii.Error, UnicodeError, ValueError, TypeError):
        whose, position = "", []
    if whose != _digest(query) or not all(one is None or isinstance(one, str | int | float) for one in position):
        raise Invalid("The page token is none of this query's. Pass the next_page_token of its last answer.")
    return position


def _digest(query: str) -> str:
    return hashlib.sha256(query.encode("utf-8", "surrogatepass")).hexdigest()[:16]
