"""Logging, asking, reporting, exporting, proving."""

from __future__ import annotations

import csv
import json
import stat
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from modelyard.audit import AuditLogger, EventSeverity, EventType, check_proof
from modelyard.audit.leaves import COLUMNS, leaf_bytes, leaf_hashes
from modelyard.audit.merkle import leaf_hash
from modelyard.core.canonical import canonical, dumps
from modelyard.core.errors import Damaged, Invalid, NotFound, Unavailable
from modelyard.core.instants import FixedClock
from modelyard.core.refs import Resource
from modelyard.core.work import Store
from modelyard.testing.servers import until

START = datetime(2026, 3, 1, 12, tzinfo=UTC)


def fill(logger: AuditLogger, clock: FixedClock, count: int, batch: int = 4) -> None:
    """Log events a second apart; a checkpoint after every batch."""
    for number in range(count):
        logger.log_event(
            EventType.DATA_ACCESSED,
            "dataset",
            f"d{number % 3}",
            user=f"u{number % 2}",
            details={"n": number, "tag": "é\"'"},
        )
        clock.advance(1)
        if number % batch == batch - 1:
            logger.integrate()


TEXT = st.text(max_size=20)


@given(
    TEXT,
    TEXT,
    st.dictionaries(TEXT, st.one_of(TEXT, st.integers(-9, 9), st.booleans(), st.none())),
    st.integers(0, 2**52),
)
@settings(max_examples=200, deadline=None)
def test_a_leaf_is_the_canonical_json_of_its_event(
    actor: str, resource: str, details: dict[str, object], at: int
) -> None:
    row = {
        "position": 3,
        "event_id": "evt_1",
        "event_type": "model_deployed",
        "severity": "info",
        "actor": actor,
        "resource_type": "model",
        "resource_id": resource,
        "occurred_at": at,
    }
    whole = {**row, "details": details, "index": 2, "integrated_at": at, "v": 1}
    event = tuple({**row, "details": dumps(details)}[name] for name in COLUMNS)
    assert leaf_bytes(2, at, event) == canonical(whole)
    assert leaf_hashes([(2, 3, 1, at)], [event[1:]]) == [leaf_hash(canonical(whole))]


def test_events_of_every_area_are_in_the_log(folder: Path, clock: FixedClock) -> None:
    store = Store.at(folder, clock=clock)
    with store.work("alice") as work:
        event = work.emit(EventType.MODEL_REGISTERED, Resource("model", "m:v1"), {"n": 1})
    logger = AuditLogger(store)
    assert [found.event_id for found in logger.query_events(by="alice")] == [event.event_id]
    assert check_proof(logger.prove(event.event_id), str(logger.keys.public())).record["event_id"] == event.event_id


def test_an_undone_change_leaves_no_event(logger: AuditLogger) -> None:
    with pytest.raises(ZeroDivisionError), logger.store.work() as work:  # noqa: PT012
        work.emit(EventType.MODEL_REGISTERED, Resource("model", "m:v1"))
        raise ZeroDivisionError
    assert logger.query_events() == []
    with pytest.raises(NotFound, match="nothing has happened"):
        logger.checkpoint()
    assert logger.verify().ok


@pytest.mark.parametrize(
    ("conditions", "count"),
    [
        ({}, 10),
        ({"by": "u0"}, 5),
        ({"by": "u0", "resource_id": "d0"}, 2),
        ({"resource_type": "dataset"}, 10),
        ({"resource_type": "nothing"}, 0),
        ({"event_type": EventType.DATA_ACCESSED}, 10),
        ({"event_type": EventType.MODEL_DEPLOYED}, 0),
        ({"severity": EventSeverity.INFO}, 10),
        ({"start_date": START + timedelta(seconds=4)}, 6),
        ({"end_date": START + timedelta(seconds=4)}, 4),
        ({"start_date": START + timedelta(seconds=2), "end_date": START + timedelta(seconds=4)}, 2),
        ({"limit": 3}, 3),
        ({"after": 7}, 3),
        ({"order": "newest", "after": 7}, 6),
    ],
)
def test_a_query_answers_what_meets_every_condition(
    logger: AuditLogger, clock: FixedClock, conditions: dict[str, object], count: int
) -> None:
    fill(logger, clock, 10)
    found = logger.query_events(**conditions)  # type: ignore[arg-type]
    assert len(found) == count
    positions = [event.position for event in found]
    assert positions == sorted(positions, reverse=conditions.get("order") == "newest")


