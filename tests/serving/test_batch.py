"""Batch prediction answers every row of a file, tells each bad one with its place, and goes on after a kill."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import os
import pty
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pytest

from modelyard.core.errors import Conflict, Damaged, Invalid, NotFound, Unavailable
from modelyard.serving import ModelServer

HERE = Path(__file__).parent


@pytest.fixture
def known(server: ModelServer, tools: Any) -> ModelServer:
    tools.install(server, "e", v1=tools.reference(), texts=f"{tools.models}:Texts", failing=tools.reference(fail=0.5))
    return server


def answers(folder: Path) -> pd.DataFrame:
    parts = sorted(folder.glob("part-*.parquet"))
    return pd.concat([pd.read_parquet(part) for part in parts], ignore_index=True)


def table(rows: int, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame({"id": np.arange(rows), "a": rng.normal(size=rows), "b": rng.normal(size=rows)})
    frame.loc[::7, "b"] = np.nan
    return frame


def truth(frame: pd.DataFrame) -> list[int]:
    return (np.nansum(frame[["a", "b"]].to_numpy(), axis=1) > 0).astype(int).tolist()


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet", "csv.gz", "jsonl.gz", "parquet.gz"])
def test_every_row_of_any_format_is_answered_in_order_with_what_it_carries(
    ending: str, known: ModelServer, tmp_path: Path
) -> None:
    frame = table(1000)
    path = tmp_path / f"rows.{ending}"
    writers = {
        "csv": lambda: frame.to_csv(path, index=False),
        "jsonl": lambda: frame.to_json(path, orient="records", lines=True),
        "parquet": lambda: frame.to_parquet(path),
    }
    packed = ending.endswith(".gz")
    path = tmp_path / f"rows.{ending.removesuffix('.gz')}"
    writers[ending.removesuffix(".gz")]()
    if packed:
        path, plain = tmp_path / f"rows.{ending}", path
        path.write_bytes(gzip.compress(plain.read_bytes()))
    report = known.predict_batch("m:v1", path, tmp_path / "out", chunk_rows=300, workers=1)
    found = answers(tmp_path / "out")
    assert (report.predicted, report.parts, report.rejected) == (1000, 4, 0)
    assert found["prediction"].tolist() == truth(frame)
    assert found["row"].tolist() == list(range(1, 1001))
    assert [int(one) for one in found["id"]] == frame["id"].tolist()
    assert {len(one) for one in found["probabilities"]} == {2}
    assert pd.api.types.is_integer_dtype(found["id"]) == ("parquet" in ending)
    assert not list((tmp_path / "out").glob(".plain*"))


def test_a_folder_is_answered_file_by_file_and_quotes_may_hold_line_breaks(known: ModelServer, tmp_path: Path) -> None:
    rows = [(f'say "{n}",\r\nthen\n{n}' if n % 3 == 0 else str(n), n - 50.0) for n in range(101)]
    (tmp_path / "in" / "deep").mkdir(parents=True)
    with (tmp_path / "in" / "a.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("note", "b", "a"), *((note, "", a) for note, a in rows)])
    (tmp_path / "in" / "deep" / "b.jsonl").write_text('\n{"a": 1, "b": 2, "note": {"x": [1]}}\n\n{"a": -1, "b": null}')
    (tmp_path / "in" / "README.txt").write_text("not rows")
    known.predict_batch("m:v1", tmp_path / "in", tmp_path / "out", chunk_rows=7, workers=1)
    found = answers(tmp_path / "out")
    first = found[found["file"] == "a.csv"]
    assert first["note"].tolist() == [note for note, _ in rows]
    assert first["prediction"].tolist() == [int(a > 0) for _, a in rows]
    last = found[found["file"] == "deep/b.jsonl"]
    assert last["row"].tolist() == [2, 4]
    assert last["note"].tolist()[0] == '{"x":[1]}'


def test_text_features_and_text_answers(known: ModelServer, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text('colour,n\nred,1\n"bl,ue",2.0\n,3\n')
    known.predict_batch("m:texts", tmp_path / "x.csv", tmp_path / "out")
    assert answers(tmp_path / "out")["prediction"].tolist() == ["yes", "no", "no"]


BAD = {
    "a,b\n1,2\nx,2\n": "line 3: the feature 'a' is 'x'",
    "a,b\n1,2\n1,2,3\n": "line 3: it has 3 values",
    "a,b\n1,2\n\n,2\n": "line 4: the feature 'a' is missing its value",
    "a,b\n1,2\ninf,2\n": "line 3: the feature 'a' is inf",
    "a,b\n1,2\n1_0,2\n": "line 3: the feature 'a' is '1_0'",
    "b,a\n1,2\n\ud8ff1,2\n".replace("\ud8ff", "é"): "line 3: the feature 'b' is 'é1'",
}


@pytest.mark.parametrize("text", list(BAD))
def test_a_bad_row_is_told_with_its_line_and_left_out_only_when_asked(
    text: str, known: ModelServer, tmp_path: Path
) -> None:
    path = tmp_path / "x.csv"
    path.write_text(text)
    with pytest.raises(Invalid) as told:
        known.predict_batch("m:v1", path, tmp_path / "strict", workers=1)
    assert f"x.csv, {BAD[text]}" in str(told.value)
    report = known.predict_batch("m:v1", path, tmp_path / "out", workers=1, rejects=True)
    assert (report.predicted, report.rejected) == (1, 1)
    reject = json.loads(Path(report.rejects).read_text())
    assert f"line {reject['line']}: {reject['error']}".startswith(BAD[text])


def test_rows_that_are_no_json_or_no_text_are_rejected_one_by_one(known: ModelServer, tmp_path: Path) -> None:
    lines = [b'{"a": 1, "b": 2}', b'{"a": 1', b"[1]", b'{"a": "x", "b": 1}', b'{"b": 1}', b"\xff\xfe", b"[" * 100_000]
    (tmp_path / "x.jsonl").write_bytes(b"\n".join(lines))
    report = known.predict_batch("m:v1", tmp_path / "x.jsonl", tmp_path / "out", workers=1, rejects=True)
    assert (report.predicted, report.rejected) == (1, 6)
    (tmp_path / "y.csv").write_bytes(b'a,b\n1,2\n1,"\xff"\n3,4\n1,"unclosed\n2,3\n')
    report = known.predict_batch("m:v1", tmp_path / "y.csv", tmp_path / "out2", workers=1, rejects=True)
    assert [json.loads(line)["line"] for line in Path(report.rejects).read_text().splitlines()] == [3, 5]
    assert answers(tmp_path / "out2")["row"].tolist() == [1, 3]


def test_chunks_cut_anywhere_hold_the_same_rows_as_the_csv_module_reads(known: ModelServer, tmp_path: Path) -> None:
    """Against Python's own reader of the whole file, for files full of quotes and line breaks."""
    rng = random.Random(0)
    for trial in range(12):
        letters = ["x", '"', "\n", "\r\n", ",", "é", ""]
        rows = [("".join(rng.choice(letters) for _ in range(rng.randrange(6))), n) for n in range(rng.randrange(1, 60))]
        path = tmp_path / f"{trial}.csv"
        with path.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream, lineterminator=rng.choice(["\n", "\r\n"]))
            writer.writerows([("note", "a", "b"), *((note, n, 0) for note, n in rows)])
        if rng.random() < 0.5:
            path.write_bytes(path.read_bytes().rstrip(b"\r\n"))
        known.predict_batch("m:v1", path, tmp_path / f"out{trial}", chunk_rows=rng.randrange(1, 9), workers=1)
        found = answers(tmp_path / f"out{trial}")
        assert found["note"].tolist() == [note for note, _ in rows]
        assert found["row"].tolist() == list(range(1, len(rows) + 1))


