"""scikit-learn's pipelines as compiled models: what stands before the trees is moved into their thresholds.

A rising function of one input can be taken out of `f(x) <= t` exactly: the largest x of which that holds is found by
bisection over all float64 numbers, asking the library's own transformers. Categories become a table of what those
transformers make of each. Nothing is imported: what a part is shows in its attributes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from modelyard.core.errors import Invalid
from modelyard.engines import sklearn_fronts as fronts
from modelyard.engines.flat import Curve, Flat, Front, Lines, Lookup
from modelyard.engines.sklearn_fronts import Column
from modelyard.engines.trees import LEAF, Ensemble, Link
from modelyard.engines.trees_sklearn import of_estimator

Array = np.ndarray[Any, np.dtype[Any]]

_LINES = {
    "ARDRegression", "BayesianRidge", "ElasticNet", "ElasticNetCV", "HuberRegressor", "Lars", "LarsCV", "Lasso", "LassoCV",
    "LassoLars", "LassoLarsCV", "LassoLarsIC", "LinearRegression", "LinearSVR", "OrthogonalMatchingPursuit",
    "QuantileRegressor", "Ridge", "RidgeCV", "SGDRegressor", "TheilSenRegressor",
}  # fmt: skip
_EXPONENTIAL = {"GammaRegressor", "PoissonRegressor"}
_LOGISTIC = {"LogisticRegression", "LogisticRegressionCV"}
REACHES = (1.7e308, 1e300, 1e200, 1e100, 3e38)  # the first at which every transformer still answers
MOST_COLUMNS = 4096  # of a lookup: more would not be looked up faster than the library does


def flat(path: Path, opened: Callable[[], Any]) -> Flat:  # noqa: ARG001
    """The compiled form of the estimator that `opened` gives the runtime of; Invalid where it is more than can be compiled."""
    runtime = opened()
    parts, last = fronts.before(runtime.native), fronts.steps_of(runtime.native)[-1]
    if not hasattr(last, "calibrated_classifiers_"):
        whole = _Melted(runtime, parts, last)
        return Flat(front=whole.made, core=whole.core)
    made: list[_Melted] = []
    curves = []
    for one in last.calibrated_classifiers_:
        inner = fronts.steps_of(one.estimator)
        made.append(_Melted(runtime, [*parts, *inner[:-1]], inner[-1]))
        curves.append(_curve(one, inner[-1], made[-1].core))
    front, core = _beside(made)
    return Flat(front=front, core=core, curves=tuple(curves))


def _core(model: Any) -> Ensemble | Lines:
    """What adds up to the answer of a last estimator."""
    name = type(model).__name__
    if name not in _LINES | _EXPONENTIAL | _LOGISTIC:
        return of_estimator(model)
    weights = np.atleast_2d(model.coef_).T.astype(np.float64)
    outputs = weights.shape[1]
    if outputs > 1 and name not in _LOGISTIC:
        raise Invalid(f"it gives {outputs} numbers a row")
    link: Link = "exponential" if name in _EXPONENTIAL else "identity"
    if name in _LOGISTIC:
        link = "softmax" if outputs > 1 else "logistic_pair"
    return Lines(weights=weights, base=np.broadcast_to(model.intercept_, (outputs,)).astype(np.float64), link=link)


def _curve(one: Any, model: Any, core: Ensemble | Lines) -> Curve:
    """What a calibrated classifier of two classes makes of its estimator's decision, or else of its probability."""
    if len(one.calibrators) != 1 or len(core.base) != 1:
        raise Invalid("it calibrates more than two classes")
    if hasattr(model, "decision_function") and getattr(model, "loss", "") == "exponential":
        raise Invalid("it calibrates an exponential loss")
    logistic = core.link == "logistic_pair" and not hasattr(model, "decision_function")
    found = one.calibrators[0]
    if hasattr(found, "a_"):
        return Curve(kind="sigmoid", points=np.array([[found.a_], [found.b_]], np.float64), logistic=logistic)
    if not hasattr(found, "X_thresholds_") or found.out_of_bounds != "clip":
        raise Invalid(f"it calibrates by {type(found).__name__}")
    points = np.array([found.X_thresholds_, found.y_thresholds_], np.float64)
    return Curve(kind="isotonic", points=points, logistic=logistic)


