"""A Python service composes other versions: what it answers, what it is given, and whose fault its errors are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import lightgbm
import numpy as np
import pytest
from runtime_samples import LABELS, NAMES, ROWS

from modelyard import Yard
from modelyard.core.errors import Forbidden, Invalid, NotFound
from modelyard.core.traffic import Arm, Guard, Traffic
from modelyard.serving import ModelServer
from modelyard.serving.control import EndpointControl
from modelyard.serving.desk import Desk

SERVICES = Path(__file__).parent / "local_services.py"
USES = {"quick": "quick:v1.0.0", "careful": "careful:v1.0.0"}


class Bare:
    """A yard with two registered boosters, and what they say themselves."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.yard = folder, Yard(folder / "yard")
        self.boosters = {"quick": booster(folder / "quick.txt", 6), "careful": booster(folder / "careful.txt", 30)}
        for name in self.boosters:
            self.yard.registry.register_model(name, "v1.0.0", folder / f"{name}.txt", "lightgbm", "ana@example.org")
        self.yard.serving.configure("e", {"trusted_code": True})

    def provide(self, version: str, code: str, **uses: str) -> None:
        self.yard.provide_service("e", version, f"{SERVICES}:{code}", uses=uses)

    def only(self, version: str = "v1", generation: int = 1, **more: Any) -> None:
        arm = Arm(name="baseline", model="e", version=version, weight=1.0)
        self.yard.serving.apply(Traffic(endpoint="e", generation=generation, arms=(arm,), **more))

    @contextmanager
    def served(self) -> Iterator[httpx.Client]:
        serving = self.yard.serve(workers=1, log_file=self.folder / "log")
        try:
            with httpx.Client(base_url=serving.url, timeout=60) as http:
                yield http
        finally:
            serving.stop()


def booster(path: Path, rounds: int) -> lightgbm.Booster:
    settings = {"objective": "binary", "verbose": -1, "num_threads": 1}
    found = lightgbm.train(settings, lightgbm.Dataset(ROWS, LABELS, feature_name=NAMES), rounds)
    found.save_model(path)
    return found


def row(**change: Any) -> dict[str, Any]:
    return {"amount": 0.25, "visits": 3, "member": True, "age": 0.5} | change


def rows(count: int, **more: Any) -> list[dict[str, Any]]:
    return [row(amount=a, visits=int(v), member=bool(m), age=g, **more) for a, v, m, g in ROWS[:count].tolist()]


def answered(http: httpx.Client, features: Any, **headers: str) -> np.ndarray:
    answer = http.post("/predict/e", json={"features": features}, headers=headers)
    assert answer.status_code == 200, answer.text
    return np.array(answer.json()["probabilities"])[:, 1]


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[Bare]:
    found = Bare(tmp_path)
    yield found
    found.yard.close()


def test_a_cascade_asks_the_careful_model_only_where_the_quick_one_is_unsure(bare: Bare) -> None:
    bare.provide("v1", "Cascade", **USES)
    bare.only()
    quick, careful = (bare.boosters[name].predict(ROWS) for name in ("quick", "careful"))
    expected = np.where(np.abs(quick - 0.5) < 0.2, careful, quick)
    assert (expected == quick).any()
    assert (expected == careful).any()
    with bare.served() as http:
        assert np.abs(answered(http, rows(300, colour="green")) - expected).max() < 1e-6
        assert np.abs(answered(http, rows(300, colour="red")) - expected / 2).max() < 1e-6
        assert abs(answered(http, rows(1, colour="green"))[0] - expected[0]) < 1e-6
        told = http.get("/v2/models/e").json()["parameters"]
        assert told["uses"] == USES


def test_an_ensemble_asks_its_models_at_the_same_time(bare: Bare) -> None:
    bare.provide("v1", "Ensemble", first="quick:v1.0.0", second="careful:v1.0.0")
    bare.only()
    expected = np.mean([one.predict(ROWS) for one in bare.boosters.values()], axis=0)
    with bare.served() as http:
        assert np.abs(answered(http, rows(300)) - expected).max() < 1e-6


def test_many_requests_wait_in_a_coroutine_at_once_and_one_too_late_is_cancelled(bare: Bare) -> None:
    bare.provide("v1", "Together")
    bare.only()
    with bare.served() as http:
        late = http.post("/predict/e", json={"features": row(amount=64)}, headers={"x-timeout-ms": "30"})
        assert late.status_code == 504
        with ThreadPoolExecutor(63) as pool:
            found = list(pool.map(lambda _: answered(http, row(amount=64))[0], range(63)))
        text = http.get("/metrics").text
    assert 'modelyard_queue_duration_seconds_count{endpoint="e",arm="baseline"} 63' in text
    assert found == [0.75] * 63  # four threads could never have held them
    assert bare.yard.serving.counts("e").arms["baseline"].errors == 1


