"""The tree ensemble in an ONNX graph, read as arrays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from modelyard.core.errors import Damaged, Invalid
from modelyard.engines.trees import LEAF, Ensemble, Link

Array = np.ndarray[Any, np.dtype[Any]]

_LESS = {b"BRANCH_LEQ", b"BRANCH_LT"}
_GREATER = {b"BRANCH_GT", b"BRANCH_GTE"}
_STRICT = {b"BRANCH_LT", b"BRANCH_GTE"}  # x < t is x <= the float32 before t, and so is not (x >= t)
_PLAIN = {"Identity", "Cast"}


def ensemble(path: Path, opened: Callable[[], Any]) -> Ensemble:  # noqa: ARG001 - a large network is not opened for this
    """The trees of the graph at `path`; Invalid, with the reason, where the graph is more than one tree ensemble."""
    try:
        graph = onnx.load_model(str(path), load_external_data=False).graph
    except DecodeError as error:
        raise Damaged(f"{path} is no ONNX graph: {error}") from error
    node, after = _trees(graph)
    given = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    if any(name.endswith("_as_tensor") for name in given):
        raise Invalid("its trees are in double precision")
    ids = given.get("class_ids", given.get("target_ids", ()))
    leaf_part = "class" if "class_ids" in given else "target"
    place = _places(given["nodes_treeids"], given["nodes_nodeids"])
    weights = np.asarray(given[f"{leaf_part}_weights"], np.float32).astype(np.float64)
    link, outputs = _link(node.op_type, given, weights, after)
    values = np.zeros((len(place), outputs))
    rows = [place[key] for key in zip(given[f"{leaf_part}_treeids"], given[f"{leaf_part}_nodeids"], strict=True)]
    np.add.at(values, (np.asarray(rows), np.asarray(ids) if outputs > 1 else np.zeros(len(rows), int)), weights)
    base = np.asarray(given.get("base_values", [0.0] * outputs), np.float32).astype(np.float64)
    if len(base) != outputs:
        raise Invalid(f"it has {len(base)} base values for {outputs} outputs")
    return Ensemble(values=values, base=base, link=link, single=True, **_nodes(given, place))


def _trees(graph: Any) -> tuple[Any, str]:
    """The only tree node, and what is done with its sums: nothing, or Exp. Invalid for any other graph."""
    makers = {output: node for node in graph.node for output in node.output}
    name, after = graph.output[-1].name, ""
    while name in makers:
        node = makers[name]
        if node.op_type in ("TreeEnsembleClassifier", "TreeEnsembleRegressor"):
            source = node.input[0]
            while source in makers and makers[source].op_type in _PLAIN:
                source = makers[source].input[0]
            if source != graph.input[0].name or len(graph.input) != 1:
                raise Invalid("its trees see more than the bare inputs")
            return node, after
        if node.op_type == "Exp" and not after:
            after = "Exp"
        elif node.op_type not in _PLAIN:
            raise Invalid(f"its graph has the step {node.op_type}")
        name = node.input[0]
    raise Invalid("its graph holds no trees")


def _places(trees: list[int], nodes: list[int]) -> dict[tuple[int, int], int]:
    found = {key: position for position, key in enumerate(zip(trees, nodes, strict=True))}
    if len(found) != len(nodes):
        raise Invalid("two of its nodes have one number")
    return found


def _link(kind: str, given: dict[str, Any], weights: Array, after: str) -> tuple[Link, int]:
    """How sums become answers, as ONNX Runtime does it, and how many sums there are."""
    post = given.get("post_transform", b"NONE")
    if kind == "TreeEnsembleRegressor":
        if post != b"NONE" or given.get("n_targets", 1) != 1 or given.get("aggregate_function", b"SUM") != b"SUM":
            raise Invalid(
                f"its trees are joined by {post.decode()}, {given.get('aggregate_function', b'SUM').decode()}"
            )
        return ("exponential" if after else "identity"), 1
    classes = len(given.get("classlabels_int64s") or given.get("classlabels_strings") or ())
    alone = classes == 2 and len(set(given["class_ids"])) == 1
    links: dict[tuple[bytes, bool], Link] = {
        (b"NONE", True): "pair",
        (b"NONE", False): "identity",
        (b"LOGISTIC", True): "logistic_pair",
        (b"LOGISTIC", False): "logistic",
        (b"SOFTMAX", False): "softmax",
    }
    link = links.get((post, alone))
    if after or link is None or (link == "pair" and weights.min(initial=0.0) < 0):
        raise Invalid(f"its trees' scores are made by {post.decode()} {after}".rstrip())
    return link, 1 if alone else classes


def _nodes(given: dict[str, Any], place: dict[tuple[int, int], int]) -> dict[str, Any]:
    modes = given["nodes_modes"]
    unknown = set(modes) - _LESS - _GREATER - {b"LEAF"}
    if unknown:
        raise Invalid(f"its trees have nodes of kind {sorted(unknown)[0].decode()}")
    trees = given["nodes_treeids"]
    leaf = np.array([mode == b"LEAF" for mode in modes])
    swapped = np.array([mode in _GREATER for mode in modes])
    strict = np.array([mode in _STRICT for mode in modes])
    true, false = (
        np.array(
            [LEAF if end else place[key] for end, key in zip(leaf, zip(trees, given[name], strict=True), strict=True)]
        )
        for name in ("nodes_truenodeids", "nodes_falsenodeids")
    )
    edge = np.asarray(given["nodes_values"], np.float32)
    with np.errstate(over="ignore"):
        below = np.nextafter(edge, np.float32(-np.inf))
    first = np.unique(np.asarray(trees), return_index=True)[1]
    roots = np.sort(first)
    tracks = np.asarray(given.get("nodes_missing_value_tracks_true") or np.zeros(len(modes)), bool)
    return {
        "feature": np.asarray(given["nodes_featureids"], np.int64),
        "threshold": np.where(strict, below, edge).astype(np.float64),
        "left": np.where(swapped, false, true),
        "right": np.where(swapped, true, false),
        "missing_left": np.where(swapped, ~tracks, tracks),
        "roots": roots,
    }
