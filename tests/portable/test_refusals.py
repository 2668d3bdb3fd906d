"""What an import refuses, and that a refused one leaves nothing behind."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from modelyard import Yard, wiring
from modelyard.cli.main import main
from modelyard.core.errors import Conflict, Damaged, Forbidden, Invalid, NotFound, YardError
from modelyard.core.events import EventType
from modelyard.core.ports import Connection
from modelyard.core.refs import Resource
from modelyard.portable import layout
from modelyard.portable.folder import MANIFEST
from modelyard.webhooks import outbox

TABLES = ("registered_models", "model_versions", "promotion_requests", "ab_tests", "deployments", "shadow_deployments")


@pytest.fixture
def out(lived: Yard, tmp_path: Path) -> Path:
    lived.export(tmp_path / "out")
    lived.close()
    return tmp_path / "out"


@pytest.fixture
def other(new_yard: Callable[[str], Yard]) -> Yard:
    return new_yard("other")


def count(yard: Yard) -> dict[str, int]:
    def one(rows: Connection, table: str) -> int:
        return rows.all(f"SELECT count(*) AS n FROM {table}")[0]["n"]

    with yard.store.reading() as rows:
        return {table: one(rows, table) for table in TABLES}


def sign_anew(folder: Path) -> None:
    """What a forger would do: a manifest that fits what lies there now."""
    manifest = json.loads((folder / MANIFEST).read_text())
    found = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != MANIFEST]
    manifest["files"] = {
        str(path.relative_to(folder)): {
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "size": path.stat().st_size,
        }
        for path in found
    }
    (folder / MANIFEST).write_text(json.dumps(manifest))


def edit(folder: Path, path: str, change: Callable[[Any], None]) -> None:
    document = json.loads((folder / path).read_text())
    change(document)
    (folder / path).write_text(json.dumps(document))
    sign_anew(folder)


def test_every_single_changed_byte_is_noticed(out: Path, other: Yard) -> None:
    before = count(other)
    for path in sorted(path for path in out.rglob("*") if path.is_file()):
        data = path.read_bytes()
        for at in {0, len(data) // 2, len(data) - 1}:
            path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
            with suppress(UnicodeDecodeError), pytest.raises((Damaged, NotFound)):
                other.import_(out)
        path.write_bytes(data)
    assert count(other) == before
    assert other.import_(out).counts["versions"] == 3


@pytest.mark.parametrize("change", ["gone", "strange", "link", "cut"])
def test_a_folder_that_is_not_the_one_of_its_manifest_is_refused(out: Path, other: Yard, change: str) -> None:
    model = next(out.glob("models/*/v1.0.0/*"))
    if change == "gone":
        model.unlink()
    elif change == "strange":
        (out / "metadata" / "more.json").write_text("{}")
    elif change == "link":
        data = out.parent / "elsewhere"
        shutil.move(model, data)
        model.symlink_to(data)
    else:
        os.truncate(model, 10)
    with pytest.raises(Damaged):
        other.import_(out)
    assert not any(count(other).values())


def test_a_forged_log_does_not_pass_its_checkpoint(out: Path, other: Yard) -> None:
    """A new manifest is easily made; the log's signature is not."""
    file = next(out.rglob("events.jsonl"))
    lines = file.read_text().splitlines()
    for forged in (lines[:-1], lines[1:], [lines[1], *lines[1:]], [line.replace("max", "eve") for line in lines]):
        file.write_text("\n".join(forged) + "\n")
        sign_anew(out)
        with pytest.raises(Damaged, match="log"):
            other.import_(out)
    assert not any(count(other).values())


def test_hostile_bytes_pass_for_nothing_else_whatever_the_documents_say(out: Path, other: Yard) -> None:
    data = pickle.dumps(print)
    next(out.glob("models/!fraud/v1.0.0/*")).write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()

    def change(document: Any) -> None:
        document["version"] |= {"digest": digest, "size": len(data)}
        document["artifact"] |= {"digest": digest, "size": len(data)}

    edit(out, "metadata/!fraud_v1.0.0.json", change)
    with pytest.raises(Invalid, match="refused"):
        other.import_(out)
    assert not any(count(other).values())
    refusal = other.audit.query_events(EventType.SECURITY_VIOLATION)[0]
    assert refusal.resource_id == digest


def test_what_was_in_quarantine_stays_there(lived: Yard, other: Yard, files: dict[str, Path], tmp_path: Path) -> None:
    kept = lived.artifacts.quarantine(files["pickle"], "zoe")
    version = lived.registry.get_model("Fraud", "v1.0.0")
    lived.registry.register_version(replace(version, version="v9.0.0", digest=kept.digest, created_by="zoe"))
    lived.export(tmp_path / "out")
    other.import_(tmp_path / "out")
    assert other.artifacts.get(kept.digest).admission == "quarantined"
    with pytest.raises(Forbidden):
        other.registry.path("Fraud", "v9.0.0")


