"""What administrators may hand out over the server: nothing by which one person becomes two."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from modelyard import Yard
from modelyard.core.events import EventType
from modelyard.server.app import create_app


@pytest.fixture
def yard(tmp_path: Path) -> Iterator[Yard]:
    with Yard(tmp_path / "yard") as yard:
        yield yard


@pytest.fixture
def client(yard: Yard) -> TestClient:
    return TestClient(create_app(yard, local_user="local@example.org"))


def bearer(yard: Yard, subject: str, *roles: str, project: str = "*", **limits: Any) -> dict[str, str]:
    """A token that was made on the yard's own folder."""
    for role in roles:
        yard.access.grant_role(subject, role, project=project, created_by="folder")
    made = yard.access.create_token(subject, created_by="folder", **limits)
    return {"Authorization": f"Bearer {made.secret}"}


def token(client: TestClient, headers: dict[str, str], **body: Any) -> Any:
    return client.post("/api/v1/access/tokens", json=body, headers=headers)


def test_an_administrator_makes_tokens_for_themselves_and_their_own_services(client: TestClient, yard: Yard) -> None:
    ana = bearer(yard, "ana@example.org", "admin")
    own = token(client, ana, subject="Ana@example.org")
    assert (own.status_code, own.json()["subject"]) == (200, "ana@example.org")
    service = token(client, ana, subject="nightly", owner="ana@example.org", role="contributor")
    assert (service.status_code, service.json()["owner"]) == (200, "ana@example.org")
    assert token(client, ana, subject="nightly").status_code == 200
    as_service = {"Authorization": f"Bearer {service.json()['secret']}"}
    assert client.get("/api/v1/identity", headers=as_service).json()["owner"] == "ana@example.org"


@pytest.mark.parametrize(
    "asked",
    [
        {"subject": "ben@example.org"},
        {"subject": "BEN@example.org"},
        {"subject": "robot-of-ben"},
        {"subject": "another", "owner": "ben@example.org"},
        {"subject": "nobody-yet"},
        {"subject": "nobody-yet", "role": "approver"},
    ],
)
def test_nobody_makes_a_token_by_which_they_are_a_second_person(
    client: TestClient, yard: Yard, asked: dict[str, str]
) -> None:
    yard.access.grant_role("ben@example.org", "approver", created_by="folder")
    yard.access.create_user("robot-of-ben", owner="ben@example.org", created_by="folder")
    ana = bearer(yard, "ana@example.org", "admin")
    known, tokens = len(yard.access.list_users()), len(yard.access.list_tokens())
    refused = token(client, ana, **asked)
    assert refused.status_code == 403
    assert "role issuer" in refused.json()["error"]["message"]
    assert (len(yard.access.list_users()), len(yard.access.list_tokens())) == (known, tokens)
    assert len(yard.audit.query_events(EventType.SECURITY_VIOLATION, by="ana@example.org")) == 1


def test_an_issuer_makes_tokens_for_others_and_the_log_has_both_names(client: TestClient, yard: Yard) -> None:
    ana = bearer(yard, "ana@example.org", "admin", "issuer")
    made = token(client, ana, subject="ben@example.org", role="approver")
    assert made.status_code == 200, made.text
    [event] = [
        one
        for one in yard.audit.query_events(EventType.TOKEN_CREATED, by="ana@example.org")
        if one.details["subject"] == "ben@example.org"
    ]
    assert event.severity.value == "warning"


@pytest.mark.parametrize("role", ["issuer", "breaker"])
@pytest.mark.parametrize("subject", ["ana@example.org", "nightly", "eve@example.org"])
def test_nobody_gives_what_they_do_not_have(client: TestClient, yard: Yard, role: str, subject: str) -> None:
    ana = bearer(yard, "ana@example.org", "admin")
    yard.access.create_user("nightly", owner="ana@example.org", created_by="folder")
    body = {"subject": subject, "role": role}
    refused = client.post("/api/v1/access/grants", json=body, headers=ana)
    assert refused.status_code == 403
    assert role in refused.json()["error"]["message"]
    if subject != "eve@example.org":
        assert token(client, ana, **body).status_code == 403
    assert not [grant for grant in yard.access.list_grants() if grant.role == role]
    yard.access.grant_role("ana@example.org", role, created_by="folder")
    client.app.state.callers.identities.forget()  # type: ignore[attr-defined]  # or a second later
    assert client.post("/api/v1/access/grants", json=body, headers=ana).status_code == 200


def test_what_somebody_has_in_a_project_is_given_there_only(client: TestClient, yard: Yard) -> None:
    ana = bearer(yard, "ana@example.org", "admin")
    yard.access.grant_role("ana@example.org", "breaker", project="risk", created_by="folder")

    def give(project: str) -> int:
        body = {"subject": "ben@example.org", "role": "breaker", "project": project}
        return client.post("/api/v1/access/grants", json=body, headers=ana).status_code

    assert [give(project) for project in ("risk", "sales", "*")] == [200, 403, 403]
    for role in ("viewer", "contributor", "approver", "admin"):
        body = {"subject": "ben@example.org", "role": role, "project": "sales"}
        assert client.post("/api/v1/access/grants", json=body, headers=ana).status_code == 200, role


def test_a_limited_token_makes_no_wider_one(client: TestClient, yard: Yard) -> None:
    limited = bearer(yard, "ana@example.org", "admin", scopes=["access.*", "registry.read"])
    assert token(client, limited, subject="ana@example.org").status_code == 403, "every scope is the default"
    for scopes, status in (
        (["registry.read"], 200),
        (["access.write", "registry.read"], 200),
        (["registry.*"], 403),
        (["*.read"], 403),
        (["registry.read", "audit.read"], 403),
    ):
        assert token(client, limited, subject="ana@example.org", scopes=scopes).status_code == status, scopes


def test_who_works_on_the_folder_and_who_is_alone_with_the_server_are_not_asked(client: TestClient, yard: Yard) -> None:
    made = client.post("/api/v1/access/tokens", json={"subject": "ben@example.org", "role": "issuer"})
    assert made.status_code == 200, "nobody can sign in yet, so the local user owns the yard"
    assert yard.access.create_token("cem@example.org", role="issuer", created_by="folder").subject == "cem@example.org"


def test_wrong_names_are_told_as_before(client: TestClient, yard: Yard) -> None:
    ana = bearer(yard, "ana@example.org", "admin")
    assert token(client, ana, subject="ana@example.org", role="admn").status_code == 422
    assert token(client, ana, subject="ana@example.org", scopes=["x"]).status_code in (403, 422)
    assert token(client, ana, subject="ana@example.org", scopes=[]).status_code == 422
    assert client.post("/api/v1/access/grants", json={"subject": "b", "role": "x"}, headers=ana).status_code == 422
