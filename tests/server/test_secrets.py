"""Secrets planted wherever one is given, and looked for in all that is ever shown or stored."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from modelyard import Client, Yard
from modelyard.access.secrets import Pepper
from modelyard.core.errors import Invalid
from modelyard.core.operations import operations
from modelyard.core.urls import without_secrets
from modelyard.server.app import create_app
from modelyard.settings import Setting, settings

CANARY = "cAnArY-7f3e5b"
PHRASE = f"{CANARY} horse battery"
HOOK = f"{CANARY}-of-a-webhook"


@pytest.fixture
def yard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Yard]:
    monkeypatch.setenv("PHRASE_OF_ANN", PHRASE)
    with Yard(tmp_path / "yard") as yard:
        yard.access.grant_role("ann", "admin", created_by="root")
        yard.access.set_password("ann", "env:PHRASE_OF_ANN", user="root")
        yield yard


def everything_stored(folder: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in folder.rglob("*") if file.is_file() and "keys" not in file.parts}


def test_no_secret_is_answered_logged_or_stored(yard: Yard, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    client = TestClient(create_app(yard), raise_server_exceptions=False)
    shown: list[str] = []

    def ask(method: str, path: str, **options: Any) -> Any:
        answer = client.request(method, path, **options)
        shown.append(f"{answer.status_code} {answer.headers} {answer.text}")
        return answer

    signed_in = client.post("/api/v1/login", json={"subject": "ann", "password": PHRASE}).json()
    token = signed_in["secret"]
    ann = {"Authorization": f"Bearer {token}"}
    made = client.post("/api/v1/access/tokens", json={"subject": "robot", "owner": "ann"}, headers=ann).json()
    secrets = {token, made["secret"], PHRASE, HOOK, CANARY, Pepper(yard.store.folder).value.hex()}

    for body in (
        {"subject": "ann", "password": PHRASE + "x"},
        {"subject": PHRASE, "password": "typed in the wrong place"},
        {"subject": "ann", "password": PHRASE, "more": token},
        {"subject": {"name": PHRASE}, "password": [PHRASE]},
        PHRASE,
    ):
        ask("POST", "/api/v1/login", json=body)
    for header in (f"Bearer {token}x", f"bearer  {token} ", f"Basic {token}", token, f"Bearer {token}, Bearer {token}"):
        ask("GET", "/api/v1/models", headers={"Authorization": header})
    ask("GET", f"/api/v1/models?token={token}", headers=ann)
    ask("GET", "/api/v1/models", headers={**ann, "X-Api-Key": PHRASE, "Cookie": f"token={token}"})
    hook = {"name": "chat", "url": "https://example.com/x", "events": ["stage_changed"], "secret": HOOK}
    ask("POST", "/api/v1/webhooks", json=hook, headers=ann)
    ask("POST", "/api/v1/webhooks", json={**hook, "url": f"https://ann:{CANARY}@example.com/x"}, headers=ann)
    ask("POST", "/api/v1/webhooks", json={**hook, "secret": {"is": HOOK}}, headers=ann)
    for entry in operations():  # a field that nobody asked for, and one of a wrong type
        if entry.remote and entry.method != "GET" and entry.verb not in ("disable_user", "set_password"):
            path = "/api/v1" + entry.path.replace("{", "").replace("}", "")
            ask(entry.method, path, json={"surprise": token, "limit": {"a": PHRASE}}, headers=ann)
    for path in (
        "access/tokens",
        "access/users",
        "access/grants",
        "webhooks",
        "audit/events",
        "identity",
        "openapi.json",
    ):
        assert ask("GET", f"/api/v1/{path}", headers=ann).status_code == 200, path
    yard.audit.export_audit_trail(tmp_path / "trail.json", "json", user="ann")
    yard.export(tmp_path / "exported", user="ann")
    shown += [repr(yard.access.list_tokens()), repr(yard.access.list_users())]
    shown += [
        record.getMessage() for record in caplog.records if not record.name.startswith("httpx")
    ]  # the caller's own

    for secret in secrets:
        assert not [text for text in shown if secret in text], secret
        for file, content in everything_stored(tmp_path).items():
            assert secret.encode() not in content, (secret, file)


PLACES = {
    "no server": {"MODELYARD_YARD": f"postgresql://ann:{CANARY}@127.0.0.1:1/db"},
    "no port": {"MODELYARD_YARD": f"postgresql://ann:{CANARY}@127.0.0.1:port/db"},
    "a slash in it": {"MODELYARD_YARD": f"postgresql://ann:{CANARY}/x@127.0.0.1:1/db"},
    "in the query": {"MODELYARD_YARD": f"postgresql://127.0.0.1:1/db?user=ann&password={CANARY}"},
    "another database": {"MODELYARD_YARD": f"mysql://ann:{CANARY}@127.0.0.1/db"},
    "objects": {"MODELYARD_FILES": f"s3://key:{CANARY}@bucket/x?secret_access_key={CANARY}"},
    "Redis": {"MODELYARD_ONLINE": f"redis://:{CANARY}@127.0.0.1:1/0"},
    "Redis, no port": {"MODELYARD_ONLINE": f"redis://:{CANARY}@127.0.0.1:port/0"},
    "a server": {"MODELYARD_URL": f"http://ann:{CANARY}@127.0.0.1:9"},
    "a server, no port": {"MODELYARD_URL": f"http://ann:{CANARY}@127.0.0.1:port"},
    "a token": {"MODELYARD_URL": "http://127.0.0.1:9", "MODELYARD_TOKEN": f"myd_{CANARY}"},
    "a token of two lines": {"MODELYARD_URL": "http://127.0.0.1:9", "MODELYARD_TOKEN": f"{CANARY}\nx"},
    "a token of no ASCII": {"MODELYARD_URL": "http://127.0.0.1:9", "MODELYARD_TOKEN": f"{CANARY}é"},
}
COMMANDS = (
    ("config", "show", "--origin"),
    ("doctor", "--format", "json"),
    ("registry", "list-models"),
    ("features", "get-online-features", "--entity-ids", "1", "--names", "x"),
)


@pytest.mark.parametrize("place", PLACES)
def test_no_command_shows_the_password_of_a_url_or_a_token(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from modelyard.cli.main import main

    monkeypatch.chdir(tmp_path)
    for name, value in PLACES[place].items():
        monkeypatch.setenv(name, value)
    for command in COMMANDS:
        assert main(command) in (0, 1, 2)
    told = capsys.readouterr()
    assert CANARY not in told.out + told.err
    assert CANARY not in repr(settings())


def test_a_server_that_cannot_start_shows_no_password(tmp_path: Path) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MODELYARD_")}
    env = {**kept, "MODELYARD_YARD": f"postgresql://ann:{CANARY}@127.0.0.1:1/db"}
    command = [sys.executable, "-m", "modelyard", "serve"]
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert CANARY not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("url", "token"),
    [
        (f"http://ann:{CANARY}@127.0.0.1:9", ""),  # its library logs each URL
        (f"http://ann:{CANARY}@127.0.0.1:port", ""),
        ("http://127.0.0.1:9", f"{CANARY}\r\nX-Evil: 1"),
        ("http://127.0.0.1:9", f"{CANARY}é"),
        ("http://127.0.0.1:9", f"\0{CANARY}"),
    ],
)
def test_a_client_refuses_what_would_be_shown_and_does_not_show_it(url: str, token: str) -> None:
    with pytest.raises(Invalid) as refused:
        Client(url, token=token)
    assert CANARY not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("./yard", "./yard"),
        ("postgresql://ann@db/yard", "postgresql://ann@db/yard"),
        ("postgresql://ann:p@ss:w/rd@db:5432/yard", "postgresql://ann:(hidden)@db:5432/yard"),
        ("redis://:x@h:1/0", "redis://:(hidden)@h:1/0"),
        ("http://127.0.0.1:8080/a@b", "http://127.0.0.1:(hidden)@b"),  # rather too much than too little
        (
            "s3://bucket/prefix?region=eu&secret_access_key=abc",
            "s3://bucket/prefix?region=eu&secret_access_key=(hidden)",
        ),
        ("x?Token=a&b=c", "x?Token=(hidden)&b=c"),
    ],
)
def test_what_is_secret_in_a_url_is_hidden_and_the_rest_is_shown(text: str, shown: str) -> None:
    assert without_secrets(text) == shown


def test_a_setting_does_not_show_its_value_by_accident() -> None:
    setting = Setting(name="token", value=CANARY, origin="environment", meaning="")
    assert CANARY not in repr(setting) + setting.shown
    assert Setting(name="token", value="@file", origin="flag", meaning="").shown == "@file"
