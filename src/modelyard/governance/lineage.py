"""Lineage as trees and as other tools' documents: OpenLineage run events and PROV-JSON. Pure."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import Any

from modelyard.core.canonical import plain
from modelyard.core.instants import EPOCH
from modelyard.governance.projection import parsed
from modelyard.governance.values import Branch, Edge, LineageTree, Node

PRODUCER = "https://github.com/modelyard/modelyard"
RUN_EVENT = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent"
NAMESPACE = "modelyard"
DEEPEST = (
    100  # steps that a tree is unfolded: what reads it calls itself for each, and a model may have a year of parents
)
_RUN_IDS = uuid.uuid5(uuid.NAMESPACE_URL, PRODUCER)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """The graph around a model version: the edges that lead to it, those that lead on from it, and every node on them."""

    model: Node
    above: Sequence[Edge]
    below: Sequence[Edge]
    nodes: Mapping[str, Node]

    @property
    def edges(self) -> list[Edge]:
        """The edges of both directions, in order."""
        return sorted({*self.above, *self.below}, key=lambda edge: (edge.source, edge.target, edge.relation))

    def node(self, node_id: str) -> Node:
        """The node, also one of which nothing is known but its id."""
        return self.nodes.get(node_id) or parsed(node_id)


def tree(found: Reached) -> LineageTree:
    """The graph unfolded in each direction."""
    return LineageTree(
        model=found.model,
        upstream=_branches(found.model.id, found, _neighbours(found.above, near="target"), {found.model.id}, DEEPEST),
        downstream=_branches(found.model.id, found, _neighbours(found.below, near="source"), {found.model.id}, DEEPEST),
        edges=tuple(found.edges),
    )


def closes_cycle(edge: Edge, made_from_target: Sequence[Node]) -> bool:
    """True if the edge's source was itself made from its target."""
    return edge.source == edge.target or any(node.id == edge.source for node in made_from_target)


def openlineage(found: Reached) -> list[dict[str, Any]]:
    """One OpenLineage COMPLETE event (spec 2-0-2) for each thing that was made from others, inputs before outputs."""
    made: dict[str, list[str]] = {}
    for edge in found.edges:
        made.setdefault(edge.target, []).append(edge.source)
    return [_run_event(name, made[name], found) for name in _in_order(made)]


def prov(found: Reached) -> dict[str, Any]:
    """The graph as a PROV-JSON document (W3C member submission, 2013): entities and wasDerivedFrom."""
    ids = sorted({found.model.id, *(e.source for e in found.edges), *(e.target for e in found.edges)})
    return {
        "prefix": {"my": f"{PRODUCER}#"},
        "entity": {f"my:{name}": {"prov:type": found.node(name).kind} for name in ids},
        "wasDerivedFrom": {
            f"_:d{number}": {
                "prov:generatedEntity": f"my:{edge.target}",
                "prov:usedEntity": f"my:{edge.source}",
                "prov:type": edge.relation,
            }
            for number, edge in enumerate(found.edges)
        },
    }


def _in_order(made: Mapping[str, Sequence[str]]) -> list[str]:
    try:
        return [name for name in TopologicalSorter(made).static_order() if name in made]
    except CycleError:  # what other areas tell is not checked: then there is no such order
        return list(made)


def _run_event(name: str, sources: Sequence[str], found: Reached) -> dict[str, Any]:
    target = found.node(name)
    return {
        "eventType": "COMPLETE",
        "eventTime": plain(target.created_at or EPOCH),
        "producer": PRODUCER,
        "schemaURL": RUN_EVENT,
        "run": {"runId": str(uuid.uuid5(_RUN_IDS, target.id)), "facets": {}},
        "job": {"namespace": NAMESPACE, "name": f"make {target.id}", "facets": {}},
        "inputs": [_dataset(found.node(source)) for source in sorted(set(sources))],
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
    here: str, found: Reached, neighbours: Mapping[str, list[tuple[str, str]]], seen: set[str], deep: int
) -> tuple[Branch, ...]:
    """Unfold the graph, each node once. One that is cut does not count as met, so that a shorter way unfolds it."""
    branches = []
    for there, relation in neighbours.get(here, ()):
        repeated, cut = there in seen, deep == 1 and there in neighbours
        below: tuple[Branch, ...] = ()
        if not repeated and not cut:
            seen.add(there)
            below = _branches(there, found, neighbours, seen, deep - 1)
        cut = cut and not repeated
        branches.append(Branch(node=found.node(there), relation=relation, branches=below, repeated=repeated, cut=cut))
    return tuple(branches)