def _beside(made: Sequence[_Melted]) -> tuple[Front, Ensemble | Lines]:
    """Several models on one matrix, each with a sum of its own. They have the same inputs as numbers, and nothing else."""
    if any(one.made.lookups or one.made.fills is not None or one.made.holes is not None for one in made):
        raise Invalid("each of the models that it calibrates encodes categories")
    width = len(made[0].specs)
    cores = [replace(one.core, link="identity") for one in made]
    base = np.concatenate([core.base for core in cores])
    front = Front(numbers=tuple(range(width)))
    lines = [core for core in cores if isinstance(core, Lines)]
    if lines:
        weights = np.zeros((width, len(lines)))
        for place, (one, core) in enumerate(zip(made, lines, strict=True)):
            weights[list(one.made.numbers), place] = core.weights[:, 0]
        return front, Lines(weights=weights, base=base, link="identity")
    trees = [
        replace(core, feature=np.array(one.made.numbers, np.int64)[core.feature])
        for one, core in zip(made, cores, strict=True)
        if isinstance(core, Ensemble)
    ]
    return front, _side_by_side(trees, base)


def _side_by_side(trees: Sequence[Ensemble], base: Array) -> Ensemble:
    sizes = [len(one.feature) for one in trees]
    starts = np.cumsum([0, *sizes[:-1]])
    values = np.zeros((sum(sizes), len(trees)))
    for place, (one, start) in enumerate(zip(trees, starts, strict=True)):
        values[start : start + len(one.feature), place] = one.values[:, 0]

    def moved(name: str) -> Array:
        return np.concatenate(
            [
                np.where(getattr(one, name) == LEAF, LEAF, getattr(one, name) + start)
                for one, start in zip(trees, starts, strict=True)
            ]
        )

    def whole(name: str) -> Array:
        return np.concatenate([getattr(one, name) for one in trees])

    return replace(
        trees[0],
        feature=whole("feature"),
        threshold=whole("threshold"),
        missing_left=whole("missing_left"),
        left=moved("left"),
        right=moved("right"),
        roots=np.concatenate([one.roots + start for one, start in zip(trees, starts, strict=True)]),
        values=values,
        base=base,
    )