def test_a_naive_time_is_local_time(logger: AuditLogger, clock: FixedClock) -> None:
    fill(logger, clock, 10)
    local = datetime.fromtimestamp((START + timedelta(seconds=4)).timestamp())
    assert len(logger.query_events(start_date=local)) == 6


def test_a_period_that_ends_before_it_starts_is_refused(logger: AuditLogger) -> None:
    with pytest.raises(Invalid, match="Swap them"):
        logger.query_events(start_date=START, end_date=START - timedelta(days=1))
    with pytest.raises(Invalid, match="limit"):
        logger.query_events(limit=0)


BAD_TEXTS = ["", "  ", "x" * 513, "a\x00b", "half \ud800", None, 7]


@pytest.mark.parametrize("bad", BAD_TEXTS, ids=repr)
def test_what_cannot_be_stored_is_refused_with_the_field_named(logger: AuditLogger, bad: str) -> None:
    with pytest.raises(Invalid, match="user"):
        logger.log_event(EventType.DATA_ACCESSED, "dataset", "d", user=bad)
    with pytest.raises(Invalid, match="resource_id"):
        logger.log_event(EventType.DATA_ACCESSED, "dataset", bad, user="u")
    with pytest.raises(Invalid, match="action"):
        logger.log_security_violation("u", "model", "m", bad)
    assert logger.query_events() == []


@pytest.mark.parametrize(
    "bad", [{"x": "y" * 70_000}, {"x": "\ud800"}, {"x": object()}, [1]], ids=["long", "surrogate", "object", "list"]
)
def test_details_that_cannot_be_stored_are_refused(logger: AuditLogger, bad: dict[str, object]) -> None:
    with pytest.raises(Invalid):
        logger.log_event(EventType.DATA_ACCESSED, "dataset", "d", user="u", details=bad)
    assert logger.query_events() == []


@given(
    st.text(min_size=1, max_size=40).filter(lambda s: s.strip() and "\x00" not in s),
    st.dictionaries(TEXT, TEXT, max_size=3),
)
@settings(max_examples=30, deadline=None)
def test_any_text_comes_back_and_is_proved(actor: str, details: dict[str, str]) -> None:
    logger = _shared()
    event = logger.log_event(EventType.DATA_ACCESSED, "dataset", actor, user=actor, details=details)
    assert logger.query_events(resource_id=actor)[-1] == event
    record = check_proof(logger.prove(event.event_id), str(logger.keys.public())).record
    assert (record["actor"], record["details"]) == (actor, {**details, "reported": True})


_SHARED: list[AuditLogger] = []


def _shared() -> AuditLogger:
    return _SHARED[0]


@pytest.fixture(autouse=True)
def _one_for_hypothesis(request: pytest.FixtureRequest) -> None:
    if "any_text" in request.node.name:
        _SHARED[:] = [request.getfixturevalue("logger")]


def test_a_report_counts_what_happened(logger: AuditLogger, clock: FixedClock) -> None:
    fill(logger, clock, 5)
    violation = logger.log_security_violation("eve", "model", "m:v1", "download", ip_address="192.0.2.1")
    report = logger.generate_compliance_report(START, START + timedelta(days=1), user="auditor")
    assert report.total_events == 6
    assert report.security_violations == (violation,)
    assert report.summary["by_user"] == {"u0": 3, "u1": 2, "eve": 1}
    assert report.summary["by_severity"] == {"info": 5, "critical": 1}
    assert report.summary["by_type"] == {"data_accessed": 5, "security_violation": 1}
    assert report.summary["most_active_user"] == "u0"
    assert report.checkpoint.splitlines()[1] == "6"
    assert logger.query_events(EventType.REPORT_GENERATED)[0].actor == "auditor"


def test_a_report_on_nothing_is_empty(logger: AuditLogger) -> None:
    report = logger.generate_compliance_report()
    assert (report.total_events, report.security_violations, report.summary["most_active_user"]) == (0, (), None)


