"""The payload log keeps every answered row, says what it could not keep, and is readable by anybody's tools."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import duckdb
import httpx
import numpy as np
import pandas as pd
import pytest

from modelyard.core.errors import Damaged, Invalid
from modelyard.serving import ModelServer, PredictionRequest, compaction, logged, merging, metrics, reading, segments
from modelyard.serving.sampling import drawn
from modelyard.serving.segments import HEAD, Appender, Layout, frame

TRUSTED = {"trusted_code": True}


def ask(endpoint: str, features: Any, request_id: str = "r", unit: str | None = None) -> PredictionRequest:
    return PredictionRequest(request_id=request_id, endpoint_id=endpoint, features=features, unit=unit)


def fill(server: ModelServer, tools: Any, rows: int = 30, *, name: str = "m", model: str = "Linear") -> Path:
    """An endpoint's folder with one closed segment of so many rows, their ids r0, r1, ..."""

    async def scenario() -> str:
        known = {one.endpoint for one in server.endpoints()}
        endpoint = f"{name}-v1"
        if endpoint not in known:
            reference = tools.reference() if model == "Linear" else f"{tools.models}:{model}"
            await server.deploy_model(name, "v1", reference, "python", TRUSTED)
        for n in range(rows):
            row = {"a": float(n), "b": None} if model == "Linear" else {"colour": "red", "n": n}
            await server.predict(ask(endpoint, row, f"r{n}"))
        server.close()
        return endpoint

    return server.places.payloads(asyncio.run(scenario()))


def shown(server: ModelServer) -> str:
    """What Prometheus scrapes."""
    return metrics.prometheus(server.places)


def read_all(folder: Path) -> pd.DataFrame:
    return pd.concat([pd.read_parquet(path) for path in sorted(folder.glob("*.parquet"))], ignore_index=True)


def test_duckdb_reads_the_whole_folder_by_names(server: ModelServer, tools: Any) -> None:
    folder = fill(server, tools)
    server.compact_payloads(folder.name)
    fill(server, tools)
    server.compact_payloads(folder.name)
    query = f"SELECT version, count(*), sum(feature_a) FROM read_parquet('{folder}/*.parquet', union_by_name = true) GROUP BY 1"
    with duckdb.connect() as connection:
        assert connection.execute(query).fetchall() == [("v1", 60, 870.0)]


def test_parquet_holds_what_the_raw_rows_held_in_typed_columns(server: ModelServer, tools: Any) -> None:
    for model, name in (("Linear", "m"), ("Texts", "t")):
        folder = fill(server, tools, name=name, model=model)
        before = list(server.payload_rows(folder.name))
        assert server.compact_payloads(folder.name) == 1
        assert not list(folder.glob("*.rows"))
        assert list(server.payload_rows(folder.name)) == before
        frame_ = read_all(folder)
        assert len(frame_) == len(before) == 30
        assert frame_["request_id"].tolist() == [f"r{n}" for n in range(30)]
        assert str(frame_["at"].dtype).startswith("datetime64")
    assert frame_["feature_n"].tolist() == list(range(30))
    assert pd.api.types.is_integer_dtype(frame_["feature_n"])
    assert set(frame_["prediction"]) == {"yes"}


def test_pandas_and_polars_read_it(server: ModelServer, tools: Any) -> None:
    folder = fill(server, tools)
    server.compact_payloads(folder.name)
    (path,) = folder.glob("*.parquet")
    rows = list(server.payload_rows(folder.name))
    found = pd.read_parquet(path)
    assert found["feature_a"].tolist() == [row["features"]["a"] for row in rows]
    assert found["feature_b"].isna().all()
    assert np.allclose(np.stack(found["probabilities"]), [row["probabilities"] for row in rows])
    polars = pytest.importorskip("polars")
    assert polars.read_parquet(path).height == 30