class _Melted:
    """The core of a model with what stands before it taken into its thresholds or weights, and the front that is left."""

    made: Front
    core: Ensemble | Lines

    def __init__(self, runtime: Any, parts: Sequence[Any], last: Any) -> None:
        core = _core(last)
        self._ask = _Asked(runtime, parts)
        self.specs = runtime.signature.inputs
        inputs = len(self.specs)
        if not parts and runtime.signature.numeric:
            rounded = replace(core, single=core.single or runtime.rounds) if isinstance(core, Ensemble) else core
            self.made, self.core = Front(numbers=tuple(range(inputs))), rounded
            return
        self._columns = fronts.columns_of(parts, inputs)
        if self._ask.width != len(self._columns):
            raise Invalid(f"it has {self._ask.width} columns where {len(self._columns)} were expected")
        self._zeros = (
            hasattr(last, "get_booster") and self._ask.sparse
        )  # XGBoost takes what such a matrix omits for missing
        used = list(range(len(self._columns)))
        if isinstance(core, Ensemble):
            used = np.unique(core.feature[core.left != LEAF]).tolist()
        self._words = [place for place in used if self._columns[place].kind == "category"]
        self._marks = [place for place in used if self._columns[place].kind != "category"]
        self._numbers = sorted({self._columns[place].source for place in self._marks})
        if runtime.signature.numeric and not self._words:
            self._numbers = list(range(inputs))
        for source in self._numbers:
            if self.specs[source].kind == "string":
                raise Invalid(f"it takes the text {self.specs[source].name} for a number")
        lookups, self._at = self._lookups()
        if isinstance(core, Ensemble):
            fills, holes = self._gaps() if self._zeros else (None, None)
            self.made = Front(numbers=tuple(self._numbers), lookups=lookups, fills=fills, holes=holes)
            self.core = self._folded(core)
        else:
            self.made, self.core = self._product(core, lookups)

    def _lookups(self) -> tuple[tuple[Lookup, ...], dict[int, int]]:
        """The tables of categories, and where in the matrix each column of categories then lies."""
        found, at, start = [], {}, len(self._numbers)
        by_source: dict[int, list[int]] = {}
        for place in self._words:
            by_source.setdefault(self._columns[place].source, []).append(place)
        for source, places in sorted(by_source.items()):
            lookup = self._ask.table(source, places, [self._columns[place].known for place in places])
            if self._zeros:
                lookup = replace(lookup, table=np.where(lookup.table == 0, np.nan, lookup.table))
            if lookup.table.shape[1] > MOST_COLUMNS:
                raise Invalid(f"the categories of {self.specs[source].name} have {len(places)} columns")
            at.update({place: start + number for number, place in enumerate(places)})
            start += len(places)
            found.append(lookup)
        return tuple(found), at

    def _gaps(self) -> tuple[Array | None, Array]:
        """What a missing number is filled with, and between which values a number is a zero to the trees, and so missing."""
        fills, holes = (np.full(shape, np.nan) for shape in ((len(self._numbers),), (2, len(self._numbers))))
        for place in self._marks:
            source = self._columns[place].source
            number = self._numbers.index(source)
            if self._columns[place].kind == "mark" or not np.isnan(holes[0, number]):
                raise Invalid("zeros count as missing in it")
            ends = np.array([-np.nextafter(0.0, 1.0), 0.0])
            holes[:, number] = self._ask.edges({place: source}, {place: ends}, single=False)[place]
            gone = self._gone(place)
            if not np.isnan(gone):
                [fills[number]] = self._ask.edges({place: source}, {place: np.array([gone])}, single=False)[place]
                if self._ask.of(1, {source: fills[number]})[0, place] != gone:
                    raise Invalid(f"what fills {self.specs[source].name} is no value that it can have")
        return (None if np.isnan(fills).all() else fills), holes

    def _gone(self, place: int) -> float:
        """What the trees see in a column where its input is missing; not-a-number where that is missing to them too."""
        source = self._columns[place].source
        value = float(self._ask.gone(source, place)) if self.specs[source].nullable else np.nan
        return np.nan if self._zeros and value == 0 else value

    def _folded(self, core: Ensemble) -> Ensemble:
        inner = core.left != LEAF
        feature, threshold, missing = core.feature.copy(), core.threshold.copy(), core.missing_left.copy()
        nodes = {place: inner & (core.feature == place) for place in (*self._words, *self._marks)}
        for place in self._words:
            feature[nodes[place]] = self._at[place]
        wanted = {place: np.unique(core.threshold[nodes[place]]) for place in self._marks}
        edges = self._ask.edges({p: self._columns[p].source for p in wanted}, wanted, single=core.single)
        for place in self._marks:
            here, old = nodes[place], core.threshold[nodes[place]]
            number = self._numbers.index(self._columns[place].source)
            feature[here] = number
            if self._columns[place].kind == "mark":
                threshold[here] = np.where(self._ask.ordinary(place) <= old, np.inf, -np.inf)
            else:
                threshold[here] = edges[place][np.searchsorted(wanted[place], old)]
            gone: Any = self._gone(place)
            filled = self.made.fills is not None and not np.isnan(self.made.fills[number])
            if not np.isnan(gone) and not filled:
                missing[here] = (np.float32(gone) if core.single else gone) <= old
        return replace(core, feature=feature, threshold=threshold, missing_left=missing, single=False)

    def _product(self, core: Lines, lookups: tuple[Lookup, ...]) -> tuple[Front, Lines]:
        """The same for lines: what is a line of an input stays one, and a table holds what its category adds."""
        count, outputs = len(self._numbers), len(core.base)
        weights, base = np.zeros((count, outputs)), core.base.copy()
        fills = np.full(count, np.nan)
        for place, column in enumerate(self._columns):
            if column.kind == "category":
                continue
            number = self._numbers.index(column.source)
            self._check_line(column, place)
            weights[number] += column.rate * core.weights[place]
            base += column.shift * core.weights[place]
            if self.specs[column.source].nullable:
                gone = float(self._ask.gone(column.source, place))
                filled = (gone - column.shift) / column.rate if column.rate else np.nan
                if not np.isnan(fills[number]) and abs(fills[number] - filled) > 1e-9 * max(1.0, abs(filled)):
                    raise Invalid(f"it fills {self.specs[column.source].name} in two ways")
                fills[number] = filled
        tables = [
            replace(
                one, table=one.table @ core.weights[[p for p in self._words if self._columns[p].source == one.source]]
            )
            for one in lookups
        ]
        weights = np.concatenate([weights, *[np.eye(outputs)] * len(tables)])
        some = None if np.isnan(fills).all() else fills
        front = Front(numbers=tuple(self._numbers), lookups=tuple(tables), fills=some)
        return front, Lines(weights=weights, base=base, link=core.link)

    def _check_line(self, column: Column, place: int) -> None:
        if column.kind == "mark" or not column.affine:
            raise Invalid(f"its column {place} is no line of {self.specs[column.source].name}")


