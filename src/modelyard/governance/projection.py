"""The lineage that other areas' events tell of: pure functions from an event to nodes and edges."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from modelyard.core.events import Event, EventType
from modelyard.governance.values import Edge, Node

Piece = tuple[list[Node], list[Edge]]


def model_node(name: str, version: str, details: Mapping[str, Any] | None = None) -> Node:
    """The node of a model version.

    >>> model_node("fraud_detector", "v1.0.0").id
    'model:fraud_detector:v1.0.0'
    """
    return Node(id=f"model:{name}:{version}", kind="model", name=name, version=version, details=details or {})


def node(kind: str, name: str, details: Mapping[str, Any] | None = None) -> Node:
    """The node of anything that has no version of its own."""
    return Node(id=f"{kind}:{name}", kind=kind, name=name, details=details or {})


def parsed(text: str) -> Node:
    """The node that an id such as `dataset:train_001` or `model:fraud_detector:v1.0.0` names."""
    kind, _, name = text.partition(":")
    if kind == "model":
        name, _, version = name.rpartition(":")
        return model_node(name, version)
    return node(kind, name)


def lineage_of(event: Event) -> Piece:
    """What an event adds to the graph; nothing for events that tell of no lineage."""
    rule = RULES.get(event.event_type)
    return rule(event) if rule else ([], [])


def _registered(event: Event) -> Piece:
    name, _, version = event.resource_id.rpartition(":")
    if not name:
        return [], []
    details = event.details
    kept = {key: details[key] for key in ("framework", "digest", "metrics", "description") if details.get(key)}
    model = model_node(name, version, kept)
    nodes, edges = _fed(model, _states(details), "trained")
    for source, relation in _sources(details, name):
        nodes.insert(0, source)
        edges.append(Edge(source=source.id, target=model.id, relation=relation))
    return nodes, edges


def _states(details: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Name and digest of each dataset of the run that a version comes from, which its registration has as name@digest."""
    if not details.get("run_id") or not details.get("training_data"):
        return []
    parts = [part.rpartition("@") for part in str(details["training_data"]).split(", ")]
    return [(name, digest) for name, _, digest in parts] if all(name and digest for name, _, digest in parts) else []


def _fed(target: Node, states: Iterable[tuple[str, str]], relation: str) -> Piece:
    """A thing and the states of datasets that went into it: a dataset's name stays while its content changes."""
    nodes, edges = [target], []
    for name, digest in states:
        data, state = node("dataset", name), node("dataset_version", f"{name}@{digest}", {"digest": digest})
        nodes = [data, state, *nodes]
        edges += [
            Edge(source=data.id, target=state.id, relation="version"),
            Edge(source=state.id, target=target.id, relation=relation),
        ]
    return nodes, edges


def _sources(details: Mapping[str, Any], name: str) -> list[tuple[Node, str]]:
    """What a registered version was made from, as far as its event says."""
    found: list[tuple[Node, str]] = []
    data = details.get("training_data") or details.get("training_dataset")
    if data and not _states(details):
        found.append((node("dataset", str(data)), "trained"))
    if details.get("digest"):
        found.append((node("artifact", str(details["digest"])), "packaged"))
    if details.get("run_id"):
        found.append((node("run", str(details["run_id"])), "produced"))
    if details.get("parent"):
        parent = str(details["parent"])
        found.append((model_node(*(parent.rsplit(":", 1) if ":" in parent else (name, parent))), "derived"))
    return found


def _trained(event: Event) -> Piece:
    kept = {key: event.details[key] for key in ("name", "metrics", "data_digest") if event.details.get(key)}
    run = node("pipeline_run", event.resource_id, kept)
    nodes, edges = [run], []
    data = event.details.get("data_source") or event.details.get("training_data")
    if data:
        source = node("dataset", str(data))
        nodes.insert(0, source)
        edges.append(Edge(source=source.id, target=run.id, relation="used"))
    tracked = node("run", event.resource_id)  # the same training among the tracked runs, which versions name
    return [*nodes, tracked], [*edges, Edge(source=run.id, target=tracked.id, relation="tracked")]


def _ended(event: Event) -> Piece:
    """What a tracked run used, as far as it said."""
    states = [(str(name), str(digest)) for name, digest in event.details.get("datasets") or ()]
    if not states:
        return [], []
    kept = {key: event.details[key] for key in ("name", "status", "experiment_id") if event.details.get(key)}
    return _fed(node("run", event.resource_id, kept), states, "used")


def version_named(event: Event) -> tuple[str, str]:
    """The model and version that an event is about or names in its details; two empty texts where it names none."""
    if event.resource_type == "model":
        name, _, version = event.resource_id.rpartition(":")
        return (name, version) if name else ("", "")
    model, version = str(event.details.get("model") or ""), str(event.details.get("version") or "")
    if not version:
        model, _, version = model.rpartition(":")
    return (model, version) if model and version else ("", "")


def _runs(event: Event) -> Piece:
    """A deployment or an endpoint runs a version."""
    name, version = version_named(event)
    place = event.details.get("endpoint")
    if event.resource_type != "model":
        target = node(event.resource_type, event.resource_id)
    elif place:
        target = node("endpoint", str(place))
    else:
        return [], []
    if not name:
        return [], []
    model = model_node(name, version)
    return [model, target], [Edge(source=model.id, target=target.id, relation="deployed")]


RULES: dict[EventType, Callable[[Event], Piece]] = {
    EventType.MODEL_REGISTERED: _registered,
    EventType.TRAINING_STARTED: _trained,
    EventType.TRAINING_COMPLETED: _trained,
    EventType.RUN_ENDED: _ended,
    EventType.RUN_AMENDED: _ended,
    EventType.MODEL_DEPLOYED: _runs,
    EventType.DEPLOYMENT_STARTED: _runs,
    EventType.ENDPOINT_CREATED: _runs,
}
