"""A process that is killed in the middle of a batch leaves whole batches only."""

import json
import subprocess
import sys

import pytest

from modelyard.cli.main import main
from modelyard.core.errors import Invalid
from modelyard.core.work import Store
from modelyard.tracking import ExperimentTracker

SIZE = 400
WRITER = f"""
import sys
from modelyard.core.work import Store
from modelyard.tracking import ExperimentTracker
tracker = ExperimentTracker(Store.at(sys.argv[1], files=sys.argv[2]))
for batch in range(100_000):
    points = [(f"m{{i % 7}}", float(batch), batch, i) for i in range({SIZE})]
    tracker.log_batch(sys.argv[3], metrics=points, params={{f"p{{batch}}": "x"}}, tags={{"last": str(batch)}})
    print(batch, flush=True)
"""


@pytest.mark.parametrize("batches", [0, 3, 11])
def test_a_kill_leaves_whole_batches_and_everything_acknowledged(tracker, batches, tmp_path, request):
    place = request.getfixturevalue("postgres_url") if "postgresql" in tracker.store.database.url else str(tmp_path)
    run_id = tracker.create_run("0").run_id
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, place, str(tmp_path), run_id], stdout=subprocess.PIPE, text=True
    ) as writer:
        acknowledged = 0
        for line in writer.stdout:
            acknowledged = int(line) + 1
            if acknowledged >= batches:
                break
        writer.kill()
        for line in writer.stdout:
            if line.endswith("\n"):
                acknowledged = int(line) + 1
    found = ExperimentTracker(Store.at(place, files=tmp_path)).get_run(run_id)
    with tracker.store.reading() as rows:
        counted = rows.all("SELECT timestamp, count(*) AS n FROM run_metrics GROUP BY timestamp ORDER BY timestamp")
    assert [row["n"] for row in counted] == [SIZE] * len(counted)
    assert len(counted) >= acknowledged
    assert set(found.params) == {f"p{batch}" for batch in range(len(counted))}
    assert found.tags["last"] == str(len(counted) - 1)
    assert set(found.metrics.values()) == {float(len(counted) - 1)}


DYING = """
import os, signal, sys
from modelyard.tracking import ExperimentTracker
with ExperimentTracker(sys.argv[1]).run("fraud", name="dies") as run:
    run.log_params({"depth": 6})
    run.log_metric("loss", 0.5)
    run.flush()
    run.log_metric("loss", 0.25, step=1)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_run_whose_process_was_killed_is_found_running_and_ended_by_hand(tmp_path, capsys):
    subprocess.run([sys.executable, "-c", DYING, str(tmp_path)], check=False)
    common = ["--yard", str(tmp_path), "--format", "json"]
    assert main(["tracking", "search-runs", "1", "--filter", "status = 'RUNNING'", *common]) == 0
    (found,) = json.loads(capsys.readouterr().out)["items"]
    assert (found["name"], found["params"], found["end_time"]) == ("dies", {"depth": "6"}, None)
    assert main(["tracking", "end-run", found["run_id"], "--status", "killed", "--user", "ana", *common]) == 0
    tracker = ExperimentTracker(tmp_path)
    run = tracker.get_run(found["run_id"])
    assert (run.status.value, run.metrics) == ("KILLED", {"loss": 0.5})
    with tracker.store.reading() as rows:
        ended = rows.one("SELECT actor, details FROM events WHERE event_type = 'run_ended'")
    assert ended["actor"] == "ana"
    assert json.loads(ended["details"])["digest"] == tracker.digest_run(run.run_id)
    with tracker.resume(run.run_id) as again:
        again.log_metric("loss", 0.25, step=1)
    assert tracker.get_run(run.run_id).status.value == "FINISHED"
    with pytest.raises(Invalid, match="FINISHED, FAILED or KILLED"):
        tracker.end_run(run.run_id, status="RUNNING")
