"""Make the census data that modelyard ships, from the nannyml wheel: one compact Parquet file.

    pip download --no-deps nannyml==0.13.1 -d wheels
    python scripts/make_census.py wheels/nannyml-0.13.1-py3-none-any.whl

Prints the SHA-256 to compare with src/modelyard/data/PROVENANCE.md.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
import zipfile
from pathlib import Path

import duckdb

WHEEL_SHA256 = "cf5f4a33489834ae6773cb1baa33a0f98c0a3ee6ed9b43049478b25ce22fe869"
FILES = ("reference", "analysis", "analysis_target")
FEATURES = [
    "AGEP",
    "SCHL",
    "MAR",
    "RELP",
    "DIS",
    "ESP",
    "CIT",
    "MIG",
    "MIL",
    "ANC",
    "NATIVITY",
    "DEAR",
    "DEYE",
    "DREM",
    "SEX",
    "RAC1P",
]
TARGET = Path(__file__).parent.parent / "src/modelyard/data/census_ma_2015_2018.parquet"


def main(wheel: Path, target: Path = TARGET) -> str:
    """Write the target file from the wheel; returns the file's SHA-256."""
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if found != WHEEL_SHA256:
        sys.exit(f"{wheel} has SHA-256 {found}, not {WHEEL_SHA256}. Download nannyml==0.13.1 again.")
    with tempfile.TemporaryDirectory() as scratch:
        for name in FILES:
            with zipfile.ZipFile(wheel) as archive:
                member = archive.read(f"nannyml/datasets/data/employment_MA_{name}.pq")
            Path(scratch, f"{name}.parquet").write_bytes(member)
        write(Path(scratch), target)
    return hashlib.sha256(target.read_bytes()).hexdigest()


def write(folder: Path, target: Path) -> None:
    """Join features and labels, drop the other model's predictions, narrow the types, sort by id."""
    narrow = ", ".join(f"CAST({name} AS UTINYINT) AS {name}" for name in FEATURES)
    columns = f"CAST(id AS UINTEGER) AS id, CAST(year AS USMALLINT) AS year, {narrow}"
    rows = f"""
        SELECT {columns}, CAST(employed AS UTINYINT) AS employed FROM '{folder}/reference.parquet'
        UNION ALL
        SELECT {columns}, CAST(employed AS UTINYINT) AS employed
        FROM '{folder}/analysis.parquet' JOIN '{folder}/analysis_target.parquet' USING (id)
        ORDER BY id
    """
    options = "FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 19, PARQUET_VERSION v2, ROW_GROUP_SIZE 70000"
    with duckdb.connect(config={"threads": 1}) as connection:  # one thread: the same bytes each time
        connection.execute(f"COPY ({rows}) TO '{target}' ({options})")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    print(main(Path(sys.argv[1])))
