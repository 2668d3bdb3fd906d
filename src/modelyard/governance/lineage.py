"""Lineage as trees and as other tools' documents: OpenLineage run events and PROV-JSON. Pure."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from modelyard.core.canonical import plain
from modelyard.core.instants import EPOCH
from modelyard.governance.projection import parsed
from modelyard.governance.values import Branch, Edge, LineageTree, Node

PRODUCER = "https://github.com/modelyard/modelyard"
RUN_EVENT = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent"
NAMESPACE = "modelyard"
_RUN_IDS = uuid.uuid5(uuid.NAMESPACE_URL, PRODUCER)


def tree(model: Node, up: tuple[list[Node], list[Edge]], down: tuple[list[Node], list[Edge]]) -> LineageTree:
    """The tree of a model from what was reached in each direction."""
    edges = sorted({*up[1], *down[1]}, key=lambda edge: (edge.source, edge.target, edge.relation))
    nodes = {node.id: node for node in (*up[0], *down[0])}
    return LineageTree(
        model=model,
        upstream=_branches(model.id, nodes, _neighbours(up[1], near="target"), seen={model.id}),
        downstream=_branches(model.id, nodes, _neighbours(down[1], near="source"), seen={model.id}),
        edges=tuple(edges),
    )


def closes_cycle(edge: Edge, made_from_target: Sequence[Node]) -> bool:
    """True if the edge's source was itself made from its target."""
    return edge.source == edge.target or any(node.id == edge.source for node in made_from_target)


def openlineage(found: LineageTree) -> list[dict[str, Any]]:
    """One OpenLineage COMPLETE event (spec 2-0-2) for each thing that was made from others, inputs before outputs."""
    nodes = {found.model.id: found.model, **_nodes(found.upstream), **_nodes(found.downstream)}
    made: dict[str, list[str]] = {}
    for edge in found.edges:
        made.setdefault(edge.target, []).append(edge.source)
    return [_run_event(nodes.get(target) or parsed(target), sources, nodes) for target, sources in made.items()]


def prov(found: LineageTree) -> dict[str, Any]:
    """The graph as a PROV-JSON document (W3C member submission, 2013): entities and wasDerivedFrom."""
    nodes = {found.model.id: found.model, **_nodes(found.upstream), **_nodes(found.downstream)}
    ids = sorted({*nodes, *(e.source for e in found.edges), *(e.target for e in found.edges)})
    return {
        "prefix": {"my": f"{PRODUCER}#"},
        "entity": {f"my:{name}": {"prov:type": (nodes.get(name) or parsed(name)).kind} for name in ids},
        "wasDerivedFrom": {
            f"_:d{number}": {
                "prov:generatedEntity": f"my:{edge.target}",
                "prov:usedEntity": f"my:{edge.source}",
                "prov:type": edge.relation,
            }
            for number, edge in enumerate(found.edges)
        },
    }


def _run_event(target: Node, sources: Sequence[str], nodes: Mapping[str, Node]) -> dict[str, Any]:
    return {
        "eventType": "COMPLETE",
        "eventTime": plain(target.created_at or EPOCH),
        "producer": PRODUCER,
        "schemaURL": RUN_EVENT,
        "run": {"runId": str(uuid.uuid5(_RUN_IDS, target.id)), "facets": {}},
        "job": {"namespace": NAMESPACE, "name": f"make {target.id}", "facets": {}},
        "inputs": [_dataset(nodes.get(name) or parsed(name)) for name in sorted(set(sources))],
        "outputs": [_dataset(target)],
    }


def _dataset(node: Node) -> dict[str, Any]:
    facets: dict[str, Any] = {}
    if node.kind == "model":
        facets["version"] = {
            "_producer": PRODUCER,
            "_schemaURL": "https://openlineage.io/spec/facets/1-0-1/DatasetVersionDatasetFacet.json",
            "datasetVersion": node.details.get("digest") or node.version,
        }
    name = f"registry/{node.name}" if node.kind == "model" else f"{node.kind}/{node.name}"
    return {"namespace": NAMESPACE, "name": name, "facets": facets}


def _neighbours(edges: Sequence[Edge], *, near: str) -> dict[str, list[tuple[str, str]]]:
    found: dict[str, list[tuple[str, str]]] = {}
    for edge in edges:
        here, there = (edge.target, edge.source) if near == "target" else (edge.source, edge.target)
        found.setdefault(here, []).append((there, edge.relation))
    return found


def _branches(
    here: str, nodes: Mapping[str, Node], neighbours: Mapping[str, list[tuple[str, str]]], seen: set[str]
) -> tuple[Branch, ...]:
    """Unfold the graph, each node once."""
    found = []
    for there, relation in neighbours.get(here, ()):
        repeated = there in seen
        seen.add(there)
        below = () if repeated else _branches(there, nodes, neighbours, seen)
        found.append(
            Branch(node=nodes.get(there) or parsed(there), relation=relation, branches=below, repeated=repeated)
        )
    return tuple(found)


def _nodes(branches: Sequence[Branch]) -> dict[str, Node]:
    found: dict[str, Node] = {}
    for branch in branches:
        found[branch.node.id] = branch.node
        found.update(_nodes(branch.branches))
    return found
