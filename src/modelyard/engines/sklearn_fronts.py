"""What comes before the last estimator of a scikit-learn pipeline: which input each of its columns is made of, and how.

Nothing is imported: what a transformer is shows in its attributes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from modelyard.core.errors import Invalid

Array = np.ndarray[Any, np.dtype[Any]]

# each column is a rising function of its own, and what is missing stays missing
RISING = {
    "AsNumbers", "Clip", "MaxAbsScaler", "MinMaxScaler", "PowerTransformer", "QuantileTransformer", "RobustScaler",
    "SignedLog", "StandardScaler",
}  # fmt: skip
ENCODERS = {"OneHotEncoder", "OrdinalEncoder", "TargetEncoder"}
_SELECTORS = {
    "GenericUnivariateSelect", "RFE", "RFECV", "SelectFdr", "SelectFpr", "SelectFromModel", "SelectFwe", "SelectKBest",
    "SelectPercentile", "SequentialFeatureSelector", "VarianceThreshold",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column of what the last estimator sees: a number (a rising function of one input), a mark where an input is missing,
    or what stands for a category. It is `rate` times its input and `shift` where `affine`."""

    source: int
    kind: Literal["number", "mark", "category"] = "number"
    known: tuple[Any, ...] = ()  # the categories
    bare: bool = True  # the input itself, but for what fills its gaps
    affine: bool = True
    rate: float = 1.0
    shift: float = 0.0


def columns_of(parts: Sequence[Any], width: int) -> list[Column]:
    """What fitted transformers, one after the other, make of that many inputs; Invalid where a column mixes several."""
    found = [Column(source=place) for place in range(width)]
    for part in parts:
        found = _through(part, found)
    return found


def steps_of(model: Any) -> list[Any]:
    """The steps of a pipeline, flat and without those that do nothing; a bare estimator is one step."""
    if not hasattr(model, "steps"):
        return [model]
    return [inner for _, step in model.steps if step is not None and step != "passthrough" for inner in steps_of(step)]


def before(model: Any) -> list[Any]:
    """The steps before the last."""
    return steps_of(model)[:-1]


def readers(model: Any, width: int) -> Iterator[tuple[int, Any, int]]:
    """(input, part, place within it) of the first transformers that look at each input of a fitted model."""
    waiting = [(steps_of(model), list(range(width)))]
    while waiting:
        steps, given = waiting.pop()
        for part in steps:
            if hasattr(part, "transformers_"):
                waiting += [(steps_of(inner), [given[place] for place in places]) for inner, places in branches(part)]
                break
            if hasattr(part, "calibrated_classifiers_"):
                waiting.append((steps_of(part.calibrated_classifiers_[0].estimator), given))
                break
            if hasattr(part, "transformer_list"):
                waiting += [(steps_of(inner), given) for _, inner in part.transformer_list if inner != "drop"]
                break
            if type(part).__name__ != "FunctionTransformer":
                yield from ((source, part, place) for place, source in enumerate(given))
                break


def branches(part: Any) -> Iterator[tuple[Any, list[int]]]:
    """(transformer, places of its columns) of a fitted ColumnTransformer, in the order of what it gives."""
    for name, inner, _ in part.transformers_:
        places = [int(place) for place in part._transformer_to_input_indices.get(name, ())]
        if places and inner != "drop":
            yield inner, places


def by_name(model: Any) -> bool:
    """Whether some part picks its columns by name, so that it has to be given a table that has names."""
    for part in [*steps_of(model), *(inner for step in steps_of(model) for inner in _inside(step))]:
        for _, inner, wanted in getattr(part, "transformers_", ()):
            several = [wanted] if isinstance(wanted, (str, slice)) else np.ravel(wanted).tolist()
            edges = [end for one in several for end in ((one.start, one.stop) if isinstance(one, slice) else (one,))]
            if any(isinstance(end, str) for end in edges) or (inner not in ("drop", "passthrough") and by_name(inner)):
                return True
    return False