def test_an_export_holds_every_event_in_all_formats(logger: AuditLogger, clock: FixedClock, tmp_path: Path) -> None:
    fill(logger, clock, 7)
    logger.log_event(
        EventType.DATA_ACCESSED, "dataset", "=cmd()|' /C calc'!A0", user="@evil", details={"k": [1, None, "a: b\n- c"]}
    )
    clock.advance(1)
    events = logger.query_events(limit=100)
    for form in ("json", "yaml", "csv"):
        done = logger.export_audit_trail(
            tmp_path / "out" / f"t.{form}", format=form, end_date=START + timedelta(seconds=8)
        )
        assert done.events == 8
    as_json = json.loads((tmp_path / "out" / "t.json").read_text())
    as_yaml = yaml.safe_load((tmp_path / "out" / "t.yaml").read_text())
    assert [event["event_id"] for event in as_json["events"]] == [event.event_id for event in events]
    assert as_yaml["events"] == as_json["events"]
    assert as_json["checkpoint"].splitlines()[1] == "8"
    with (tmp_path / "out" / "t.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [json.loads(row["details"]) for row in rows] == [event["details"] for event in as_json["events"]]
    assert (rows[-1]["actor"], rows[-1]["resource_id"][:2]) == ("'@evil", "'=")
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"t.json", "t.yaml", "t.csv"}


def test_an_export_tells_of_itself(logger: AuditLogger, clock: FixedClock, tmp_path: Path) -> None:
    fill(logger, clock, 2)
    done = logger.export_audit_trail(tmp_path / "t.json", user="auditor")
    event = logger.query_events(EventType.TRAIL_EXPORTED)[0]
    assert (event.actor, event.details["sha256"], event.details["events"]) == ("auditor", done.sha256, 2)


def test_an_export_that_cannot_be_written_leaves_nothing(
    logger: AuditLogger, clock: FixedClock, tmp_path: Path
) -> None:
    fill(logger, clock, 2)
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable, match="cannot be written"):
        logger.export_audit_trail(tmp_path / "file" / "t.json")
    (tmp_path / "folder").mkdir()
    with pytest.raises(Unavailable, match="cannot be written"):
        logger.export_audit_trail(tmp_path / "folder")
    with pytest.raises(Invalid, match="Did you mean json"):
        logger.export_audit_trail(tmp_path / "t.json", format="jsn")  # type: ignore[arg-type]
    assert {p.name for p in tmp_path.iterdir()} == {"file", "folder", "yard"}


def test_a_proof_is_checked_by_someone_without_the_database(
    logger: AuditLogger, clock: FixedClock, tmp_path: Path
) -> None:
    fill(logger, clock, 9)
    events = logger.query_events()
    key = tmp_path / "key.pub"
    key.write_bytes(logger.keys.public_file.read_bytes())
    for event in events:
        path = tmp_path / f"{event.event_id}.tlog-proof"
        path.write_text(logger.prove(event.event_id))
        shown = AuditLogger.check(logger, path, key)
        assert (shown.index, shown.record["event_id"]) == (event.position - 1, event.event_id)
    path.write_text(path.read_text().replace("extra ", "extra A"))
    with pytest.raises(Damaged):
        logger.check(path, key)
    with pytest.raises(NotFound, match="no event"):
        logger.prove("evt_none")
    with pytest.raises(NotFound, match="no proof file"):
        logger.check(tmp_path / "none", key)


def test_a_proof_made_earlier_still_holds_when_the_log_has_grown(logger: AuditLogger, clock: FixedClock) -> None:
    fill(logger, clock, 5)
    event = logger.query_events()[2]
    early = logger.prove(event.event_id)
    fill(logger, clock, 20)
    for proof in (early, logger.prove(event.event_id)):
        assert check_proof(proof, str(logger.keys.public())).record["event_id"] == event.event_id


def test_the_signing_key_is_its_owners_alone(logger: AuditLogger, clock: FixedClock) -> None:
    fill(logger, clock, 1)
    logger.integrate()
    assert stat.S_IMODE(logger.keys.secret.stat().st_mode) == 0o600
    assert stat.S_IMODE(logger.keys.folder.stat().st_mode) == 0o700
    secret = logger.keys.secret.read_text().split("+")[-1].strip()
    assert secret not in logger.keys.public_file.read_text() + repr(logger) + repr(logger.keys.signing())


def test_a_damaged_key_is_told_without_showing_it(logger: AuditLogger, clock: FixedClock) -> None:
    fill(logger, clock, 1)
    logger.integrate()
    logger.keys.secret.write_text("PRIVATE+KEY+secret-nonsense")
    fill(logger, clock, 1)
    with pytest.raises(Invalid) as caught:
        logger.integrate()
    assert "nonsense" not in str(caught.value)


def test_loggers_on_one_folder_share_one_key_and_one_log(folder: Path) -> None:
    loggers = [AuditLogger(folder) for _ in range(4)]
    gate = threading.Barrier(4)

    def work(number: int) -> None:
        gate.wait()
        for _ in range(5):
            loggers[number].log_event(EventType.DATA_ACCESSED, "dataset", "d", user=f"u{number}")
            loggers[number].integrate()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = loggers[0].verify()
    assert (found.ok, found.size, found.waiting) == (True, 20, 0)


