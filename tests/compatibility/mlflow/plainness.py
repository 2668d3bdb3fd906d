"""One plain form for what clients answer, in which ids, moments, addresses and folders are the same for every server."""

from __future__ import annotations

import re
from enum import Enum
from typing import Any

MOMENT = 1_500_000_000_000  # whole milliseconds since 1970; smaller numbers are figures
_IDS = re.compile(
    r"\bwhk_[0-9a-f]+\b|\bm-[0-9a-f]{32}\b|\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b|\b[0-9a-f]{32}\b"
)
_COMMIT = re.compile(r"\b[0-9a-f]{40}\b")  # the client tags its runs with the checkout's, which may move meanwhile
_MOMENTS = re.compile(r"\b1[5-9]\d{11}\b|\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)?")
_SET = re.compile(r"\{'[^{}]*'\}")


def plain(value: Any) -> Any:
    """The value in JSON's own types; an entity of MLflow's becomes an object with its properties."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else str(value)
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        items = [plain(item) for item in (sorted(value, key=str) if isinstance(value, set | frozenset) else value)]
        return {"items": items, "more": bool(value.token)} if hasattr(value, "token") else items
    if hasattr(value, "to_dictionary"):
        return plain(value.to_dictionary())
    if hasattr(type(value), "_properties"):
        return {name: plain(item) for name, item in value}
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if hasattr(value, "__dict__"):
        return {name.lstrip("_"): plain(item) for name, item in vars(value).items()}
    return str(value)


class Normal:
    """Replaces what differs between any two servers; the same id becomes the same word throughout one scenario."""

    def __init__(self, texts: dict[str, str]) -> None:
        self._texts = dict(texts)
        self._ids: dict[str, str] = {}

    def known(self, kind: str, identifier: str) -> str:
        """Give a plain number such as an experiment's id a word of its own."""
        self._ids.setdefault(
            identifier, f"<{kind} {sum(word.startswith(f'<{kind} ') for word in self._ids.values()) + 1}>"
        )
        return identifier

    def __call__(self, value: Any) -> Any:
        """The value with ids, moments, addresses and folders replaced."""
        if isinstance(value, dict):  # who a run belongs to is what a client says in MLflow, and who it is here
            return {self(key): "<user>" if key == "user_id" else self(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self(item) for item in value]
        if isinstance(value, int) and not isinstance(value, bool) and value >= MOMENT:
            return "<moment>"
        return self._text(value) if isinstance(value, str) else value

    def _text(self, text: str) -> str:
        for known, word in self._texts.items():
            text = text.replace(known, word)
        text = _COMMIT.sub("<commit>", text)
        text = _MOMENTS.sub("<moment>", _IDS.sub(lambda found: self._word(found[0]), text))
        text = _SET.sub(lambda found: "{" + ", ".join(sorted(found[0][1:-1].split(", "))) + "}", text)
        for identifier, word in self._ids.items():
            if not identifier.isdigit():
                continue
            if text == identifier:
                return word
            text = re.sub(
                rf"(?<=artifacts:/){identifier}(?=/)|(?<=id=){identifier}\b|(?<=experiment ){identifier}\b", word, text
            )
            text = re.sub(rf"(?<=artifacts/){identifier}(?=/)|(?<=artifacts:/){identifier}$", word, text)
        return text

    def _word(self, identifier: str) -> str:
        if identifier not in self._ids:
            kind = "model" if identifier.startswith("m-") else "id"
            self.known(kind, identifier)
        return self._ids[identifier]
