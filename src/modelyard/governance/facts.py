"""Collects what the store knows about one model version, for the rules to judge."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from modelyard.core.errors import NotFound, nearest
from modelyard.core.events import Event, EventType
from modelyard.core.ports import Connection
from modelyard.core.work import Store, Work
from modelyard.governance import projection, store
from modelyard.governance.controls import Framework
from modelyard.governance.rules import Facts
from modelyard.governance.values import Node

READER = "governance.lineage"


@contextmanager
def reading(of: Store) -> Iterator[Connection]:
    """A view for reading in which the lineage holds what other areas did until now."""
    with of.reading() as rows:
        behind = store.last_position(rows) > store.cursor(rows, READER)
    if behind:
        with writing(of, "governance"):
            pass
    with of.reading() as rows:
        yield rows


@contextmanager
def writing(of: Store, actor: str) -> Iterator[Work]:
    """A transaction in which the lineage holds what other areas did until now."""
    with of.work(actor) as work:
        _catch_up(work)
        yield work


def _catch_up(work: Work) -> None:
    """Take other areas' new events into the lineage graph. Reading an event twice changes nothing."""
    start, end = store.cursor(work.rows, READER), store.last_position(work.rows)
    events = [event for kind in projection.RULES for event in store.events_after(work.rows, kind, start)]
    for event in sorted(events, key=lambda event: event.position or 0):
        nodes, edges = projection.lineage_of(event)
        for node in nodes:
            store.put_node(work.rows, node, event.occurred_at)
        for edge in edges:
            store.put_edge(work.rows, edge, event.occurred_at)
    store.move_cursor(work.rows, READER, end)


def model(rows: Connection, model_id: str) -> Node:
    """The model version that `name:version` or a name (then the one recorded last) means; NotFound if there is none."""
    name, _, version = model_id.rpartition(":")
    found = store.node_by_id(rows, f"model:{model_id}") if name else store.newest_version(rows, model_id)
    if found is not None:
        return found
    versions = store.versions_of(rows, name) if name else []
    if versions:
        raise NotFound(f"Model {name} has no version {version!r}. {nearest(version, versions)}")
    hint = nearest(name or model_id, store.names_of(rows, "model"))
    raise NotFound(f"Governance knows no model {model_id!r}. {hint} Register it: modelyard governance register-model")


def gather(rows: Connection, node: Node, framework: Framework) -> Facts:
    """Everything that bears on a framework's controls for one model version."""
    needed = [need for control in framework.controls for need in control.needs]
    anywhere = sorted({kind for need in needed if need.scope == "yard" for kind in need.events}, key=lambda k: k.value)
    about = sorted({kind for need in needed if need.scope == "model" for kind in need.events}, key=lambda k: k.value)
    upstream = [found for found in store.upstream(rows, node.id)[0] if found.id != node.id]
    return Facts(
        model_events=_model_events(rows, node, upstream, about),
        yard_events=[event for kind in anywhere for event in store.events_of_type(rows, kind)],
        upstream=upstream,
        attestations=store.attestations(rows, node.reference, framework.id),
    )


def _model_events(rows: Connection, node: Node, upstream: list[Node], kinds: list[EventType]) -> list[Event]:
    """Events about the version, its model as a whole, what it was made from and what runs it, or naming it."""
    found: dict[str, Event] = {}
    downstream = [other for other in store.downstream(rows, node.id)[0] if other.kind != "model"]
    things = [("model", node.reference), ("model", node.name)]
    things += [(other.kind, other.name) for other in (*upstream, *downstream) if other.kind != "model"]
    for kind, name in things:
        found.update({event.event_id: event for event in store.events_about(rows, kind, name)})
    for event_type in kinds:
        for name in (node.name, node.reference):
            for event in store.events_naming(rows, event_type, "model", name):
                if projection.version_named(event) in ((node.name, node.version), ("", "")):
                    found[event.event_id] = event
    return sorted(found.values(), key=lambda event: event.position or 0)