def test_the_sequencer_signs_in_the_background_and_ends(logger: AuditLogger, clock: FixedClock) -> None:
    sequencer = logger.start_sequencer(interval=0.001)
    logger.log_model_deployment("m", "v1", "bob")

    def signed() -> bool:
        with logger.store.reading() as rows:
            return rows.one("SELECT 1 AS one FROM audit_checkpoints") is not None

    until(signed)
    sequencer.stop()
    assert not sequencer.is_alive()
    with logger.store.reading() as rows:
        assert rows.all("SELECT * FROM leases") == []


def test_of_several_sequencers_only_the_holder_of_the_lease_works(logger: AuditLogger, clock: FixedClock) -> None:
    fill(logger, clock, 1)
    assert logger.integrate_as("one") == 1
    fill(logger, clock, 1)
    assert logger.integrate_as("two") == 0
    assert logger.integrate_as("one") == 1
    fill(logger, clock, 1)
    clock.advance(60)
    assert logger.integrate_as("two") == 1  # the first one's lease has run out
    fill(logger, clock, 1)
    logger.release("two")
    assert logger.integrate_as("one") == 1


def test_a_sequencer_ends_with_its_logger(folder: Path) -> None:
    logger = AuditLogger(folder)
    sequencer = logger.start_sequencer(interval=0.001)
    del logger
    sequencer.join(120)
    assert not sequencer.is_alive()


def test_a_large_log_is_integrated_in_batches_and_verified(logger: AuditLogger) -> None:
    with logger.store.work("bulk") as work:
        for number in range(12_000):
            work.emit(EventType.DATA_ACCESSED, Resource("dataset", str(number)))
    assert logger.integrate() == 12_000
    found = logger.verify()
    assert (found.ok, found.size, found.checkpoints) == (True, 12_000, 3)
    event = logger.query_events(resource_id="7777")[0]
    assert check_proof(logger.prove(event.event_id), str(logger.keys.public())).index == 7_777


def test_a_dropped_logger_warns_of_nothing(folder: Path) -> None:
    code = (
        "from modelyard.audit import AuditLogger\n"
        f"logger = AuditLogger({str(folder)!r})\n"
        "logger.start_sequencer(0.001)\n"
        "logger.log_model_deployment('m', 'v1', 'bob')\n"
        "print(logger.verify().ok)\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("True\n", "")


@pytest.mark.postgres
def test_the_log_is_the_same_on_postgresql(postgres_url: str, tmp_path: Path, clock: FixedClock) -> None:
    logger = AuditLogger(Store.at(postgres_url, files=tmp_path, clock=clock))
    fill(logger, clock, 11)
    events = logger.query_events(EventType.DATA_ACCESSED, by="u0", start_date=START)
    assert len(events) == 6
    shown = check_proof(logger.prove(events[3].event_id), str(logger.keys.public()))
    assert shown.record["event_id"] == events[3].event_id
    assert logger.generate_compliance_report(START, START + timedelta(days=1)).total_events == 11
    assert logger.export_audit_trail(tmp_path / "t.json").events == 12
    found = logger.verify()
    assert (found.ok, found.size) == (True, 13)
    with logger.store.database.write() as rows:
        rows.run("UPDATE events SET actor = 'mallory' WHERE position = :position", position=events[3].position)
    found = logger.verify()
    assert found.first_bad == shown.index


@pytest.mark.postgres
def test_a_host_without_the_key_reads_but_does_not_sign(postgres_url: str, tmp_path: Path, clock: FixedClock) -> None:
    signer = AuditLogger(Store.at(postgres_url, files=tmp_path / "a", clock=clock))
    other = AuditLogger(Store.at(postgres_url, files=tmp_path / "b", clock=clock))
    fill(signer, clock, 4)
    event = other.log_model_deployment("m", "v1", "bob")
    assert len(other.query_events()) == 5
    with pytest.raises(Unavailable, match="waits for the host"):
        other.prove(event.event_id)
    with pytest.raises(Unavailable, match="Copy keys"):
        other.integrate()
    assert signer.prove(event.event_id)
    (tmp_path / "b" / "keys").mkdir(parents=True)
    (tmp_path / "b" / "keys" / "audit.ed25519").write_bytes(signer.keys.secret.read_bytes())
    assert other.prove(event.event_id)
    assert other.verify().ok
