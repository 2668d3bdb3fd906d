"""One rule from names to file names, for every file system: those that fold case, and those with reserved names.

Small letters, digits and `_`, `-`, `.` stay. A capital becomes `!` and the small letter (as Go's module cache does it),
every other byte `%` and two hexadecimal digits: so do a dot at either end, and the first letter of a name that Windows
keeps for devices. A result of more than 120 characters is cut, and ends in `~` and a digest of the name. The rule can be
read backwards, except for what was cut; the documents have every name in full, and an import compares.
"""

from __future__ import annotations

import hashlib
import re
from urllib.parse import unquote

from modelyard.core.errors import Damaged

LONGEST = 120  # of two names, what joins them and an ending, within the 255 bytes that file systems take
RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\.|\Z)")
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyz0123456789_-.")


def file_name(name: str) -> str:
    """The file name that stands for a name.

    >>> file_name("Fraud"), file_name("fraud"), file_name("v1.0.0+b 7"), file_name("aux.1")
    ('!fraud', 'fraud', 'v1.0.0%2bb%207', '%61ux.1')
    """
    found = "".join(_written(letter) for letter in name)
    if RESERVED.match(found) or found[:1] == ".":
        found = f"%{ord(found[0]):02x}{found[1:]}"
    if found[-1:] == ".":
        found = found[:-1] + "%2e"
    if len(found) > LONGEST:
        found = f"{found[: LONGEST - 33]}~{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}"
    return found


def name_of(found: str) -> str:
    """The name that a file name stands for; Damaged for one that was cut or that the rule does not make.

    >>> name_of("!fraud%20!detector")
    'Fraud Detector'
    """
    name = unquote(re.sub("!([a-z])", lambda match: match[1].upper(), found), errors="surrogatepass")
    if file_name(name) != found:
        raise Damaged(f"{found!r:.200} stands for no name. Read the name in the document.")
    return name


def _written(letter: str) -> str:
    if letter in _PLAIN:
        return letter
    if "A" <= letter <= "Z":
        return "!" + letter.lower()
    return "".join(f"%{byte:02x}" for byte in letter.encode("utf-8", "surrogatepass"))
