"""Whatever bytes come, admission judges them: no other error, no endless wait, no memory without bound."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import fuzzing
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

SEEDS = fuzzing.seeds()
FOUND = sorted((Path(__file__).parent / "crashes").glob("*"))


@pytest.mark.parametrize("number", range(len(SEEDS)))
def test_each_seed_is_judged(number: int) -> None:
    fuzzing.one(SEEDS[number])


@pytest.mark.parametrize("file", FOUND, ids=lambda file: file.name)
def test_what_once_failed_is_judged(file: Path) -> None:
    fuzzing.one(file.read_bytes())


@settings(max_examples=1_500)
@given(st.data())
def test_changed_and_joined_seeds_are_judged(data: st.DataObject) -> None:
    one, two = SEEDS[data.draw(st.integers(0, len(SEEDS) - 1))], SEEDS[data.draw(st.integers(0, len(SEEDS) - 1))]
    changed = bytearray(one)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(changed)))
        match data.draw(st.integers(0, 3)):
            case 0:
                changed[place:place] = data.draw(st.binary(max_size=8))
            case 1:
                del changed[place : place + data.draw(st.integers(1, 40))]
            case 2:
                changed[place : place + 8] = data.draw(st.integers(0, 2**64 - 1)).to_bytes(8, "little")
            case 3:
                start = data.draw(st.integers(0, len(two)))
                changed[place : place + 20] = two[start : start + data.draw(st.integers(0, 60))]
    began = time.process_time()  # not the clock on the wall, since the machine may do other things
    fuzzing.one(one[:1] + bytes(changed[1:]))
    assert time.process_time() - began < 5


@pytest.mark.slow
def test_the_fuzzer_itself_finds_nothing_in_a_short_run(tmp_path: Path) -> None:
    pytest.importorskip("atheris", reason="atheris is missing: pip install atheris")
    run = subprocess.run(
        [sys.executable, Path(fuzzing.__file__), tmp_path, "-runs=1500", "-seed=1", "-max_total_time=30"],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
