"""What may stand in the catalogue, and who may do what there. Pure."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from typing import Any

from modelyard.core.canonical import dumps
from modelyard.core.decisions import Decision, Verdict
from modelyard.core.errors import Invalid, nearest
from modelyard.core.instants import Instant
from modelyard.core.people import folded
from modelyard.marketplace.values import AccessRequest, Listing, RequestState, Visibility

SUMMARY_LIMIT = 500
TEXT_LIMIT = 10_000
CARD_LIMIT = 200_000
WORDS_LIMIT = 20_000  # folded characters that full text is searched in
LONGEST_DAYS = 3_660.0
MOST = 1_000  # rows of one answer
STARS = (1, 5)
# An SPDX licence expression (https://spdx.github.io/spdx-spec/v2.3/SPDX-license-expressions/): its words and joints.
_LICENCE_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,98}\+?\Z")
_JOINTS = ("AND", "OR", "WITH")
_LICENCE_TOKEN = re.compile(r" *([()]|[^ ()]+)")
ALLOW = Decision(verdict=Verdict.ALLOW)


def refuse(reason: str) -> Decision:
    """A refusal with its reason."""
    return Decision(verdict=Verdict.REFUSE, reasons=(reason,))


def checked_text(text: str, what: str, limit: int = TEXT_LIMIT) -> str:
    """The text if it is valid Unicode without NUL and not endless."""
    whole = isinstance(text, str) and "\0" not in text and not any("\ud800" <= one <= "\udfff" for one in text)
    if not whole or len(text) > limit:
        raise Invalid(f"{what} is no text of at most {limit:,} characters.")
    return text


def checked_licence(licence: str) -> str:
    """The licence itself if it reads as an SPDX expression: identifiers joined by AND, OR and WITH, in parentheses or not.

    >>> checked_licence("Apache-2.0 OR (GPL-2.0+ WITH Classpath-exception-2.0)")
    'Apache-2.0 OR (GPL-2.0+ WITH Classpath-exception-2.0)'
    >>> checked_licence("ask me")
    Traceback (most recent call last):
    modelyard.core.errors.Invalid: licence is 'ask me'. Write an SPDX expression such as Apache-2.0 or MIT ...
    """
    plain = isinstance(licence, str) and len(licence) <= SUMMARY_LIMIT and licence.isascii() and licence.isprintable()
    tokens = _LICENCE_TOKEN.findall(licence) if plain else []
    if not tokens or not _is_expression(tokens):
        raise Invalid(
            f"licence is {licence!r:.80}. Write an SPDX expression such as Apache-2.0 or MIT (https://spdx.org/licenses); "
            "a licence of your own is LicenseRef-NAME."
        )
    return licence


def _is_expression(tokens: list[str]) -> bool:
    depth, wants_word = 0, True
    for token in tokens:
        if wants_word and token == "(":
            depth += 1
        elif wants_word:
            if token in (*_JOINTS, ")") or not _LICENCE_WORD.match(token):
                return False
            wants_word = False
        elif token == ")":
            depth -= 1
        elif token in _JOINTS:
            wants_word = True
        else:
            return False
        if depth < 0:
            return False
    return depth == 0 and not wants_word


def checked_stars(stars: int) -> int:
    """The number of stars itself, 1 to 5."""
    if type(stars) is not int or not STARS[0] <= stars <= STARS[1]:
        raise Invalid(f"stars is {stars!r:.40}. Give {STARS[0]} to {STARS[1]}.")
    return stars


def checked_days(days: float) -> float:
    """A number of days that access may last."""
    if isinstance(days, bool) or not isinstance(days, int | float) or not 0 < days <= LONGEST_DAYS:
        raise Invalid(f"days is {days!r:.40}. Pass a number above 0, at most {LONGEST_DAYS:g}.")
    return float(days)


def checked_limit(limit: int) -> int:
    """How many rows may be asked for at once."""
    if type(limit) is not int or not 1 <= limit <= MOST:
        raise Invalid(f"limit is {limit!r:.40}. Pass 1 to {MOST:,}.")
    return limit


def visibility_of(visibility: Visibility | str) -> Visibility:
    """The visibility of that name."""
    known = {one.value: one for one in Visibility}
    value = visibility.value if isinstance(visibility, Visibility) else visibility
    if value not in known:
        raise Invalid(f"There is no visibility {value!r:.40}. {nearest(str(value), list(known))}")
    return known[value]


def card_text(title: str, card: Mapping[str, Any]) -> str:
    """A card in Markdown: a heading for each entry, texts as they are, lists as items, anything else as JSON.

    >>> print(card_text("fraud v1.0.0", {"intended_use": "Card payments.", "limits": ["no gift cards"]}))
    # fraud v1.0.0
    <BLANKLINE>
    ## Intended use
    <BLANKLINE>
    Card payments.
    <BLANKLINE>
    ## Limits
    <BLANKLINE>
    - no gift cards
    """
    parts = [f"# {title}"]
    for key, value in card.items():
        heading = str(key).replace("_", " ").strip()
        parts.append(f"## {heading[:1].upper()}{heading[1:]}")
        if isinstance(value, list | tuple):
            parts.append("\n".join(f"- {one if isinstance(one, str) else dumps(one)}" for one in value))
        else:
            parts.append(value if isinstance(value, str) else f"```json\n{dumps(value, indent=2)}\n```")
    return checked_text("\n\n".join(parts), "card", CARD_LIMIT)


def words(*texts: str) -> str:
    """What full text is searched in."""
    return unicodedata.normalize("NFKC", " ".join(texts)).casefold()[:WORDS_LIMIT]


def is_owner(listing: Listing, person: str) -> bool:
    """Whether the listing is the person's own."""
    return folded(person) in {folded(listing.owner), folded(listing.published_by)}


def is_version(listing: Listing, model: str, version: str) -> bool:
    """Whether the listing is of that version, with or without a leading v."""
    return listing.model == model and listing.version.removeprefix("v") == version.removeprefix("v")


def may_have(listing: Listing, person: str, requests: list[AccessRequest], now: Instant) -> Decision:
    """Whether the person may read the card and fetch the package."""
    if listing.visibility is Visibility.OPEN or is_owner(listing, person):
        return ALLOW
    granted = [one for one in requests if one.status is RequestState.GRANTED]
    if any(one.expires_at is None or one.expires_at > now for one in granted):
        return ALLOW
    why = "your access has expired" if granted else "it is restricted"
    return refuse(
        f"{person} may not have {listing.model} {listing.version}: {why}. Ask {listing.owner}: "
        f"modelyard marketplace request-access {listing.listing_id} --reason WHY"
    )


def may_manage(listing: Listing, person: str) -> Decision:
    """Whether the person may decide on requests and withdraw the listing."""
    if is_owner(listing, person):
        return ALLOW
    return refuse(f"{listing.listing_id} is {listing.owner}'s; {person} cannot decide for them. Ask {listing.owner}.")


def may_decide(listing: Listing, request: AccessRequest, person: str) -> Decision:
    """Whether the person may decide on the request: owners may, though never on their own requests."""
    if folded(person) == folded(request.requested_by):
        return refuse(f"{person} asked for this access and cannot decide on it. Ask {listing.owner}.")
    return may_manage(listing, person)


def may_rate(listing: Listing, person: str) -> Decision:
    """Whether the person may rate: nobody rates what is their own."""
    if is_owner(listing, person):
        return refuse(f"{person} owns or published {listing.listing_id}, and cannot rate it.")
    return ALLOW
