"""The lineage that other areas' events tell of: pure functions from an event to nodes and edges."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
    nodes, edges = [model], []
    for source, relation in _sources(details, name):
        nodes.insert(0, source)
        edges.append(Edge(source=source.id, target=model.id, relation=relation))
    return nodes, edges


def _sources(details: Mapping[str, Any], name: str) -> list[tuple[Node, str]]:
    """What a registered version was made from, as far as its event says."""
    found: list[tuple[Node, str]] = []
    data = details.get("training_data") or details.get("training_dataset")
    if data:
        found.append((node("dataset", str(data)), "trained"))
    if details.get("digest"):
        found.append((node("artifact", str(details["digest"])), "packaged"))
    if details.get("run") or details.get("run_id"):
        found.append((node("pipeline_run", str(details.get("run") or details.get("run_id"))), "produced"))
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
    return nodes, edges


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
    EventType.MODEL_DEPLOYED: _runs,
    EventType.DEPLOYMENT_STARTED: _runs,
    EventType.ENDPOINT_CREATED: _runs,
}
