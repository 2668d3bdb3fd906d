"""Export, import into an empty yard and export again: every document is the same, byte for byte."""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
import tempfile
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lives import Life

from modelyard import Yard
from modelyard.ab_testing import portable as ab_testing
from modelyard.core.errors import Forbidden
from modelyard.core.events import EventType
from modelyard.core.instants import FixedClock
from modelyard.deployment import portable as deployment
from modelyard.portable.folder import MANIFEST
from modelyard.registry import portable as registry

OWN = ("index", "integrated_at", "position")  # what an event has of the log that it stands in


def documents(folder: Path) -> dict[str, bytes]:
    """Every file that a round trip keeps: all but the manifest, with the time, and the log, which is the receiver's own."""
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {path: data for path, data in found.items() if path != MANIFEST and not path.startswith("audit_logs/")}


def events(folder: Path) -> list[dict[str, Any]]:
    """The events in the log's order, without what they have of the log."""
    found = [json.loads(line) for path in folder.rglob("events.jsonl") for line in path.read_bytes().splitlines()]
    found.sort(key=lambda event: event["position"])
    return [{key: value for key, value in event.items() if key not in OWN} for event in found]


def check_round_trip(first: Yard, second: Yard, folder: Path) -> None:
    first.export(folder / "out", user="ana")
    brought = second.import_(folder / "out", user="bo")
    second.export(folder / "again", user="bo")
    assert documents(folder / "again") == documents(folder / "out")
    before, after = events(folder / "out"), events(folder / "again")
    ids = {event["event_id"] for event in before}
    assert [event for event in after if event["event_id"] in ids] == before
    own = {event["event_type"] for event in after if event["event_id"] not in ids}
    assert own <= {"artifact_stored", "artifact_quarantined", "yard_imported"}
    assert brought.counts["events"] == len(before)
    assert second.audit.verify().ok
    for version in first.registry.list_models():
        assert second.registry.get_model(version.name, version.version) == version
        assert [one.event_id for one in second.registry.history(version.name, version.version)] == [
            one.event_id for one in first.registry.history(version.name, version.version)
        ]


@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data(), times=st.integers(0, 60))
def test_whatever_a_yard_went_through_comes_back_the_same(
    migrated: Path, files: dict[str, Path], data: st.DataObject, times: int
) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        clock = FixedClock(datetime(2026, 1, 1, tzinfo=UTC))
        for name in ("first", "second"):
            shutil.copytree(migrated, folder / name)
        first, second = Yard(folder / "first", clock=clock), Yard(folder / "second", clock=clock)
        Life(first, clock, files, data.draw).happen(times)
        check_round_trip(first, second, folder)
        first.close()
        second.close()