def test_versions_that_take_different_features_share_a_log(server: ModelServer, tools: Any) -> None:
    """A column that one version lacks is null in its rows, and absent from what is read back as its features."""
    from modelyard.core.traffic import Arm

    fill(server, tools)
    server.configure("m-v1", TRUSTED)
    server.install("m-v1", "t", "v2", f"{tools.models}:Texts", "python")
    arms = (Arm(name="texts", model="t", version="v2", weight=1.0),)
    server.apply(tools.split("m-v1", 9).__class__(endpoint="m-v1", generation=9, arms=arms))
    asyncio.run(server.predict(ask("m-v1", {"colour": "blue", "n": 3}, "last")))
    server.close()
    folder = server.places.payloads("m-v1")
    server.compact_payloads("m-v1")
    assert [set(row["features"]) for row in server.payload_rows("m-v1")] == [{"a", "b"}] * 30 + [{"colour", "n"}]
    frame_ = read_all(folder)
    assert frame_["feature_colour"].notna().sum() == 1
    assert frame_["feature_a"].notna().sum() == 30
    assert frame_["prediction"].astype(str).tolist()[-1] == "no"


def blocks(*layouts: tuple[tuple[str, ...], tuple[str, ...]], rows: int = 3) -> list[segments.Columns]:
    """Columns of numeric inputs 0, 1, 2, ... for each (names, kinds)."""
    found = []
    for number, (names, kinds) in enumerate(layouts):
        layout = Layout(number, "a", "m", f"v{number}", "regression", names, kinds)
        found.append(
            segments.Columns(
                layout=layout,
                request_id=[f"{number}-{n}" for n in range(rows)],
                row=np.zeros(rows, np.int32),
                at=np.arange(rows, dtype=float) + 1.7e9,
                unit=[None] * rows,
                latency_ms=np.ones(rows),
                batch=np.arange(rows * len(names), dtype=float).reshape(rows, len(names)) % 2,
                predictions=np.arange(rows, dtype=float),
                probabilities=None,
            )
        )
    return found


def test_features_of_odd_names_and_changing_kinds_stay_apart(tmp_path: Path) -> None:
    from modelyard.core import plugins

    odd = ("Age", "age", 'a "quoted", name', "é", "age_2", "version")
    table = logged.table(
        blocks((odd, ("float", "int", "bool", "float", "int", "float")), (("Age",), ("int",)), (("é",), ("bool",))), "e"
    )
    path = tmp_path / "1-1-0+00000.parquet"
    plugins.load("parquet", "write_segment")(
        path,
        table.columns,
        table.types,
        lists={"probabilities": table.probabilities},
        beside={merging.KEY: json.dumps(table.beside)},
    )
    rows = {row["request_id"]: row for row in reading.rows(tmp_path, reading.Wanted())}
    assert rows["0-0"]["features"] == dict(zip(odd, [0.0, 1, False, "1.0", 0, 1.0], strict=True))
    assert rows["1-0"]["features"] == {"Age": 0.0}
    assert rows["2-0"]["features"] == {"é": "0.0"}
    assert rows["0-0"]["version"] == "v0"


GARBAGE = {
    "nothing": lambda data: b"",
    "half a head": lambda data: data[:5],
    "a torn end": lambda data: data[:-7],
    "noise behind": lambda data: data + os.urandom(1000),
    "noise before": lambda data: os.urandom(100) + data,
    "a flipped bit": lambda data: (
        data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :]
    ),
    "only noise": lambda data: os.urandom(len(data)),
    "a frame of rubbish": lambda data: data + frame(b"\x93\x01\x02\x03"),
    "a block of an unknown layout": lambda data: HEAD + data[data.index(b"\xc1MYB", len(HEAD) + 4) :],
}