@dataclass(slots=True)
class _Asked:
    """A model's own transformers, asked for what they make of rows that differ in some inputs."""

    runtime: Any
    parts: Sequence[Any]
    sparse: bool = False  # what it was last answered

    def of(self, count: int, given: dict[int, Any]) -> Array:
        """What the last estimator sees (count, columns) where the inputs `given` have these values."""
        signature = self.runtime.signature
        rows = np.zeros((count, len(signature.inputs)), dtype=np.float64 if signature.numeric else object)
        for place, value in self._usual().items():
            rows[:, place] = value
        for place, values in given.items():
            rows[:, place] = values
        with np.errstate(all="ignore"):
            found, self.sparse = self.runtime.through(self.parts, rows)
        return np.asarray(found)

    @property
    def width(self) -> int:
        """How many columns the last estimator sees."""
        return len(self.of(1, {})[0])

    def ordinary(self, place: int) -> float:
        """What it sees in a column where nothing is missing."""
        return float(self.of(1, {})[0, place])

    def gone(self, source: int, place: int) -> float:
        """What it sees in a column where its input is missing."""
        try:
            return float(self.of(1, {source: np.nan})[0, place])
        except (ValueError, TypeError) as error:
            name = self.runtime.signature.names[source]
            raise Invalid(f"it refuses a missing {name}, which its signature allows") from error

    def table(self, source: int, places: list[int], known: list[tuple[Any, ...]]) -> Lookup:
        """What it sees in some columns for each category of an input."""
        spec = self.runtime.signature.inputs[source]
        text = spec.kind == "string"
        values = [one for one in dict.fromkeys(one for part in known for one in part) if _is_category(one, text=text)]
        if not text and self.runtime.rounds:
            raise Invalid(f"the numbers of {spec.name} are categories")
        other = "\0other" if text else max([*values, 0.0]) + 1.5
        found = [self.of(len(values), {source: np.array(values, dtype=object)})[:, places]] if values else []
        refuses = []
        for value in (None if text else np.nan, other):
            try:
                if value is not other and not spec.nullable:
                    raise ValueError
                found.append(self.of(1, {source: np.array([value], dtype=object)})[:, places])
                refuses.append(False)
            except (ValueError, TypeError):
                found.append(np.zeros((1, len(places))))
                refuses.append(True)
        kept = tuple(values) if text else tuple(float(one) for one in values)
        return Lookup(source=source, known=kept, table=np.concatenate(found), refuses=(refuses[0], refuses[1]))

    def edges(self, sources: dict[int, int], wanted: dict[int, Array], *, single: bool) -> dict[int, Array]:
        """For each column and each of its thresholds t, the largest value of its input with which the column is <= t."""
        found: dict[int, Array] = {}
        left = dict(sources)
        while left:
            turn = {source: place for place, source in left.items()}  # one column for each input at a time
            places = sorted(turn.values())
            found.update(self._bisected({place: sources[place] for place in places}, wanted, single=single))
            left = {place: source for place, source in left.items() if place not in places}
        return found

    def _bisected(self, sources: dict[int, int], wanted: dict[int, Array], *, single: bool) -> dict[int, Array]:
        rows = max(len(wanted[place]) for place in sources)
        targets = {place: np.resize(wanted[place], rows) for place in sources}

        def holds(values: dict[int, Array]) -> dict[int, Array]:
            seen = self.of(rows, {sources[place]: value for place, value in values.items()})
            with np.errstate(over="ignore"):
                seen = seen.astype(np.float32) if single else seen
            return {place: seen[:, place] <= targets[place] for place in sources}

        reach = self._reach(sources, holds, rows)
        low, high = ({p: np.full(rows, _key(np.array(end))) for p in sources} for end in (-reach, reach))
        always = holds(dict.fromkeys(sources, np.full(rows, reach)))
        ever = holds(dict.fromkeys(sources, np.full(rows, -reach)))
        for _ in range(64):
            middle = {p: (low[p] >> 1) + (high[p] >> 1) + (low[p] & high[p] & 1) for p in sources}
            held = holds({p: _number(keys) for p, keys in middle.items()})
            for p in sources:
                low[p], high[p] = np.where(held[p], middle[p], low[p]), np.where(held[p], high[p], middle[p])
        return {
            p: np.where(always[p], np.inf, np.where(ever[p], _number(low[p]), -np.inf))[: len(wanted[p])]
            for p in sources
        }

    def _reach(self, sources: dict[int, int], holds: Callable[[dict[int, Array]], Any], rows: int) -> float:
        for reach in REACHES:
            try:
                for end in (-reach, reach):
                    holds(dict.fromkeys(sources, np.full(rows, end)))
            except (ValueError, TypeError, OverflowError):
                continue
            return reach
        raise Invalid("it does not answer large numbers")

    def _usual(self) -> dict[int, Any]:
        """What inputs must have to be answered at all: a category of those that an encoder knows."""
        model = _Steps(self.parts)
        usual: dict[int, Any] = {
            place: "" for place, spec in enumerate(self.runtime.signature.inputs) if spec.kind == "string"
        }
        for place, part, column in fronts.readers(model, len(self.runtime.signature.inputs)):
            if hasattr(part, "categories_"):
                text = place in usual
                known = [one for one in part.categories_[column].tolist() if _is_category(one, text=text)]
                if known:
                    usual[place] = known[0]
        return usual


@dataclass(slots=True)
class _Steps:
    """Transformers in the form of a pipeline."""

    parts: Sequence[Any]

    @property
    def steps(self) -> list[tuple[str, Any]]:
        """Each with a name."""
        return [("", part) for part in self.parts]


def _is_category(value: Any, *, text: bool) -> bool:
    return isinstance(value, str) if text else isinstance(value, (int, float)) and value == value  # noqa: PLR0124 - not nan


def _key(values: Array) -> Array:
    """Numbers as whole ones in the same order, neighbours side by side."""
    bits = np.asarray(values, np.float64).view(np.int64)
    return np.where(bits < 0, -(bits & np.int64(2**63 - 1)), bits)


def _number(keys: Array) -> Array:
    return np.where(keys < 0, -np.abs(keys).view(np.float64), keys.view(np.float64))
