"""Signing in with a password: at one cost for everybody, slower for those who guess, and never in the log."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from modelyard import Yard
from modelyard.access import passwords
from modelyard.access.attempts import Attempts
from modelyard.access.passwords import hashed, matches
from modelyard.core.errors import Invalid
from modelyard.core.instants import FixedClock
from modelyard.server.app import create_app

PHRASE = "correct horse battery staple"


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock(datetime(2026, 3, 1, tzinfo=UTC))


@pytest.fixture
def yard(tmp_path: Path, clock: FixedClock, monkeypatch: pytest.MonkeyPatch) -> Iterator[Yard]:
    monkeypatch.setenv("PHRASE_OF_ANN", PHRASE)
    with Yard(tmp_path / "yard", clock=clock) as yard:
        yard.access.grant_role("ann@example.com", "viewer", created_by="root")
        yard.access.set_password("ann@example.com", "env:PHRASE_OF_ANN", user="root")
        yield yard


@pytest.fixture
def client(yard: Yard) -> TestClient:
    return TestClient(create_app(yard))


def sign_in(client: TestClient, password: str = PHRASE, subject: str = "Ann@example.com") -> Any:
    return client.post("/api/v1/login", json={"subject": subject, "password": password})


def test_a_password_gives_a_token_of_some_hours(client: TestClient, clock: FixedClock) -> None:
    answer = sign_in(client)
    assert answer.status_code == 200, answer.text
    headers = {"Authorization": f"Bearer {answer.json()['secret']}"}
    assert client.get("/api/v1/models", headers=headers).status_code == 200
    clock.advance(8 * 3600)
    assert client.get("/api/v1/models", headers=headers).status_code == 401


def test_a_password_makes_every_request_need_a_token(yard: Yard) -> None:
    client = TestClient(create_app(yard, local_user="local"))
    assert client.get("/api/v1/models").status_code == 401


def test_wrong_names_and_wrong_passwords_are_told_alike(client: TestClient, yard: Yard) -> None:
    yard.access.create_user("nopassword", created_by="root")
    texts = {
        sign_in(client, "wrong", "ann@example.com").text,
        sign_in(client, PHRASE, "nobody@example.com").text,
        sign_in(client, PHRASE, "nopassword").text,
    }
    yard.access.disable_user("ann@example.com", user="root")
    texts.add(sign_in(client).text)
    assert len(texts) == 1
    failures = [e for e in yard.audit.query_events() if e.event_type.value == "login_failed"]
    assert len(failures) == 4


def test_as_much_work_is_done_for_a_stranger(monkeypatch: pytest.MonkeyPatch) -> None:
    phc = hashed(PHRASE)
    costs = []
    real = passwords.Argon2id.verify_phc_encoded

    def counted(secret: bytes, text: str, *more: Any) -> None:
        costs.append(text.split("$")[1:4])
        real(secret, text, *more)

    class Counting:
        verify_phc_encoded = staticmethod(counted)

        def __new__(cls, **named: Any) -> Any:
            return REAL(**named)

    REAL = passwords.Argon2id
    monkeypatch.setattr(passwords, "Argon2id", Counting)
    assert matches(PHRASE, phc)
    assert not matches("wrong", phc)
    assert not matches(PHRASE, None)
    assert costs == [["argon2id", "v=19", "m=19456,t=2,p=1"]] * 3


def test_guessing_is_slowed_down_for_the_account_and_the_address(client: TestClient, clock: FixedClock) -> None:
    statuses = [sign_in(client, "wrong").status_code for _ in range(7)]
    assert statuses == [401, 401, 401, 401, 401, 429, 429]
    assert sign_in(client).status_code == 429, "the right one has to wait as well"
    assert int(sign_in(client).headers["retry-after"]) == 1
    assert sign_in(client, subject="ben").status_code == 429, "the address is slowed down, whomever it names"
    clock.advance(1)
    assert sign_in(client).status_code == 200
    assert sign_in(client, "wrong").status_code == 401, "a success forgets the failures"


def test_an_account_is_never_locked_for_longer_than_a_minute(yard: Yard, clock: FixedClock) -> None:
    client = TestClient(create_app(yard))
    for number in range(200):
        Attempts(yard.store).begin("ann@example.com", f"192.0.2.{number}")
        clock.advance(60)
    Attempts(yard.store).begin("ann@example.com", "192.0.2.7")
    assert sign_in(client).status_code == 429
    clock.advance(-60)
    assert sign_in(client).status_code in (200, 429)
    clock.advance(120)
    assert sign_in(client).status_code == 200


def test_a_clock_that_is_set_back_locks_nobody_out(client: TestClient, clock: FixedClock) -> None:
    for _ in range(6):
        sign_in(client, "wrong")
    assert sign_in(client).status_code == 429
    clock.advance(-86_400)
    assert sign_in(client).status_code == 200


def test_guessing_is_slowed_down_across_servers_and_restarts(yard: Yard, clock: FixedClock) -> None:
    servers = [TestClient(create_app(yard)) for _ in range(3)]
    statuses = [sign_in(servers[number % 3], "wrong").status_code for number in range(6)]
    assert statuses == [401, 401, 401, 401, 401, 429]
    assert sign_in(TestClient(create_app(yard))).status_code == 429, "also by a server that was started just now"
    clock.advance(1)
    assert sign_in(TestClient(create_app(yard))).status_code == 200


def test_tries_at_once_are_no_way_around_the_pause(yard: Yard) -> None:
    attempts = [Attempts(yard.store) for _ in range(4)]  # as if in processes of their own
    let_in: list[float] = []

    def guess(at: Attempts) -> None:
        let_in.extend(at.begin("ann@example.com", "192.0.2.1") for _ in range(5))

    threads = [threading.Thread(target=guess, args=(at,)) for at in attempts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(let_in) == 20
    assert let_in.count(0.0) == 5


def test_what_is_counted_names_nobody_and_goes_after_an_hour(yard: Yard, clock: FixedClock) -> None:
    attempts = Attempts(yard.store)
    for number in range(50):
        attempts.begin(f"my password {number}", f"192.0.2.{number}")
    kept = b"".join(file.read_bytes() for file in yard.store.folder.rglob("*") if file.is_file())
    assert b"my password" not in kept
    clock.advance(3601)
    attempts.begin("ann@example.com", "192.0.2.1")
    with yard.store.reading() as rows:
        assert rows.one("SELECT count(*) AS n FROM access_failures") == {"n": 2}


def test_a_password_that_was_typed_as_a_name_is_written_nowhere(client: TestClient, yard: Yard) -> None:
    typed = "correct horse battery stapel"
    assert sign_in(client, "", typed).status_code == 401
    failures = [e for e in yard.audit.query_events() if e.event_type.value == "login_failed"]
    assert [failure.resource_id for failure in failures] == ["unknown"]
    assert not [f for f in yard.store.folder.rglob("*") if f.is_file() and typed.encode() in f.read_bytes()]


def test_failures_of_many_addresses_do_not_flood_the_log(yard: Yard) -> None:
    login = TestClient(create_app(yard)).app.state.login
    for number in range(60):
        login._tell(f"user{number}", "10.0.0.1")
    failures = [e for e in yard.audit.query_events(limit=500) if e.event_type.value == "login_failed"]
    assert len(failures) == 20


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"subject": 1, "password": "x"}', b'{"subject": "a"}', b"\xff"])
def test_what_is_no_sign_in_is_refused_without_repeating_it(client: TestClient, body: bytes) -> None:
    answer = client.post("/api/v1/login", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422


@pytest.mark.parametrize("password", ["", "short", "x" * 1025, "\ud800" * 11])
def test_a_password_has_a_length_that_can_be_hashed(password: str) -> None:
    with pytest.raises(Invalid):
        hashed(password)


def test_passwords_and_tokens_stand_in_no_row_event_log_or_error(
    client: TestClient, yard: Yard, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    wrong = "wrong but quite long a phrase"
    secret = sign_in(client).json()["secret"]
    headers = {"Authorization": f"Bearer {secret}"}
    texts = [
        sign_in(client, wrong).text,
        client.post("/api/v1/login", json={"subject": "ann@example.com", "pasword": PHRASE}).text,
        client.post("/api/v1/login", json={"subject": "ann@example.com", "password": PHRASE, "x": wrong}).text,
        client.post("/api/v1/login", content=f'{{"subject": "ann", "password": "{PHRASE}"'.encode()).text,
        client.get("/api/v1/audit/nothing", headers=headers).text,
        client.patch("/api/v1/models/x", json={"a": secret}, headers=headers).text,
        client.get("/api/v1/models", headers={"Authorization": f"Bearer {secret}x"}).text,
        client.get("/api/v1/identity", headers=headers).text,
        str([(event.resource_id, event.details) for event in yard.audit.query_events(limit=500)]),
        caplog.text,
        repr(yard.access.list_tokens()),
    ]
    folder = yard.store.folder
    files = [file.read_bytes() for file in folder.rglob("*") if file.is_file()]
    assert len(files) > 2
    for planted in (PHRASE, wrong, secret):
        assert not [text for text in texts if planted in text]
        assert not [content for content in files if planted.encode() in content]