@pytest.mark.parametrize("damage", list(GARBAGE))
def test_a_damaged_raw_segment_gives_what_is_whole_and_harms_nothing(
    damage: str, server: ModelServer, tools: Any
) -> None:
    folder = fill(server, tools)
    fill(server, tools)
    first, _ = sorted(folder.glob("*.rows"))
    first.write_bytes(GARBAGE[damage](first.read_bytes()))
    rows = list(server.payload_rows(folder.name))
    assert 30 <= len(rows) <= 60
    server.compact_payloads(folder.name)
    assert list(server.payload_rows(folder.name)) == rows
    assert not list(folder.glob("*.rows"))


def test_a_hole_in_a_segment_is_counted(tmp_path: Path, server: ModelServer, tools: Any) -> None:
    folder = fill(server, tools)
    (path,) = folder.glob("*.rows")
    segment = segments.read(path)
    appender = Appender(folder, "1-1-0")
    appender.begin()
    for layout in segment.layouts.values():
        appender.append([frame(segments.msgspec.msgpack.encode(layout))])
    (block,) = segment.blocks[:1]
    for total in (30, 60, 90):
        block.total = total - 30 + block.rows
        appender.append([frame(segments.msgspec.msgpack.encode(block))])
    appender.end()
    data = (folder / "1-1-0+00000.rows").read_bytes()
    places = [n for n in range(len(data)) if data.startswith(b"\xc1MYB", n)]
    middle = places[-2] + 40
    (folder / "1-1-0+00000.rows").write_bytes(data[:middle] + b"xxxx" + data[middle + 4 :])
    server.compact_payloads(folder.name)
    assert server.payload_state(folder.name).damaged == 30


def test_a_parquet_segment_that_is_garbage_is_named(server: ModelServer, tools: Any) -> None:
    folder = fill(server, tools)
    server.compact_payloads(folder.name)
    (folder / "00-1-0+00000.parquet").write_bytes(b"PAR1" + os.urandom(200) + b"PAR1")
    with pytest.raises(Damaged, match=r"00-1-0\+00000.parquet .* Move it out"):
        list(server.payload_rows(folder.name))
    server.compact_payloads(folder.name)
    (folder / "00-1-0+00000.parquet").unlink()
    assert len(list(server.payload_rows(folder.name))) == 30


COMPACT = """
import sys
from pathlib import Path
from modelyard.serving.compaction import compact
sys.stdin.read(1)
print(compact(Path(sys.argv[1])))
"""


def test_two_processes_that_compact_at_once_share_the_work(server: ModelServer, tools: Any) -> None:
    for _ in range(6):
        folder = fill(server, tools, 10)
    before = list(server.payload_rows(folder.name))
    command = [sys.executable, "-c", COMPACT, str(folder)]
    both = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for one in both:
        one.stdin.write("x")  # type: ignore[union-attr]
        one.stdin.flush()  # type: ignore[union-attr]
    told = [int(one.communicate(timeout=300)[0]) for one in both]
    assert sum(told) == 6
    assert list(server.payload_rows(folder.name)) == before


@pytest.mark.parametrize("moment", ["part", "renamed"])
def test_a_compaction_that_was_killed_repeats_nothing(moment: str, server: ModelServer, tools: Any) -> None:
    folder = fill(server, tools)
    before = list(server.payload_rows(folder.name))
    (raw,) = folder.glob("*.rows")
    kept = raw.read_bytes()
    if moment == "part":
        raw.with_suffix(".part").write_bytes(b"half a file")
    else:
        server.compact_payloads(folder.name)
        raw.write_bytes(kept)  # as it stood between the Parquet's appearance and its own removal
        assert list(server.payload_rows(folder.name)) == before
    server.compact_payloads(folder.name)
    assert list(server.payload_rows(folder.name)) == before
    assert {path.suffix for path in folder.glob("*+*")} == {".parquet"}


