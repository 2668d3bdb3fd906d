"""Why a model answered as it did: each column's part in one prediction.

In this order: the model's own contributions (exact TreeSHAP, or a linear model's), SHAP, LIME. The last two need the
extra `explain`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from modelyard.core import plugins
from modelyard.core.canonical import plain
from modelyard.core.errors import Conflict, Invalid, MissingExtra, nearest
from modelyard.monitoring.profile import Array, ColumnProfile, Profile

ModelType = Literal["auto", "tree", "linear", "other"]
_BACKGROUND_ROWS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """A model, its columns in order, and whether to read it (`auto`, `tree`, `linear`) or only to probe it (`other`)."""

    model: Any
    names: tuple[str, ...]
    model_type: ModelType

    def explain(self, features: Mapping[str, Any], reference: Profile | None) -> dict[str, Any]:
        """`feature_importance` (column -> part), `base_value`, `prediction`, `output` (base value + parts), `method`."""
        _check(features, self.names)
        for method in (
            (self._outside,) if self.model_type == "other" else (self._contributions, self._own, self._outside)
        ):
            found = method(features, reference)
            if found is not None:
                values, base, how = found
                return {
                    "feature_importance": dict(zip(self.names, np.asarray(values, dtype=float).tolist(), strict=True)),
                    "base_value": base,
                    "output": base + float(np.sum(values)),
                    "prediction": self._prediction(features),
                    "method": how,
                }
        raise Invalid(f"A {type(self.model).__name__} cannot be explained: it has no predict method.")

    def predictor(self) -> Callable[[Array], Array]:
        """The function that SHAP and LIME probe."""
        ask = getattr(self.model, "predict_proba", None) or self.model.predict
        named = hasattr(self.model, "feature_names_in_") or hasattr(self.model, "signature")

        def predict(matrix: Array) -> Array:
            table = (
                plugins.load("tables", "pandas").frame(dict(zip(self.names, matrix.T, strict=True)))
                if named
                else matrix
            )
            answer = np.asarray(ask(table), dtype=float)
            last: Array = answer[:, -1] if answer.ndim == 2 else answer
            return last

        return predict

    def _contributions(self, features: Mapping[str, Any], _: Profile | None) -> tuple[Array, float, str] | None:
        """What a loaded model tells of itself."""
        if not hasattr(self.model, "contributions"):
            return None
        try:
            values, base = self.model.contributions([{name: features[name] for name in self.names}])
        except Invalid as error:
            if "contributions" not in str(error):
                raise
            return None
        return values[0], float(np.ravel(base)[0]), "contributions"

    def _own(self, features: Mapping[str, Any], reference: Profile | None) -> tuple[Array, float, str] | None:
        """What can be read off a fitted estimator's arrays."""
        if hasattr(self.model, "contributions"):
            return None
        means = np.zeros(0) if reference is None else background(reference, self.names).mean(axis=0)
        try:
            values, base = plugins.load("explainer", "own")(self.model, _matrix(features, self.names), means)
        except Invalid:
            return None
        return values[0], float(np.ravel(base)[0]), "contributions"

    def _outside(self, features: Mapping[str, Any], reference: Profile | None) -> tuple[Array, float, str] | None:
        """SHAP if it is installed, else LIME; MissingExtra without both."""
        if not hasattr(self.model, "predict"):
            return None
        row = _matrix(features, self.names)
        if reference is None:
            raise Conflict("This model is explained against the reference. Set it first: set_reference_data(frame).")
        rows = background(reference, self.names)
        try:
            method, explainer = "shap", plugins.load("explainer", "shap")
        except MissingExtra:
            method, explainer = "lime", plugins.load("explainer", "lime")
        values, base = explainer(self.predictor(), rows, self.names).explain(row[0])
        return values, base, method

    def _prediction(self, features: Mapping[str, Any]) -> Any:
        if hasattr(self.model, "signature"):
            return plain(self.model.predict([{name: features[name] for name in self.names}])[0])
        named = hasattr(self.model, "feature_names_in_")
        row = _matrix(features, self.names)
        table = (
            plugins.load("tables", "pandas").frame({n: row[:, i] for i, n in enumerate(self.names)}) if named else row
        )
        return plain(np.ravel(self.model.predict(table))[0])


def explained(model: Any, feature_names: Sequence[str], model_type: ModelType) -> Explained:
    """A model ready to be explained; Invalid where its own columns are others than the names given."""
    if not (hasattr(model, "predict") or hasattr(model, "contributions")):
        raise Invalid(f"A {type(model).__name__} is no model. Pass load_model(path) or a fitted estimator.")
    names = tuple(str(name) for name in feature_names)
    signature = getattr(model, "signature", None)
    own = tuple(signature.names) if signature is not None else tuple(getattr(model, "feature_names_in_", names))
    unknown = [name for name in names if name not in own]
    if unknown:
        raise Invalid(f"The model has no column {unknown[0]!r}. {nearest(unknown[0], list(own))}")
    if len(own) != len(names):
        raise Invalid(f"The model takes {len(own)} columns and {len(names)} names were given. Pass all of them.")
    return Explained(model=model, names=own, model_type=model_type)


def background(reference: Profile, names: Sequence[str]) -> Array:
    """A hundred rows (100, columns) as the reference's columns are, one by one: a profile keeps no rows."""
    random = np.random.default_rng(0)
    absent = [name for name in names if name not in reference.columns]
    if absent:
        raise Invalid(f"The reference has no column {absent[0]!r}. {nearest(absent[0], list(reference.columns))}")
    return np.column_stack([_draws(reference.columns[name], random) for name in names])


def _draws(column: ColumnProfile, random: np.random.Generator) -> Array:
    counts = column.counts.astype(float)
    if column.shape.kind == "number":
        values = np.divide(column.sums, counts, out=np.zeros_like(counts), where=counts > 0)
    elif column.shape.numeric:
        values, counts = np.array([float(level) for level in column.shape.levels]), counts[:-1]
    else:
        raise Invalid(f"Column {column.shape.name!r} is text; SHAP and LIME need numbers. Encode it within the model.")
    drawn: Array = random.choice(values, size=_BACKGROUND_ROWS, p=counts / counts.sum())
    return drawn


def _check(features: Mapping[str, Any], names: Sequence[str]) -> None:
    lacking = [name for name in names if name not in features]
    if lacking:
        raise Invalid(f"The row lacks the feature {lacking[0]!r}. {nearest(lacking[0], [str(f) for f in features])}")


def _matrix(features: Mapping[str, Any], names: Sequence[str]) -> Array:
    try:
        return np.array([[np.nan if features[n] is None else float(features[n]) for n in names]])
    except (TypeError, ValueError) as error:
        raise Invalid(f"The row holds a value that is no number: {error}. Encode text within the model.") from error