@pytest.mark.postgres
@pytest.mark.usefixtures("postgres_url")  # so that there is a migrated database to copy
@settings(max_examples=2, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_yard_moves_from_sqlite_to_postgresql_and_back(
    migrated: Path, files: dict[str, Path], postgres_server: Any, request: pytest.FixtureRequest, data: st.DataObject
) -> None:
    name = postgres_server.new_database(request.getfixturevalue("_migrated"))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        clock = FixedClock(datetime(2026, 1, 1, tzinfo=UTC))
        for one in ("first", "third"):
            shutil.copytree(migrated, folder / one)
        first, third = Yard(folder / "first", clock=clock), Yard(folder / "third", clock=clock)
        second = Yard(postgres_server.url(name), files=folder / "second", clock=clock)
        Life(first, clock, files, data.draw).happen(60)
        (folder / "there").mkdir()
        check_round_trip(first, second, folder / "there")
        (folder / "back").mkdir()
        check_round_trip(second, third, folder / "back")
        for yard in (first, second, third):
            yard.close()
    postgres_server.drop_database(name)


def test_the_same_import_again_changes_nothing(lived: Yard, new_yard: Callable[[str], Yard], tmp_path: Path) -> None:
    lived.export(tmp_path / "out")
    other = new_yard("other")
    other.import_(tmp_path / "out")
    before = other.audit.checkpoint()
    again = other.import_(tmp_path / "out")
    assert set(again.counts.values()) == {0}
    assert other.audit.checkpoint() == before


def test_a_yard_that_something_happened_in_takes_others_in_and_goes_on(
    lived: Yard, new_yard: Callable[[str], Yard], tmp_path: Path, files: dict[str, Path]
) -> None:
    other = new_yard("other")
    other.registry.register_model("churn", "v1.0.0", files["file"], "lightgbm", "bo")
    lived.export(tmp_path / "out")
    other.import_(tmp_path / "out", user="bo")
    assert {one.name for one in other.registry.list_models()} == {"churn", "Fraud"}
    assert other.registry.champion("Fraud").version == "v1.0.0"
    assert other.registry.register_model("Fraud", "next", files["file"], "lightgbm", "bo").number == 4
    request = other.registry.list_requests("Fraud", "v2.0.0")[0]
    with pytest.raises(Forbidden, match="uploaded its bytes"):  # bo did, under other names
        other.registry.approve_promotion("Fraud", "v2.0.0", "bo")
    other.registry.approve_promotion("Fraud", "v2.0.0", "kim")
    assert other.registry.get_model("Fraud", "v2.0.0").stage is request.target_stage
    assert other.audit.verify().ok


def test_anyone_can_check_the_exported_log_with_sha256_alone(lived: Yard, tmp_path: Path) -> None:
    """An independent reading of RFC 6962: the lines are the leaves, and their tree has the checkpoint's root."""
    import base64

    lived.export(tmp_path / "out")
    lines = [
        line for path in sorted((tmp_path / "out").rglob("events.jsonl")) for line in path.read_bytes().splitlines()
    ]
    lines.sort(key=lambda line: json.loads(line)["index"])

    def root(leaves: list[bytes]) -> bytes:
        if len(leaves) == 1:
            return hashlib.sha256(b"\0" + leaves[0]).digest()
        split = 1 << (len(leaves) - 1).bit_length() - 1
        return hashlib.sha256(b"\1" + root(leaves[:split]) + root(leaves[split:])).digest()

    note = next((tmp_path / "out/audit_logs/checkpoints").glob("*.txt")).read_text().splitlines()
    assert note[1] == str(len(lines))
    assert base64.b64decode(note[2]) == root(lines)


def test_the_manifest_is_what_sha256sum_computes(lived: Yard, tmp_path: Path) -> None:
    done = lived.export(tmp_path / "out")
    manifest = json.loads((tmp_path / "out" / MANIFEST).read_text())
    for path, kept in manifest["files"].items():
        data = (tmp_path / "out" / path).read_bytes()
        assert (hashlib.sha256(data).hexdigest(), len(data)) == (kept["sha256"], kept["size"])
    assert hashlib.sha256((tmp_path / "out" / MANIFEST).read_bytes()).hexdigest() == done.sha256
    assert {str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*") if p.is_file()} == {
        *manifest["files"],
        MANIFEST,
    }
    assert manifest["files"]["models/!fraud/v2.0.0/package/notes/READ me.json"]


def test_a_document_has_every_column_of_its_table(migrated: Path) -> None:
    """A column that somebody adds to a table belongs into the documents too, or it would be lost on the way."""
    tables = [deployment.DEPLOYMENTS, deployment.HISTORY, deployment.SHADOWS, registry.POLICY, registry.BREAK]
    tables += [ab_testing.TESTS, ab_testing.HOLDOUT, *(table for table, _ in ab_testing.PARTS.values())]
    with closing(sqlite3.connect(migrated / "modelyard.db")) as raw:
        for table in tables:
            columns = {row[1] for row in raw.execute(f"PRAGMA table_info({table.name})")}
            elsewhere = {"position", "deployment_id" if table is deployment.HISTORY else "", "test_id"} - {""}
            assert columns - set(table.columns) <= elsewhere, table.name
            assert set(table.columns) <= columns, table.name


def test_what_has_expired_stays_gone_and_its_leaf_still_counts(
    new_yard: Callable[[str], Yard], tmp_path: Path, migrated: Path
) -> None:
    clock = FixedClock(datetime(2026, 1, 1, tzinfo=UTC))
    shutil.copytree(migrated, tmp_path / "old")
    old = Yard(tmp_path / "old", clock=clock)
    for number in range(3):
        old.audit.log_event(EventType.DATA_ACCESSED, "dataset", f"d{number}", user="ana", details={"why": "training"})
    old.audit.set_retention({"data_accessed": 400}, user="ana")
    old.audit.integrate()
    clock.advance(500 * 86_400)
    assert old.audit.expire_events(user="ana").events == 3
    old.export(tmp_path / "out")
    assert b"training" not in b"".join(path.read_bytes() for path in (tmp_path / "out").rglob("*.jsonl"))
    other = new_yard("other")
    other.import_(tmp_path / "out")
    assert other.audit.verify().ok
    assert [event.actor for event in other.audit.query_events(EventType.DATA_ACCESSED)] == ["expired"] * 3