def test_small_segments_are_merged_and_each_row_is_read_once_at_every_moment(server: ModelServer, tools: Any) -> None:
    for _ in range(merging.ENOUGH):
        folder = fill(server, tools, 3)
        server.compact_payloads(folder.name)
    (one,) = folder.glob("*.parquet")
    rows = list(server.payload_rows(folder.name))
    assert [row["request_id"] for row in rows] == ["r0", "r1", "r2"] * merging.ENOUGH
    fill(server, tools, 3)
    compaction.compact(folder)
    other = next(path for path in folder.glob("*.parquet") if path != one)
    rows = list(server.payload_rows(folder.name))
    merging.write(folder / merging.NOTE, merging.Note(into=one.name, sources=[other.name]))
    assert len(list(server.payload_rows(folder.name))) == len(rows) - 3  # as if `one` held it: the note rules
    os.rename(one, one.with_suffix(".part"))
    assert len(list(server.payload_rows(folder.name))) == 3  # not yet renamed: the sources rule
    server.compact_payloads(folder.name)
    assert [path.name for path in folder.glob("*.parquet")] == [one.name]


def test_old_and_superfluous_segments_go(server: ModelServer, tools: Any) -> None:
    folder = fill(server, tools)
    fill(server, tools)
    server.compact_payloads(folder.name)
    old, new = sorted(folder.glob("*.parquet"))
    os.utime(old, (time.time() - 3 * 86_400,) * 2)
    server.configure("m-v1", {"payload_days": 2, **TRUSTED})
    server.compact_payloads("m-v1")
    assert list(folder.glob("*.parquet")) == [new]
    server.configure("m-v1", {"payload_mib": 1e-6, **TRUSTED})
    server.compact_payloads("m-v1")
    assert not list(folder.glob("*.parquet"))
    with pytest.raises(Invalid, match="payload_days"):
        server.configure("m-v1", {"payload_days": -1})
    with pytest.raises(Invalid, match="payload_durable"):
        server.configure("m-v1", {"payload_durable": 1})


def test_an_id_that_is_no_text_for_any_file_is_told_with_a_question_mark(server: ModelServer, tools: Any) -> None:
    async def scenario() -> None:
        endpoint = await server.deploy_model("t", "v1", f"{tools.models}:Texts", "python", TRUSTED)
        for request_id in ("good", "lone \ud800", "good too"):
            await server.predict(ask(endpoint, {"colour": "re\udfff", "n": 1}, request_id, unit="\ud800"))
        server.close()

    asyncio.run(scenario())
    rows = list(server.payload_rows("t-v1"))
    assert [row["request_id"] for row in rows] == ["good", "lone ?", "good too"]
    assert rows[0]["features"]["colour"] == "re?"
    state = server.payload_state("t-v1")
    assert (state.offered, state.written, state.failed, state.lost) == (3, 3, 0, 0)