def _inside(part: Any) -> Iterator[Any]:
    """The pipelines within what is no pipeline itself."""
    inner = [getattr(one, "estimator", None) for one in getattr(part, "calibrated_classifiers_", ())]
    inner += getattr(part, "estimators_", ()) if isinstance(getattr(part, "estimators_", ()), list) else ()
    inner += [one for _, one in getattr(part, "transformer_list", ()) if one not in ("drop", "passthrough")]
    for one in inner:
        if hasattr(one, "steps"):
            yield from steps_of(one)


def _through(part: Any, given: Sequence[Column]) -> list[Column]:
    """What a transformer makes of columns."""
    name = type(part).__name__
    if hasattr(part, "transformers_"):
        return [
            column for inner, places in branches(part) for column in _through(inner, [given[place] for place in places])
        ]
    if hasattr(part, "transformer_list"):
        return [column for _, inner in part.transformer_list if inner != "drop" for column in _through(inner, given)]
    if hasattr(part, "steps"):
        found = list(given)
        for step in steps_of(part):
            found = _through(step, found)
        return found
    if part == "passthrough" or (name == "FunctionTransformer" and part.func is None):
        return list(given)
    if name in RISING:
        return [_scaled(part, column, place) for place, column in enumerate(given)]
    if name == "SimpleImputer":
        return _imputed(part, given)
    if name in ENCODERS:
        return _encoded(part, name, given)
    if name in _SELECTORS:
        return [column for column, kept in zip(given, part.get_support(), strict=True) if kept]
    if name == "KBinsDiscretizer" and part.encode == "ordinal":
        return [replace(column, bare=False, affine=False) for column in given]
    raise Invalid(f"a {name} comes before its last step")


def _scaled(part: Any, column: Column, place: int) -> Column:
    rate, shift = _line(part, place)
    if rate is None:
        return replace(column, bare=column.bare and type(part).__name__ == "AsNumbers", affine=False)
    return replace(
        column,
        bare=column.bare and (rate, shift) == (1.0, 0.0),
        rate=column.rate * rate,
        shift=column.shift * rate + shift,
    )


def _line(part: Any, place: int) -> tuple[float | None, float]:
    """(rate, shift) of what a transformer does to a column; (None, 0) where that is no line."""

    def at(name: str, otherwise: float) -> float:
        values = getattr(part, name, None)
        return otherwise if values is None else float(values[place])

    match type(part).__name__:
        case "AsNumbers":
            return 1.0, 0.0
        case "StandardScaler" | "RobustScaler" | "MaxAbsScaler":
            middle = {"StandardScaler": "mean_", "RobustScaler": "center_"}.get(type(part).__name__, "")
            rate = 1.0 / at("scale_", 1.0)
            return rate, -(at(middle, 0.0) if middle else 0.0) * rate
        case "MinMaxScaler" if not part.clip:
            return at("scale_", 1.0), at("min_", 0.0)
    return None, 0.0


def _imputed(part: Any, given: Sequence[Column]) -> list[Column]:
    """The columns without gaps, but for those that had nothing else in training, and then marks of the gaps."""
    empty = [isinstance(one, float) and np.isnan(one) for one in part.statistics_]
    kept = [replace(column) for column, gone in zip(given, empty, strict=True) if not gone or part.keep_empty_features]
    marked = getattr(part, "indicator_", None)
    places = [] if marked is None else [int(place) for place in marked.features_]
    return kept + [Column(source=given[place].source, kind="mark", bare=False) for place in places]


def _encoded(part: Any, name: str, given: Sequence[Column]) -> list[Column]:
    """What stands for each category: one column each in a one-hot code, one or one a class else."""
    found = []
    for place, column in enumerate(given):
        if not column.bare:
            raise Invalid(f"its {name} encodes what was changed before")
        known = tuple(part.categories_[place].tolist())
        count = 1
        if name == "OneHotEncoder":
            count = int(part._n_features_outs[place])
        elif name == "TargetEncoder" and part.target_type_ == "multiclass":
            raise Invalid("its TargetEncoder has a column for each class")
        found += [Column(source=column.source, kind="category", known=known, bare=False, affine=False)] * count
    return found
