"""Where model versions come from: datasets, what was made from them, and the one graph that holds it all."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from modelyard.core.area import Area
from modelyard.core.canonical import dumps
from modelyard.core.errors import Conflict, Invalid, NotFound, nearest
from modelyard.core.events import EventType
from modelyard.core.files import replace_whole
from modelyard.core.ids import checked_list, checked_name
from modelyard.core.operations import operation
from modelyard.core.ports import Connection
from modelyard.core.work import Work
from modelyard.governance import facts, lineage, store
from modelyard.governance.lineage import Reached
from modelyard.governance.projection import model_node, node, parsed
from modelyard.governance.values import Edge, LineageTree, Node

_KIND = re.compile(r"[a-z][a-z0-9_]*\Z")  # as events write kinds: Dataset would be another thing than dataset

STANDARDS: dict[str, Callable[[Reached], str]] = {
    "openlineage": lambda found: "".join(dumps(event) + "\n" for event in lineage.openlineage(found)),
    "prov": lambda found: dumps(lineage.prov(found), indent=2) + "\n",
}


class Provenance(Area):
    """Records what was made from what, and answers both ways: what went into a version, and what a dataset went into."""

    @operation("POST", "/governance/datasets", needs="governance.write")
    def register_dataset(
        self,
        dataset_id: str,
        dataset_name: str = "",
        source: str = "",
        *,
        contains_pii: bool | None = None,
        contains_phi: bool | None = None,
        license: str = "",
        description: str = "",
        digest: str = "",
        rows: int | None = None,
        derived_from: Sequence[str] = (),
        created_by: str = "system",
    ) -> Node:
        """The dataset as a node of the lineage; registering it again adds to what is known of it.

        `contains_pii` (personal data) and `contains_phi` (health data) decide which frameworks apply: unknown counts
        as yes. `derived_from` names datasets it was made from.

        >>> from modelyard.governance import GovernanceManager
        >>> gov = GovernanceManager(folder)
        >>> gov.register_dataset("train_001", "Training data", "card payments 2025", contains_pii=True).id
        'dataset:train_001'
        """
        parents = checked_list(derived_from, "derived_from")
        given = {
            "dataset_name": dataset_name,
            "source": source,
            "contains_pii": _checked_flag(contains_pii, "contains_pii"),
            "contains_phi": _checked_flag(contains_phi, "contains_phi"),
            "license": license,
            "description": description,
            "digest": digest,
            "rows": _checked_count(rows),
        }
        details = {key: value for key, value in given.items() if value not in (None, "")} | {"registered": True}
        made = node("dataset", checked_name(dataset_id, "dataset"), details)
        with self.store.work(created_by) as work:
            store.put_node(work.rows, made, work.now)
            known = store.node_by_id(work.rows, made.id) or made
            work.emit(EventType.DATASET_REGISTERED, made.resource, known.details)
            for name in parents:
                _link(work, Edge(source=_dataset(work, name).id, target=made.id, relation="derived"))
        return known

    @operation("POST", "/governance/models", needs="governance.write")
    def register_model(
        self,
        model_id: str,
        model_version: str,
        training_dataset: str | None = None,
        *,
        training_algorithm: str = "",
        hyperparameters: Mapping[str, Any] | None = None,
        features: Sequence[str] = (),
        description: str = "",
        created_by: str = "system",
    ) -> Node:
        """The model version as a node of the lineage, made from its training dataset and features.

        A version in the registry is the same node, with or without this call. NotFound for an unknown dataset.

        >>> from modelyard.governance import GovernanceManager
        >>> gov = GovernanceManager(folder)
        >>> _ = gov.register_dataset("train_001", source="card payments 2025")
        >>> gov.register_model("fraud_detector", "v1.0.0", "train_001").id
        'model:fraud_detector:v1.0.0'
        """
        given = {
            "training_dataset": training_dataset,
            "training_algorithm": training_algorithm,
            "hyperparameters": dict(hyperparameters or {}),
            "description": description,
        }
        details = {key: value for key, value in given.items() if value}
        made = model_node(checked_name(model_id, "model"), checked_name(model_version, "version"), details)
        columns = [_checked_node(f"feature:{name}") for name in checked_list(features, "features")]
        with facts.writing(self.store, created_by) as work:
            store.put_node(work.rows, made, work.now)
            if training_dataset:
                source = _dataset(work, training_dataset)
                _link(work, Edge(source=source.id, target=made.id, relation="trained"))
            for column in columns:
                store.put_node(work.rows, column, work.now)
                _link(work, Edge(source=column.id, target=made.id, relation="input"))
            told = {**details, "model": model_id, "version": model_version, "features": list(features)}
            work.emit(EventType.LINEAGE_RECORDED, made.resource, told)
            return store.node_by_id(work.rows, made.id) or made

    @operation("POST", "/governance/lineage", needs="governance.write")
    def record_lineage(self, source: str, target: str, relation: str = "used", *, created_by: str = "system") -> Edge:
        """An edge of the lineage: `source` went into `target`. Both are node ids such as `dataset:train_001`.

        Things that are not in the graph yet are added. Conflict if the edge would close a cycle.

        >>> from modelyard.governance import GovernanceManager
        >>> gov = GovernanceManager(folder)
        >>> gov.record_lineage("feature:amount", "model:fraud_detector:v1.0.0", "input").relation
        'input'
        """
        edge = Edge(source=source, target=target, relation=checked_name(relation, "relation"))
        ends = [_checked_node(text) for text in (source, target)]
        with facts.writing(self.store, created_by) as work:
            for end in ends:
                if store.node_by_id(work.rows, end.id) is None:
                    store.put_node(work.rows, end, work.now)
            _link(work, edge)
            told = {"source": source, "target": target, "relation": relation}
            work.emit(EventType.LINEAGE_RECORDED, ends[1].resource, told)
        return edge

    @operation("GET", "/governance/models/{model_id}/lineage", needs="governance.read")
    def get_full_lineage_tree(self, model_id: str) -> LineageTree:
        """Everything that went into a model version and everything made from it, as trees.

        They are unfolded for a hundred steps; `edges` has all of them.

        >>> from modelyard.governance import GovernanceManager
        >>> gov = GovernanceManager(folder)
        >>> _ = gov.register_dataset("train_001"), gov.register_model("fraud_detector", "v1.0.0", "train_001")
        >>> [branch.node.id for branch in gov.get_full_lineage_tree("fraud_detector").upstream]
        ['dataset:train_001']
        """
        with facts.reading(self.store) as rows:
            return lineage.tree(_reached(rows, model_id))

    @operation("GET", "/governance/datasets/{dataset_id}/models", needs="governance.read")
    def models_that_saw(self, dataset_id: str) -> list[Node]:
        """Every model version that a dataset went into, directly or through other data and models.

        >>> from modelyard.governance import GovernanceManager
        >>> gov = GovernanceManager(folder)
        >>> _ = gov.register_dataset("raw"), gov.register_dataset("clean", derived_from=["raw"])
        >>> _ = gov.register_model("fraud_detector", "v1.0.0", "clean")
        >>> [model.id for model in gov.models_that_saw("raw")]
        ['model:fraud_detector:v1.0.0']
        """
        with facts.reading(self.store) as rows:
            if store.node_by_id(rows, f"dataset:{dataset_id}") is None:
                raise NotFound(
                    f"There is no dataset {dataset_id!r}. {nearest(dataset_id, store.names_of(rows, 'dataset'))}"
                )
            return store.models_from(rows, f"dataset:{dataset_id}")

    @operation("POST", "/governance/models/{model_id}/lineage-files", needs="governance.read")
    def export_lineage(self, model_id: str, output_path: str | Path, *, standard: str = "openlineage") -> str:
        """The path of a file with the model's lineage: `openlineage` (one run event a line) or `prov` (PROV-JSON).

        >>> from modelyard.governance import GovernanceManager
        >>> gov = GovernanceManager(folder)
        >>> _ = gov.register_dataset("train_001"), gov.register_model("fraud_detector", "v1.0.0", "train_001")
        >>> _ = gov.export_lineage("fraud_detector", folder / "lineage.jsonl")
        >>> "COMPLETE" in (folder / "lineage.jsonl").read_text()
        True
        """
        if standard not in STANDARDS:
            raise Invalid(f"{standard!r} is no lineage format. {nearest(standard, list(STANDARDS))}")
        with facts.reading(self.store) as rows:
            found = _reached(rows, model_id)
        replace_whole(Path(output_path), STANDARDS[standard](found))
        return str(output_path)


def _reached(rows: Connection, model_id: str) -> Reached:
    model = facts.model(rows, model_id)
    up, down = store.upstream(rows, model.id), store.downstream(rows, model.id)
    return Reached(model=model, above=up[1], below=down[1], nodes={node.id: node for node in (*up[0], *down[0])})


def _checked_flag(value: bool | None, what: str) -> bool | None:
    if value not in (None, True, False) or type(value) is int:
        raise Invalid(f"{what} is {value!r:.80}. Pass True or False, or leave it out where nobody knows.")
    return value


def _checked_count(rows: int | None) -> int | None:
    if rows is not None and (type(rows) is not int or rows < 0):
        raise Invalid(f"rows is {rows!r:.80}. Pass how many there are.")
    return rows


def _checked_node(text: str) -> Node:
    """The node that an id names; Invalid unless it is spelt `kind:name` or `model:name:version`."""
    parts = text.split(":")
    whole = len(parts) == 3 if parts[0] == "model" else len(parts) >= 2
    if not whole or not all(parts) or not _KIND.match(parts[0]):
        raise Invalid(
            f"{text!r} names no node. Write dataset:train_001, feature:amount or model:fraud_detector:v1.0.0."
        )
    for part in parts:
        checked_name(part, "node")
    return parsed(text)


def _dataset(work: Work, name: str) -> Node:
    """The registered dataset; NotFound with the nearest known ones."""
    found = store.node_by_id(work.rows, f"dataset:{name}")
    if found is None:
        hint = nearest(name, store.names_of(work.rows, "dataset"))
        raise NotFound(f"There is no dataset {name!r}. {hint} Register it first with register_dataset.")
    return found


def _link(work: Work, edge: Edge) -> None:
    """Add an edge; Conflict if it would close a cycle."""
    if lineage.closes_cycle(edge, store.downstream(work.rows, edge.target)[0]):
        raise Conflict(
            f"{edge.source} was itself made from {edge.target}, so it cannot have gone into it. Check the order."
        )
    store.put_edge(work.rows, edge, work.now)
