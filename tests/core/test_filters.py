"""The filter language: what is parsed is what was written, and SQL answers as a plain reading of the tree does."""

import re
import sqlite3
from contextlib import closing, suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.core.errors import Invalid
from modelyard.core.filters import Bound, Condition, Field, Filter, Group, clause, conditions, parse, parse_order
from modelyard.core.pages import page_token, read_token

WORDS = st.text("aAbB%_'\"\\ x", max_size=5)
ROWS = st.lists(st.fixed_dictionaries({"size": st.none() | st.integers(-3, 3), "stage": st.none() | WORDS}), max_size=6)
NUMBERS = st.builds(
    Condition,
    field=st.just(Field(kind="", key="size")),
    comparator=st.sampled_from(["=", "!=", "<", "<=", ">", ">="]),
    value=st.integers(-3, 3).map(float),
)
TEXTS = st.builds(
    Condition,
    field=st.just(Field(kind="", key="stage")),
    comparator=st.sampled_from(["=", "!=", "<", "<=", ">", ">=", "LIKE", "ILIKE"]),
    value=WORDS,
)
LISTS = st.builds(
    Condition,
    field=st.just(Field(kind="", key="stage")),
    comparator=st.sampled_from(["IN", "NOT IN"]),
    value=st.lists(WORDS, min_size=1, max_size=3).map(tuple),
)
NULLS = st.builds(
    Condition,
    field=st.sampled_from([Field(kind="", key="stage"), Field(kind="", key="size")]),
    comparator=st.sampled_from(["IS NULL", "IS NOT NULL"]),
)
TREES = st.recursive(
    NUMBERS | TEXTS | LISTS | NULLS,
    lambda inner: (
        st.builds(
            Group, joined=st.sampled_from(["and", "or"]), parts=st.lists(inner, min_size=2, max_size=3).map(tuple)
        )
        | st.builds(Group, joined=st.just("not"), parts=inner.map(lambda one: (one,)))
    ),
    max_leaves=6,
)


def written(tree: Filter) -> str:
    """The tree in the filter language."""
    if isinstance(tree, Condition):
        return f"{tree.field} {tree.comparator}{_value(tree.value)}"
    if tree.joined == "not":
        return f"NOT ({written(tree.parts[0])})"
    return "(" + f" {tree.joined} ".join(f"({written(part)})" for part in tree.parts) + ")"


def _value(value) -> str:
    if value is None:
        return ""
    if isinstance(value, tuple):
        return " (" + ", ".join(_value(one).strip() for one in value) + ")"
    if isinstance(value, float):
        return f" {value!r}"
    return " '" + value.replace("'", "''") + "'"


def holds(tree: Filter, row) -> bool | None:
    """Three-valued logic, as SQL has it."""
    if isinstance(tree, Group):
        found = [holds(part, row) for part in tree.parts]
        if tree.joined == "not":
            return None if found[0] is None else not found[0]
        decisive = tree.joined == "or"
        return decisive if decisive in found else None if None in found else not decisive
    seen = row[tree.field.key]
    if tree.comparator in ("IS NULL", "IS NOT NULL"):
        return (seen is None) == (tree.comparator == "IS NULL")
    if seen is None:
        return None
    if isinstance(tree.value, tuple):
        return (seen in tree.value) == (tree.comparator == "IN")
    if tree.comparator in ("LIKE", "ILIKE"):
        flags = re.DOTALL | (re.IGNORECASE if tree.comparator == "ILIKE" else 0)
        pattern = "".join({"%": ".*", "_": "."}.get(one, re.escape(one)) for one in tree.value)
        return re.fullmatch(pattern, seen, flags) is not None
    return {
        "=": seen == tree.value,
        "!=": seen != tree.value,
        "<": seen < tree.value,
        "<=": seen <= tree.value,
        ">": seen > tree.value,
        ">=": seen >= tree.value,
    }[tree.comparator]


@given(TREES, ROWS)
def test_sqlite_answers_as_a_plain_reading_of_the_tree(tree, rows):
    bound = Bound()
    where = clause(parse(written(tree)), lambda one: bound.compare(one.field.key, one))
    with closing(sqlite3.connect(":memory:")) as database:
        database.execute("PRAGMA case_sensitive_like=ON")
        database.execute("CREATE TABLE t (id INTEGER, size INTEGER, stage TEXT)")
        database.executemany(
            "INSERT INTO t VALUES (:id, :size, :stage)", [{"id": at, **row} for at, row in enumerate(rows)]
        )
        found = [row[0] for row in database.execute(f"SELECT id FROM t WHERE {where} ORDER BY id", bound.values)]
    assert found == [at for at, row in enumerate(rows) if holds(tree, row)]


@given(TREES)
def test_every_condition_written_is_read(tree):
    assert list(conditions(parse(written(tree)))) == list(conditions(tree))


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text):
    with suppress(Invalid):
        assert parse(text) is not None or not text.strip()


@pytest.mark.parametrize(
    ("text", "kind", "key"),
    [
        ("metrics.`val loss` > 1", "metrics", "val loss"),
        ('metrics."val loss" > 1', "metrics", "val loss"),
        ("tags.mlflow.runName = 'a'", "tags", "mlflow.runName"),
        ("params.in = 'a'", "params", "in"),
        ("metrics.1 > .5", "metrics", "1"),
        ("metrics.val/acc-1 > 1", "metrics", "val/acc-1"),
    ],
)
def test_keys_may_be_written_in_these_ways(text, kind, key):
    assert parse(text).field == Field(kind=kind, key=key)


@pytest.mark.parametrize(
    "text", ["a =", "a = b", "= 1", "a = 1 or", "a in ()", "a in (1)", "a is 1", "(a = 1", "a = 1)"]
)
def test_half_a_filter_is_refused(text):
    with pytest.raises(Invalid, match="cannot be read at character"):
        parse(text)


def test_and_binds_closer_than_or():
    tree = parse("a = 1 or b = 2 and c = 3")
    assert tree.joined == "or"
    assert tree.parts[1].joined == "and"


@pytest.mark.parametrize(
    ("text", "descending"), [("metrics.auc", False), ("metrics.auc ASC", False), ("metrics.auc desc", True)]
)
def test_an_ordering_is_ascending_unless_it_says_otherwise(text, descending):
    assert parse_order(text).descending is descending


@given(
    st.lists(st.none() | st.text() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False))
)
def test_a_page_token_stands_for_its_position_in_its_query_alone(position):
    token = page_token(position, "query")
    assert read_token(token, "query") == position
    with pytest.raises(Invalid, match="none of this query's"):
        read_token(token, "another")


@given(st.text(max_size=80))
def test_any_other_text_is_no_page_token(text):
    with pytest.raises(Invalid, match="none of this query's"):
        read_token(text, "query")
