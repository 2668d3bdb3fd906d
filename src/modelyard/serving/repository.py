"""What can be asked here, in the words of the Open Inference Protocol v2: metadata, configuration, statistics, repository.

An installed version answers once it has a share of an endpoint's traffic, or once it has been loaded by request: then it
answers under its model's own name, only to who asks for it, and no endpoint's traffic or counts change. Loading changes what
every process here holds in memory, so it is refused unless the server was started for it.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from modelyard.core.errors import Invalid, NotFound, nearest
from modelyard.core.refs import SemVer
from modelyard.serving import feeds, metrics
from modelyard.serving.desk import Desk
from modelyard.serving.places import Places, write
from modelyard.serving.replies import Refused
from modelyard.serving.routing import Route

SERVER = {
    "name": "modelyard",
    "version": "0.1.0",
    "extensions": ["binary_tensor_data", "model_configuration", "model_repository", "statistics"],
}
CARRY_OUT_S = 30.0  # in which every process is to have loaded or unloaded what one of them was told to
LOOK_S = 0.02
Named = tuple[str, str]  # model, version


class Given(msgspec.Struct):
    """The body of a question to the repository."""

    ready: bool = False
    parameters: dict[str, Any] = {}


def parsed(body: bytes) -> Given:
    """The body, which may be empty; Invalid says what is wrong with it."""
    try:
        return _given(body) if body.strip() else Given()
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise Invalid(f"The body is no question to the repository: {error}. Send an object, or nothing.") from error


_given = msgspec.json.Decoder(Given).decode


class Repository:
    """Answers about the models of one desk, and loads and unloads them where that is allowed."""

    def __init__(self, desk: Desk, *, model_control: bool) -> None:
        self._desk = desk
        self._open = model_control

    def ready(self, name: str, version: str | None) -> dict[str, Any]:
        """That a model answers; NotFound where it does not: a route exists once its versions have answered."""
        self._desk.routes.find_model(name, version)
        return {"name": name, "ready": True}

    def answers(self, name: str, version: str | None) -> bool:
        """Whether a model answers."""
        try:
            self._desk.routes.find_model(name, version)
        except NotFound:
            return False
        return True

    def metadata(self, name: str, version: str | None) -> dict[str, Any]:
        """A model's versions, inputs and outputs."""
        route, index = self._desk.routes.find_model(name, version)
        model = route.models[route.baseline if index is None else index]
        parameters = model.told()
        if model.signature.numeric:
            parameters["matrix"] = {"datatype": "FP64", "shape": [-1, len(model.signature.inputs)]}
        return {
            "name": name,
            "versions": [arm.version for arm in route.traffic.arms],
            "platform": f"modelyard_{model.installed.framework}",
            **feeds.metadata(model.signature),
            "parameters": parameters,
        }

    def configuration(self, name: str, version: str | None) -> dict[str, Any]:
        """The same in the words of Triton's model configuration, whose shapes leave out the rows."""
        told = self.metadata(name, version)
        return {
            "name": name,
            "platform": told["platform"],
            "backend": "modelyard",
            "max_batch_size": feeds.MAX_ROWS,
            "input": [_configured(one) for one in told["inputs"]],
            "output": [_configured(one) for one in told["outputs"]],
        }

    def statistics(self, name: str | None, version: str | None) -> dict[str, Any]:
        """What each version has answered since ever, over all processes. Reads files: call it off the event loop."""
        if name is not None:
            self._desk.routes.find_model(name, version)
        rows = metrics.merged(self._desk.places)
        told = []
        for endpoint, route in sorted(self._desk.routes.by_name.items()):
            for arm in route.traffic.arms:
                if name in (None, endpoint) and version in (None, arm.version, arm.name):
                    mine = {key[2]: row for key, row in rows.items() if key[:2] == (endpoint, arm.name)}
                    told.append({"name": endpoint, "version": arm.version, **_counted(mine)})
        return {"model_stats": told}

    def index(self, ready: bool) -> list[dict[str, str]]:
        """Every endpoint's versions, and every installed one. Reads a file: call it off the event loop."""
        routes = self._desk.routes
        found = [
            _entry(endpoint, arm.version, f"{arm.name}, {arm.weight:g} of the traffic")
            for endpoint, route in sorted(routes.by_name.items())
            for arm in route.traffic.arms
        ]
        known = {(one["name"], one["version"]) for one in found}
        for model, version in sorted(self._desk.places.read_models()):
            if (model, version) in known:
                continue
            why = "loaded" if (model, version) in routes.loaded else _busy(routes.by_name, {(model, version)})
            if why is not None:
                found.append(_entry(model, version, why))
            elif not ready:
                why = routes.troubles.get(f"{model} {version}", "installed, not loaded")
                found.append({"name": model, "version": version, "state": "UNAVAILABLE", "reason": why})
        return found

    async def load(self, name: str, parameters: Mapping[str, Any]) -> None:
        """The model's version answers in every process: the newest installed, or the one that `parameters` names."""
        self._check_open("load")
        version = _text(parameters, "version")
        one = await asyncio.to_thread(self._chosen, name, version)
        if self._answers(*one):
            return
        await asyncio.to_thread(change, self._desk.places, lambda loaded: [*loaded, one])
        trouble = await self._carried_out(one, there=True)
        if trouble is not None:
            await asyncio.to_thread(change, self._desk.places, lambda loaded: [each for each in loaded if each != one])
            raise Invalid(f"{name} {one[1]} cannot be loaded: {trouble}")

    async def unload(self, name: str, parameters: Mapping[str, Any]) -> None:
        """The model's loaded versions, or the one that `parameters` names, answer no more; Refused while traffic needs them."""
        self._check_open("unload")
        version = _text(parameters, "version")
        routes, places = self._desk.routes, self._desk.places
        installed = await asyncio.to_thread(places.read_models)
        asked = {one for one in {*installed, *routes.loaded} if one[0] == name and version in (None, one[1])}
        if not asked and name not in routes.by_name:
            raise NotFound(
                f"There is no model {name!r} {version or ''}. {nearest(name, sorted({m for m, _ in installed}))}"
            )
        loaded = {one for one in asked if one in routes.loaded}
        busy = f"{name} is an endpoint" if name in routes.by_name else _busy(routes.by_name, asked)
        if busy and not loaded:
            raise Refused(409, f"{name} cannot be unloaded: {busy}. Move its traffic to another version first.")
        await asyncio.to_thread(change, places, lambda known: [one for one in known if one not in loaded])
        for one in loaded:
            await self._carried_out(one, there=False)

    def _check_open(self, what: str) -> None:
        if not self._open:
            raise Refused(
                403, f"Nothing is {what}ed by request here. Start the server with --model-control to allow it."
            )

    def _chosen(self, name: str, version: str | None) -> Named:
        """The installed version that is meant."""
        installed = self._desk.places.read_models()
        versions = [known for model, known in installed if model == name]
        if not versions:
            names = sorted({model for model, _ in installed})
            raise NotFound(f"No version of {name!r} is installed. {nearest(name, names)}")
        if version is None:
            return name, max(versions, key=_order)
        if version not in versions:
            raise NotFound(f"{name} {version} is not installed. {nearest(version, versions)}")
        return name, version

    def _answers(self, model: str, version: str) -> bool:
        """Whether a version answers under its model's own name."""
        routes = self._desk.routes
        if (model, version) in routes.loaded:
            return True
        route = routes.by_name.get(model)
        arms = route.traffic.arms if route is not None else ()
        return any((arm.model, arm.version) == (model, version) for arm in arms)

    async def _carried_out(self, one: Named, *, there: bool) -> str | None:
        """Wait until every process that is ready has loaded (or let go of) a version; what keeps one from it."""
        end = time.monotonic() + CARRY_OUT_S
        while True:
            reports = await asyncio.to_thread(self._desk.places.slot_reports)
            serving = [report for report in reports.values() if report.ready]
            troubles = [text for report in serving if (text := report.troubles.get(" ".join(one))) is not None]
            if there and troubles:
                return troubles[0]
            if all((one in report.loaded) == there for report in serving):
                return None
            if time.monotonic() > end:
                raise Refused(503, f"Not every process carried this out within {CARRY_OUT_S:g} seconds. Ask again.")
            await asyncio.sleep(LOOK_S)


