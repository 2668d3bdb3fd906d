"""Real data that ships with the package: employment records of Massachusetts, 2015 to 2018."""

from modelyard.data.census import COLUMNS, FEATURES, YEARS, Column, load_census

__all__ = ["COLUMNS", "FEATURES", "YEARS", "Column", "load_census"]
