"""What scikit-learn's structures must fulfil whose indices its compiled code follows without a look.

One function a structure: it tells why the structure is refused, an empty text if it is sound. scikit-learn is compiled
with boundscheck=False; each function names the source that would read or write wherever a forged index points.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from scipy import sparse
from sklearn import cluster, dummy, feature_extraction, neighbors, preprocessing, svm, tree
from sklearn.ensemble._gb import BaseGradientBoosting
from sklearn.ensemble._hist_gradient_boosting.binning import _BinMapper
from sklearn.ensemble._hist_gradient_boosting.common import PREDICTOR_RECORD_DTYPE
from sklearn.ensemble._hist_gradient_boosting.gradient_boosting import BaseHistGradientBoosting
from sklearn.ensemble._hist_gradient_boosting.predictor import TreePredictor
from sklearn.metrics import _dist_metrics as distances
from sklearn.neighbors._base import NeighborsBase
from sklearn.svm._base import BaseLibSVM
from sklearn.tree._tree import Tree

from modelyard.bounds.trees import LEAF, fault

Array = np.ndarray[Any, np.dtype[Any]]

MOST_THREADS = 4096
PLAIN_DISTANCES = tuple(
    getattr(distances, f"{name}Distance{bits}") for name in ("Euclidean", "Manhattan", "Chebyshev") for bits in (64, 32)
)
KERNELS = ("linear", "poly", "rbf", "sigmoid")


def is_whole(value: Any, low: int, high: float = np.inf) -> bool:
    """True for an integer, and no bool, from low to high."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and low <= int(value) <= high


def is_array(value: Any, dtype: Any, shape: tuple[int | None, ...]) -> bool:
    """True for a plain array of that type and shape; None stands for any length."""
    if type(value) is not np.ndarray or value.dtype != dtype or value.ndim != len(shape):
        return False
    return all(wanted is None or side == wanted for side, wanted in zip(value.shape, shape, strict=True))


def nodes_of_tree(found: Tree) -> str:
    """sklearn/tree/_tree.pyx, Tree.apply and decision_path: children and features are followed as they are.

    Tree.__setstate__ itself copies within the arrays it is given, and never more nodes than there are.
    """
    if not 1 <= found.node_count <= found.capacity or found.n_outputs < 1 or found.max_n_classes < 1:
        return f"says that it has {found.node_count} nodes, with {found.capacity} stored"
    nodes = found.__getstate__()["nodes"]
    left = nodes["left_child"]
    inner = np.flatnonzero(left != LEAF)
    astray = fault(np.array([len(nodes)]), left, nodes["right_child"])
    if astray:
        return astray.why
    features = nodes["feature"][inner]
    if (features < 0).any() or (features >= found.n_features).any():
        return f"splits on a feature beyond its {found.n_features}"
    return "" if found.compute_node_depths().max() <= found.max_depth + 1 else "is deeper than it says"


def decision_tree(found: Any) -> str:
    """sklearn/tree/_classes.py checks rows against the estimator's number of features, not against the tree's."""
    if "tree_" not in vars(found):
        return ""
    if type(found.tree_) is not Tree:
        return "has something else than a tree in tree_"
    width = vars(found).get("n_features_in_")
    return "" if is_whole(width, 1) and width == found.tree_.n_features else f"takes {width} features, its tree others"


def gradient_boosting(found: Any) -> str:
    """sklearn/ensemble/_gradient_boosting.pyx, predict_stages: reads each tree's nodes by their address, checks rows
    against the first tree only, and writes one column for each tree of a stage."""
    members = vars(found).get("estimators_")
    if members is None:
        return ""
    if not is_array(members, "O", (None, None)) or not members.size:
        return "has no table of trees in estimators_"
    if not all(isinstance(one, tree.DecisionTreeRegressor) and "tree_" in vars(one) for one in members.flat):
        return "has something else than a fitted regression tree in estimators_"
    widths = {one.n_features_in_ for one in members.flat}
    if len(widths) > 1 or not all(is_whole(width, 1) for width in widths):
        return "has trees that take different numbers of features"
    return _boosting_start(found, members.shape[1], int(widths.pop()))