def test_a_services_fault_is_its_arms_and_is_told_by_class_and_line(bare: Bare) -> None:
    bare.provide("v1", "Cascade", **USES)
    bare.only()
    with bare.served() as http:
        failed = [http.post("/predict/e", json={"features": row(amount=-2000, colour="red")}) for _ in range(3)]
        fine = answered(http, row(colour="red"))
    line = next(n for n, text in enumerate(SERVICES.read_text().splitlines(), 1) if "no rate for this amount" in text)
    assert [one.status_code for one in failed] == [500] * 3
    told = f"LookupError in Cascade.predict_columns, line {line} of local_services.py: no rate for this amount"
    assert failed[0].json() == {"error": f"e v1 failed: {told}"}
    assert len(fine) == 1
    assert bare.yard.serving.counts("e").arms["baseline"].errors == 3
    log = (bare.folder / "log").read_text()
    assert log.count("Traceback") == 1
    assert 'raise LookupError("no rate for this amount")' in log


def test_what_a_service_refuses_is_the_clients_fault_and_counts_for_no_arm(bare: Bare) -> None:
    bare.provide("v1", "Cascade", **USES)
    bare.only()
    with bare.served() as http:
        refused = http.post("/predict/e", json={"features": row(amount=2000, colour="red")})
        many = http.post("/predict/e", json={"features": [row(amount=2000, colour="red")] * 2000})
    assert (refused.status_code, many.status_code) == (400, 400)
    assert refused.json() == {"error": "The amount is above 1000. Send it by mail."}
    assert bare.yard.serving.counts("e").arms["baseline"].requests == 0


@pytest.mark.parametrize("kind", ["nothing", "list", "rows", "classes", "words"])
def test_what_is_no_answer_is_the_services_fault(bare: Bare, kind: str) -> None:
    bare.provide("v1", f"Odd@{kind}")
    bare.only()
    with bare.served() as http:
        answer = http.post("/predict/e", json={"features": row()})
    assert answer.status_code == 500
    assert answer.json()["error"].startswith("e v1 failed: ")
    assert "Odd.predict" in answer.json()["error"]
    assert bare.yard.serving.counts("e").arms["baseline"].errors == 1


def test_a_broken_service_as_canary_is_rolled_back_and_one_as_shadow_only_counted(bare: Bare, tools: Any) -> None:
    bare.provide("v1", "Ensemble", first="quick:v1.0.0", second="careful:v1.0.0")
    bare.provide("v2", "Odd@nothing")
    guard = Guard(rollout_id="r", step=0, warmup=0, share=0.5)
    arms = (
        Arm(name="baseline", model="e", version="v1", weight=0.5),
        Arm(name="canary", model="e", version="v2", weight=0.5),
    )
    bare.yard.serving.apply(Traffic(endpoint="e", generation=1, arms=arms, guards=(guard,)))
    with bare.served() as http:
        for _ in range(500):
            http.post("/predict/e", json={"features": row()})
            if bare.yard.serving.trips():
                break
        assert bare.yard.serving.trips()[0].metric == "errors"
        after = [http.post("/predict/e", json={"features": row()}) for _ in range(20)]
        assert {one.headers["x-modelyard-arm"] for one in after} == {"baseline"}
        shadow = Arm(name="shadow", model="e", version="v2", weight=0.0)
        bare.only(generation=2, shadow=shadow, shadow_share=1.0)
        tools.until(lambda: tools.carried_out(bare.yard.serving, "e", 2, workers=1))
        answered(http, rows(3))
        tools.until(lambda: bare.yard.serving.counts("e").shadow.errors, 120)
    assert bare.yard.serving.counts("e").arms["baseline"].errors == 0


@pytest.mark.parametrize("protocol", ["features", "tensors"])
def test_an_unknown_category_is_refused_with_the_nearest_known_one(bare: Bare, protocol: str) -> None:
    bare.provide("v1", "Cascade", **USES)
    bare.only()
    with bare.served() as http:
        if protocol == "features":
            answer = http.post("/predict/e", json={"features": row(colour="grean")})
        else:
            kinds = {"amount": ("FP64", 0.5), "visits": ("INT64", 1), "member": ("BOOL", True), "age": ("FP64", 0.5)}
            kinds["colour"] = ("BYTES", "grean")
            inputs = [{"name": n, "shape": [1], "datatype": t, "data": [v]} for n, (t, v) in kinds.items()]
            answer = http.post("/v2/models/e/infer", json={"inputs": inputs})
    assert answer.status_code == 400
    assert "'colour' is 'grean', none of its categories. Did you mean 'green'? Known: green, red." in answer.text


