"""What Prometheus scrapes, read by its own parsers, of real processes."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import openmetrics, parser
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_families

from modelyard.core.traffic import Guard
from modelyard.serving import ModelServer, vigil
from modelyard.serving.exposition import OPEN_METRICS, Family, text

ROW = {"features": {"a": 0.25, "b": 0}}


def samples(families: Any) -> dict[tuple[str, ...], float]:
    """Value by name and labels."""
    return {
        (sample.name, *(f"{name}={value}" for name, value in sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory, tools: Any) -> tuple[httpx.Response, httpx.Response, list[int]]:
    """Both formats of two processes that have answered, joined and been killed."""
    server = ModelServer(tmp_path_factory.mktemp("metrics"))
    tools.install(server, "e", v1=tools.reference(slow=5), v2=tools.reference(slow=5, fail=1.0))
    server.apply(tools.split("e", 1, 0.4, Guard(rollout_id="m", step=0, share=0.4, alpha=1e-9)))
    vigil.count(server.places, vigil.CRASHED)
    with server.start(workers=2) as serving, httpx.Client(base_url=serving.url, timeout=120) as client:
        for arm in ("baseline", "canary"):
            while client.post("/predict/e", json=ROW).json().get("arm", "canary") != arm:
                continue
        client.post("/predict/e", json={"features": {"a": 1}})
        tools.until(lambda: 'state="written"} 0' not in client.get("/metrics").text)
        held = re.compile(r"^modelyard_connections\{[^}]*\} 1$", re.MULTILINE)  # gauges: told a few times a second
        waiting = re.compile(r"^modelyard_requests_waiting\{[^}]*\} [1-9]", re.MULTILINE)

        def settled() -> httpx.Response | None:
            answer = client.get("/metrics")
            return answer if held.search(answer.text) and not waiting.search(answer.text) else None

        plain = tools.until(settled)
        opened = client.get(
            "/metrics", headers={"accept": "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"}
        )
        return plain, opened, serving.pids


def test_both_formats_are_valid_and_tell_the_same(scraped: tuple[httpx.Response, httpx.Response, list[int]]) -> None:
    plain, opened, pids = scraped
    assert plain.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert opened.headers["content-type"].encode() == OPEN_METRICS
    ours = list(parser.text_string_to_metric_families(plain.text))
    theirs = list(open_families(opened.text))  # checks the order of samples, the buckets, and the end
    kinds = {family.name: family.type for family in ours}
    assert kinds == {family.name: family.type for family in theirs}
    assert all(family.documentation for family in ours)
    assert {name for name in kinds if not name.startswith(("modelyard_", "process_"))} == set()
    mine, other = samples(ours), samples(theirs)
    assert mine.keys() == other.keys()
    steady = [
        key for key in mine if key[0].startswith(("modelyard_request_duration", "modelyard_batch", "modelyard_arm"))
    ]
    assert [mine[key] for key in steady] == [other[key] for key in steady]
    assert len(pids) == 2


def test_the_samples_are_what_happened(scraped: tuple[httpx.Response, httpx.Response, list[int]]) -> None:
    found = samples(parser.text_string_to_metric_families(scraped[0].text))

    def value(name: str, **labels: object) -> float:
        return found[(name, *(f"{key}={value}" for key, value in sorted(labels.items())))]

    assert value("modelyard_requests_total", endpoint="e", arm="baseline", code=200) >= 1
    assert value("modelyard_requests_total", endpoint="e", arm="", code=400) == 1
    failed = value("modelyard_requests_total", endpoint="e", arm="canary", code=500)
    assert value("modelyard_arm_errors_total", endpoint="e", arm="canary") == failed
    assert value("modelyard_request_duration_seconds_bucket", endpoint="e", arm="baseline", code=200, le="0.001") == 0
    assert value("modelyard_arm_weight", endpoint="e", arm="canary", model="m", version="v2") == 0.4
    assert value("modelyard_guard_tripped", endpoint="e") == 0
    calls = value("modelyard_batch_size_count", model="m", version="v1")
    assert value("modelyard_batch_size_sum", model="m", version="v1") == calls >= 1
    assert value("modelyard_queue_duration_seconds_count", endpoint="e", arm="baseline") == calls
    assert value("modelyard_model_load_duration_seconds_count", model="m", version="v1") == 2
    assert value("modelyard_model_load_duration_seconds_sum", model="m", version="v1") > 0.01
    assert value("modelyard_payload_rows_total", endpoint="e", state="offered") == calls
    assert value("modelyard_payload_rows_total", endpoint="e", state="dropped") == 0
    assert value("modelyard_worker_restarts_total", reason="crashed") == 1
    assert value("modelyard_worker_restarts_total", reason="hung") == 0
    assert value("modelyard_workers") == 2
    assert sum(value("modelyard_connections", worker=slot) for slot in (0, 1)) == 1
    for slot in (0, 1):
        assert 0 < time.time() - value("process_start_time_seconds", worker=slot) < 300
        assert value("process_resident_memory_bytes", worker=slot) > 10e6
        assert value("process_cpu_seconds_total", worker=slot) > 0.1
        assert 5 < value("process_open_fds", worker=slot) < value("process_max_fds", worker=slot)
        assert value("modelyard_requests_waiting", worker=slot) == 0


@pytest.mark.parametrize("kind", ["plain", "open"])
def test_labels_of_any_text_come_back(kind: str) -> None:
    odd = 'a "quoted" back\\slash\nand a new line, {ünïcode}='
    family = Family("some_things", "gauge", "Help with a \\ and\nlines.").add(1.5, label=odd)
    if kind == "plain":
        (read,) = parser.text_string_to_metric_families(text([family]))
    else:
        (read,) = openmetrics.parser.text_string_to_metric_families(text([family], OPEN_METRICS))
    assert read.samples[0].labels == {"label": odd}
    assert read.samples[0].value == 1.5
    assert read.documentation == "Help with a \\ and\nlines."


def test_a_torn_count_of_replacements_begins_anew(tmp_path: Path) -> None:
    from modelyard.serving.places import Places

    places = Places(tmp_path)
    vigil.count(places, vigil.HUNG)
    vigil.count(places, vigil.HUNG)
    assert vigil.replaced(places)["hung"] == 2
    (places.metrics / "replaced.json").write_bytes(os.urandom(7))
    assert vigil.replaced(places)["hung"] == 0