def _boosting_start(found: Any, columns: int, width: int) -> str:
    """The trees' answers are added to the first guess, whose shape is tried with three rows."""
    start = vars(found).get("init_")
    guesses = (dummy.DummyClassifier, dummy.DummyRegressor)
    plain = isinstance(start, guesses) and start.strategy in ("prior", "mean", "median", "quantile")
    if not plain and not (isinstance(start, str) and start == "zero"):
        return "starts from an estimator of its own (init), which is not supported"
    try:
        shape = np.shape(found._raw_predict_init(np.zeros((3, width), dtype=np.float32)))
    except (ValueError, TypeError, AttributeError, IndexError, KeyError) as error:
        return f"cannot make its first guess ({error})"
    return "" if shape == (3, columns) else f"has {columns} trees a stage, but a first guess of shape {shape}"


def hist_gradient_boosting(found: Any) -> str:
    """sklearn/ensemble/_hist_gradient_boosting/_predictor.pyx: children, features and bitsets are followed."""
    stages = vars(found).get("_predictors")
    if stages is None:
        return ""
    width, mapper = vars(found).get("n_features_in_"), vars(found).get("_bin_mapper")
    if not is_whole(width, 1) or type(mapper) is not _BinMapper:
        return "does not say how many features it takes"
    if vars(found).get("_preprocessor") is not None:
        return "encodes its categories itself, which is not supported"
    categorical = getattr(mapper, "is_categorical_", None)
    if not is_array(categorical, "u1", (width,)) and not is_array(categorical, "?", (width,)):
        return "does not say for each feature whether it is a category"
    if type(stages) is not list or not all(type(stage) is list for stage in stages):
        return "has no list of trees"
    for number, stage in enumerate(stages):
        for one in stage:
            why = predictor_nodes(one, np.asarray(categorical, dtype=bool))
            if why:
                return f"has the tree _predictors[{number}], which {why}"
    return ""


def predictor_nodes(found: Any, categorical: Array) -> str:
    """Why one tree of a histogram booster does not fit rows with these features."""
    if type(found) is not TreePredictor:
        return "is no such tree"
    nodes, bitsets = (vars(found).get(name) for name in ("nodes", "raw_left_cat_bitsets"))
    if not is_array(nodes, PREDICTOR_RECORD_DTYPE, (None,)) or not len(nodes) or not is_array(bitsets, "u4", (None, 8)):
        return "holds no nodes"
    inner = np.flatnonzero(nodes["is_leaf"] == 0)
    left = np.where(nodes["is_leaf"] == 0, nodes["left"].astype(np.int64), LEAF)
    astray = fault(np.array([len(nodes)]), left, nodes["right"].astype(np.int64))
    if astray:
        return astray.why
    features = nodes["feature_idx"][inner]
    if (features < 0).any() or (features >= len(categorical)).any():
        return f"splits on a feature beyond its {len(categorical)}"
    split = nodes["is_categorical"][inner] != 0
    if not categorical[features[split]].all() or (nodes["bitset_idx"][inner][split] >= len(bitsets)).any():
        return f"splits on a set of categories beyond its {len(bitsets)}"
    return ""


def neighbor_tree(found: Any) -> str:
    """sklearn/neighbors/_binary_tree.pxi: nodes lie at 2i + 1 and 2i + 2, ranges and row numbers are followed, and a
    query by radius writes every row of the ranges it meets into room for each row once."""
    try:
        rows, order, nodes, bounds, leaf_size, levels, count, *_, distance, weights = found.__getstate__()
    except AttributeError:
        return "lacks an array"
    fixed = {neighbors.KDTree: 2, neighbors.BallTree: 1}[type(found)]
    if (
        rows.ndim != 2
        or not rows.size
        or len(order) != len(rows)
        or (weights is not None and len(weights) != len(rows))
    ):
        return f"has {len(order)} row numbers or weights of {len(rows)} rows"
    if bounds.shape != (fixed, len(nodes), rows.shape[1]) or count != len(nodes) or count + 1 != 2**levels:
        return f"says that it has {count} nodes, with {len(nodes)} stored"
    if leaf_size < 1 or (order < 0).any() or (order >= len(rows)).any():
        return f"refers to a row beyond its {len(rows)}"
    return _ranges(nodes, len(rows)) or distance_sizes(distance, rows.shape[1])


