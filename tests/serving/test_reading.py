"""The payload log is read by pages, filters and tables: every row once and in order, whatever becomes of the files meanwhile."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import tracemalloc
from itertools import count
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelyard.core.errors import Invalid
from modelyard.serving import (
    ModelServer,
    PredictionRequest,
    compaction,
    indexing,
    merging,
    reading,
    retention,
    segments,
)
from modelyard.serving.segments import Appender, Block, Layout, frame

TRUSTED = {"trusted_code": True}
WRITERS = count()


def write(folder: Path, rows: list[tuple[float, str]], *, arm: str = "a", version: str = "v1", **more: Any) -> None:
    """A closed raw segment of one-row requests, each (time, request id); a feature `x` counts them."""
    folder.mkdir(parents=True, exist_ok=True)
    appender = Appender(folder, f"{next(WRITERS):020d}-1-0")
    appender.begin()
    number, told = appender.layout((arm, "m", version, "regression", ("x",), ("float",), *more.pop("layout", ())))
    n = len(rows)
    block = Block(
        layout=number,
        total=n,
        rows=n,
        ids=[one for _, one in rows],
        counts=b"",
        at=np.array([at for at, _ in rows], "<f8").tobytes(),
        micros=np.ones(n, "<f4").tobytes(),
        units=more.get("units"),
        batch=np.arange(n, dtype="<f8").tobytes(),
        batch_kind="<f8",
        predictions=np.zeros(n, "<f8").tobytes(),
        kind="<f8",
        shares=None,
        share_kind="",
    )
    appender.append([told, frame(segments.msgspec.msgpack.encode(block))])
    appender.end()


def pages(server: ModelServer, limit: int, **asked: Any) -> list[list[dict[str, Any]]]:
    found, token = [], ""
    while True:
        page = server.payloads("e", limit=limit, page_token=token, **asked)
        found.append(list(page.items))
        token = page.next_page_token
        if not token:
            return found


moments = st.lists(st.integers(0, 12), min_size=0, max_size=25)


@settings(max_examples=40, deadline=None)
@given(
    parts=st.lists(st.tuples(moments, st.booleans()), min_size=1, max_size=5),
    limit=st.integers(1, 9),
    since=st.integers(0, 12),
)
def test_pages_of_any_size_hold_every_row_once_in_the_order_of_time(
    parts: list[tuple[list[int], bool]], limit: int, since: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Against a plain sorted list, for segments raw and compacted whose times overlap, repeat and run backwards."""
    server = ModelServer(tmp_path_factory.mktemp("yard"))
    folder = server.places.payloads("e")
    told = []
    for number, (moments_, compacted) in enumerate(parts):
        rows = [(1.7e9 + at, f"{number}-{n}") for n, at in enumerate(moments_)]
        if rows:
            write(folder, rows, arm="ab"[number % 2])
            told += [(at, one, "ab"[number % 2]) for at, one in rows]
        if compacted:
            compaction.compact(folder)
    wanted = sorted((at, one) for at, one, _ in told if at >= 1.7e9 + since)
    found = pages(server, limit, since=1.7e9 + since)
    assert [(row["at"], row["request_id"]) for page in found for row in page] == wanted
    assert all(len(page) == limit for page in found[:-1])
    one_arm = [
        (row["at"], row["request_id"]) for page in pages(server, limit, arm="b", until=1.7e9 + 6) for row in page
    ]
    assert one_arm == sorted((at, one) for at, one, arm in told if arm == "b" and at < 1.7e9 + 6)


def test_rows_of_one_request_share_a_moment_and_are_paged_all_the_same(server: ModelServer, tools: Any) -> None:
    async def scenario() -> None:
        await server.deploy_model("m", "v1", tools.reference(), "python", TRUSTED)
        rows = [{"a": n, "b": 1} for n in range(50)]
        await server.predict(PredictionRequest(request_id="many", endpoint_id="m-v1", features=rows))
        server.close()

    asyncio.run(scenario())
    for _ in range(2):
        found = list(reading.rows(server.places.payloads("m-v1"), reading.Wanted(), step=7))
        assert [row["row"] for row in found] == list(range(50))
        server.compact_payloads("m-v1")


