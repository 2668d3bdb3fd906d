"""The governance area's SQL, one function a statement."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from modelyard.core.canonical import dumps
from modelyard.core.events import Event, EventType
from modelyard.core.instants import Instant, from_micros, micros
from modelyard.core.ports import Connection, Row
from modelyard.core.work import EVENT_COLUMNS, event_from_row
from modelyard.governance.values import Attestation, Edge, Node

NEWEST = 200  # events looked at per kind and thing: older ones only repeat what newer ones prove
_EVENT = ", ".join(("position", *EVENT_COLUMNS))
_NODE = "n.node_id, n.kind, n.name, n.version, n.details, n.created_at"


def put_node(rows: Connection, node: Node, at: Instant) -> None:
    """Add a node, or add to the details of the one that stands there."""
    found = node_by_id(rows, node.id)
    details = {**(found.details if found else {}), **node.details}
    rows.run(
        "INSERT INTO governance_nodes (node_id, kind, name, version, details, created_at) "
        "VALUES (:node_id, :kind, :name, :version, :details, :at) "
        "ON CONFLICT (node_id) DO UPDATE SET details = excluded.details",
        node_id=node.id,
        kind=node.kind,
        name=node.name,
        version=node.version,
        details=dumps(details),
        at=micros(at),
    )


def put_edge(rows: Connection, edge: Edge, at: Instant) -> None:
    """Add an edge unless it is there."""
    rows.run(
        "INSERT INTO governance_edges (source, target, relation, created_at) "
        "VALUES (:source, :target, :relation, :at) ON CONFLICT DO NOTHING",
        source=edge.source,
        target=edge.target,
        relation=edge.relation,
        at=micros(at),
    )


def node_by_id(rows: Connection, node_id: str) -> Node | None:
    """The node, or None."""
    row = rows.one(f"SELECT {_NODE} FROM governance_nodes n WHERE n.node_id = :node_id", node_id=node_id)
    return _node(row) if row else None


def newest_version(rows: Connection, name: str) -> Node | None:
    """The version of a model that was recorded last, or None."""
    row = rows.one(
        f"SELECT {_NODE} FROM governance_nodes n WHERE n.kind = 'model' AND n.name = :name "
        "ORDER BY n.position DESC LIMIT 1",
        name=name,
    )
    return _node(row) if row else None


def names_of(rows: Connection, kind: str) -> list[str]:
    """The names of every node of a kind."""
    return [r["name"] for r in rows.all("SELECT DISTINCT name FROM governance_nodes WHERE kind = :kind", kind=kind)]


def versions_of(rows: Connection, name: str) -> list[str]:
    """The versions of a model."""
    sql = "SELECT version FROM governance_nodes WHERE kind = 'model' AND name = :name ORDER BY position"
    return [row["version"] for row in rows.all(sql, name=name)]


def upstream(rows: Connection, node_id: str) -> tuple[list[Node], list[Edge]]:
    """Everything that the node was made from, however far back, and the edges between."""
    return _reach(rows, node_id, near="target", far="source")


def downstream(rows: Connection, node_id: str) -> tuple[list[Node], list[Edge]]:
    """Everything that was made from the node, however far on, and the edges between."""
    return _reach(rows, node_id, near="source", far="target")


def models_from(rows: Connection, node_id: str) -> list[Node]:
    """Every model version that the node went into, directly or through others: one recursive query."""
    found = rows.all(
        "WITH RECURSIVE reached (node_id) AS ("
        " SELECT CAST(:start AS TEXT)"
        " UNION SELECT e.target FROM governance_edges e JOIN reached r ON e.source = r.node_id"
        f") SELECT {_NODE} FROM governance_nodes n JOIN reached r ON n.node_id = r.node_id "
        "WHERE n.kind = 'model' ORDER BY n.position",
        start=node_id,
    )
    return [_node(row) for row in found]


def _reach(rows: Connection, node_id: str, *, near: str, far: str) -> tuple[list[Node], list[Edge]]:
    """UNION, not UNION ALL: each node is visited once, so a graph full of diamonds stays small."""
    walk = (
        "WITH RECURSIVE reached (node_id) AS ("
        " SELECT CAST(:start AS TEXT)"
        f" UNION SELECT e.{far} FROM governance_edges e JOIN reached r ON e.{near} = r.node_id) "
    )
    nodes = rows.all(
        walk + f"SELECT {_NODE} FROM governance_nodes n JOIN reached r ON n.node_id = r.node_id ORDER BY n.position",
        start=node_id,
    )
    edges = rows.all(
        walk + f"SELECT e.source, e.target, e.relation FROM governance_edges e JOIN reached r ON e.{near} = r.node_id "
        "ORDER BY e.source, e.target, e.relation",
        start=node_id,
    )
    return [_node(row) for row in nodes], [Edge(**row) for row in edges]


def events_about(rows: Connection, kind: str, identifier: str) -> list[Event]:
    """The newest events about one thing, oldest first."""
    sql = (
        f"SELECT {_EVENT} FROM events WHERE resource_type = :kind AND resource_id = :id "
        "ORDER BY position DESC LIMIT :most"
    )
    return _events(rows.all(sql, kind=kind, id=identifier, most=NEWEST))


def first_event(rows: Connection, event_type: EventType, kind: str, identifier: str) -> Event | None:
    """The oldest event of a type about one thing, or None."""
    sql = (
        f"SELECT {_EVENT} FROM events WHERE event_type = :type AND resource_type = :kind AND resource_id = :id "
        "ORDER BY position LIMIT 1"
    )
    row = rows.one(sql, type=event_type.value, kind=kind, id=identifier)
    return event_from_row(row) if row else None


def events_naming(rows: Connection, event_type: EventType, key: str, name: str) -> list[Event]:
    """The newest events of a type whose details have `key` = `name`, oldest first."""
    text = dumps({key: name})[1:-1]  # details are canonical JSON, so this is how it is spelt there
    escaped = text.replace("!", "!!").replace("%", "!%").replace("_", "!_")
    sql = (
        f"SELECT {_EVENT} FROM events WHERE event_type = :type AND details LIKE :pattern ESCAPE '!' "
        "ORDER BY position DESC LIMIT :most"
    )
    found = _events(rows.all(sql, type=event_type.value, pattern=f"%{escaped}%", most=NEWEST))
    return [event for event in found if event.details.get(key) == name]


def events_of_type(rows: Connection, event_type: EventType) -> list[Event]:
    """The newest events of a type, oldest first."""
    sql = f"SELECT {_EVENT} FROM events WHERE event_type = :type ORDER BY position DESC LIMIT :most"
    return _events(rows.all(sql, type=event_type.value, most=NEWEST))


def cursor(rows: Connection, reader: str) -> int:
    """How far a reader of events has come."""
    row = rows.one("SELECT position FROM event_cursors WHERE reader = :reader", reader=reader)
    return int(row["position"]) if row else 0


def move_cursor(rows: Connection, reader: str, position: int) -> None:
    """Remember how far a reader of events has come."""
    rows.run(
        "INSERT INTO event_cursors (reader, position) VALUES (:reader, :position) "
        "ON CONFLICT (reader) DO UPDATE SET position = excluded.position",
        reader=reader,
        position=position,
    )


def last_position(rows: Connection) -> int:
    """The position of the newest event."""
    row = rows.one("SELECT MAX(position) AS position FROM events")
    return int(row["position"] or 0) if row else 0


def events_after(rows: Connection, event_type: EventType, position: int) -> list[Event]:
    """Every event of a type after a position, in order."""
    sql = f"SELECT {_EVENT} FROM events WHERE event_type = :type AND position > :position ORDER BY position"
    return [event_from_row(row) for row in rows.all(sql, type=event_type.value, position=position)]


def add_bias(rows: Connection, reports: Iterable[Mapping[str, Any]]) -> None:
    """Keep bias reports: report_id, model, assessed_at and the report itself."""
    rows.many(
        "INSERT INTO governance_bias (report_id, model, assessed_at, report) "
        "VALUES (:report_id, :model, :assessed_at, :report)",
        reports,
    )


def bias_of(rows: Connection, model: str) -> list[Mapping[str, Any]]:
    """A model version's bias reports, oldest first."""
    found = rows.all("SELECT report FROM governance_bias WHERE model = :model ORDER BY position", model=model)
    return [json.loads(row["report"]) for row in found]


