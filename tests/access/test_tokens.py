"""Tokens: made once, kept as keyed digests, refused soon after they are revoked; services count as their owners."""

from __future__ import annotations

import re
import stat
import threading
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard import Yard
from modelyard.access.identity import Identities
from modelyard.access.persons import only_named_roles, only_other_people, persons, roles_of
from modelyard.access.rules import Grant
from modelyard.access.secrets import DIGITS, Pepper, new_token, token_of, told, well_formed
from modelyard.core.errors import Conflict, Damaged, Forbidden, Invalid, NotFound, Unavailable
from modelyard.core.events import EventType
from modelyard.core.instants import FixedClock
from modelyard.core.refs import Resource


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock(datetime(2026, 3, 1, tzinfo=UTC))


@pytest.fixture
def yard(tmp_path: Path, clock: FixedClock) -> Iterator[Yard]:
    with Yard(tmp_path / "yard", clock=clock) as made:
        yield made


def number(digits: str) -> int:
    value = 0
    for digit in digits:
        value = value * 62 + DIGITS.index(digit)
    return value


@given(st.binary(min_size=32, max_size=32))
def test_a_token_holds_its_256_bits_and_their_checksum(entropy: bytes) -> None:
    token = token_of(entropy)
    assert re.fullmatch(r"myd_[0-9A-Za-z]{49}", token)
    assert number(token[4:47]).to_bytes(32) == entropy
    assert number(token[47:]) == zlib.crc32(token[4:47].encode())
    assert well_formed(token)


@given(st.integers(4, 52), st.sampled_from(DIGITS + "_-ä "))
def test_a_mistyped_token_is_told_without_a_query(place: int, digit: str) -> None:
    token = token_of(bytes(range(32)))
    changed = token[:place] + digit + token[place + 1 :]
    assert well_formed(changed) == (changed == token)


def test_the_database_holds_no_token_and_nothing_that_a_token_can_be_guessed_from(yard: Yard) -> None:
    made = yard.access.create_token("ann", role="viewer", created_by="root")
    kept = (yard.store.folder / "modelyard.db").read_bytes() + (yard.store.folder / "modelyard.db-wal").read_bytes()
    assert made.secret.encode() not in kept
    assert made.secret not in repr(made)
    pepper = yard.store.folder / "keys" / "token.pepper"
    assert stat.S_IMODE(pepper.stat().st_mode) == 0o600
    assert pepper.read_text().strip().encode() not in kept
    pepper.write_text("00" * 32)  # the database alone, with another pepper, recognises nothing
    with pytest.raises(Forbidden):
        Identities(yard.store).of(made.secret)


def test_a_damaged_pepper_is_told(yard: Yard) -> None:
    yard.access.create_token("ann", created_by="root")
    (yard.store.folder / "keys" / "token.pepper").write_text("no pepper")
    with pytest.raises(Damaged, match="backup"):
        _ = Pepper(yard.store.folder).value