def _ranges(nodes: Array, rows: int) -> str:
    """Each node's rows must be its children's, level by level from all rows down."""
    start, end = nodes["idx_start"], nodes["idx_end"]
    if start[0] != 0 or end[0] != rows:
        return f"does not begin with its {rows} rows"
    level = np.zeros(1, dtype=np.intp)
    while len(level):
        inner = level[nodes["is_leaf"][level] == 0]
        left, right = 2 * inner + 1, 2 * inner + 2
        if (right >= len(nodes)).any():
            return f"has a child beyond its {len(nodes)} nodes"
        joined = (start[left] == start[inner]) & (end[left] == start[right]) & (end[right] == end[inner])
        if not (joined & (start[left] <= end[left]) & (start[right] <= end[right])).all():
            return "has nodes whose ranges are not those of their children"
        level = np.concatenate((left, right))
    return ""


def distance_sizes(found: Any, width: int | None = None) -> str:
    """sklearn/metrics/_dist_metrics.pyx: a weighted distance reads one weight a feature."""
    if isinstance(found, PLAIN_DISTANCES):
        return ""
    if not isinstance(found, (distances.MinkowskiDistance64, distances.MinkowskiDistance32)):
        return f"measures by {type(found).__name__}, which is not supported"
    weights = found.__getstate__()[1]
    fits = is_array(weights, "f8", (None,)) and (width is None or len(weights) in (0, width))
    return "" if fits else "has other weights than one a feature"


def nearest(found: Any) -> str:
    """sklearn/metrics/_pairwise_distances_reduction: rows are as wide as the asked ones, labels lie among the classes."""
    fitted = vars(found)
    if not fitted.keys() & {"_fit_X", "_tree", "_fit_method"}:
        return ""
    rows, width, search = fitted.get("_fit_X"), fitted.get("n_features_in_"), fitted.get("_tree")
    if not sparse.issparse(rows) and not (type(rows) is np.ndarray and rows.dtype.kind in "fiub" and rows.ndim == 2):
        return "keeps no rows"
    if not is_whole(width, 1) or rows.shape[1] != width or fitted.get("n_samples_fit_") != rows.shape[0]:
        return f"keeps rows of shape {rows.shape}, and says otherwise"
    if (search is None) != (fitted.get("_fit_method") == "brute") or not _searches(search, rows.shape):
        return "has a search tree of other rows"
    return _metric(fitted) or _labels(fitted, rows.shape[0])


def _searches(search: Any, shape: tuple[int, ...]) -> bool:
    if search is None:
        return True
    return type(search) in (neighbors.KDTree, neighbors.BallTree) and np.shape(search.data) == shape


def _metric(fitted: Mapping[str, Any]) -> str:
    """Norms of the rows may be handed in with the metric's parameters, and are believed."""
    names = [fitted.get(name) for name in ("metric", "effective_metric_")]
    if not all(isinstance(name, str) and name != "precomputed" for name in names):
        return "measures by a function or table of its own, which is not supported"
    given = [fitted.get(name) or {} for name in ("metric_params", "effective_metric_params_")]
    known = all(isinstance(one, dict) and one.keys() <= {"p", "w", "V", "VI"} for one in given)
    return "" if known else "measures with parameters that are not supported"


def _labels(fitted: Mapping[str, Any], rows: int) -> str:
    labels, classes = fitted.get("_y"), fitted.get("classes_")
    if labels is None:
        return ""
    if type(labels) is not np.ndarray or len(labels) != rows:
        return f"has other labels than one for each of its {rows} rows"
    if classes is None or labels.ndim != 1:
        return ""
    known = labels.dtype.kind == "i" and ((labels >= 0) & (labels < len(classes))).all()
    return "" if known else f"has a label beyond its {len(classes)} classes"