CHANGES: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "a name of another version": ("metadata/!fraud_v1.0.0.json", lambda d: d["version"].update(version="v7.0.0")),
    "an unknown stage": ("metadata/!fraud_v1.0.0.json", lambda d: d["version"].update(stage="holy")),
    "a field of a newer modelyard": ("metadata/!fraud_v1.0.0.json", lambda d: d["version"].update(colour="red")),
    "no artifact": ("metadata/!fraud_v1.0.0.json", lambda d: d.update(artifact=None)),
    "an artifact of other bytes": ("metadata/!fraud_v1.0.0.json", lambda d: d["artifact"].update(digest="0" * 64)),
    "an artifact elsewhere": ("metadata/!fraud_v1.0.0.json", lambda d: d["artifact"].update(name="../../x")),
    "a text for a number": ("metadata/!fraud_v1.0.0.json", lambda d: d["version"].update(number="1")),
    "no version": ("metadata/!fraud_v1.0.0.json", lambda d: d.pop("version")),
    "an alias that is not the version's": (
        "models/!fraud/model.json",
        lambda d: d["model"]["aliases"].update(x="v1.0.0"),
    ),
    "no model": ("models/!fraud/model.json", lambda d: d.clear()),
    "an unknown status": ("approvals/!fraud_v1.0.0.json", lambda d: d["requests"][0].update(status="done")),
    "requests that are none": ("approvals/!fraud_v1.0.0.json", lambda d: d.update(requests=7)),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_document_that_is_none_is_refused_before_anything_is_written(out: Path, other: Yard, what: str) -> None:
    edit(out, *CHANGES[what])
    with pytest.raises(Damaged):
        other.import_(out)
    assert not any(count(other).values())
    assert not other.audit.query_events(EventType.YARD_IMPORTED)


@pytest.mark.parametrize("part", ["ab_tests", "deployments/deployments", "deployments/shadows"])
def test_a_damaged_test_or_deployment_is_refused(out: Path, other: Yard, part: str) -> None:
    path = next((out / part).glob("*.json"))
    for change in (lambda d: d.clear(), lambda d: next(iter(d.values())).pop("created_by")):
        document = json.loads(path.read_text())
        with suppress(StopIteration):
            change(document)
        edit(out, str(path.relative_to(out)), lambda old, new=document: (old.clear(), old.update(new)))
        with pytest.raises(Damaged):
            other.import_(out)
    assert not any(count(other).values())


def test_a_version_that_is_here_with_other_bytes_refuses_the_whole(
    out: Path, other: Yard, files: dict[str, Path]
) -> None:
    other.registry.register_model("Fraud", "v2.0.0", files["file"], "lightgbm", "bo")
    before = count(other)
    with pytest.raises(Conflict, match=r"fraud_v2\.0\.0\.json is here already and differs"):
        other.import_(out)
    assert count(other) == before
    assert not other.audit.query_events(EventType.YARD_IMPORTED)


def test_a_second_rollout_on_an_endpoint_is_refused(lived: Yard, tmp_path: Path) -> None:
    lived.export(tmp_path / "out")
    for folder in (tmp_path / "out" / "deployments").rglob("*.json"):
        document = json.loads(folder.read_text())
        if document.get("deployment", {}).get("status") == "running":
            document["deployment"]["deployment_id"] = "dep_other"
            folder.unlink()
            (folder.parent / "dep_other.json").write_text(json.dumps(document))
    sign_anew(tmp_path / "out")
    with pytest.raises(Conflict, match="under way"):
        lived.import_(tmp_path / "out")


def test_nobody_acts_on_what_happened_elsewhere(out: Path, other: Yard) -> None:
    """Neither routing nor a champion nor a webhook: those were the other yard's. Of the import itself everybody hears."""
    kinds = [EventType.MODEL_REGISTERED.value, EventType.ARTIFACT_STORED.value, EventType.YARD_IMPORTED.value]
    hook = other.webhooks.create_webhook("all", "https://93.184.216.34/hook", kinds, created_by="bo")
    other.import_(out)
    other.dispatch()
    with other.store.work() as work:
        outbox.collect_all(work.rows, work.now)
        assert work.rows.all("SELECT * FROM serving_endpoints") == []
    assert [one.event for one in other.webhooks.list_deliveries(hook.webhook_id).items] == ["yard_imported"]