def test_filters_choose_by_time_zone_arm_version_request_and_unit(tmp_path: Path) -> None:
    server = ModelServer(tmp_path)
    folder = server.places.payloads("e")
    noon = 1_769_860_800.0  # 2026-01-31T12:00:00Z
    write(folder, [(noon + n, f"r{n}") for n in range(10)], units=[f"u{n % 3}" for n in range(10)])
    write(folder, [(noon + 0.5 + n, f"s{n}") for n in range(10)], arm="b", version="v2")
    for compacted in (False, True):
        if compacted:
            server.compact_payloads("e")

        def ids(**asked: Any) -> list[str]:
            return [row["request_id"] for row in server.payload_rows("e", **asked)]

        assert ids(since="2026-01-31T13:00:08+01:00", arm="a") == ["r8", "r9"]
        assert ids(since="2026-01-31T12:00:08", until="2026-01-31T12:00:09") == ["r8", "s8"]
        assert ids(since=str(noon + 9)) == ["r9", "s9"]
        assert ids(version="v2", until=noon + 2) == ["s0", "s1"]
        assert ids(unit="u1") == ["r1", "r4", "r7"]
        assert ids(request_id="s3") == ["s3"]
        assert ids(request_id="s3", arm="a") == []
        assert len(server.payload_frame("e", version="v2", until=noon + 2)) == 2


def test_what_is_no_filter_page_or_time_is_refused(tmp_path: Path) -> None:
    server = ModelServer(tmp_path)
    write(server.places.payloads("e"), [(1.7e9, "r0"), (1.7e9, "r1")])
    with pytest.raises(Invalid, match=r"by 'verison'\. Did you mean version"):
        server.payload_rows("e", verison="v1")
    with pytest.raises(Invalid, match="since is 'yesterday'"):
        server.payloads("e", since="yesterday")
    for limit in (0, 10_001, True, 1.5):
        with pytest.raises(Invalid, match="limit"):
            server.payloads("e", limit=limit)  # type: ignore[arg-type]
    token = server.payloads("e", limit=1).next_page_token
    for asked in ({"arm": "a"}, {"since": 1.0}):
        with pytest.raises(Invalid, match="page token"):
            server.payloads("e", page_token=token, **asked)  # type: ignore[arg-type]
    with pytest.raises(Invalid, match="no such column"):
        server.payload_frame("e", columns=["feature_y"])
    with pytest.raises(Invalid, match=r"\.parquet or \.csv"):
        server.export_payloads("e", tmp_path / "x.txt")


def test_a_frame_and_a_file_hold_what_the_rows_say(tmp_path: Path) -> None:
    server = ModelServer(tmp_path)
    folder = server.places.payloads("e")
    write(folder, [(1.7e9 + n, f"r{n}") for n in range(20)])
    server.compact_payloads("e")
    write(folder, [(1.7e9 + 5.5 + n, f"s{n}") for n in range(5)], layout=(0.25, "split-1"))
    rows = list(server.payload_rows("e"))
    found = server.payload_frame("e")
    assert found["request_id"].tolist() == [row["request_id"] for row in rows]
    assert found["feature_x"].tolist() == [row["features"]["x"] for row in rows]
    assert found["sampling"].tolist() == [row["sampling"] for row in rows]
    assert set(found["split"]) == {"", "split-1"} == {row["split"] for row in rows}
    assert (found["at"] - pd.Timestamp(1.7e9, unit="s", tz="UTC")).dt.total_seconds().tolist() == pytest.approx(
        [row["at"] - 1.7e9 for row in rows]
    )
    assert list(server.payload_frame("e", columns=["feature_x", "arm"]).columns) == ["feature_x", "arm"]
    for ending in ("parquet", "csv"):
        path = tmp_path / f"day.{ending}"
        assert server.export_payloads("e", path, since=1.7e9 + 3) == 22
        read = pd.read_parquet(path) if ending == "parquet" else pd.read_csv(path)
        assert sorted(read["request_id"]) == sorted(row["request_id"] for row in rows if row["at"] >= 1.7e9 + 3)


