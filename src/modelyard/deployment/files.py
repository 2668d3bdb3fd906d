"""Rollouts written down in a file: the arguments of `start` as YAML or JSON, with errors that name line and key."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import yaml

from modelyard.core import declared
from modelyard.core.declared import Place
from modelyard.core.errors import Invalid
from modelyard.deployment import plans
from modelyard.deployment.rollouts import Terms

TEXTS = ("endpoint", "version", "baseline", "strategy")
PARTS = ("margin", "latency_margin", "alpha", "minimum_agreement")  # may be written as 0.5%
COUNTS = ("minimum_units", "warmup", "after_generation")
KEYS = tuple(
    name for name in {**inspect.signature(plans.wanted).parameters, **dict.fromkeys(Terms.__slots__)} if name != "terms"
)
STEP = {"share": "steps", "units": "step_units", "seconds": "step_seconds", "gate": "gates"}
LEAST = {"endpoint": "any", "version": "v1.0.0"}
TOGETHER = dict.fromkeys(STEP.values(), ("strategy", *STEP.values()))  # the steps are read by the strategy's rules


def read_rollout(path: str | Path) -> dict[str, Any]:
    """The arguments that a file gives for `start`; Invalid names the line and the key that is wrong or missing.

    `steps` is a list of shares, as 0.05 or 5%, or of what each step needs: {share: 5%, units: 500, seconds: 10m,
    gate: true}. Durations are seconds, or 90s, 10m, 2h, 1d.
    """
    top = declared.opened(path, "rollout", "endpoint: fraud")
    declared.only(top, KEYS)
    for key in ("endpoint", "version"):
        if key not in top:
            raise Invalid(f"{path} does not say which {key}. Add a line {key}: ...")
    given: dict[str, Any] = {}
    for key, (place, node) in top.items():
        given |= _read(place, key, node)
    by_strategy = dict(sorted(top.items(), key=lambda one: one[0] != "strategy"))
    declared.check(plans.wanted, given, by_strategy, LEAST, TOGETHER)
    return given


def _read(place: Place, key: str, node: yaml.Node) -> dict[str, Any]:
    """The arguments that one key gives."""
    if key in TEXTS:
        return {key: declared.text(place, node)}
    if key == "steps":
        return _steps(place, node)
    if key in ("gates", "step_units", "step_seconds", "freeze"):
        readers = {"step_seconds": declared.duration, "freeze": declared.text}
        read = readers.get(key, declared.count)
        return {key: [read(one, item) for one, item in declared.items(place, node)]}
    if key == "latency_ms":
        if not isinstance(node, yaml.MappingNode):
            raise place.wrong("give milliseconds by quantile, for example {p50: 2.1, p95: 4, p99: 9}.")
        found = declared.mapping(node, place.path, key)
        return {key: {name: declared.number(one, value) for name, (one, value) in found.items()}}
    if key == "guardrails":
        example = "{name: queue, lowest: 0, highest: 100, tolerated: 5}"
        return {key: [declared.values(one, item, example) for one, item in declared.items(place, node, f"[{example}]")]}
    if key in COUNTS:
        return {key: declared.count(place, node)}
    if key in ("latency_limit", "latency_floor_ms"):
        return {key: declared.number(place, node)}
    return {key: (declared.duration if key.endswith("_seconds") else declared.part)(place, node)}


def _steps(place: Place, node: yaml.Node) -> dict[str, Any]:
    """Shares, and what each step asks for beside its share."""
    shares: list[float] = []
    own: dict[str, list[Any]] = {"units": [], "seconds": []}
    gates = []
    for index, (one, item) in enumerate(declared.items(place, node)):
        alone = isinstance(item, yaml.ScalarNode)
        told = {"share": (one, item)} if alone else declared.parts(one, item, STEP, "{share: 5%, units: 500}")
        if "share" not in told:
            raise one.wrong("does not say which share. Write {share: 5%, ...}.")
        shares.append(declared.part(*told["share"]))
        own["units"].append(declared.count(*told["units"]) if "units" in told else None)
        own["seconds"].append(declared.duration(*told["seconds"]) if "seconds" in told else None)
        if "gate" in told and declared.truth(*told["gate"]):
            gates.append(index)
    found: dict[str, Any] = {STEP[name]: values for name, values in own.items() if any(v is not None for v in values)}
    return {"steps": shares, **found, **({"gates": gates} if gates else {})}