def test_a_handler_that_lags_acts_on_what_is_ours_and_on_nothing_else(out: Path, other: Yard) -> None:
    """Its cursor may stand before the import or, for a handler that a later version brings, at the very beginning."""
    inside, after = dict(other.store.wires.inside), other.store.wires.after
    other.store.wires.inside.clear()
    other.store.wires.after = None
    with other.store.work("bo") as work:
        work.emit(EventType.DEPLOYMENT_COMPLETED, Resource("deployment", "dep_ours"), {"model": "x", "version": "1"})
    other.store.wires.inside, other.store.wires.after = inside, after
    other.import_(out)
    heard: list[str] = []
    wire = wiring.Wire(
        name="new", hears=tuple(EventType), causes=(), handle=lambda _, event: heard.append(event.resource_id)
    )
    dispatcher = wiring.Dispatcher(other.store, other.area)
    while dispatcher._run(wire):
        pass
    assert heard[0] == "dep_ours"
    assert len(heard) == len(set(heard)) == 2  # and the import itself
    with other.store.reading() as rows:
        assert rows.tuples("SELECT count(*) FROM events WHERE event_type = 'deployment_completed'")[0][0] > 1


def test_an_import_cut_short_leaves_nothing(out: Path, other: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    broken = replace(layout.SECTIONS[-1], kind=replace(layout.SECTIONS[-1].kind, write=fail))
    monkeypatch.setattr(layout, "SECTIONS", (*layout.SECTIONS[:-1], broken))
    with pytest.raises(KeyboardInterrupt):
        other.import_(out)
    assert not any(count(other).values())
    monkeypatch.undo()
    assert other.import_(out).counts["shadows"] == 1


def test_an_export_appears_whole_or_not_at_all(lived: Yard, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine.txt").write_text("x")
    with pytest.raises(Conflict):
        lived.export(tmp_path / "there")
    digest = lived.registry.get_model("Fraud", "v1.0.0").digest
    blob = next((lived.store.folder / "blobs").rglob(digest))
    blob.chmod(0o600)
    blob.write_bytes(b"changed")
    with pytest.raises(Damaged):
        lived.export(tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lived", "there"]
    assert not lived.audit.query_events(EventType.YARD_EXPORTED)


def test_only_administrators_import_once_people_are_told_apart(out: Path, other: Yard) -> None:
    other.access.grant_role("root", "admin", created_by="root")
    other.access.grant_role("eve", "contributor", created_by="root")
    for person in ("eve", "nobody"):
        with pytest.raises(Forbidden):
            other.import_(out, user=person)
    assert [event.actor for event in other.audit.query_events(EventType.SECURITY_VIOLATION)] == ["eve", "nobody"]
    assert other.import_(out, user="root").counts["versions"] == 3
    with pytest.raises(Forbidden):
        other.export(out.parent / "again", user="nobody")
    other.export(out.parent / "again", user="eve")


def test_persons_that_events_are_about_stay_sealed_and_erased(lived: Yard, other: Yard, tmp_path: Path) -> None:
    for person in ("patient-1", "patient-2"):
        told = {"diagnosis": f"asthma of {person}"}
        lived.audit.log_event(EventType.DATA_ACCESSED, "file", "f", user="ana", subject=person, details=told)
    lived.audit.erase_subject("patient-2", user="dpo", reason="Art. 17")
    lived.export(tmp_path / "out")
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file() and b"asthma" in path.read_bytes()]
    other.import_(tmp_path / "out")
    assert other.audit.verify().ok
    for name in ("subjects.db", "subjects.aes256"):
        (other.store.folder / "keys" / name).write_bytes((lived.store.folder / "keys" / name).read_bytes())
    assert "patient-1" in str(other.audit.query_events(EventType.DATA_ACCESSED))


def test_a_log_is_not_steered_by_another(lived: Yard, other: Yard, tmp_path: Path) -> None:
    lived.audit.rotate_key(user="ana")
    lived.audit.legal_hold("model", "Fraud", reason="case 7", user="ana")
    lived.export(tmp_path / "out")
    brought = other.import_(tmp_path / "out")
    assert other.audit.verify().ok
    assert other.audit.list_holds() == []
    lines = sum(len(path.read_bytes().splitlines()) for path in (tmp_path / "out").rglob("events.jsonl"))
    assert brought.counts["events"] == lines - 2


def test_the_commands_do_the_same(lived: Yard, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lived.close()
    places = ["--yard", str(tmp_path / "lived"), "--format", "json"]
    assert main(["export", str(tmp_path / "out"), *places]) == 0
    assert json.loads(capsys.readouterr().out)["counts"]["versions"] == 3
    assert main(["import", "yard", str(tmp_path / "out"), "--yard", str(tmp_path / "new")]) == 0
    assert json.loads(capsys.readouterr().out)["counts"]["versions"] == 3
    assert main(["import", "yard", str(tmp_path / "nowhere"), "--yard", str(tmp_path / "new")]) == 1
    assert "manifest.json" in capsys.readouterr().err


def test_garbage_in_place_of_an_export_is_refused_with_words(out: Path, other: Yard) -> None:
    for text in (
        "",
        "[]",
        "{}",
        '{"format": "modelyard-yard", "format_version": 2, "files": {}}',
        "\ud800",
        "[" * 100_000,
    ):
        (out / MANIFEST).write_bytes(text.encode("utf-8", "surrogatepass"))
        with pytest.raises(YardError):
            other.import_(out)