def test_what_cannot_be_begun_says_why(known: ModelServer, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("aa,b\n1,2\n")
    with pytest.raises(Invalid, match=r"no column 'a'. Did you mean aa"):
        known.predict_batch("m:v1", tmp_path / "x.csv", tmp_path / "o1")
    (tmp_path / "y.csv").write_text("a,a,b\n1,2,3\n")
    with pytest.raises(Invalid, match="two columns"):
        known.predict_batch("m:v1", tmp_path / "y.csv", tmp_path / "o1")
    with pytest.raises(NotFound, match="no file or folder"):
        known.predict_batch("m:v1", tmp_path / "none.csv", tmp_path / "o1")
    with pytest.raises(NotFound, match="m"):
        known.predict_batch("m:v9.0.0", tmp_path / "x.csv", tmp_path / "o1")
    with pytest.raises(Invalid, match="NAME:VERSION"):
        known.predict_batch("nowhere", tmp_path / "x.csv", tmp_path / "o1")
    (tmp_path / "z.parquet").write_bytes(b"PAR1 garbage")
    with pytest.raises(Damaged, match="cannot be read as Parquet"):
        known.predict_batch("m:v1", tmp_path / "z.parquet", tmp_path / "o1")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    (tmp_path / "ok.csv").write_text("a,b\n1,2\n")
    with pytest.raises(Conflict, match="other files"):
        known.predict_batch("m:v1", tmp_path / "ok.csv", tmp_path / "full")
    with pytest.raises(Invalid, match="no column 'idd' to keep"):
        known.predict_batch("m:v1", tmp_path / "ok.csv", tmp_path / "o1", keep=["idd"])


def test_what_no_reader_would_read_right_is_refused_and_leaves_nothing_behind(
    known: ModelServer, tmp_path: Path
) -> None:
    wrong = {
        "mac.csv": (b"a,b\r1,2\r3,4\r", "carriage return"),
        "wide.csv": ("a,b\n1,2\n".encode("utf-16"), "UTF-16"),
        "cut.csv.gz": (gzip.compress(b"a,b\n" + os.urandom(5000).hex().encode())[:-900], "cannot be uncompressed"),
        "no.csv.gz": (b"a,b\n1,2\n", "cannot be uncompressed"),
        "x.zip.gz": (gzip.compress(b""), "unknown ending"),
        "empty.csv": (b"", "is empty"),
    }
    for name, (data, words) in wrong.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises((Invalid, Damaged), match=words):
            known.predict_batch("m:v1", tmp_path / name, tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_files_of_a_folder_may_differ_in_what_they_carry_and_be_empty_and_the_answers_may_stand_among_them(
    known: ModelServer, tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.csv").write_text("id,a,b\n1,2,3\n")
    (folder / "b.csv").write_text("b,more,a\n3,x,-9\n")
    (folder / "c.csv").write_text("")
    (folder / "d.csv").write_text("a,b\n")
    (folder / "e.jsonl").write_text("")
    pd.DataFrame({"a": [1.0], "b": [2.0], "id": [7]}).to_parquet(folder / "f.parquet")
    asked = {"chunk_rows": 1, "workers": 1}
    report = known.predict_batch("m:v1", folder, folder / "out", **asked)
    found = answers(folder / "out").astype(object).where(lambda one: one.notna(), None)
    assert found[["file", "id", "more", "prediction"]].to_numpy().tolist() == [
        ["a.csv", "1", None, 1],
        ["b.csv", None, "x", 0],
        ["f.parquet", "7", None, 1],
    ]
    assert known.predict_batch("m:v1", folder, folder / "out", **asked).resumed == report.parts == 3
    (folder / "g.csv").write_text("a,id\n1,2\n")
    with pytest.raises(Invalid, match=r"g.csv has no column 'b'"):
        known.predict_batch("m:v1", folder, tmp_path / "other", **asked)


def test_an_output_folder_is_of_one_prediction_and_done_once(known: ModelServer, tmp_path: Path) -> None:
    table(50).to_csv(tmp_path / "x.csv", index=False)
    first = known.predict_batch("m:v1", tmp_path / "x.csv", tmp_path / "out", chunk_rows=20, workers=1)
    again = known.predict_batch("m:v1", tmp_path / "x.csv", tmp_path / "out", chunk_rows=20, workers=1)
    assert (first.resumed, again.resumed, again.predicted) == (0, 3, 50)
    for changed in ({"model": "m:failing"}, {"chunk_rows": 10}, {"keep": ["a"]}, {"rejects": True}):
        asked = {"model": "m:v1", "chunk_rows": 20, "workers": 1} | changed
        with pytest.raises(Conflict, match="another prediction"):
            known.predict_batch(asked.pop("model"), tmp_path / "x.csv", tmp_path / "out", **asked)
    os.utime(tmp_path / "x.csv", ns=(1, 1))
    with pytest.raises(Conflict, match="an input file differs"):
        known.predict_batch("m:v1", tmp_path / "x.csv", tmp_path / "out", chunk_rows=20, workers=1)


def digests(folder: Path) -> dict[str, str]:
    return {one.name: hashlib.sha256(one.read_bytes()).hexdigest() for one in folder.iterdir() if one.name != ".lock"}


SCRIPT = """
import sys
from modelyard.serving import ModelServer
if __name__ == "__main__":
    yard, source, output, workers = sys.argv[1:]
    ModelServer(yard).predict_batch("m:v1", source, output, chunk_rows=200, workers=int(workers), rejects=True)
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_that_is_killed_again_and_again_leaves_the_bytes_of_an_uninterrupted_one(
    workers: int, server: ModelServer, tools: Any, tmp_path: Path
) -> None:
    tools.install(server, "e", v1=tools.reference(slow=20))
    frame = table(6000)
    frame["a"] = frame["a"].astype(object)
    frame.loc[[3, 1000, 5999], "a"] = "bad"
    source = tmp_path / ("x.csv" if workers == 1 else "x.csv.gz")
    frame.to_csv(source, index=False)
    script = tmp_path / "run.py"
    script.write_text(SCRIPT)
    out = tmp_path / "out"
    killed = 0
    command = [sys.executable, str(script), str(tmp_path / "yard"), str(source), str(out), str(workers)]
    for _ in range(3):
        before = len(list(out.glob("part-*"))) if out.exists() else 0
        process = subprocess.Popen(command)
        try:
            tools.until(lambda b=before, p=process: len(list(out.glob("part-*"))) > b + 2 or p.poll() is not None)
        finally:
            killed += process.poll() is None
            process.kill()
            process.wait()
    assert killed
    report = server.predict_batch("m:v1", source, out, chunk_rows=200, workers=workers, rejects=True)
    server.predict_batch("m:v1", source, tmp_path / "whole", chunk_rows=200, workers=1, rejects=True)
    assert report.resumed > 0
    assert (report.predicted, report.rejected) == (5997, 3)
    assert digests(out) == digests(tmp_path / "whole")
    with duckdb.connect() as connection:
        found = connection.execute(f"SELECT count(DISTINCT row), count(*) FROM '{out}/*.parquet'").fetchall()
    assert found == [(5997, 5997)]


FULL = """
import resource, sys
from modelyard.core.errors import Unavailable
from modelyard.serving import ModelServer
yard, source, output = sys.argv[1:]
server = ModelServer(yard)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
try:
    server.predict_batch("m:v1", source, output, workers=1)
except Unavailable as error:
    print(error)
"""


def test_a_full_disk_is_told_and_the_run_goes_on_once_there_is_room(known: ModelServer, tmp_path: Path) -> None:
    table(5000).to_csv(tmp_path / "x.csv", index=False)
    command = [sys.executable, "-c", FULL, str(tmp_path / "yard"), str(tmp_path / "x.csv"), str(tmp_path / "out")]
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "cannot be written" in told.stdout
    assert not list((tmp_path / "out").glob("part-*"))
    assert known.predict_batch("m:v1", tmp_path / "x.csv", tmp_path / "out", workers=1).predicted == 5000


def test_a_model_that_fails_ends_the_run_and_says_so(known: ModelServer, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("a,b\n1.2,2\n")
    with pytest.raises(Invalid, match="FloatingPointError"):
        known.predict_batch("m:failing", tmp_path / "x.csv", tmp_path / "out", workers=1, rejects=True)


def test_two_runs_do_not_write_one_folder_at_once(known: ModelServer, tmp_path: Path) -> None:
    import fcntl

    table(5).to_csv(tmp_path / "x.csv", index=False)
    (tmp_path / "out").mkdir()
    with (tmp_path / "out" / ".lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(Conflict, match="Another process"):
            known.predict_batch("m:v1", tmp_path / "x.csv", tmp_path / "out", workers=1)


def test_a_package_folder_and_a_registered_version_answer_as_the_endpoint_does(
    small_model: Path, tmp_path: Path
) -> None:
    from modelyard import Yard

    frame = pd.DataFrame({"a": [1.0, -1.0], "b": [0.0, 0.5], "c": [0.0, 0.0]})
    frame.to_csv(tmp_path / "x.csv", index=False)
    yard = Yard(tmp_path / "yard")
    yard.registry.register_model("fraud", "v1.0.0", small_model, "lightgbm", "ana@example.com")
    yard.serving.predict_batch(str(small_model), tmp_path / "x.csv", tmp_path / "o1", workers=1)
    yard.serving.predict_batch("fraud:v1.0.0", tmp_path / "x.csv", tmp_path / "o2", workers=1)
    assert answers(tmp_path / "o1")["prediction"].tolist() == answers(tmp_path / "o2")["prediction"].tolist()
    assert "batch_predicted" in [one.event_type.value for one in yard.audit.query_events()]
    assert issubclass(Unavailable, Exception)
    yard.close()


def test_the_command_prints_the_report_and_draws_no_bar_off_a_terminal(small_model: Path, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("a,b,c\n1,2,3\n")
    command = [sys.executable, "-m", "modelyard", "serving", "predict-batch", str(small_model), str(tmp_path / "x.csv")]
    command += [str(tmp_path / "out"), "--yard", str(tmp_path / "yard")]
    told = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert json.loads(told.stdout)["predicted"] == 1
    assert "rows" not in told.stderr


def test_a_terminal_sees_how_far_it_is(known: ModelServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table(5).to_csv(tmp_path / "x.csv", index=False)
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        known.predict_batch("m:v1", tmp_path / "x.csv", tmp_path / "out", workers=1)
        assert b"100%  5 of 5 rows" in os.read(ours, 10_000)
    os.close(ours)