def test_a_service_answers_with_the_content_it_was_installed_with_or_not_at_all(bare: Bare) -> None:
    serving, file = bare.yard.serving, bare.folder / "quick.txt"
    for name in ("quick", "careful"):
        serving.install(name, name, "v9", bare.folder / f"{name}.txt", "lightgbm")
    serving.install(
        "e", "e", "v1", f"{SERVICES}:Cascade", "python", uses={"quick": "quick:v9", "careful": "careful:v9"}
    )
    bare.only()
    kept = file.read_text()
    file.write_text((bare.folder / "careful.txt").read_text())
    with bare.served() as http:
        answer = http.post("/predict/e", json={"features": row(colour="red")})
        assert answer.status_code == 404
        assert "e v1 was installed with quick v9" in answer.json()["error"]
    file.write_text(kept)
    with bare.served() as http:
        assert len(answered(http, row(colour="red"))) == 1
    file.unlink()
    with bare.served() as http:
        assert "has no file" in http.post("/predict/e", json={"features": row(colour="red")}).json()["error"]


def test_code_is_trusted_by_name_and_given_only_what_is_installed(bare: Bare) -> None:
    serving = bare.yard.serving
    with pytest.raises(Forbidden, match="trusted_code"):
        bare.yard.provide_service("other", "v1", f"{SERVICES}:Cascade", uses=USES)
    with pytest.raises(NotFound, match=r"v7\.0\.0"):
        bare.provide("v1", "Cascade", quick="quick:v7.0.0", careful="careful:v1.0.0")
    with pytest.raises(NotFound, match="quick:v3 is not installed"):
        serving.install("e", "e", "v1", f"{SERVICES}:Cascade", "python", uses={"quick": "quick:v3"})
    with pytest.raises(Invalid, match="model:version"):
        serving.install("e", "e", "v1", f"{SERVICES}:Cascade", "python", uses={"quick": "quick"})
    bare.provide("v1", "Ensemble", first="quick:v1.0.0", second="careful:v1.0.0")
    with pytest.raises(Invalid, match="is Python code"):
        serving.install("e", "e", "v2", f"{SERVICES}:Cascade", "python", uses={"quick": "e:v1"})


def test_a_constructor_that_takes_other_models_is_told_with_its_names(bare: Bare) -> None:
    bare.provide("v1", "Cascade", fast="quick:v1.0.0", careful="careful:v1.0.0")
    bare.only()
    with bare.served() as http:
        answer = http.post("/predict/e", json={"features": row(colour="red")})
    assert "cannot be made with careful, fast" in answer.json()["error"]
    assert "Name in uses what it takes" in answer.json()["error"]


@pytest.mark.parametrize("order", [("e", "q"), ("q", "e")])
def test_what_a_service_is_given_is_in_memory_once_though_it_is_an_arm_too(bare: Bare, order: tuple[str, str]) -> None:
    bare.provide("v1", "Cascade", **USES)
    serving = bare.yard.serving
    desk = Desk(serving.places)

    def add(endpoint: str) -> None:
        model, version = ("e", "v1") if endpoint == "e" else ("quick", "v1.0.0")
        arm = Arm(name="baseline", model=model, version=version, weight=1.0)
        serving.apply(Traffic(endpoint=endpoint, generation=1, arms=(arm,)))
        desk.routes.refresh()

    for endpoint in order:
        add(endpoint)
    service, quick = (desk.routes.find(name).models[0] for name in ("e", "q"))
    assert any(part is quick for part in service.parts)
    serving.remove("q")
    desk.routes.refresh()
    add("q")
    assert desk.routes.find("q").models[0] is quick
    serving.remove("e")
    desk.routes.refresh()
    assert [one.model for one in desk.routes.shelf._models] == ["quick"]  # what only the service had is gone
    desk.stop()


def test_what_a_service_is_given_survives_another_process(bare: Bare) -> None:
    bare.provide("v1", "Cascade", **USES)
    again = ModelServer(bare.folder / "yard")
    found = again.places.read_models()["e", "v1"]
    assert [(one.name, one.installed.model) for one in found.uses] == [("careful", "careful"), ("quick", "quick")]
    assert all(len(one.digest) == 64 for one in found.uses)
    assert isinstance(again, EndpointControl)
    assert json.loads(bare.yard.serving.places.models.read_bytes())