def support_vectors(found: Any) -> str:
    """sklearn/svm/src/libsvm/libsvm_helper.c, set_model, and svm.cpp, predict_values: lengths are believed."""
    fitted = vars(found)
    if "support_vectors_" not in fitted:
        return ""
    if fitted.get("_sparse") is not False or fitted.get("kernel") not in KERNELS:
        return "was fitted to sparse rows or with a kernel of its own, which is not supported"
    vectors, each, width = fitted["support_vectors_"], fitted.get("_n_support"), fitted.get("n_features_in_")
    if not is_whole(width, 1) or not is_array(vectors, "f8", (None, width)):
        return f"takes {width} features, its support vectors others"
    count, classes = len(vectors), _libsvm_classes(found, each)
    if not classes or not is_array(fitted.get("support_"), "i4", (count,)):
        return f"has other numbers of support vectors than its {count}"
    if classifies(found) and ((each < 0).any() or int(each.sum(dtype=np.int64)) != count):
        return f"has other numbers of support vectors than its {count}"
    pairs = classes * (classes - 1) // 2
    if not is_array(fitted.get("_dual_coef_"), "f8", (classes - 1, count)):
        return "has other coefficients than one for each support vector"
    sizes = {np.size(fitted.get(name)) for name in ("_probA", "_probB")}
    known = is_array(fitted.get("_intercept_"), "f8", (pairs,)) and sizes in ({0}, {pairs})
    return "" if known else f"has other intercepts than one for each of {pairs} pairs of classes"


def classifies(found: Any) -> bool:
    """True for the two kinds of libsvm's that count support vectors by class."""
    return isinstance(found, (svm.SVC, svm.NuSVC))


def _libsvm_classes(found: Any, each: Any) -> int:
    """The number of classes that libsvm is told; zero where it does not fit. It is two for all that do not classify."""
    if not is_array(each, "i4", (None,)):
        return 0
    wanted = np.size(vars(found).get("classes_")) if classifies(found) else 2
    return wanted if len(each) == wanted and wanted >= 2 else 0


def centers(found: Any) -> str:
    """sklearn/cluster/_k_means_lloyd.pyx: the centers are read as wide as the rows."""
    fitted = vars(found)
    if "cluster_centers_" not in fitted:
        return ""
    found_centers, width = fitted["cluster_centers_"], fitted.get("n_features_in_")
    wide = is_array(found_centers, "f8", (None, width)) or is_array(found_centers, "f4", (None, width))
    if not is_whole(width, 1) or not wide or not len(found_centers):
        return f"takes {width} features, its centers others"
    return "" if is_whole(fitted.get("_n_threads"), 1, MOST_THREADS) else "asks for no sound number of threads"


def one_hot(found: Any) -> str:
    """scipy/sparse/sparsetools/csr.h, csr_todense: a category's column is written to wherever it lies."""
    fitted = vars(found)
    if "categories_" not in fitted:
        return ""
    categories, width = fitted["categories_"], fitted.get("n_features_in_")
    if not isinstance(categories, list) or len(categories) != width:
        return f"takes {width} features, its categories others"
    dropped = fitted.get("_drop_idx_after_grouping")
    enabled = fitted.get("_infrequent_enabled")
    counts = []
    for number, known in enumerate(categories):
        mapping = fitted["_default_to_infrequent_mappings"][number] if enabled else None
        rare = fitted["_infrequent_indices"][number] if enabled else None
        groups = _groups(known, mapping, rare)
        drop = None if dropped is None else dropped[number]
        if not groups or not (drop is None or is_whole(drop, 0, groups - 1)):
            return f"has categories of feature {number} that are not in order"
        counts.append(groups - (drop is not None))
    return "" if fitted.get("_n_features_outs") == counts else "makes other columns than its categories have"


def _groups(known: Any, mapping: Any, rare: Any) -> int:
    """The number of columns that a feature's categories are mapped to; zero where they are not sound."""
    if type(known) is not np.ndarray or known.ndim != 1 or not len(known):
        return 0
    if known.dtype.kind not in "OUS":  # found by bisection
        numbers = known[:-1] if known[-1] != known[-1] else known
        if not (numbers[1:] > numbers[:-1]).all():
            return 0
    if mapping is None:
        return len(known) if rare is None else 0
    fits = type(mapping) is np.ndarray and mapping.shape == known.shape and mapping.dtype.kind == "i"
    if not fits or rare is None or not 0 <= np.min(rare) <= np.max(rare) < len(known):
        return 0
    return int(mapping.max()) + 1 if mapping.min() >= 0 and mapping.max() < len(known) else 0


