"""scikit-learn: answers with a fitted estimator or pipeline."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from sklearn import base, pipeline

from modelyard.core import plugins
from modelyard.core.errors import Invalid
from modelyard.core.models import FeatureSpec, Signature
from modelyard.core.ports import Output
from modelyard.engines import sklearn_files as files
from modelyard.engines import sklearn_fronts as fronts
from modelyard.engines.answers import as_float32, likeliest, unfit
from modelyard.engines.contributions import contributions

Estimator = Any
Array = np.ndarray[Any, np.dtype[Any]]

FAR = 2.0**63  # an int64 holds nothing beyond


class SklearnRuntime:
    """Answers with a fitted scikit-learn estimator or pipeline from a skops file."""

    def __init__(
        self, path: Path, signature: Signature | None = None, training: Mapping[str, Any] | None = None
    ) -> None:
        self.native = files.read(path)
        _check(signature, self.native, path.name)
        self._signature = _closed(signature or _signature_of(self.native), self.native)
        kept = training or {}
        self._means = np.asarray(kept.get("transformed_means", ()), dtype=np.float64)
        self.rounds = kept.get("input_precision") == "float32"
        self._text = [i for i, spec in enumerate(self._signature.inputs) if spec.kind == "string"]
        self._numbers = [i for i, spec in enumerate(self._signature.inputs) if spec.kind != "string"]
        self._classes = np.asarray(self._signature.classes)
        self._gaps = _gaps(self.native, len(self._signature.inputs))
        self._named = fronts.by_name(self.native)
        if not self._named:
            _forget_names(self.native)
        self._fine: Array | None = None  # a row that it has answered

    @property
    def signature(self) -> Signature:
        """What the model takes and gives."""
        return self._signature

    def predict(self, batch: Array) -> Output:
        """The answer to a batch of shape (n, inputs); Unfit names the feature that the library refuses."""
        try:
            output = self._answer(batch)
        except (ValueError, TypeError) as error:
            found = None if self._fine is None else unfit(self._answer, batch, self._fine, self._signature.names)
            if found is None:
                raise
            raise found from error
        if self._fine is None and len(batch):
            self._fine = batch[:1].copy()
        return output

    def contributions(self, batch: Array) -> tuple[Array, Array]:
        """SHAP values (n, inputs) and base values (n,): of a forest in probability, of a boosted or linear classifier in
        log-odds, for the last class."""
        is_pipeline = isinstance(self.native, pipeline.Pipeline)
        model = self.native[-1] if is_pipeline else self.native
        seen = self.seen(batch)
        values, base_values = contributions(model, seen, self._means)
        owners = _owners(self.native, len(self._signature.inputs)) if is_pipeline else np.eye(seen.shape[1])
        return values @ owners, base_values

    def seen(self, batch: Array) -> Array:
        """What the last estimator sees of a batch, as float64."""
        found, _ = self.through(fronts.before(self.native), batch)
        return found

    def through(self, parts: Sequence[Any], batch: Array) -> tuple[Array, bool]:
        """What transformers make of a batch one after the other, as float64, and whether they gave a sparse matrix."""
        rows: Any = self._filled(batch)
        for part in parts:
            rows = part.transform(rows)
        sparse = hasattr(rows, "toarray")
        return np.asarray(rows.toarray() if sparse else rows, dtype=np.float64), sparse

    def unload(self) -> None:
        """Free the estimator."""
        self.native = None

    def _answer(self, batch: Array) -> Output:
        rows = self._filled(batch)
        if self._signature.task == "regression":
            return Output(predictions=np.asarray(self.native.predict(rows), dtype=np.float64))
        if not hasattr(self.native, "predict_proba"):
            return Output(predictions=np.asarray(self.native.predict(rows)))
        probabilities = self.native.predict_proba(rows)
        return Output(predictions=self._classes[likeliest(probabilities)], probabilities=probabilities)

    def _filled(self, batch: Array) -> Any:
        """The batch as it was in training: missing text as it was, numbers as float32 ones where they were, a table where
        the model asks for columns by name."""
        rows = batch
        if self._text:
            rows = batch.copy()
            for place in self._text:
                text = rows[:, place]
                text[np.equal(text, np.array(None))] = self._gaps.get(place, "")
        if self.rounds:
            rows = as_float32(rows) if not self._text else rows
            if self._text:
                rows[:, self._numbers] = as_float32(rows[:, self._numbers].astype(np.float64))
        return self._table(rows) if self._named else rows

    def _table(self, rows: Array) -> Any:
        """A table of named columns, each of the type that its kind has without gaps."""
        columns = {}
        for place, spec in enumerate(self._signature.inputs):
            column = rows[:, place] if spec.kind == "string" else rows[:, place].astype(np.float64)
            columns[spec.name] = _as_kind(column, spec.kind) if spec.kind in ("int", "bool") else column
        return plugins.load("tables", "pandas").frame(columns)


def _as_kind(column: Array, kind: str) -> Array:
    """Whole numbers as int64, or truths as bool, where all are; a column with gaps stays one of float64, as pandas has it."""
    if kind == "bool":
        return column.astype(np.bool_) if np.isin(column, (0.0, 1.0)).all() else column
    whole = (np.abs(column) < FAR) & (column == np.rint(column))
    return column.astype(np.int64) if whole.all() else column


def _closed(signature: Signature, model: Estimator) -> Signature:
    """The signature with the categories of text that an encoder refuses all but."""
    inputs = list(signature.inputs)
    for place, part, column in fronts.readers(model, len(inputs)):
        spec, refuses = inputs[place], getattr(part, "handle_unknown", "") == "error"
        if not refuses or not hasattr(part, "categories_") or spec.kind != "string" or spec.categories is not None:
            continue
        known = part.categories_[column].tolist()
        words = tuple(one for one in known if isinstance(one, str))
        gaps = len(words) < len(known) or "" in words
        inputs[place] = replace(spec, categories=words, nullable=spec.nullable and gaps)
    return replace(signature, inputs=tuple(inputs))


def _check(signature: Signature | None, model: Estimator, name: str) -> None:
    """Invalid where the signature and the model do not agree on what there is to answer."""
    if signature is None:
        return
    width = getattr(model, "n_features_in_", len(signature.inputs))
    if width != len(signature.inputs):
        raise Invalid(f"{name} takes {width} features, its signature names {len(signature.inputs)}. Name each.")
    found = getattr(model, "classes_", None)
    if base.is_classifier(model) == (signature.task == "regression"):
        kind = "classifies" if base.is_classifier(model) else "predicts numbers"
        raise Invalid(f"{name} {kind}, and its signature is of task {signature.task}. Correct the signature.")
    if signature.task != "regression" and found is not None and len(found) != len(signature.classes):
        raise Invalid(f"{name} has {len(found)} classes, its signature {len(signature.classes)}. Name each, in order.")


def _gaps(model: Estimator, width: int) -> dict[int, Any]:
    """What stands for missing text at each input, as the first transformer that sees it was taught; else empty text."""
    found: dict[int, Any] = {}
    for place, part, column in fronts.readers(model, width):
        if hasattr(part, "categories_"):
            known = part.categories_[column].tolist()
            gone = [one for one in known if one is None or (isinstance(one, float) and np.isnan(one))]
            found[place] = gone[0] if gone else "" if "" in known else np.nan
        elif hasattr(part, "missing_values"):
            found[place] = part.missing_values
    return found


def _forget_names(model: Estimator) -> None:
    """A model that was fitted to a table, and is now given matrices, would warn of it at every call."""
    for part in [model, *fronts.steps_of(model)]:
        vars(part).pop("feature_names_in_", None)


def _owners(model: Estimator, width: int) -> Array:
    """(transformed columns, inputs): the share of each transformed column that belongs to each input column."""
    if len(model) == 1:
        return np.eye(width)
    names = model[0].get_feature_names_out([f"x{i}|" for i in range(width)])
    shares = np.zeros((len(names), width))
    for row, name in enumerate(names):  # b0__x3|_red for a category of input 3, b1__x0| x2| for a product of two
        product = re.fullmatch(r"b\d+__(x\d+\|(?: x\d+\|)*)", name)
        text = product[1] if product else name.partition("|")[0].partition("__")[2] + "|"
        mine = [int(part.strip("x| ")) for part in text.split("|") if part]
        shares[row, mine] = 1 / len(mine)
    return shares


def _signature_of(model: Estimator) -> Signature:
    """What can be told of a bare estimator: its inputs' names, which of them are text, and its classes."""
    width = int(model.n_features_in_)
    names = getattr(model, "feature_names_in_", None)
    named = [str(name) for name in (names if names is not None else [f"x{i}" for i in range(width)])]
    text = {place for place, part, column in fronts.readers(model, width) if _reads_text(part, column)}
    inputs = tuple(
        FeatureSpec(name=name, kind="string" if i in text else "float", nullable=i in text)
        for i, name in enumerate(named)
    )
    if not base.is_classifier(model):
        return Signature(inputs=inputs, task="regression")
    classes = tuple(model.classes_.tolist())
    return Signature(inputs=inputs, task="binary" if len(classes) == 2 else "multiclass", classes=classes)


def _reads_text(part: Any, column: int) -> bool:
    if hasattr(part, "categories_"):
        return any(isinstance(one, str) for one in part.categories_[column].tolist())
    filled = getattr(part, "statistics_", None)
    return filled is not None and isinstance(filled[column], str)