def test_a_full_queue_drops_and_counts(server: ModelServer, tools: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from modelyard.serving import payloads

    monkeypatch.setattr(payloads, "QUEUE_ROWS", 10)
    monkeypatch.setattr(payloads, "FLUSH_S", 30.0)

    async def scenario() -> None:
        endpoint = await server.deploy_model("m", "v1", tools.reference(), "python", TRUSTED)
        await server.predict(ask(endpoint, [{"a": 1, "b": 2}] * 10))
        await server.predict(ask(endpoint, [{"a": 1, "b": 2}] * 3))
        server.close()

    asyncio.run(scenario())
    state = server.payload_state("m-v1")
    assert (state.offered, state.written, state.dropped) == (13, 10, 3)


FULL = """
import asyncio, resource, sys
from modelyard.core.errors import Unavailable
from modelyard.serving import ModelServer, PredictionRequest
async def main(folder, durable):
    server = ModelServer(folder)
    def ask(n):
        return server.predict(PredictionRequest(request_id=f"r{n}", endpoint_id="m-v1", features={"a": n, "b": 1}))
    async def at_rest(count):
        while (told := server.payload_state("m-v1")).written + told.failed < count:
            await asyncio.sleep(0.01)
    await ask(0)
    await at_rest(1)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))
    refused = 0
    for n in range(1, 200):
        try:
            await ask(n)
        except Unavailable as error:
            assert "could not be kept" in str(error), error
            refused += 1
        if n % 50 == 0:
            await at_rest(n + 1)
        if n == 150:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    server.close()
    print(refused)
asyncio.run(main(sys.argv[1], sys.argv[2]))
"""


@pytest.mark.parametrize("durable", [False, True])
def test_a_full_disk_is_counted_and_the_log_goes_on_with_room(
    durable: bool, server: ModelServer, tools: Any, tmp_path: Path
) -> None:
    asyncio.run(server.deploy_model("m", "v1", tools.reference(), "python", {**TRUSTED, "payload_durable": durable}))
    told = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path / "yard"), str(durable)], capture_output=True, text=True, check=True
    )
    refused = int(told.stdout)
    state = server.payload_state("m-v1")
    rows = {row["request_id"] for row in server.payload_rows("m-v1")}
    assert {"r0", "r199"} <= rows
    assert state.offered == 200
    assert state.failed > 0
    assert state.written == len(rows) == 200 - state.failed
    assert refused == (state.failed if durable else 0)
    assert "could not be written" in told.stderr
    assert f'modelyard_payload_rows_total{{endpoint="m-v1",state="failed"}} {state.failed}' in shown(server)


KILLED = """
import asyncio, sys, os, signal
from modelyard.serving import ModelServer, PredictionRequest
async def main(folder):
    server = ModelServer(folder)
    await server.predict(PredictionRequest(request_id="first", endpoint_id="m-v1", features={"a": 1, "b": 1}))
    n = 0
    while True:
        tasks = [
            server.predict(PredictionRequest(request_id=f"r{n + k}", endpoint_id="m-v1", features={"a": 1, "b": 1}))
            for k in range(32)
        ]
        await asyncio.gather(*tasks)
        for k in range(32):
            os.write(1, b"r%d\\n" % (n + k))
        n += 32
asyncio.run(main(sys.argv[1]))
"""


