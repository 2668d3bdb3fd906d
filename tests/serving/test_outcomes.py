"""Outcomes meet their predictions by request id and row; repeated, contradicting, unknown and late ones are told."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelyard import Yard
from modelyard.core.errors import Invalid
from modelyard.serving import ModelServer, PredictionRequest
from modelyard.serving.outcomes import Told, sorted_out

TRUSTED = {"trusted_code": True}


@pytest.fixture
def answered(server: ModelServer, tools: Any) -> ModelServer:
    """Ten requests r0 to r9 of two rows each, at the endpoint m-v1."""

    async def scenario() -> None:
        await server.deploy_model("m", "v1", tools.reference(), "python", TRUSTED)
        for n in range(10):
            rows = [{"a": n - 4.5, "b": 0}, {"a": 4.5 - n, "b": None}]
            await server.predict(PredictionRequest(request_id=f"r{n}", endpoint_id="m-v1", features=rows))
        server.close()

    asyncio.run(scenario())
    return server


@pytest.mark.parametrize("compacted", [False, True])
def test_outcomes_are_joined_by_request_and_row(compacted: bool, answered: ModelServer) -> None:
    if compacted:
        answered.compact_payloads("m-v1")
    report = answered.record_outcomes(
        "m-v1", [{"request_id": f"r{n}", "row": row, "outcome": 1} for n in range(10) for row in (0, 1)][:15]
    )
    assert (report.received, report.new, report.unknown, report.ok) == (15, 15, 0, True)
    rows = list(answered.labelled_rows("m-v1"))
    assert [(row["request_id"], row["row"]) for row in rows] == [(f"r{n}", k) for n in range(10) for k in (0, 1)][:15]
    assert {row["outcome"] for row in rows} == {1}
    assert [row["prediction"] for row in rows if row["row"] == 0] == [0, 0, 0, 0, 0, 1, 1, 1]
    assert all(0 <= row["delay_s"] < 3600 for row in rows)
    assert list(answered.labelled_rows("m-v1", since=rows[-1]["at"] + 1)) == []


def test_each_trouble_is_told_with_examples(answered: ModelServer) -> None:
    assert answered.record_outcome("m-v1", "r1", 1).new == 1
    assert answered.record_outcome("m-v1", "r1", 1).repeated == 1
    told = answered.record_outcome("m-v1", "r1", 0)
    assert (told.conflicting, told.ok, told.examples) == (1, False, {"conflicting": ["r1"]})
    assert next(answered.labelled_rows("m-v1"))["outcome"] == 1
    assert answered.record_outcome("m-v1", "r1", 0, correct=True).corrected == 1
    assert next(answered.labelled_rows("m-v1"))["outcome"] == 0
    told = answered.record_outcomes(
        "m-v1", [{"request_id": "nobody", "outcome": 1}, {"request_id": "r2", "row": 2, "outcome": 1}]
    )
    assert (told.new, told.unknown, told.examples) == (2, 2, {"unknown": ["nobody", "r2 row 2"]})


def test_an_outcome_after_its_prediction_has_gone_is_late(answered: ModelServer) -> None:
    answered.compact_payloads("m-v1")
    folder = answered.places.payloads("m-v1")
    (path,) = folder.glob("*.parquet")
    os.utime(path, (time.time() - 10 * 86_400,) * 2)
    answered.configure("m-v1", {"payload_days": 5, **TRUSTED})
    answered.compact_payloads("m-v1")
    told = answered.record_outcomes(
        "m-v1", [{"request_id": "r3", "outcome": 1}, {"request_id": "nobody", "outcome": "yes"}]
    )
    assert told.examples == {"late": ["r3"], "unknown": ["nobody"]}


def test_an_outcome_may_come_before_the_log_has_its_prediction(server: ModelServer, tools: Any) -> None:
    assert server.record_outcome("m-v1", "early", 1).unknown == 1

    async def scenario() -> None:
        await server.deploy_model("m", "v1", tools.reference(), "python", TRUSTED)
        await server.predict(PredictionRequest(request_id="early", endpoint_id="m-v1", features={"a": 1, "b": 1}))
        server.close()

    asyncio.run(scenario())
    assert [row["request_id"] for row in server.labelled_rows("m-v1")] == ["early"]


WRONG = {
    "has the unknown key 'requestid'": {"requestid": "r1", "outcome": 1},
    "has the request_id 7": {"request_id": 7, "outcome": 1},
    "has the request_id None": {"outcome": 1},
    "has the row -1": {"request_id": "r1", "outcome": 1, "row": -1},
    "has the row True": {"request_id": "r1", "outcome": 1, "row": True},
    "is None": {"request_id": "r1"},
    "is nan": {"request_id": "r1", "outcome": float("nan")},
    "is of 'soon'": {"request_id": "r1", "outcome": 1, "at": "soon"},
}


@pytest.mark.parametrize("words", list(WRONG))
def test_what_is_no_outcome_is_refused_by_its_place_and_nothing_is_kept(words: str, server: ModelServer) -> None:
    with pytest.raises(Invalid, match="Outcome 1.*" + words):
        server.record_outcomes("e", [{"request_id": "fine", "outcome": 1}, WRONG[words]])
    assert server.record_outcome("e", "fine", 1).new == 1


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_outcomes_come_from_files(ending: str, answered: ModelServer, tmp_path: Path) -> None:
    frame = pd.DataFrame({"request_id": [f"r{n}" for n in range(10)], "outcome": [1, 0] * 5, "row": [1] * 10})
    frame["at"] = "2026-01-31T12:00:00Z"
    path = tmp_path / f"truth.{ending}"
    {"csv": frame.to_csv, "parquet": frame.to_parquet}.get(
        ending, lambda path, **_: frame.to_json(path, orient="records", lines=True)
    )(path, index=False)
    assert answered.load_outcomes("m-v1", path).new == 10
    rows = list(answered.labelled_rows("m-v1"))
    assert {row["row"] for row in rows} == {1}
    assert rows[0]["outcome_at"] == 1_769_860_800.0
    (tmp_path / "bad.csv").write_text("request,outcome\nr1,1\n")
    with pytest.raises(Invalid, match="no column 'request_id'"):
        answered.load_outcomes("m-v1", tmp_path / "bad.csv")


def test_monitoring_measures_performance_on_labelled_predictions(tmp_path: Path, tools: Any) -> None:
    yard = Yard(tmp_path / "yard")

    async def scenario() -> None:
        await yard.serving.deploy_model("m", "v1", tools.reference(), "python", TRUSTED)
        for n in range(20):
            row = {"a": n - 9.5, "b": 1e-9}
            await yard.serving.predict(PredictionRequest(request_id=f"r{n}", endpoint_id="m-v1", features=row))
        yard.serving.close()

    asyncio.run(scenario())
    yard.serving.record_outcomes("m-v1", [{"request_id": f"r{n}", "outcome": int(n >= 5)} for n in range(20)])
    for path in (tmp_path / "labelled.csv", tmp_path / "labelled.parquet"):
        assert yard.serving.export_labelled("m-v1", path, version="v1") == 20
        assert yard.monitoring.log(f"m:{path.suffix[1:]}", path) == 20
        found = yard.monitoring.performance(f"m:{path.suffix[1:]}")
        assert found.accuracy == 0.75
    assert "outcomes_recorded" in [one.event_type.value for one in yard.audit.query_events()]
    yard.close()


values = st.one_of(st.integers(-3, 3), st.booleans(), st.sampled_from(["a", "b"]), st.sampled_from([0.0, 1.0, 0.5]))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 1), values)), st.booleans())
def test_any_stream_of_outcomes_ends_with_the_first_or_the_last_word(
    stream: list[tuple[str, int, Any]], correct: bool
) -> None:
    """Against a dict: without correction the first value of a row stands, with it the last; each outcome is in one class."""
    told = [Told(request_id=i, row=row, value=value, at=0) for i, row, value in stream]
    found = sorted_out(told, {}, correct=correct)
    assert sum(len(some) for some in found.values()) == len(told)
    oracle: dict[tuple[str, int], Any] = {}
    for one in told:
        if correct or (one.request_id, one.row) not in oracle:
            oracle[one.request_id, one.row] = one.value
    kept = [*found["new"], *found["corrected"]]
    assert len(found["new"]) == len(oracle)
    last = {(one.request_id, one.row): one.value for one in kept}
    assert {key: float(v) if not isinstance(v, (str, bool)) else v for key, v in last.items()} == {
        key: float(v) if not isinstance(v, (str, bool)) else v for key, v in oracle.items()
    }
