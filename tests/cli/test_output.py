"""What commands print: a table holds what fits and names what it leaves out, and loses nothing in JSON and CSV."""

from __future__ import annotations

import csv
import io
import json

from hypothesis import given
from hypothesis import strategies as st

from modelyard.cli.output import show
from modelyard.core.pages import Page

WORDS = st.text("abcdefghij", min_size=1, max_size=60)
ROWS = st.lists(
    st.fixed_dictionaries(dict.fromkeys(("first", "second", "third", "fourth"), WORDS)), min_size=1, max_size=4
)


def printed(value, form: str) -> str:
    out = io.StringIO()
    show(value, form, out=out)
    return out.getvalue()


@given(ROWS)
def test_no_line_of_a_table_is_longer_than_the_screen(rows):
    lines = printed(rows, "table").splitlines()
    assert max(map(len, lines)) <= 80
    assert len([line for line in lines if line]) >= 1 + len(rows)


@given(ROWS)
def test_every_column_is_shown_or_named_as_left_out(rows):
    head, _, rest = printed(rows, "table").partition("\n")
    for name in rows[0]:
        assert name in head or name in rest.partition("Not shown:")[2]


@given(ROWS)
def test_json_and_csv_hold_everything(rows):
    assert json.loads(printed(rows, "json")) == rows
    assert list(csv.DictReader(io.StringIO(printed(rows, "csv")))) == rows


def test_a_page_shows_its_items_and_how_to_go_on():
    text = printed(Page(items=({"name": "fraud"},), next_page_token="abc"), "table")
    assert "fraud" in text
    assert "--page-token abc" in text
    assert "--page-token" not in printed(Page(items=({"name": "fraud"},)), "table")
    assert printed(Page(items=({"name": "fraud"},)), "csv") == "name\nfraud\n"


def test_moments_and_digests_are_shortened_in_columns_and_whole_alone():
    row = {"at": "2026-11-22T06:23:05.312205Z", "digest": "ab" * 32}
    assert printed([row], "table").splitlines()[1].split() == ["2026-11-22", "06:23:05", "abababababab"]
    assert "ab" * 32 in printed(row, "table")


def test_nothing_is_said_as_such():
    assert printed([], "table") == "(none)\n"
