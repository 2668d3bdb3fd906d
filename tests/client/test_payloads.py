"""The payload log is read page by page over REST, and a person is forgotten by whoever may write, not by a viewer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from modelyard import Client, Yard
from modelyard.core.errors import Forbidden, Invalid
from modelyard.serving import PredictionRequest

Connect = Callable[[str], Client]


def test_a_log_is_paged_filtered_joined_and_forgotten_by_a_client(
    connect: Connect, embedded: Yard, small_model: Path
) -> None:
    async def answered() -> str:
        endpoint = await embedded.serving.deploy_model("paged", "v1", small_model, "lightgbm")
        for n in range(25):
            row = {"a": float(n), "b": 0.0, "c": 0.0}
            asked = PredictionRequest(request_id=f"r{n}", endpoint_id=endpoint, features=row, unit=f"u{n % 2}")
            await embedded.serving.predict(asked)
        embedded.serving.close()
        return endpoint

    endpoint = asyncio.run(answered())
    serving = connect("root").serving
    found, token = [], ""
    while not found or token:
        page = serving.payloads(endpoint, limit=10, page_token=token)
        found += page.items
        token = page.next_page_token
    assert found == list(embedded.serving.payload_rows(endpoint))
    assert len(found) == 25
    assert len(serving.payloads(endpoint, since="2026-01-01T00:00:00Z", until="2200-01-01", unit="u1").items) == 12
    assert [row["request_id"] for row in serving.payloads(endpoint, since=found[-1]["at"]).items] == ["r24"]
    with pytest.raises(Invalid, match="since is 'soon'"):
        serving.payloads(endpoint, since="soon")
    with pytest.raises(Invalid, match="page token"):
        serving.payloads(endpoint, arm="a", page_token=serving.payloads(endpoint, limit=10).next_page_token)
    assert serving.record_outcome(endpoint, "r3", 1).new == 1
    assert [row["outcome"] for row in serving.labelled(endpoint).items] == [1]
    with pytest.raises(Forbidden):
        connect("vic").serving.erase_payloads(endpoint, unit="u1", reason="asked")
    assert serving.erase_payloads(endpoint, unit="u1", reason="asked").rows == 12
    assert {row["unit"] for row in serving.payloads(endpoint).items} == {"u0"}
    told = [event for event in embedded.audit.query_events() if event.event_type.value == "payloads_erased"]
    assert [event.actor for event in told] == ["root@example.com"]
    assert "u1" not in str(told)