def test_all_who_make_the_pepper_at_once_get_the_same(tmp_path: Path) -> None:
    found: list[bytes] = []
    threads = [threading.Thread(target=lambda: found.append(Pepper(tmp_path).value)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    assert [file.name for file in (tmp_path / "keys").iterdir()] == ["token.pepper"]


def test_a_change_counts_from_a_second_later_at_the_latest(yard: Yard, clock: FixedClock) -> None:
    made = yard.access.create_token("ann", role="viewer", created_by="root")
    elsewhere = Identities(yard.store)  # another process: nobody tells it
    assert elsewhere.of(made.secret).may("registry.read")
    yard.access.grant_role("ann", "contributor", created_by="root")
    clock.advance(0.999)
    assert not elsewhere.of(made.secret).may("registry.write")
    clock.advance(0.001)
    assert elsewhere.of(made.secret).may("registry.write")
    yard.access.revoke_token(made.token_id, user="root")
    clock.advance(1)
    with pytest.raises(Forbidden):
        elsewhere.of(made.secret)


def test_a_clock_that_jumps_back_revives_no_token(yard: Yard, clock: FixedClock) -> None:
    made = yard.access.create_token("ann", role="viewer", created_by="root")
    identities = Identities(yard.store)
    identities.of(made.secret)
    yard.access.revoke_token(made.token_id, user="root")
    clock.advance(-100)
    with pytest.raises(Forbidden):
        identities.of(made.secret)


def test_a_token_ends_to_the_moment_also_when_it_was_just_seen(yard: Yard, clock: FixedClock) -> None:
    made = yard.access.create_token("ann", days=1, created_by="root")
    identities = Identities(yard.store)
    clock.advance(86_399.5)
    identities.of(made.secret)
    clock.advance(0.5)
    with pytest.raises(Forbidden):
        identities.of(made.secret)


def test_its_last_use_is_written_once_a_minute(yard: Yard, clock: FixedClock) -> None:
    made = yard.access.create_token("ann", created_by="root")
    identities = Identities(yard.store)
    seen = []
    for _ in range(5):
        identities.of(made.secret)
        seen.append(yard.access.list_tokens("ann")[0].last_used_at)
        clock.advance(20)
    assert seen[0] == seen[1] == seen[2]
    assert seen[3] == seen[4] != seen[0]


@pytest.mark.parametrize("days", [0, -1, 367, float("nan"), float("inf")])
def test_a_token_lasts_a_year_at_most(yard: Yard, days: float) -> None:
    with pytest.raises(Invalid, match="days"):
        yard.access.create_token("ann", days=days, created_by="root")


@pytest.mark.parametrize(
    "wrong",
    [
        {"subject": "../ann"},
        {"subject": "https://a#ann"},
        {"role": "vewer"},
        {"scopes": []},
        {"scopes": ["registry"]},
        {"scopes": ["registry.read.x"]},
        {"project": "../x"},
        {"owner": "a\nb"},
    ],
)
def test_what_is_wrong_is_refused_and_leaves_nothing(yard: Yard, wrong: dict[str, object]) -> None:
    with pytest.raises(Invalid):
        yard.access.create_token(**{"subject": "ann", "created_by": "root", **wrong})  # type: ignore[arg-type]
    assert yard.access.list_tokens() == []
    assert yard.access.list_users() == []


def test_a_service_keeps_its_owner_and_a_person_stays_a_person(yard: Yard) -> None:
    yard.access.create_token("robot", owner="ana", created_by="root")
    assert yard.access.create_token("Robot", created_by="root").owner == "ana"
    for subject, owner in (("robot", "ben"), ("ana", "ben"), ("ana", "ana"), ("other", "robot")):
        with pytest.raises((Conflict, Invalid)):
            yard.access.create_token(subject, owner=owner, created_by="root")
    with pytest.raises(Conflict):
        yard.access.create_user("ANA", created_by="root")


def test_a_service_is_refused_once_its_owner_is_disabled(yard: Yard, clock: FixedClock) -> None:
    made = yard.access.create_token("robot", owner="ana", role="viewer", created_by="root")
    identities = Identities(yard.store)
    assert identities.of(made.secret).owner == "ana"
    yard.access.disable_user("ana", user="root")
    clock.advance(1)
    with pytest.raises(Forbidden):
        identities.of(made.secret)
    with pytest.raises(Forbidden, match="disabled"):
        yard.access.create_token("ana", created_by="root")
    yard.access.enable_user("ana", user="root")
    assert identities.of(made.secret).kind == "service"


def test_people_are_counted_once_through_whatever_they_act(yard: Yard) -> None:
    yard.access.create_token("robot", owner="Ana@Example.com", created_by="root")
    yard.access.create_token("robot2", owner="ana@example.com", created_by="root")
    yard.access.grant_role("ben", "approver", project="fraud", created_by="root")
    with yard.store.reading() as rows:
        assert persons(rows, ["robot", "ROBOT2", "ana@example.com", "stranger"]) == {"ana@example.com", "stranger"}
        assert roles_of(rows, "Ben", "fraud") == {"approver"}
        assert roles_of(rows, "ben", "other") == set()


def test_an_approval_through_a_service_of_the_requester_does_not_count(yard: Yard) -> None:
    yard.access.create_token("robot", owner="ana", created_by="root")
    yard.registry.create_model("fraud", created_by="ana", project="risk")
    yard.access.grant_role("ben", "approver", project="risk", created_by="root")
    yard.access.grant_role("cem", "approver", project="other", created_by="root")

    def approve(actor: str, barred: list[str], roles: list[str]) -> None:
        with yard.store.work(actor) as work:
            details = {"barred": barred, "roles": roles, "model": "fraud"}
            event = work.emit(EventType.DATA_ACCESSED, Resource("model", "fraud:v1.0.0"), details)
            only_other_people(work, event)
            only_named_roles(work, event)

    for actor, barred in (("robot", ["ana"]), ("ana", ["robot"]), ("Robot", ["ANA "]), ("ben", ["x", "Ben"])):
        with pytest.raises(Forbidden):
            approve(actor, barred, [])
    approve("ben", ["ana", "robot"], ["approver"])
    with pytest.raises(Forbidden, match="risk"):
        approve("cem", ["ana"], ["approver"])


def test_a_lost_role_is_an_event_and_an_unknown_one_is_told(yard: Yard) -> None:
    yard.access.grant_role("ann", "viewer", created_by="root")
    yard.access.grant_role("ann", "viewer", created_by="root")
    assert yard.access.revoke_role("ann", "viewer", user="root") == []
    with pytest.raises(NotFound, match="no role"):
        yard.access.revoke_role("ann", "viewer", user="root")
    with pytest.raises(NotFound):
        yard.access.revoke_role("nobody", "viewer", user="root")
    kinds = [event.event_type for event in yard.audit.query_events(resource_type="user")]
    assert kinds == [EventType.USER_CREATED, EventType.ROLE_GRANTED, EventType.ROLE_REVOKED]


def test_a_secret_is_named_and_never_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret").write_text("from a file\n")
    monkeypatch.setenv("PASSWORD_OF_ANN", "from the environment")
    assert told(f"file:{tmp_path / 'secret'}", "password") == "from a file"
    assert told("env:PASSWORD_OF_ANN", "password") == "from the environment"
    for wrong in ("file:/nowhere/secret", "env:NO_SUCH_VARIABLE"):
        with pytest.raises(Unavailable):
            told(wrong, "password")
    with pytest.raises(Invalid) as refused:
        told("hunter2hunter2", "password")
    assert "hunter2" not in str(refused.value)


def test_the_local_grants_of_one_subject_are_told_apart_by_project(yard: Yard) -> None:
    for project in ("*", "fraud"):
        yard.access.grant_role("ann", "viewer", project=project, created_by="root")
    made = yard.access.create_token("ann", project="fraud", created_by="root")
    identity = Identities(yard.store).of(made.secret)
    assert identity.grants == {Grant("viewer"), Grant("viewer", "fraud")}
    assert identity.may("registry.read", "fraud")
    assert not identity.may("registry.read", "other")
    assert not identity.may("registry.read")


def test_an_unknown_token_is_refused_in_one_way(yard: Yard) -> None:
    yard.access.create_token("ann", created_by="root")
    identities = Identities(yard.store)
    texts = set()
    for wrong in (new_token(), "myd_", "", "x" * 100_000, "a.b.c", "myd_\ud800", "\0"):
        with pytest.raises(Forbidden) as refused:
            identities.of(wrong)
        texts.add(str(refused.value))
    assert len(texts) == 1
