"""The Open Inference Protocol as the clients in use speak it: tritonclient and KServe, unmodified, in their own processes."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CLIENTS = {
    "tritonclient_http": "tritonclient",
    "tritonclient_http_aio": "tritonclient",
    "tritonclient_grpc": "tritonclient",
    "tritonclient_grpc_aio": "tritonclient",
    "kserve_rest": "kserve",
    "kserve_grpc": "kserve",
}


def checks(client: str) -> list[str]:
    """The names of a client's checks."""
    tree = ast.parse((HERE / "clients" / f"{client}.py").read_text())
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return [one.name for one in tree.body if isinstance(one, kinds) and one.name.startswith("check_")]


@pytest.mark.parametrize(
    ("client", "check"),
    [(client, check) for client in CLIENTS for check in checks(client)],
    ids=str,
)
def test_a_client_in_use_works_unchanged(
    client: str, check: str, results: Callable[[str, str], dict[str, str]]
) -> None:
    assert results(CLIENTS[client], client)[check] == ""
