"""A process that is killed in the middle of a batch leaves whole batches only."""

import subprocess
import sys

import pytest

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
