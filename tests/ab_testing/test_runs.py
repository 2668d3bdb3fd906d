"""What is remembered by key, against a plain dictionary: whatever was put, merged, left out and read by whom."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelyard.ab_testing import ABTestManager, runs
from modelyard.ab_testing.runs import Kept, Shelf, entries, packed_key
from modelyard.core.errors import Conflict

KEYS = st.tuples(st.sampled_from([0, 1, 7, 2**63, 2**64 - 1]), st.sampled_from([0, 5, 2**64 - 1]))
VALUES = st.binary(max_size=9)
STEPS = st.lists(
    st.dictionaries(KEYS, VALUES, max_size=9) | st.lists(KEYS, min_size=1, max_size=3, unique=True), max_size=12
)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return ABTestManager(tmp_path_factory.mktemp("runs"))


def new_test(manager):
    models = {"control_variant": "fraud:v1.0.0", "treatment_variant": "fraud:v2.0.0"}
    return manager.create_test("T", **models).test_id


def array(keys):
    return np.array(keys, np.uint64).reshape(-1, 2)


def put(kept, told):
    kept.put(entries(array(sorted(told)), [told[key] for key in sorted(told)]))


@given(steps=STEPS)
@settings(max_examples=25, deadline=None)
def test_it_holds_what_a_dictionary_would_whoever_reads_it(shared, steps):
    """Keys that share a half, values of any length, none at all, keys that are left out: by two processes in turn."""
    test_id, shelves, held = new_test(shared), [Shelf(), Shelf()], {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "PART", 3)  # so that a few entries are many parts
        changed(shared, test_id, shelves, held, steps)
    asked = sorted({*held, (1, 1), (2**63, 5), (9, 9)})
    with shared.store.reading() as rows:
        kept = Kept(rows, shelves[0], test_id, "control")
        assert kept.find(array(asked)) == [held.get(key, b"") for key in asked]
        assert {packed_key(*key): value for key, value in held.items() if value} == dict(kept.everything())
        assert not Kept(rows, Shelf(), test_id, "treatment").known(array(asked)).any()


def changed(shared, test_id, shelves, held, steps):
    """Take the steps, with the dictionary too."""
    for number, step in enumerate(steps):
        with shared.store.work() as work:
            kept = Kept(work.rows, shelves[number % 2], test_id, "control")
            if isinstance(step, dict):
                put(kept, step)
                held |= step
            else:
                assert kept.drop(array(step)) >= sum(bool(held.pop(key, b"")) for key in step)


def test_runs_stay_few_however_often_something_is_put_and_an_entry_is_written_a_few_times(shared, monkeypatch):
    test_id, written = new_test(shared), 0
    add = runs.store.add_part

    def counted(rows, part, *told):
        nonlocal written
        written += part.entries
        add(rows, part, *told)

    monkeypatch.setattr(runs.store, "add_part", counted)
    shelf, random = Shelf(), np.random.default_rng(3)
    with shared.store.work() as work:
        kept = Kept(work.rows, shelf, test_id, "control")
        for _ in range(150):
            put(kept, {(int(high), 0): b"1234" for high in random.integers(0, 2**62, 20)})
        assert len({part.run for part in kept._parts}) <= 3 * 6
    assert written / 3000 <= 6


def test_what_a_transaction_put_that_was_undone_is_not_there(shared):
    test_id, shelf = new_test(shared), Shelf()
    with shared.store.work() as work:
        put(Kept(work.rows, shelf, test_id, "control"), {(1, 1): b"kept"})

    def undone():
        with shared.store.work() as work:
            put(Kept(work.rows, shelf, test_id, "control"), {(1, 1): b"lost", (2, 2): b"lost"})
            raise Conflict("undone")

    with pytest.raises(Conflict):
        undone()
    with shared.store.reading() as rows:
        assert Kept(rows, shelf, test_id, "control").find(array([(1, 1), (2, 2)])) == [b"kept", b""]


def test_a_shelf_holds_no_more_than_it_may_and_answers_all_the_same(shared, monkeypatch):
    monkeypatch.setattr(runs, "MOST", 4000)
    test_id, shelf, held = new_test(shared), Shelf(), {}
    random = np.random.default_rng(4)
    with shared.store.work() as work:
        kept = Kept(work.rows, shelf, test_id, "control")
        for number in range(12):
            some = {(int(high), 7): b"%04d" % number for high in random.integers(0, 2**62, 50)}
            put(kept, some)
            held |= some
        asked = sorted(held)
        assert kept.find(array(asked)) == [held[key] for key in asked]
    assert shelf._bytes <= 4000 or len(shelf._held) == 1
