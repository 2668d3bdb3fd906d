"""Listings by filter and words: the fields that a filter may name, and how an answer is paged."""

from __future__ import annotations

from datetime import UTC, datetime

from modelyard.core.errors import Invalid, nearest
from modelyard.core.filters import Bound, Condition, Order, clause, parse, parse_order
from modelyard.core.pages import Page, page_token, read_token
from modelyard.core.ports import Connection, Row
from modelyard.marketplace import store
from modelyard.marketplace.rules import MOST, words
from modelyard.marketplace.values import Listing

TEXTS = {
    "model": "l.model",
    "version": "l.version",
    "licence": "l.licence",
    "owner": "l.owner",
    "project": "l.project",
    "visibility": "l.visibility",
    "published_by": "l.published_by",
    "summary": "l.summary",
    "stage": "v.stage",
    "framework": "v.framework",
}
NUMBERS = {"fetches": "l.fetches", "ratings": "l.ratings", "rating": store.RATING}
TIMES = {"published_at": "l.published_at"}
ORDERS = {  # field -> (SQL, the row's column)
    "published_at": ("l.published_at", "published_at"),
    "model": ("l.model", "model"),
    "fetches": ("l.fetches", "fetches"),
    "rating": (store.RATING, "mean"),
}


def page(rows: Connection, filter: str, text: str, order_by: str, *, limit: int, page_token: str) -> Page[Listing]:
    """One page of the listings that are shown, without their cards."""
    if type(limit) is not int or not 1 <= limit <= MOST:
        raise Invalid(f"limit is {limit!r:.40}. Pass 1 to {MOST:,}, and page on with next_page_token.")
    bound, query = Bound(), "\n".join((filter, text, order_by))
    order = parse_order(order_by or "published_at DESC")
    sql, column = _order(order)
    parts = ["l.status = 'listed'", clause(parse(filter), lambda condition: _compare(bound, condition))]
    parts += [f"l.words LIKE {bound.bind(_pattern(word))} ESCAPE '\\'" for word in words(text).split()]
    if page_token:
        parts.append(_behind(bound, sql, order, read_token(page_token, query)))
    direction = " DESC" if order.descending else ""
    found = store.search(
        rows, " AND ".join(parts), f"{sql}{direction}, l.listing_id{direction}", bound.values, limit + 1
    )
    return _page(found, column, query, limit)


def _page(found: list[Row], column: str, query: str, limit: int) -> Page[Listing]:
    token = ""
    if len(found) > limit:
        last = found[limit - 1]
        token = page_token([last[column], last["listing_id"]], query)
    return Page(items=tuple(store.listing_from({**row, "card": ""}) for row in found[:limit]), next_page_token=token)


def _order(order: Order) -> tuple[str, str]:
    if order.field.kind or order.field.key not in ORDERS:
        raise Invalid(f"Listings cannot be ordered by {order.field!s:.80}. {nearest(str(order.field), list(ORDERS))}")
    return ORDERS[order.field.key]


def _behind(bound: Bound, sql: str, order: Order, position: list[str | float | None]) -> str:
    if len(position) != 2 or any(one is None for one in position):
        raise Invalid("The page token is none of this query's. Pass the next_page_token of its last answer.")
    sign = "<" if order.descending else ">"
    return f"({sql}, l.listing_id) {sign} ({bound.bind(position[0])}, {bound.bind(position[1])})"


def _compare(bound: Bound, condition: Condition) -> str:
    field, value = condition.field, condition.value
    known = {**TEXTS, **NUMBERS, **TIMES}
    if field.kind or field.key not in known:
        raise Invalid(f"A listing has no field {field!s:.80}. {nearest(str(field), list(known))}")
    if field.key in TIMES and isinstance(value, str) and condition.comparator not in ("LIKE", "ILIKE"):
        return bound.compare(f"({known[field.key]} / 1000)", _with_time(condition, value))
    if field.key in TEXTS and isinstance(value, float):
        raise Invalid(f"{field} is a text. Compare it with one in quotes: {field} = 'text'")
    if field.key not in TEXTS and value is not None and not isinstance(value, float):
        raise Invalid(f"{field} is a number. Compare it with one by = != < <= > >=, without quotes.")
    column = f"({known[field.key]} / 1000)" if field.key in TIMES else known[field.key]
    return bound.compare(column, condition)


def _with_time(condition: Condition, value: str) -> Condition:
    try:
        moment = datetime.fromisoformat(value)
    except ValueError as error:
        raise Invalid(f"{condition.field} is a time. Write it as '2026-01-31T12:00:00'.") from error
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    millis = float(int(moment.timestamp() * 1000))
    return Condition(field=condition.field, comparator=condition.comparator, value=millis)


def _pattern(word: str) -> str:
    escaped = word.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return f"%{escaped}%"