def test_an_empty_log_is_an_empty_page_frame_and_file(tmp_path: Path) -> None:
    server = ModelServer(tmp_path)
    assert server.payloads("nothing").items == ()
    assert server.export_payloads("nothing", tmp_path / "none.parquet") == 0
    assert "prediction" in pd.read_parquet(tmp_path / "none.parquet").columns
    assert server.payload_frame("nothing").columns.tolist()[:3] == ["request_id", "row", "at"]
    write(server.places.payloads("e"), [(1.7e9, "r0")])
    server.compact_payloads("e")
    assert len(server.payload_frame("e", since="2030-01-01")) == 0
    assert server.export_payloads("e", tmp_path / "x.parquet", since="2030-01-01") == 0


def test_what_iterating_holds_does_not_grow_with_the_log(tmp_path: Path) -> None:
    server = ModelServer(tmp_path)
    folder = server.places.payloads("e")
    peaks = []
    for parts in (4, 16):
        for part in range(parts):
            write(folder, [(1.7e9 + 10 * part + n / 1000, f"{part}-{n}") for n in range(2000)])
            server.compact_payloads("e")
        tracemalloc.start()
        assert sum(1 for _ in reading.rows(folder, reading.Wanted(), step=1000)) > 0
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 2 * peaks[0]


CHANGED = """
import sys, time
from pathlib import Path
from modelyard.serving import merging, segments
from modelyard.serving.compaction import compact
merging.ENOUGH = 2
print("ready", flush=True)
while compact(Path(sys.argv[1])) >= 0 and not Path(sys.argv[2]).exists():
    pass
"""


