"""Employment records of Massachusetts from the American Community Survey, 2015 to 2018 (see PROVENANCE.md).

Code lists: U.S. Census Bureau, ACS PUMS data dictionary of 2015, person record. Code 0 stands where the Bureau's
file is blank: the question does not apply.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from modelyard.core import plugins
from modelyard.core.errors import Invalid

FILE = Path(__file__).with_name("census_ma_2015_2018.parquet")
FILE_SHA256 = "97e7e1d5ffb51473a13c0b0adfce3a6a0af838cdf3de51237114fd255dd26a2e"
YEARS = (2015, 2016, 2017, 2018)
LABEL = "employed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column: its name, what it means, and the meaning of each code where it has codes."""

    name: str
    meaning: str
    codes: Mapping[int, str] = field(default_factory=dict)

    @property
    def categorical(self) -> bool:
        """True if its numbers are names of categories."""
        return bool(self.codes)


_YES_NO = {1: "yes", 2: "no"}
_GRADES = {grade + 3: f"grade {grade}" for grade in range(1, 12)}

COLUMNS: tuple[Column, ...] = (
    Column(name="AGEP", meaning="age in years; 0 is under one year"),
    Column(
        name="SCHL",
        meaning="educational attainment",
        codes={
            0: "under 3 years old",
            1: "no schooling completed",
            2: "nursery school or preschool",
            3: "kindergarten",
            **_GRADES,
            15: "grade 12, no diploma",
            16: "high school diploma",
            17: "GED or alternative credential",
            18: "some college, less than one year",
            19: "one or more years of college, no degree",
            20: "associate's degree",
            21: "bachelor's degree",
            22: "master's degree",
            23: "professional degree beyond a bachelor's",
            24: "doctorate",
        },
    ),
    Column(
        name="MAR",
        meaning="marital status",
        codes={1: "married", 2: "widowed", 3: "divorced", 4: "separated", 5: "never married, or under 15"},
    ),
    Column(
        name="RELP",
        meaning="relationship to the reference person of the household",
        codes={
            0: "reference person",
            1: "husband or wife",
            2: "biological child",
            3: "adopted child",
            4: "stepchild",
            5: "brother or sister",
            6: "father or mother",
            7: "grandchild",
            8: "parent-in-law",
            9: "child-in-law",
            10: "other relative",
            11: "roomer or boarder",
            12: "housemate or roommate",
            13: "unmarried partner",
            14: "foster child",
            15: "other nonrelative",
            16: "institutionalized group quarters",
            17: "noninstitutionalized group quarters",
        },
    ),
    Column(name="DIS", meaning="disability, any of six kinds", codes={1: "with a disability", 2: "without"}),
    Column(
        name="ESP",
        meaning="employment of the parents a child lives with",
        codes={
            0: "not a child living with a parent",
            1: "two parents, both in the labour force",
            2: "two parents, only the father in the labour force",
            3: "two parents, only the mother in the labour force",
            4: "two parents, neither in the labour force",
            5: "father, in the labour force",
            6: "father, not in the labour force",
            7: "mother, in the labour force",
            8: "mother, not in the labour force",
        },
    ),
    Column(
        name="CIT",
        meaning="citizenship",
        codes={
            1: "born in the United States",
            2: "born in Puerto Rico or another U.S. territory",
            3: "born abroad of American parents",
            4: "citizen by naturalization",
            5: "not a citizen",
        },
    ),
    Column(
        name="MIG",
        meaning="lived in the same house a year ago",
        codes={
            0: "under one year old",
            1: "yes",
            2: "no, outside the United States and Puerto Rico",
            3: "no, elsewhere in the United States or Puerto Rico",
        },
    ),
    Column(
        name="MIL",
        meaning="military service",
        codes={
            0: "under 17 years old",
            1: "now on active duty",
            2: "on active duty in the past",
            3: "only for training in the Reserves or National Guard",
            4: "never served",
        },
    ),
    Column(name="ANC", meaning="ancestry", codes={1: "single", 2: "multiple", 3: "unclassified", 4: "not reported"}),
    Column(name="NATIVITY", meaning="nativity", codes={1: "native", 2: "foreign born"}),
    Column(name="DEAR", meaning="hearing difficulty", codes=_YES_NO),
    Column(name="DEYE", meaning="vision difficulty", codes=_YES_NO),
    Column(name="DREM", meaning="cognitive difficulty", codes={0: "under 5 years old", **_YES_NO}),
    Column(name="SEX", meaning="sex", codes={1: "male", 2: "female"}),
    Column(
        name="RAC1P",
        meaning="race, recoded",
        codes={
            1: "White alone",
            2: "Black or African American alone",
            3: "American Indian alone",
            4: "Alaska Native alone",
            5: "American Indian or Alaska Native, tribes specified or not, and no other race",
            6: "Asian alone",
            7: "Native Hawaiian or other Pacific Islander alone",
            8: "some other race alone",
            9: "two or more races",
        },
    ),
    Column(name=LABEL, meaning="a civilian who is employed and at work", codes={0: "no (children included)", 1: "yes"}),
)
FEATURES: tuple[str, ...] = tuple(column.name for column in COLUMNS if column.name != LABEL)


def load_census(years: Iterable[int] = YEARS) -> Any:
    """A pandas frame of the years' records in order of event time: 277,677 rows for all four.

    Columns: `event_timestamp` (UTC), `id` (unique over all years), `year`, the 16 `FEATURES` and the label `employed`.
    The survey tells the year of a record and nothing finer: `event_timestamp` spreads each year's records evenly over
    that year in the order of their ids, so that record i of n stands at (i + 1/2) / n of it. Trends within a year
    are therefore not in the data.

    >>> frame = load_census([2015])
    >>> len(frame), round(float(frame["employed"].mean()), 3)
    (68785, 0.496)
    """
    wanted = sorted(set(years))
    if not wanted or not set(wanted) <= set(YEARS):
        raise Invalid(f"There are census records of {YEARS[0]} to {YEARS[-1]}, not of {wanted}. Ask for some of them.")
    frame = plugins.load("parquet", "read")(FILE)
    frame = frame[frame["year"].isin(wanted)].reset_index(drop=True).astype("int64")  # small integers would wrap around
    frame.insert(0, "event_timestamp", _event_times(frame["year"].to_numpy()))
    frame["event_timestamp"] = frame["event_timestamp"].dt.tz_localize("UTC")
    return frame


def _event_times(years: np.ndarray) -> np.ndarray:
    """The even spread of each year's records over their year, for years in ascending order."""
    pieces = []
    for year, count in zip(*np.unique(years, return_counts=True), strict=True):
        start, end = (np.datetime64(f"{y}-01-01", "us").astype(np.int64) for y in (int(year), int(year) + 1))
        pieces.append(start + (2 * np.arange(count) + 1) * (end - start) // (2 * count))
    return np.concatenate(pieces).astype("datetime64[us]")