def vocabulary(found: Any) -> str:
    """The column of each word, of which scipy makes a sparse matrix as it is told."""
    known = vars(found).get("vocabulary_")
    if known is None:
        return ""
    fits = isinstance(known, dict) and all(is_whole(column, 0, len(known) - 1) for column in known.values())
    return "" if fits else f"has a word beyond its {len(known)} columns"


def hashing(found: Any) -> str:
    """sklearn/feature_extraction/_hashing_fast.pyx divides by the number of columns."""
    return "" if is_whole(vars(found).get("n_features"), 1, 2**31 - 1) else "hashes into no columns"


def sparse_matrix(found: Any) -> str:
    """scipy/sparse/sparsetools: pointers and indices are followed."""
    if found.format not in ("csr", "csc", "coo"):
        return f"is a sparse matrix of format {found.format}, which is not supported"
    try:
        (found.tocsr() if found.format == "coo" and _coordinates(found) else found).check_format(full_check=True)
    except (ValueError, AttributeError, TypeError, IndexError) as error:
        return f"is a sparse matrix whose indices are not sound ({error})"
    return ""


def _coordinates(found: Any) -> bool:
    """True where each coordinate lies within the matrix; ValueError for others."""
    for side, places in zip(found.shape, found.coords, strict=True):
        if len(places) != len(found.data) or (len(places) and not 0 <= places.min() <= places.max() < side):
            raise ValueError("a coordinate lies beyond its shape")
    return True


def random_numbers(found: Any) -> str:
    """numpy/random/src/mt19937 and philox: the place in their buffers is believed."""
    legacy = isinstance(found, np.random.RandomState)
    state = found.get_state(legacy=False) if legacy else found.bit_generator.state
    inner = state["state"] if isinstance(state["state"], dict) else {}
    known = is_whole(inner.get("pos", 0), 0, 624) and is_whole(state.get("buffer_pos", 0), 0, 4)
    return "" if known else "stands beyond its numbers"


def lightgbm_booster(found: Any) -> str:
    """LightGBM follows its handle; bounds/skops.py looked at what it stands for before LightGBM read it."""
    return "" if getattr(getattr(found, "_handle", None), "value", None) else "holds no model"


def sound(_: Any) -> str:
    """Holds no index that a file could give."""
    return ""


def unsupported(_: Any) -> str:
    """Holds indices, and nothing checks them."""
    return "holds indices that cannot be checked"


NATIVE: Mapping[type, Callable[[Any], str]] = {
    Tree: nodes_of_tree,
    neighbors.KDTree: neighbor_tree,
    neighbors.BallTree: neighbor_tree,
    np.random.RandomState: random_numbers,
    np.random.Generator: random_numbers,
    **dict.fromkeys(PLAIN_DISTANCES, distance_sizes),
    distances.MinkowskiDistance64: distance_sizes,
    distances.MinkowskiDistance32: distance_sizes,
}
SPARSE = (sparse.spmatrix, sparse.sparray)
# native structure -> whose attribute alone it may be, for these check what they ask of it
HOLDERS: Mapping[type, tuple[type, ...]] = {
    Tree: (tree.BaseDecisionTree,),
    neighbors.KDTree: (NeighborsBase, neighbors.KernelDensity),
    neighbors.BallTree: (NeighborsBase, neighbors.KernelDensity),
}
ESTIMATORS: Mapping[type, Callable[[Any], str]] = {
    tree.BaseDecisionTree: decision_tree,
    BaseGradientBoosting: gradient_boosting,
    BaseHistGradientBoosting: hist_gradient_boosting,
    NeighborsBase: nearest,
    BaseLibSVM: support_vectors,
    cluster.KMeans: centers,
    cluster.MiniBatchKMeans: centers,
    cluster.BisectingKMeans: unsupported,
    cluster.Birch: unsupported,
    preprocessing.SplineTransformer: unsupported,
    preprocessing.OneHotEncoder: one_hot,
    feature_extraction.text.CountVectorizer: vocabulary,
    feature_extraction.DictVectorizer: vocabulary,
    feature_extraction.FeatureHasher: hashing,
    feature_extraction.text.HashingVectorizer: hashing,
}
