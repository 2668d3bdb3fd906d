"""ModelServer: deploys models to endpoints and answers in process; the same routing is served over HTTP by `start`."""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
import weakref
from collections.abc import Generator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from modelyard.core.errors import Conflict, Invalid, NotFound, nearest
from modelyard.core.ids import checked_name
from modelyard.core.instants import SYSTEM_CLOCK
from modelyard.core.operations import operation
from modelyard.core.ports import Clock
from modelyard.core.traffic import BASELINE, Arm, ArmCounts, Traffic
from modelyard.core.work import Store
from modelyard.serving import store
from modelyard.serving.batch_service import BatchPrediction
from modelyard.serving.control import EndpointControl, known_traffic, tell_death
from modelyard.serving.desk import Desk
from modelyard.serving.fleet import Fleet, counted_together, fleet_of
from modelyard.serving.loaded import ModelFailed
from modelyard.serving.logged_service import LoggedPredictions
from modelyard.serving.outcomes import OutcomeLog
from modelyard.serving.places import SlotReport
from modelyard.serving.routing import Route
from modelyard.serving.shadowing import Shadowing
from modelyard.serving.values import EndpointConfig, ModelFramework, PredictionRequest, PredictionResponse
from modelyard.stats.sketch import merged, quantile

LOOK_S = 0.05


