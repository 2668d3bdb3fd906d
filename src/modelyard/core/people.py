"""People by name: who acts, and when two names are one person's."""

from __future__ import annotations

import re
import unicodedata

from modelyard.core.errors import Invalid

LONGEST_NAME = 256

# Characters that print as nothing, though some count as printable: Unicode's Default_Ignorable_Code_Point, which the
# standard library does not know, and the empty Braille pattern.
_UNSEEN = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u2800\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
# Small letters, and those whose capital does, that are drawn like a Latin one: from Unicode's confusables.txt (UTS 39),
# the Cyrillic, Greek, Armenian and Latin ones that occur in words.
_LOOKALIKES = str.maketrans(
    "авекмнорстухіјѕԁԛԝһӏαβεηικνορτυχϳօսհոցıɑɡ",
    "abekmhopctyxijsdqwhlabehiknoptuxjouhngiag",
)


def checked_person(person: str, what: str) -> str:
    """The person's name if there is one.

    >>> checked_person("", "approver")
    Traceback (most recent call last):
    modelyard.core.errors.Invalid: approver is ''. Name a person, for example ana@example.com.
    """
    named = isinstance(person, str) and len(person) <= LONGEST_NAME and person.isprintable() and folded(person)
    if not named:
        raise Invalid(f"{what} is {person!r:.80}. Name a person, for example ana@example.com.")
    return person


def folded(person: str) -> str:
    """One form for all spellings of a person's name, so that nobody becomes another by writing it differently.

    >>> folded(" Ana@Example.com") == folded("ana@example.com") == folded("ana\u034f@example.com")
    True
    """
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", person).casefold())
    return " ".join(_UNSEEN.sub("", text).split())


def likeness(person: str) -> str:
    """One form for all names that look the same on a screen, in other alphabets too.

    For refusing: whoever looks like a barred person is barred. For granting it would let a lookalike in; use `folded`.

    >>> likeness("аna@example.com") == likeness("ana@example.com")  # the first begins with a Cyrillic letter
    True
    """
    return folded(person).translate(_LOOKALIKES)


def everybody_in(text: str) -> set[str]:
    """The likenesses of all whom a text may name: itself, the parts of a list, and the addresses in it.

    >>> sorted(everybody_in("Ana <ana@example.com>; Max"))
    ['ana', 'ana <ana@example.com>', 'ana <ana@example.com>; max', 'ana@example.com', 'max']
    """
    parts = [text, *re.split(r"[,;&\n]", text)]
    parts += re.findall(r"[^\s<>(),;&]+@[^\s<>(),;&]+", text)
    parts += [re.sub(r"[<(].*", "", part) for part in parts]
    return {likeness(part) for part in parts} - {""}
