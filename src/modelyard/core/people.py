"""People by name: who acts, and when two names are one person's."""

from __future__ import annotations

import unicodedata

from modelyard.core.errors import Invalid

LONGEST_NAME = 256


def checked_person(person: str, what: str) -> str:
    """The person's name if there is one.

    >>> checked_person("", "approver")
    Traceback (most recent call last):
    modelyard.core.errors.Invalid: approver is ''. Name a person, for example ana@example.com.
    """
    if not isinstance(person, str) or not person.strip() or len(person) > LONGEST_NAME or not person.isprintable():
        raise Invalid(f"{what} is {person!r:.80}. Name a person, for example ana@example.com.")
    return person


def folded(person: str) -> str:
    """One form for all spellings of a person's name, so that nobody becomes another by writing it differently.

    >>> folded(" Ana@Example.com") == folded("ana@example.com")
    True
    """
    return unicodedata.normalize("NFKC", person).casefold().strip()