def change(places: Places, how: Callable[[list[Named]], list[Named]]) -> None:
    """Replace the list of what is loaded by request; the processes see it at their next look."""
    with places.publishing():
        before = places.read_loaded()
        after = list(dict.fromkeys(how(before)))
        if after != before:
            write(places.loaded, after)


def _busy(routes: Mapping[str, Route], asked: set[Named]) -> str | None:
    """Which traffic needs one of the versions."""
    for endpoint, route in sorted(routes.items()):
        for arm in route.traffic.arms:
            if (arm.model, arm.version) in asked:
                return f"{arm.version} is the {arm.name} of the endpoint {endpoint}"
    return None


def _order(version: str) -> tuple[object, ...]:
    """Semantic versions in their order, above all others, which are in the order of the numbers in them."""
    try:
        return (1, *SemVer.parse(version).key)
    except Invalid:
        return (
            0,
            *((part.isdigit(), int(part) if part.isdigit() else 0, part) for part in re.split(r"(\d+)", version)),
        )


def _entry(name: str, version: str, reason: str) -> dict[str, str]:
    return {"name": name, "version": version, "state": "READY", "reason": reason}


def _text(parameters: Mapping[str, Any], name: str) -> str | None:
    value = parameters.get(name)
    if value is not None and not isinstance(value, str):
        raise Invalid(f"{name} is {str(value)[:40]!r}. Send text.")
    return value


def _configured(tensor: Mapping[str, Any]) -> dict[str, Any]:
    kind = tensor["datatype"]
    return {
        "name": tensor["name"],
        "data_type": "TYPE_STRING" if kind == "BYTES" else f"TYPE_{kind}",
        "dims": tensor["shape"][1:] or [1],
    }


def _counted(rows: Mapping[int, Any]) -> dict[str, Any]:
    def told(codes: list[int]) -> dict[str, int]:
        return {
            "count": sum(int(rows[code][metrics.COUNT]) for code in codes),
            "ns": sum(int(rows[code][metrics.SUM]) * 1000 for code in codes),
        }

    success, fail = told([code for code in rows if code == 200]), told([code for code in rows if code != 200])
    return {
        "inference_count": success["count"],
        "execution_count": success["count"],
        "inference_stats": {"success": success, "fail": fail},
    }