@pytest.mark.parametrize("durable", [False, True])
def test_a_killed_process_loses_a_moment_and_says_how_much_and_nothing_when_durable(
    durable: bool, server: ModelServer, tools: Any, tmp_path: Path
) -> None:
    asyncio.run(server.deploy_model("m", "v1", tools.reference(), "python", {**TRUSTED, "payload_durable": durable}))
    command = [sys.executable, "-c", KILLED, str(tmp_path / "yard")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        answered = [process.stdout.readline() for _ in range(2000)]
        process.kill()
        answered += process.stdout.read().splitlines()
    answered = [line.strip() for line in answered if line.strip()]
    rows = [row["request_id"].encode() for row in server.payload_rows("m-v1")]
    state = server.payload_state("m-v1")
    assert len(set(rows)) == len(rows) == state.written
    assert state.offered == state.written + state.lost + state.dropped
    assert state.offered >= len(answered)
    if durable:
        assert set(answered) <= set(rows)
    assert server.payload_state("m-v1") == state  # told once
    assert f'modelyard_payload_rows_total{{endpoint="m-v1",state="lost"}} {state.lost}' in shown(server)
    server.compact_payloads("m-v1")
    assert sorted(row["request_id"].encode() for row in server.payload_rows("m-v1")) == sorted(rows)


def test_a_worker_killed_under_load_is_settled_by_the_supervisor_and_its_rows_are_parquet(
    tmp_path: Path, tools: Any
) -> None:
    server = ModelServer(tmp_path / "yard")
    tools.install(server, "e", v1=tools.reference())
    server.apply(tools.split("e", 1))
    serving = server.start(workers=2)
    try:
        answered = 0
        with httpx.Client(base_url=serving.url) as client:
            while answered < 300:
                answered += client.post("/predict/e", json={"features": {"a": answered, "b": 1}}).status_code == 200
                if answered == 150:
                    tools.until(lambda: server.payload_state("e").writers >= 1)  # each writes a few times a second
        for pid in serving.pids:
            os.kill(pid, signal.SIGKILL)
        folder = server.places.payloads("e")
        tools.until(lambda: list(folder.glob("*.parquet")) and not list(folder.glob("*.rows")))
        state = server.payload_state("e")
        assert state.offered == 300
        assert state.written + state.lost == 300
        assert len(list(server.payload_rows("e"))) == state.written
    finally:
        serving.stop()


def test_answers_wait_for_the_disk_over_http(tmp_path: Path, tools: Any) -> None:
    server = ModelServer(tmp_path / "yard")
    tools.install(server, "e", v1=tools.reference())
    server.configure("e", {"payload_durable": True, **TRUSTED})
    server.apply(tools.split("e", 1))
    serving = server.start(workers=1)
    try:
        with httpx.Client(base_url=serving.url) as client:
            for n in range(20):
                told = client.post("/predict/e", json={"features": {"a": n, "b": 1}, "request_id": f"q{n}"})
                assert told.json()["request_id"] == f"q{n}"
                assert list(server.payload_rows("e"))[-1]["request_id"] == f"q{n}"
    finally:
        serving.stop()


@pytest.mark.parametrize("model", ["Linear", "Texts"])
def test_hidden_features_are_never_written(model: str, server: ModelServer, tools: Any) -> None:
    name, hidden = ("m", "a") if model == "Linear" else ("t", "colour")

    async def scenario() -> Path:
        settings = {**TRUSTED, "payload_hidden": [hidden]}
        reference = f"{tools.models}:{model}"
        endpoint = await server.deploy_model(name, "v1", reference, "python", settings)
        for n in range(5):
            row = {"a": 123456.5, "b": n} if model == "Linear" else {"colour": "ultramarine", "n": n}
            await server.predict(ask(endpoint, row, f"r{n}"))
        server.close()
        return server.places.payloads(endpoint)

    folder = asyncio.run(scenario())
    for _ in range(2):
        data = b"".join(path.read_bytes() for path in folder.glob("*+*"))
        assert b"ultramarine" not in data
        assert np.float64(123456.5).tobytes() not in data
        rows = list(server.payload_rows(folder.name))
        assert {row["features"][hidden] for row in rows} == {None}
        assert len({str(row["features"]) for row in rows}) == 5
        server.compact_payloads(folder.name)
    with pytest.raises(Invalid, match="payload_hidden is 'a'"):
        server.configure("x", {"payload_hidden": "a"})


def test_a_person_is_forgotten_in_every_kind_of_segment_and_a_later_request_of_theirs_is_kept(
    server: ModelServer, tools: Any
) -> None:
    """In Parquet at once, in the segment of a living writer for every reader at once and on the disk once it is closed."""

    async def answer(ids: range) -> None:
        for n in ids:
            await server.predict(ask("m-v1", {"a": n, "b": 1}, f"r{n}", unit=f"person-{n % 3}"))

    async def scenario() -> None:
        await server.deploy_model("m", "v1", tools.reference(), "python", TRUSTED)
        await answer(range(30))
        server.close()
        server.compact_payloads("m-v1")
        await answer(range(30, 60))
        tools.until(lambda: len(list(server.payload_rows("m-v1"))) == 60)
        server.record_outcomes("m-v1", [{"request_id": f"r{n}", "outcome": 1} for n in range(60)])
        told = server.erase_payloads("m-v1", unit="person-1", reason="Art. 17", user="dpo@example.org")
        assert (told.rows, told.outcomes) == (20, 20)
        assert {row["unit"] for row in server.payload_rows("m-v1")} == {"person-0", "person-2"}
        assert "person-1" not in set(server.payload_frame("m-v1")["unit"])
        folder = server.places.payloads("m-v1")
        assert not any(b"person-1" in path.read_bytes() for path in folder.glob("*.parquet"))
        assert b"person-1" not in (folder / "erased.json").read_bytes()
        await answer(range(60, 63))
        server.close()

    asyncio.run(scenario())
    server.compact_payloads("m-v1")
    folder = server.places.payloads("m-v1")
    assert not list(folder.glob("*.rows"))
    assert [row["request_id"] for row in server.payload_rows("m-v1", unit="person-1")] == ["r61"]
    assert len(list(server.labelled_rows("m-v1"))) == 40
    (kept,) = (path for path in folder.glob("*.parquet") if "person-1" in pd.read_parquet(path)["unit"].tolist())
    assert pd.read_parquet(kept)["unit"].tolist().count("person-1") == 1
    assert server.erase_payloads("m-v1", request_id="r0", reason="asked", user="dpo@example.org").rows == 1
    assert "r0" not in {row["request_id"] for row in server.payload_rows("m-v1")}
    for wrong in ({}, {"unit": "a", "request_id": "b"}):
        with pytest.raises(Invalid, match="either the request_id or the unit"):
            server.erase_payloads("m-v1", reason="none", user="dpo@example.org", **wrong)


def test_an_erasure_that_was_killed_is_carried_through_by_the_next_compaction(server: ModelServer, tools: Any) -> None:
    from modelyard.serving import erasing

    folder = fill(server, tools)
    server.compact_payloads(folder.name)
    erasing.note(folder, "request_id", "r7", until=round(time.time() * 1e6))
    server.compact_payloads(folder.name)
    assert [row["request_id"] for row in server.payload_rows(folder.name)] == [f"r{n}" for n in range(30) if n != 7]
    assert all(entry.done for entry in erasing.read(folder).entries)
    erasing.finish(folder, now=round(time.time() * 1e6) + erasing.KEPT_MICROS + 1)
    assert erasing.read(folder).entries == ()


@pytest.mark.parametrize("form", ["r{}", "{:08d}", "{:016x}", "order-{}-7"])
@pytest.mark.parametrize("share", [0.03, 0.5])
def test_a_sample_is_even_for_ids_that_count(form: str, share: float) -> None:
    """Each residue class of the running number has its share, within five standard deviations of a binomial draw."""
    hits = np.array([drawn(share, form.format(n)) for n in range(40_000)])
    for step in (1, 2, 3, 7, 10, 16):
        for first in range(step):
            some = hits[first::step]
            assert abs(some.sum() - share * len(some)) < 5 * (share * (1 - share) * len(some)) ** 0.5


def test_a_sample_is_the_same_in_every_process_and_scales_to_the_whole(server: ModelServer, tools: Any) -> None:
    """Against the share of hashes: counts by arm and the sum of a feature, scaled by what the rows say."""

    async def scenario() -> None:
        await server.deploy_model("m", "v1", tools.reference(), "python", {**TRUSTED, "payload_sampling": 0.3})
        for n in range(4000):
            await server.predict(ask("m-v1", {"a": n % 10, "b": 1}, f"request-{n}"))
        server.close()

    asyncio.run(scenario())
    rows = list(server.payload_rows("m-v1"))
    kept = {row["request_id"] for row in rows}
    program = "import sys; from modelyard.serving.sampling import drawn; print([n for n in range(4000) if drawn(0.3, f'request-{n}')])"
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert kept == {f"request-{n}" for n in json.loads(other)}
    assert {row["sampling"] for row in rows} == {0.3}
    scaled = sum(row["features"]["a"] / row["sampling"] for row in rows)
    assert abs(scaled - 18_000) < 5 * (np.sum(np.square(np.arange(10))) * 400 * 0.7 / 0.3) ** 0.5
    assert all(drawn(0.6, one) for one in kept)  # a smaller sample is a part of a larger one