def add_compliance(rows: Connection, values: Mapping[str, Any]) -> None:
    """Keep an assessment: assessment_id, model, framework, assessed_at and the report itself."""
    rows.run(
        "INSERT INTO governance_compliance (assessment_id, model, framework, assessed_at, report) "
        "VALUES (:assessment_id, :model, :framework, :assessed_at, :report)",
        **values,
    )


def compliance_of(rows: Connection, model: str) -> list[Mapping[str, Any]]:
    """A model version's assessments, oldest first."""
    found = rows.all("SELECT report FROM governance_compliance WHERE model = :model ORDER BY position", model=model)
    return [json.loads(row["report"]) for row in found]


def add_attestation(rows: Connection, stated: Attestation) -> None:
    """Keep a statement about a control."""
    rows.run(
        "INSERT INTO governance_attestations "
        "(model, framework, control, says, statement, attested_by, attested_at, expires_at, event_id) "
        "VALUES (:model, :framework, :control, :says, :statement, :attested_by, :attested_at, :expires_at, :event_id)",
        model=stated.model,
        framework=stated.framework,
        control=stated.control,
        says=stated.says,
        statement=stated.statement,
        attested_by=stated.attested_by,
        attested_at=micros(stated.attested_at),
        expires_at=None if stated.expires is None else micros(stated.expires),
        event_id=stated.event_id,
    )


def attestations(rows: Connection, model: str, framework: str) -> dict[str, Attestation]:
    """The newest statement on each control."""
    found = rows.all(
        "SELECT model, framework, control, says, statement, attested_by, attested_at, expires_at, event_id "
        "FROM governance_attestations WHERE model = :model AND framework = :framework ORDER BY position",
        model=model,
        framework=framework,
    )
    return {row["control"]: _attestation(row) for row in found}


def _attestation(row: Row) -> Attestation:
    plain = {key: value for key, value in row.items() if key not in ("attested_at", "expires_at")}
    expires = None if row["expires_at"] is None else from_micros(row["expires_at"])
    return Attestation(**plain, attested_at=from_micros(row["attested_at"]), expires=expires)


def _node(row: Row) -> Node:
    return Node(
        id=row["node_id"],
        kind=row["kind"],
        name=row["name"],
        version=row["version"],
        details=json.loads(row["details"]),
        created_at=from_micros(row["created_at"]),
    )


def _events(rows: list[Row]) -> list[Event]:
    return [event_from_row(row) for row in reversed(rows)]
