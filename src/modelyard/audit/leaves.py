"""A leaf's bytes: canonical JSON of an event's row, one by one with a reason for refusing, and many at once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from json.encoder import encode_basestring
from typing import Any

from modelyard.core.errors import Damaged
from modelyard.core.work import EVENT_COLUMNS

LEAF_VERSION = 1
COLUMNS = ("position", *EVENT_COLUMNS)  # of an event's row, in the order in which the log reads them
EventRow = tuple[Any, ...]  # the values of COLUMNS, in order
Body = tuple[Any, ...]  # the same without the position
_MOST_REMEMBERED = 10_000


def leaf_bytes(index: int, integrated_at: int, event: EventRow) -> bytes:
    """The canonical JSON (RFC 8785) of a leaf: its index, the time it was integrated, and the whole event row.

    `details` is canonical JSON already and stands in the leaf as it is stored, so another spelling of the same value is
    another leaf. Damaged for a row that no modelyard wrote.

    >>> leaf_bytes(0, 5, (7, "e", "t", "s", "a", "r", "i", 0, "{}")).decode()[:44]
    '{"actor":"a","details":{},"event_id":"e","ev'
    """
    position, event_id, event_type, severity, actor, resource_type, resource_id, occurred_at, details = event
    if type(position) is not int or type(occurred_at) is not int or type(integrated_at) is not int:
        raise Damaged(f"The event of leaf {index} holds a number that no modelyard wrote.")
    texts = (event_id, event_type, severity, actor, resource_type, resource_id, details)
    if not all(type(text) is str for text in texts):
        raise Damaged(f"The event of leaf {index} holds a text that no modelyard wrote.")
    actor, event_id, event_type, resource_id, resource_type, severity = map(
        encode_basestring, (actor, event_id, event_type, resource_id, resource_type, severity)
    )
    return (
        f'{{"actor":{actor},"details":{details},"event_id":{event_id},"event_type":{event_type},"index":{index},'
        f'"integrated_at":{integrated_at},"occurred_at":{occurred_at},"position":{position},"resource_id":{resource_id},'
        f'"resource_type":{resource_type},"severity":{severity},"v":{LEAF_VERSION}}}'
    ).encode("utf-8", "surrogatepass")


def leaf_hashes(spans: Iterable[tuple[int, int, int, int]], bodies: Sequence[Body]) -> list[bytes]:
    """The leaf hashes of events in order. `spans` are (first index, first position, count, integrated_at) of events at
    consecutive positions; their counts sum to the events.

    Damaged for a text that no modelyard wrote; a number that none wrote makes another leaf.
    """
    sha, quote, quoted, at = hashlib.sha256, encode_basestring, Quoted(), 0
    hashes: list[bytes] = []
    for first, position, count, integrated_at in spans:
        ahead = position - first
        try:
            hashes += [  # the zero byte is RFC 6962's prefix of a leaf; `leaf_bytes` spells the same
                sha(
                    (
                        f'\0{{"actor":{quoted[actor]},"details":{"" + details},"event_id":{quote(event_id)},'
                        f'"event_type":{quoted[event_type]},"index":{index},"integrated_at":{integrated_at},'
                        f'"occurred_at":{occurred_at},"position":{index + ahead},"resource_id":{quoted[resource_id]},'
                        f'"resource_type":{quoted[resource_type]},"severity":{quoted[severity]},"v":{LEAF_VERSION}}}'
                    ).encode()
                ).digest()
                for index, (
                    event_id,
                    event_type,
                    severity,
                    actor,
                    resource_type,
                    resource_id,
                    occurred_at,
                    details,
                ) in enumerate(bodies[at : at + count], first)
            ]
        except (TypeError, UnicodeEncodeError) as error:
            raise Damaged(f"An event of the leaves from {first} on holds a text that no modelyard wrote.") from error
        at += count
    return hashes


class Quoted(dict[str, str]):
    """Texts and how JSON spells them; what is no text is a TypeError. Most of a log's texts return again and again."""

    def __missing__(self, text: str) -> str:
        if len(self) >= _MOST_REMEMBERED:
            self.clear()
        found = self[text] = encode_basestring(text)
        return found
