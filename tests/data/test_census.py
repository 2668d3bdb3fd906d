"""The shipped census data is whole, in order, and described."""

import hashlib
from datetime import UTC, datetime

import numpy as np
import pytest

from modelyard.data import COLUMNS, FEATURES, YEARS, load_census
from modelyard.data.census import FILE, FILE_SHA256


@pytest.fixture(scope="module")
def frame():
    return load_census()


def test_the_file_has_the_bytes_its_provenance_names():
    assert hashlib.sha256(FILE.read_bytes()).hexdigest() == FILE_SHA256
    assert FILE_SHA256 in FILE.with_name("PROVENANCE.md").read_text()
    assert FILE.stat().st_size < 1_200_000


def test_every_year_is_there_with_unique_ids(frame):
    assert frame["year"].value_counts().sort_index().to_dict() == {2015: 68785, 2016: 69126, 2017: 69635, 2018: 70131}
    assert frame["id"].is_unique
    assert list(frame.columns) == ["event_timestamp", "id", "year", *FEATURES, "employed"]
    assert len(FEATURES) == 16
    assert not frame.isna().any().any()


def test_event_times_fill_each_year_evenly_in_order_of_id(frame):
    assert frame["event_timestamp"].is_monotonic_increasing
    assert frame["id"].is_monotonic_increasing
    assert (frame["event_timestamp"].dt.year == frame["year"]).all()
    per_month = frame.groupby([frame["year"], frame["event_timestamp"].dt.month]).size() / 28
    assert per_month.groupby(level=0).std().max() / per_month.mean() < 0.05
    times = frame.loc[frame["year"] == 2016, "event_timestamp"]
    gaps = np.diff(times.astype("int64").to_numpy())
    assert gaps.max() - gaps.min() <= 1


def test_every_code_that_occurs_is_described(frame):
    for column in COLUMNS:
        if column.categorical:
            assert set(frame[column.name].unique()) <= set(column.codes), column.name
    assert sum(1 for column in COLUMNS if not column.categorical) == 1


def test_the_code_lists_agree_with_what_the_records_say_of_each_other(frame):
    child = frame["AGEP"] < 15
    assert (frame.loc[child, "MAR"] == 5).all()
    assert (frame.loc[child, "MIL"] == 0).all()
    assert (frame.loc[frame["SCHL"] == 0, "AGEP"] < 3).all()
    assert (frame.loc[frame["DREM"] == 0, "AGEP"] < 5).all()
    assert ((frame["NATIVITY"] == 2) == frame["CIT"].isin([4, 5])).all()
    assert (frame.loc[frame[["DEAR", "DEYE", "DREM"]].eq(1).any(axis=1), "DIS"] == 1).all()
    assert (frame.loc[frame["employed"] == 1, "AGEP"] >= 16).all()
    assert (frame.loc[frame["employed"] == 1, "MIL"] != 1).all()


def test_chosen_years_only_and_unknown_years_are_refused(frame):
    some = load_census([2018, 2016, 2018])
    assert sorted(some["year"].unique()) == [2016, 2018]
    assert some["event_timestamp"].iloc[0] >= datetime(2016, 1, 1, tzinfo=UTC)
    part = frame[frame["year"] == 2018].reset_index(drop=True)
    assert some[some["year"] == 2018].reset_index(drop=True).equals(part)
    for years in ([2014], [], [2015, 2030]):
        with pytest.raises(ValueError, match="2015 to 2018"):
            load_census(years)
    assert YEARS == (2015, 2016, 2017, 2018)