class ModelServer(EndpointControl, LoggedPredictions, OutcomeLog, BatchPrediction):
    """Opens on a folder, a database URL, or another area's store."""

    def __init__(self, storage_path: str | Path | Store, *, clock: Clock = SYSTEM_CLOCK) -> None:
        super().__init__(storage_path, clock=clock)
        self._desk: Desk | None = None
        self._shadowing: Shadowing | None = None
        self._fleet: Fleet | None = None
        self._looked = 0.0
        self._opening = threading.Lock()

    async def deploy_model(
        self,
        model_id: str,
        model_version: str,
        model_path: str | Path,
        framework: ModelFramework | str,
        endpoint_config: Mapping[str, Any] | None = None,
    ) -> str:
        """The id of a new endpoint whose requests all go to this version; the model has been loaded and has answered.

        `model_path` is a package folder, a model file, or for `ModelFramework.PYTHON` a "module:factory" of your own
        (with `trusted_code` in `endpoint_config`). Settings: see `EndpointConfig`. Raises NotFound, Damaged or Invalid
        for a model that cannot be served.

        >>> import asyncio
        >>> from modelyard.serving import ModelFramework, ModelServer
        >>> server = ModelServer(folder)
        >>> asyncio.run(server.deploy_model("fraud", "v1.0.0", model_file, ModelFramework.LIGHTGBM))
        'fraud-v1.0.0'
        """
        config = EndpointConfig.parse(endpoint_config)
        endpoint = self._free_name(f"{checked_name(model_id, 'model')}-{model_version}")
        self.configure(endpoint, endpoint_config or {})
        self.install(endpoint, model_id, model_version, model_path, framework)
        arm = Arm(name=BASELINE, model=model_id, version=model_version, weight=1.0)
        self.apply(Traffic(endpoint=endpoint, generation=1, arms=(arm,)))
        desk = await self._fresh(now=True)
        if endpoint not in desk.routes.by_name:
            trouble = desk.routes.troubles.get(endpoint, "its routing was replaced meanwhile")
            self.remove(endpoint)
            raise Invalid(f"{model_id} {model_version} cannot be served: {trouble}")
        assert config == desk.routes.find(endpoint).config  # what was published is what was asked for
        return endpoint

    def _free_name(self, name: str) -> str:
        taken = {one.endpoint for one in self.endpoints()}
        names = [name, *(f"{name}-{number}" for number in range(2, len(taken) + 3))]
        return next(one for one in names if one not in taken)

    async def predict(self, request: PredictionRequest) -> PredictionResponse:
        """The endpoint's answer, by the arm that its routing chooses for the request's unit, or at random.

        Raises Invalid (a ValueError) naming the feature that is missing, unknown, null or of the wrong type.

        >>> import asyncio
        >>> from modelyard.serving import ModelServer, PredictionRequest
        >>> server = ModelServer(folder)
        >>> endpoint = asyncio.run(server.deploy_model("fraud", "v1.0.0", model_file, "lightgbm"))
        >>> row = {"a": 1.0, "b": 0.0, "c": 0.0}
        >>> asked = PredictionRequest(request_id="r1", endpoint_id=endpoint, features=row)
        >>> asyncio.run(server.predict(asked)).predictions
        [1]
        """
        desk = await self._fresh()
        if request.endpoint_id not in desk.routes.by_name:  # it may have been published a moment ago
            desk = await self._fresh(now=True)
        return await self._answer(desk, desk.routes.find(request.endpoint_id), request)

    async def batch_predict(
        self, endpoint_id: str, features_batch: Sequence[Mapping[str, Any]], batch_size: int = 100
    ) -> list[PredictionResponse]:
        """The answers to many rows, one response for each `batch_size` of them, in order."""
        if batch_size < 1:
            raise Invalid(f"batch_size is {batch_size}. Choose 1 or more rows.")
        responses = []
        for start in range(0, len(features_batch), batch_size):
            rows = [dict(row) for row in features_batch[start : start + batch_size]]
            request = PredictionRequest(request_id=secrets.token_hex(8), endpoint_id=endpoint_id, features=rows)
            responses.append(await self.predict(request))
        return responses

    async def _answer(self, desk: Desk, route: Route, request: PredictionRequest) -> PredictionResponse:
        start = time.perf_counter_ns()
        arm, hashed = route.choose(request.unit)
        model = route.models[arm]
        features = dict(request.features) if isinstance(request.features, Mapping) else list(request.features)
        batch = model.batch(features)
        try:
            output = await asyncio.to_thread(model.answer, batch) if model.slow(len(batch)) else model.answer(batch)
        except ModelFailed as error:
            desk.failed(
                route,
                arm,
                hashed,
                request_id=request.request_id,
                batch=batch,
                error=error,
                micros=(time.perf_counter_ns() - start) / 1000,
                unit=request.unit,
            )
            raise
        micros = (time.perf_counter_ns() - start) / 1000
        desk.count(route, arm, hashed, micros=micros, failed=False)
        kept = desk.after(
            route,
            arm,
            request_id=request.request_id,
            batch=batch,
            output=output,
            micros=micros,
            unit=request.unit,
        )
        if kept is not None:
            await kept
        probabilities = output.probabilities
        return PredictionResponse(
            request_id=request.request_id,
            endpoint_id=route.traffic.endpoint,
            model_version=route.traffic.arms[arm].version,
            predictions=output.predictions.tolist(),
            probabilities=None if probabilities is None else probabilities.tolist(),
            latency_ms=micros / 1000,
            arm=route.traffic.arms[arm].name,
        )

    async def _fresh(self, *, now: bool = False) -> Desk:
        """This process's desk with what is published; looked at every 50 ms at most."""
        desk = self._desk
        if desk is None:
            desk = await asyncio.to_thread(self._opened)
        clock = time.monotonic()
        if now or clock - self._looked >= LOOK_S:
            self._looked = clock
            if desk.routes.changed():
                await asyncio.to_thread(self._refreshed, desk)
        return desk

    def _opened(self) -> Desk:
        """The desk, with what is published: whole before anybody asks it, however many ask first."""
        with self._opening:
            self._desk = desk = self._desk or self._refreshed(Desk(self.places))
            return desk

    def _refreshed(self, desk: Desk) -> Desk:
        """The desk with what is published now, its word of what it carries out, and somebody who asks the shadows."""
        routes = desk.routes
        routes.refresh()
        desk.slot.report(SlotReport(pid=0, ready=False, generations=routes.generations, troubles=routes.troubles))
        if self._shadowing is None and any(route.traffic.shadow is not None for route in routes.by_name.values()):
            self._shadowing = Shadowing(self.places, died=partial(tell_death, self.store)).begin()
            weakref.finalize(self, self._shadowing.stop)
            desk.copies = self._shadowing.copies
        if self._fleet is None and any(counted_together(route.traffic) for route in routes.by_name.values()):
            self._fleet = fleet_of(self.store, self.places)
            if self._fleet is not None:
                weakref.finalize(self, self._fleet.begin().stop)
        return desk

    @operation("POST", "/serving/experiments", needs="serving.write")
    def create_ab_test(
        self,
        experiment_id: str,
        control_endpoint: str,
        variant_endpoints: list[str],
        traffic_split: dict[str, float],
    ) -> Traffic:
        """The routing of an experiment between endpoints: also an endpoint by its own name, in process and over HTTP.

        `traffic_split` maps each endpoint to its share; shares sum to 1. Raises Conflict for a name that is taken.

        >>> import asyncio
        >>> from modelyard.serving import ModelServer
        >>> server = ModelServer(folder)
        >>> a = asyncio.run(server.deploy_model("fraud", "v1.0.0", model_file, "lightgbm"))
        >>> b = asyncio.run(server.deploy_model("fraud", "v2.0.0", model_file, "lightgbm"))
        >>> server.create_ab_test("v1_vs_v2", a, [b], {a: 0.9, b: 0.1}).arms[1].weight
        0.1
        """
        names = [control_endpoint, *variant_endpoints]
        for name in traffic_split:
            if name not in names:
                raise Invalid(f"traffic_split names {name!r}, which does not take part. {nearest(name, names)}")
        with self.store.work() as work:
            arms = tuple(self._arm_of(known_traffic(work.rows, name), traffic_split.get(name, 0.0)) for name in names)
            taken = store.traffic_of(work.rows, experiment_id) is not None
            if taken or not store.add_experiment(work, experiment_id, control_endpoint):
                raise Conflict(f"{experiment_id} exists already. Choose another experiment id.")
            traffic = Traffic(endpoint=experiment_id, generation=1, arms=arms, salt=experiment_id)
            self.apply_within(work, traffic, details={"experiment": _experiment(traffic)})
        self.publish()
        return traffic

    @staticmethod
    def _arm_of(traffic: Traffic, weight: float) -> Arm:
        base = next((arm for arm in traffic.arms if arm.name == BASELINE), traffic.arms[0])
        return Arm(name=traffic.endpoint, model=base.model, version=base.version, weight=weight)

    async def predict_with_ab_test(
        self, experiment_id: str, features: Any, *, unit: str | None = None, request_id: str | None = None
    ) -> PredictionResponse:
        """The answer of the arm that the experiment chooses for the unit, or at random; `arm` is its endpoint."""
        desk = await self._fresh()
        if experiment_id not in desk.routes.by_name:
            desk = await self._fresh(now=True)
        request = PredictionRequest(
            request_id=request_id or secrets.token_hex(8), endpoint_id=experiment_id, features=features, unit=unit
        )
        return await self._answer(desk, desk.routes.find(experiment_id), request)

    @operation("GET", "/serving/experiments/{experiment_id}", needs="serving.read")
    def get_ab_test_results(self, experiment_id: str) -> dict[str, Any]:
        """What each of the experiment's endpoints has counted: `results` maps it to requests, errors and latency.

        >>> from modelyard.serving import ModelServer
        >>> ModelServer(folder).get_ab_test_results("v1_vs_v2")
        Traceback (most recent call last):
        modelyard.core.errors.NotFound: There is no experiment 'v1_vs_v2'. Create it with create_ab_test.
        """
        with self.store.reading() as rows:
            control = store.control_of(rows, experiment_id)
        if control is None:
            raise NotFound(f"There is no experiment {experiment_id!r}. Create it with create_ab_test.")
        traffic, counts = self.traffic(experiment_id), self.counts(experiment_id)
        results = {
            arm.name: {"version": arm.version, "weight": arm.weight, **_summary(counts.arms.get(arm.name, ArmCounts()))}
            for arm in traffic.arms
        }
        return {"experiment_id": experiment_id, "control": control, "results": results}

    @operation("GET", "/serving/endpoints/{endpoint_id}/metrics", needs="serving.read")
    def get_endpoint_metrics(self, endpoint_id: str) -> dict[str, Any]:
        """Requests, errors and latency of the endpoint in its present generation, over all processes and for each arm.

        Latencies are in milliseconds, None before the first request.

        >>> import asyncio
        >>> from modelyard.serving import ModelServer
        >>> server = ModelServer(folder)
        >>> endpoint = asyncio.run(server.deploy_model("fraud", "v1.0.0", model_file, "lightgbm"))
        >>> server.get_endpoint_metrics(endpoint)["requests"]
        0
        """
        counts = self.counts(endpoint_id)
        arms = counts.arms.values()
        total = ArmCounts(
            requests=sum(arm.requests for arm in arms),
            errors=sum(arm.errors for arm in arms),
            latency=merged(*(arm.latency for arm in arms)),
        )
        by_arm = {name: _summary(arm) for name, arm in counts.arms.items()}
        return {"endpoint_id": endpoint_id, "generation": counts.generation, **_summary(total), "arms": by_arm}

    async def undeploy_model(self, endpoint_id: str) -> None:
        """The endpoint is gone, here and in every serving process. NotFound for an unknown one."""
        self.remove(endpoint_id)
        if self._desk is not None:
            await self._fresh(now=True)

    def close(self) -> Any:
        """Write what is queued and give everything back, at once; the result may be awaited. Not closing loses nothing."""
        desk, self._desk = self._desk, None
        if desk is not None:
            desk.stop()
        shadowing, self._shadowing = self._shadowing, None
        if shadowing is not None:
            shadowing.stop()
        fleet, self._fleet = self._fleet, None
        if fleet is not None:
            fleet.stop()
        super().close()
        return _Closed()


class _Closed:
    """So that `close()` and `await close()` are the same, here and in areas that close synchronously."""

    def __await__(self) -> Generator[None, None, None]:
        return
        yield


def _experiment(traffic: Traffic) -> dict[str, Any]:
    """What an analysis of the experiment has to know: its arms by endpoint and model version, and their shares."""
    told = {arm.name: {"endpoint": arm.name, "model": arm.model, "version": arm.version} for arm in traffic.arms}
    control, *variants = told.values()
    return {
        "control": control,
        "variants": variants,
        "split": {arm.name: arm.weight for arm in traffic.arms},
        "salt": traffic.salt,
    }


def _summary(arm: ArmCounts) -> dict[str, Any]:
    told: dict[str, Any] = {
        "requests": arm.requests,
        "errors": arm.errors,
        "error_rate": arm.errors / arm.requests if arm.requests else 0.0,
    }
    for name, q in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
        micros = quantile(arm.latency, q)
        told[f"latency_{name}_ms"] = None if micros is None else micros / 1000
    return told
