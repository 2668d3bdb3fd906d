"""File names stand for one name each, on every file system."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from modelyard.core.errors import Damaged
from modelyard.portable.names import LONGEST, file_name, name_of

NAMES = st.text(min_size=1, max_size=40) | st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.@+ -]{0,127}", fullmatch=True)


@given(NAMES)
@example("con")
@example("COM1.txt")
@example("!a")
@example("%2e")
@example("..")
@example("a.")
def test_a_name_is_read_back(name: str) -> None:
    found = file_name(name)
    assert len(found) <= LONGEST
    if "~" not in found:
        assert name_of(found) == name


@given(NAMES, NAMES)
@example("Fraud", "fraud")
@example("!fraud", "Fraud")
@example("n" * 128, "N" * 128)
def test_two_names_stay_apart_where_case_is_folded(one: str, other: str) -> None:
    assert (file_name(one).casefold() == file_name(other).casefold()) == (one == other)


@given(NAMES)
def test_a_file_name_suits_windows_too(name: str) -> None:
    found = file_name(name)
    assert re.fullmatch(r"[a-z0-9_.!%~-]+", found)
    assert not re.match(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", found)
    assert found[-1] != "."
    assert found[0] != "."


@pytest.mark.parametrize("found", ["Fraud", "%41", "a b", "%2E", "con", "n" * 200])
def test_a_file_name_that_no_rule_made_is_refused(found: str) -> None:
    with pytest.raises(Damaged):
        name_of(found)
