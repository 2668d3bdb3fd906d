"""Signing secrets are in no row, event, log, error or answer; and no message goes out unsigned that should be signed."""

from __future__ import annotations

import logging
import stat
from pathlib import Path

import pytest
from receiving import Opening, Receiver, happen, signed_by

from modelyard.core.errors import Damaged, Invalid, Unavailable, YardError
from modelyard.core.instants import FixedClock
from modelyard.webhooks import Round, Webhooks

SECRET = "correct-horse-battery-staple"  # no real one
EVENTS = ["stage_changed"]


def test_a_secret_given_once_is_nowhere_in_the_clear(
    opened: Opening, folder, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    webhooks = opened(folder)
    hook = webhooks.create_webhook("chat", receiver.url + "?token=path-token", EVENTS, secret=SECRET)
    webhooks.update_webhook(hook.webhook_id, secret=SECRET + "-2")
    happen(webhooks)
    receiver.answer(500)
    webhooks.deliver()
    webhooks.test_webhook(hook.webhook_id)
    assert signed_by(SECRET + "-2", receiver.requests[-1])
    with pytest.raises(YardError) as told:
        webhooks.create_webhook("bad name", receiver.url, EVENTS, secret=SECRET)
    assert SECRET not in repr(
        (webhooks.list_webhooks(), webhooks.list_deliveries(hook.webhook_id), told.value, webhooks)
    )
    webhooks.close()
    files = [file for file in folder[1].rglob("*") if file.is_file()]
    assert any(file.name == "modelyard.db" for file in files)
    for file in files:
        assert SECRET.encode() not in file.read_bytes(), file
    assert SECRET not in caplog.text
    with webhooks.store.reading() as rows:
        events = str(rows.all("SELECT details FROM events WHERE event_type LIKE 'webhook%'"))
    assert SECRET not in events
    assert "path-token" not in events, "a path may hold a token: events name the place alone"


@pytest.mark.postgres
def test_nor_in_the_rows_of_postgresql(opened: Opening, postgres_url: str, tmp_path: Path, receiver: Receiver) -> None:
    webhooks = opened((postgres_url, tmp_path))
    hook = webhooks.create_webhook("chat", receiver.url, EVENTS, secret=SECRET)
    with webhooks.store.reading() as rows:
        assert SECRET not in str(rows.all("SELECT * FROM webhooks")) + str(rows.all("SELECT * FROM events"))
    other = opened((postgres_url, tmp_path / "another host"))
    happen(other)
    assert other.deliver() == Round(collected=1, failed=1)
    assert receiver.requests == [], "a host without the key sends nothing rather than something unsigned"
    assert "Copy keys/webhooks.aes256" in other.get_webhook(hook.webhook_id).last_error


def test_the_key_is_its_owners_alone(webhooks: Webhooks, receiver: Receiver, folder) -> None:
    webhooks.create_webhook("chat", receiver.url, EVENTS, secret=SECRET)
    key = folder[1] / "keys" / "webhooks.aes256"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert [file.name for file in key.parent.iterdir()] == ["webhooks.aes256"]


def test_a_stored_secret_belongs_to_its_webhook(webhooks: Webhooks, receiver: Receiver) -> None:
    """Whoever can write rows cannot have another webhook's messages signed with it."""
    first = webhooks.create_webhook("first", receiver.url, EVENTS, secret=SECRET)
    second = webhooks.create_webhook("second", receiver.url, ["drift_detected"], secret="other")
    with webhooks.store.database.write() as rows:
        row = rows.one("SELECT secret FROM webhooks WHERE webhook_id = :id", id=second.webhook_id)
        assert row is not None
        rows.run(
            "UPDATE webhooks SET secret = :secret WHERE webhook_id = :id", secret=row["secret"], id=first.webhook_id
        )
    happen(webhooks)
    assert webhooks.deliver() == Round(collected=1, failed=1)
    assert receiver.requests == []
    assert "cannot be decrypted" in webhooks.get_webhook(first.webhook_id).last_error


@pytest.mark.parametrize("kept", ["stored:", "stored:AAAA", "stored:%%%", "stored:" + "A" * 64])
def test_a_damaged_secret_sends_nothing(webhooks: Webhooks, receiver: Receiver, kept: str) -> None:
    hook = webhooks.create_webhook("chat", receiver.url, EVENTS, secret=SECRET)
    with webhooks.store.database.write() as rows:
        rows.run("UPDATE webhooks SET secret = :secret", secret=kept)
    assert "cannot be decrypted" in webhooks.test_webhook(hook.webhook_id).error
    assert receiver.requests == []


def test_a_variable_is_looked_up_at_each_use(
    webhooks: Webhooks, receiver: Receiver, monkeypatch, clock: FixedClock
) -> None:
    with pytest.raises(Unavailable, match="MODELYARD_SECRET_CHAT"):
        webhooks.create_webhook("chat", receiver.url, EVENTS, secret="env:MODELYARD_SECRET_CHAT")
    monkeypatch.setenv("MODELYARD_SECRET_CHAT", SECRET)
    hook = webhooks.create_webhook("chat", receiver.url, EVENTS, secret="env:MODELYARD_SECRET_CHAT")
    assert hook.secret_from == "env:MODELYARD_SECRET_CHAT"
    happen(webhooks, 2)
    receiver.answer(200, 500)
    webhooks.deliver()
    assert signed_by(SECRET, receiver.requests[0])
    monkeypatch.delenv("MODELYARD_SECRET_CHAT")
    clock.advance(5)
    assert webhooks.deliver() == Round(failed=1)
    assert len(receiver.requests) == 2, "without its secret nothing is sent"
    monkeypatch.setenv("MODELYARD_SECRET_CHAT", "rotated")
    clock.advance(10)
    assert webhooks.deliver() == Round(delivered=1)
    assert signed_by("rotated", receiver.requests[-1])


def test_a_file_is_looked_up_without_the_newline_at_its_end(webhooks: Webhooks, receiver: Receiver, folder) -> None:
    (folder[1] / "secrets").mkdir()
    (folder[1] / "secrets" / "chat").write_text(SECRET + "\n")
    for name in ("chat", str(folder[1] / "secrets" / "chat")):
        hook = webhooks.create_webhook("chat", receiver.url, EVENTS, secret=f"file:{name}")
        webhooks.test_webhook(hook.webhook_id)
        assert signed_by(SECRET, receiver.requests[-1])


@pytest.mark.parametrize(
    "reference",
    [
        *("env:HOME", "env:PATH", "env:", "env:MODELYARD_TOKEN"),
        *("file:/etc/passwd", "file:../keys/audit.ed25519", "file:../modelyard.db", "file:link", "file:none", "file:"),
        *("file:.", "file:a\x00b", "file:" + "x" * 5000, "file:empty"),
    ],
)
def test_a_reference_cannot_name_what_is_not_kept_for_it(
    webhooks: Webhooks, receiver: Receiver, folder, reference: str
) -> None:
    """Else a caller could have guesses at any file or variable of the server checked against signatures."""
    place = folder[1] / "secrets"
    place.mkdir()
    (place / "link").symlink_to("/etc/hostname")
    (place / "empty").write_bytes(b"\n")
    with pytest.raises((Invalid, Unavailable)):
        webhooks.create_webhook("chat", receiver.url, EVENTS, secret=reference)
    assert webhooks.list_webhooks().items == ()


def test_signing_can_be_ended(webhooks: Webhooks, receiver: Receiver) -> None:
    hook = webhooks.create_webhook("chat", receiver.url, EVENTS, secret=SECRET)
    assert webhooks.update_webhook(hook.webhook_id, secret="").secret_from == ""
    assert webhooks.test_webhook(hook.webhook_id).success
    assert "x-modelyard-signature" not in receiver.requests[0].headers


@pytest.mark.parametrize("secret", ["x" * 4097, 7, b"bytes"])
def test_a_secret_is_text_of_a_reasonable_length(webhooks: Webhooks, receiver: Receiver, secret) -> None:
    with pytest.raises(Invalid):
        webhooks.create_webhook("chat", receiver.url, EVENTS, secret=secret)


@pytest.mark.parametrize("secret", ["ß€𝄞", "\ud800", "a\nb", " "])
def test_odd_secrets_are_kept_as_they_are(webhooks: Webhooks, receiver: Receiver, secret: str) -> None:
    hook = webhooks.create_webhook("chat", receiver.url, EVENTS, secret=secret)
    assert webhooks.test_webhook(hook.webhook_id).success
    if secret != "\ud800":
        assert signed_by(secret, receiver.requests[0])


def test_a_key_that_cannot_be_read_says_so(webhooks: Webhooks, receiver: Receiver, folder) -> None:
    key = folder[1] / "keys" / "webhooks.aes256"
    key.mkdir(parents=True)
    with pytest.raises(Unavailable, match="Check its permissions"):
        webhooks.create_webhook("chat", receiver.url, EVENTS, secret=SECRET)
    key.rmdir()
    key.write_bytes(b"no key")
    with pytest.raises(Damaged, match="Restore it from a backup"):
        webhooks.create_webhook("chat", receiver.url, EVENTS, secret=SECRET)