def test_readers_see_every_row_once_while_another_process_compacts_and_merges(tmp_path: Path) -> None:
    server = ModelServer(tmp_path / "yard")
    folder = server.places.payloads("e")
    folder.mkdir(parents=True)
    command = [sys.executable, "-c", CHANGED, str(folder), str(tmp_path / "stop")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        known: set[str] = set()
        try:
            for part in range(40):
                rows = [(1.7e9 + random.random(), f"{part}-{n}") for n in range(50)]
                write(folder, rows)
                known |= {one for _, one in rows}
                found = [row["request_id"] for row in reading.rows(folder, reading.Wanted(), step=150)]
                assert len(found) == len(known)
                assert set(found) == known
                assert len(server.payload_frame("e", columns=["row"])) == len(known)
        finally:
            (tmp_path / "stop").touch()
    server.compact_payloads("e")
    assert {row["request_id"] for row in server.payload_rows("e")} == known


def test_a_page_goes_on_at_its_place_after_what_came_before_it_was_dropped(tmp_path: Path) -> None:
    server = ModelServer(tmp_path)
    folder = server.places.payloads("e")
    for part in range(3):
        write(folder, [(1.7e9 + 100 * part + n, f"{part}-{n}") for n in range(10)])
    first = server.payloads("e", limit=5)
    compaction.compact(folder)
    retention.drop_old(folder, now=1.7e9 + 86_400 + 50, days=1, mib=0)
    second = server.payloads("e", limit=100, page_token=first.next_page_token)
    assert [row["request_id"] for row in second.items] == [f"{part}-{n}" for part in (1, 2) for n in range(10)]


def test_a_clock_that_goes_back_neither_hides_rows_nor_keeps_or_drops_the_wrong_ones(tmp_path: Path) -> None:
    server = ModelServer(tmp_path)
    folder = server.places.payloads("e")
    now = 1.7e9
    write(folder, [(now + 3600, "ahead"), (now - 3 * 86_400, "long ago"), (now, "now")])
    write(folder, [(now - 4 * 86_400, "older")])
    for _ in range(2):
        assert [row["request_id"] for row in server.payload_rows("e")] == ["older", "long ago", "now", "ahead"]
        assert [row["request_id"] for row in server.payload_rows("e", since=now - 1, until=now + 1)] == ["now"]
        server.compact_payloads("e")
    assert retention.drop_old(folder, now=now, days=2, mib=0) == 1  # a segment goes by its newest row
    assert [row["request_id"] for row in server.payload_rows("e")] == ["long ago", "now", "ahead"]


def test_merged_segments_are_in_the_order_of_time_and_say_where_they_begin(tmp_path: Path) -> None:
    server = ModelServer(tmp_path)
    folder = server.places.payloads("e")
    for part in reversed(range(merging.ENOUGH)):
        write(folder, [(1.7e9 + part + 10 * n, f"{part}-{n}") for n in range(3)])
        server.compact_payloads("e")
    (path,) = folder.glob("*.parquet")
    with duckdb.connect() as connection:
        at = [one for (one,) in connection.execute(f"SELECT epoch_us(\"at\") FROM '{path}'").fetchall()]
    assert at == sorted(at)
    assert merging.beside(path)["from"] == at[0]
    assert os.stat(path).st_mtime == pytest.approx(at[-1] / 1e6)


def test_two_yards_in_one_process_keep_their_rows_apart(tmp_path: Path, tools: Any) -> None:
    servers = [ModelServer(tmp_path / name) for name in ("one", "two")]

    async def scenario() -> None:
        for server in servers:
            await server.deploy_model("m", "v1", tools.reference(), "python", TRUSTED)
        for n in range(20):
            asked = PredictionRequest(request_id=f"r{n}", endpoint_id="m-v1", features={"a": n, "b": 1})
            await servers[n % 2].predict(asked)
        for server in servers:
            server.close()

    asyncio.run(scenario())
    for place, server in enumerate(servers):
        found = [row["request_id"] for row in server.payload_rows("m-v1")]
        assert found == [f"r{n}" for n in range(place, 20, 2)]


def test_a_cut_of_rows_is_the_same_cut_in_a_raw_and_a_parquet_segment(tmp_path: Path) -> None:
    assert Layout(0, "a", "m", "v", "t", (), ()).share == 1.0  # a segment of before says nothing of it
    server = ModelServer(tmp_path)
    folder = server.places.payloads("e")
    write(folder, [(1.7e9 + (n * 7) % 30, f"r{n}") for n in range(30)])
    raw = pages(server, 4)
    compaction.compact(folder)
    assert pages(server, 4) == raw


def test_an_id_is_found_by_the_index_wherever_it_stands_and_without_one(tmp_path: Path) -> None:
    """Against every id there is, before and after merging, and for a segment whose index is gone."""
    server = ModelServer(tmp_path)
    folder = server.places.payloads("e")
    ids = [f"{part}-{n}" for part in range(merging.ENOUGH + 2) for n in range(20)]
    for part in range(merging.ENOUGH + 2):
        write(folder, [(1.7e9 + part, one) for one in ids if one.startswith(f"{part}-")])
        server.compact_payloads("e")
        if part == 3:
            next((folder / "ids").iterdir()).unlink()
    assert len(list(folder.glob("*.parquet"))) == 3
    assert {path.name for path in (folder / "ids").iterdir()} < {path.stem for path in folder.glob("*.parquet")}
    assert set(reading.answers(folder, {*ids, "none"})) == {(one, 0) for one in ids}
    for one in ids[::7]:
        assert [row["request_id"] for row in server.payload_rows("e", request_id=one)] == [one]


def test_an_index_rules_out_most_segments(tmp_path: Path) -> None:
    server = ModelServer(tmp_path)
    folder = server.places.payloads("e")
    for part in range(4):
        write(folder, [(1.7e9, f"{part}-{n}") for n in range(50)])
    compaction.compact(folder)
    found = indexing.among(sorted(folder.glob("*.parquet")), ["2-7"])
    assert [path for path in found if "2-7" in pd.read_parquet(path)["request_id"].tolist()] == found
    assert indexing.among(sorted(folder.glob("*.parquet")), ["nobody"]) == []
