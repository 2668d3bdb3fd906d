"""scikit-learn: estimators, the pipeline around them, folds and scores."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from sklearn import (
    base,
    compose,
    discriminant_analysis,
    ensemble,
    impute,
    linear_model,
    metrics,
    model_selection,
    naive_bayes,
    neighbors,
    neural_network,
    pipeline,
    preprocessing,
    tree,
)

from modelyard.core.errors import Invalid, nearest
from modelyard.core.learning import Block, Folding, Step, Traits
from modelyard.engines import sklearn_files as files
from modelyard.engines.answers import likeliest

Estimator = Any
Array = np.ndarray[Any, np.dtype[Any]]

# family -> (classifier, regressor)
FAMILIES: dict[str, tuple[Any, Any]] = {
    "RandomForest": (ensemble.RandomForestClassifier, ensemble.RandomForestRegressor),
    "ExtraTrees": (ensemble.ExtraTreesClassifier, ensemble.ExtraTreesRegressor),
    "GradientBoosting": (ensemble.GradientBoostingClassifier, ensemble.GradientBoostingRegressor),
    "HistGradientBoosting": (ensemble.HistGradientBoostingClassifier, ensemble.HistGradientBoostingRegressor),
    "AdaBoost": (ensemble.AdaBoostClassifier, ensemble.AdaBoostRegressor),
    "DecisionTree": (tree.DecisionTreeClassifier, tree.DecisionTreeRegressor),
    "LogisticRegression": (linear_model.LogisticRegression, None),
    "LinearRegression": (None, linear_model.LinearRegression),
    "Ridge": (None, linear_model.Ridge),
    "Lasso": (None, linear_model.Lasso),
    "ElasticNet": (None, linear_model.ElasticNet),
    "KNeighbors": (neighbors.KNeighborsClassifier, neighbors.KNeighborsRegressor),
    "MLP": (neural_network.MLPClassifier, neural_network.MLPRegressor),
    "GaussianNB": (naive_bayes.GaussianNB, None),
    "LinearDiscriminantAnalysis": (discriminant_analysis.LinearDiscriminantAnalysis, None),
    "QuadraticDiscriminantAnalysis": (discriminant_analysis.QuadraticDiscriminantAnalysis, None),
}
_UNSCALED = {"RandomForest", "ExtraTrees", "GradientBoosting", "HistGradientBoosting", "AdaBoost", "DecisionTree"}
_TREE_SPACE: dict[str, dict[str, Any]] = {
    "max_depth": {"type": "int", "low": 3, "high": 20},
    "min_samples_leaf": {"type": "int", "low": 1, "high": 50, "log": True},
    "max_features": {"type": "float", "low": 0.2, "high": 1.0},
}
_BOOST_SPACE: dict[str, dict[str, Any]] = {
    "learning_rate": {"type": "float", "low": 0.02, "high": 0.3, "log": True},
    "max_depth": {"type": "int", "low": 2, "high": 8},
}
_ALPHA_SPACE: dict[str, dict[str, Any]] = {"alpha": {"type": "float", "low": 1e-4, "high": 100.0, "log": True}}
_SPACES: dict[str, dict[str, dict[str, Any]]] = {
    "RandomForest": _TREE_SPACE,
    "ExtraTrees": _TREE_SPACE,
    "DecisionTree": _TREE_SPACE,
    "GradientBoosting": _BOOST_SPACE,
    "HistGradientBoosting": _BOOST_SPACE,
    "LogisticRegression": {"C": {"type": "float", "low": 1e-3, "high": 100.0, "log": True}},
    "Ridge": _ALPHA_SPACE,
    "Lasso": _ALPHA_SPACE,
    "ElasticNet": _ALPHA_SPACE,
    "MLP": {"alpha": {"type": "float", "low": 1e-6, "high": 0.1, "log": True}},
    "KNeighbors": {"n_neighbors": {"type": "int", "low": 3, "high": 50, "log": True}},
}
_START: dict[str, dict[str, Any]] = {"LogisticRegression": {"max_iter": 1000}, "MLP": {"max_iter": 300}}


class _Columnwise(base.TransformerMixin, base.BaseEstimator):  # type: ignore[misc]
    """A transformer with as many columns out as in."""

    def fit(self, x: Array, y: Array | None = None) -> _Columnwise:  # noqa: ARG002
        """Remember the number of columns."""
        self.n_features_in_ = np.shape(x)[1]
        return self

    def get_feature_names_out(self, names: Sequence[str] | None = None) -> Array:
        """The input names, x0, x1, ... without any."""
        return np.asarray(self._named(names), dtype=object)

    def _named(self, names: Sequence[str] | None) -> Sequence[str]:
        return [f"x{i}" for i in range(self.n_features_in_)] if names is None else names


class AsNumbers(_Columnwise):
    """Columns of a mixed table as one float matrix; None becomes not-a-number."""

    def transform(self, x: Array) -> Array:
        """The same values as float64."""
        return np.asarray(x, dtype=np.float64)


class SignedLog(_Columnwise):
    """sign(x) log(1 + |x|): the logarithm's shape, defined for every number."""

    def transform(self, x: Array) -> Array:
        """The transformed columns."""
        values = np.asarray(x, dtype=np.float64)
        return np.sign(values) * np.log1p(np.abs(values))


class Clip(_Columnwise):
    """Values held between the quantiles `low` and `high` that the training rows had."""

    def __init__(self, low: float = 0.01, high: float = 0.99) -> None:
        self.low = low
        self.high = high

    def fit(self, x: Array, y: Array | None = None) -> Clip:
        """Take the quantiles of each column."""
        super().fit(x, y)
        self.bounds_ = np.nanquantile(np.asarray(x, dtype=np.float64), [self.low, self.high], axis=0)
        return self

    def transform(self, x: Array) -> Array:
        """The clipped columns."""
        return np.clip(np.asarray(x, dtype=np.float64), self.bounds_[0], self.bounds_[1])


class DateParts(_Columnwise):
    """ISO dates and times as year, month, day, weekday (Monday is 0) and hour; a missing one as not-a-number."""

    parts = ("year", "month", "day", "weekday", "hour")

    def transform(self, x: Array) -> Array:
        """Five columns for each."""
        return np.array([[part for text in row for part in self._parts_of(text)] for row in x], dtype=np.float64)

    def get_feature_names_out(self, names: Sequence[str] | None = None) -> Array:
        """Each name with each part."""
        return np.asarray([f"{name}_{part}" for name in self._named(names) for part in self.parts], dtype=object)

    @staticmethod
    def _parts_of(text: str | None) -> tuple[float, ...]:
        if not text:
            return (np.nan,) * 5
        try:
            moment = datetime.fromisoformat(text)
        except ValueError as error:
            raise Invalid(f"{text!r} is no date. Write it as 2026-01-31 or 2026-01-31T12:00:00.") from error
        return (moment.year, moment.month, moment.day, moment.weekday(), moment.hour)


class SklearnTrainer:
    """Makes estimators and everything a pipeline of them needs. The other trainers only make estimators."""

    @staticmethod
    def traits(model_class: str, *, classification: bool) -> Traits:
        """What the learner wants; Invalid for an unknown one or one that does not do the task."""
        family = _family(model_class)
        _class_of(family, classification)
        return Traits(
            scaled=family not in _UNSCALED,
            takes_missing=family == "HistGradientBoosting",
            space=_SPACES.get(family, {}),
        )

    @staticmethod
    def estimator(
        model_class: str, params: Mapping[str, Any], *, classification: bool, seed: int, threads: int
    ) -> Estimator:
        """An unfitted estimator; Invalid for a parameter that it does not have."""
        family = _family(model_class)
        made = _class_of(family, classification)
        known = made().get_params()
        for name in params:
            if name not in known:
                raise Invalid(f"{made.__name__} has no parameter {name!r}. {nearest(name, list(known))}")
        given = {"random_state": seed, "n_jobs": threads}
        defaults = {name: value for name, value in given.items() if name in known}
        if family == "LogisticRegression":
            defaults.pop("n_jobs")  # has no effect since scikit-learn 1.8, and warns
        return made(**{**defaults, **_START.get(family, {}), **params})

    @staticmethod
    def assemble(blocks: Sequence[Block], estimator: Estimator, *, seed: int) -> Estimator:
        """One unfitted Pipeline: the blocks' transformations, then the estimator."""
        steps: list[tuple[str, Any]] = [("model", estimator)]
        if any(block.steps for block in blocks):
            parts = [(f"b{i}", _transformer(block.steps, seed), list(block.columns)) for i, block in enumerate(blocks)]
            steps.insert(0, ("features", compose.ColumnTransformer(parts, sparse_threshold=0.0)))
        return pipeline.Pipeline(steps)

    @staticmethod
    def fit(model: Estimator, x: Array, y: Array) -> tuple[Estimator, tuple[str, ...]]:
        """A fitted copy, and what the library warned of. Invalid if the library refuses the data or the parameters."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                fitted = base.clone(model).fit(x, y)
            except (ValueError, TypeError) as error:
                raise Invalid(f"{type(model[-1]).__name__} refused the training data: {error}") from error
        return fitted, tuple(dict.fromkeys(str(warning.message).splitlines()[0] for warning in caught))

    @staticmethod
    def split(y: Array, share: float, folding: Folding) -> tuple[Array, Array]:
        """Positions (kept, held out) with `share` of the rows, or of the groups, held out."""
        rows = np.arange(len(y))
        if folding.ordered:
            cut = len(y) - max(1, round(len(y) * share))
            return rows[:cut], rows[cut:]
        if folding.groups is not None:
            splitter = model_selection.GroupShuffleSplit(1, test_size=share, random_state=folding.seed)
            kept, held = next(splitter.split(rows, groups=folding.groups))
            return kept, held
        stratify = y if folding.stratified else None
        kept, held = model_selection.train_test_split(
            rows, test_size=share, random_state=folding.seed, stratify=stratify
        )
        return np.sort(kept), np.sort(held)

    @staticmethod
    def folds(y: Array, folding: Folding) -> Iterator[tuple[Array, Array]]:
        """(train, test) positions of each fold."""
        count, seed = folding.folds, folding.seed
        if folding.ordered:
            splitter = model_selection.TimeSeriesSplit(count)
        elif folding.groups is not None and folding.stratified:
            splitter = model_selection.StratifiedGroupKFold(count, shuffle=True, random_state=seed)
        elif folding.groups is not None:
            splitter = model_selection.GroupKFold(count, shuffle=True, random_state=seed)
        elif folding.stratified:
            splitter = model_selection.StratifiedKFold(count, shuffle=True, random_state=seed)
        else:
            splitter = model_selection.KFold(count, shuffle=True, random_state=seed)
        try:
            found = list(splitter.split(np.zeros(len(y)), y, folding.groups))
        except ValueError as error:
            raise Invalid(f"{len(y)} training rows do not make {count} folds: {error} Ask for fewer folds.") from error
        yield from found

    @staticmethod
    def answers(model: Estimator, x: Array, *, classification: bool) -> tuple[Array, Array | None]:
        """(predictions, probabilities) at the rows; class codes and one column a class for a classifier."""
        if not classification:
            return np.asarray(model.predict(x), dtype=np.float64), None
        probabilities = model.predict_proba(x)
        return model.classes_[likeliest(probabilities)], probabilities

    @staticmethod
    def scores(y: Array, predicted: Array, probabilities: Array | None, *, classes: int) -> dict[str, float]:
        """Every score that is defined on these rows: accuracy, precision, recall, f1_score, log_loss and auc_roc of a
        classifier (macro averages and one-versus-rest beyond two classes), rmse, mae and r2 of a regressor."""
        return _classification(y, predicted, probabilities, classes) if classes else _regression(y, predicted)

    @staticmethod
    def transformed(model: Estimator, x: Array) -> Array:
        """What the final estimator sees of the rows."""
        return np.asarray(model[:-1].transform(x) if len(model) > 1 else x, dtype=np.float64)

    @staticmethod
    def save(model: Estimator, path: Path) -> None:
        """Write the fitted pipeline as a skops file; Invalid if it holds a type that loading would not trust."""
        files.write(model, path)


def _family(model_class: str) -> str:
    family = model_class.removesuffix("Classifier").removesuffix("Regressor")
    if family not in FAMILIES:
        raise Invalid(f"scikit-learn's learner {model_class!r} is unknown here. {nearest(family, list(FAMILIES))}")
    return family


def _class_of(family: str, classification: bool) -> Any:
    found = FAMILIES[family][0 if classification else 1]
    if found is None:
        wanted = "classifies" if classification else "predicts numbers"
        able = [name for name, pair in FAMILIES.items() if pair[0 if classification else 1] is not None]
        raise Invalid(f"No {family} {wanted}. Choose one of: {', '.join(able)}.")
    return found


def _transformer(steps: Sequence[Step], seed: int) -> Any:
    if not steps:
        return "passthrough"
    made = [_made(step, seed) for step in steps]
    return made[0] if len(made) == 1 else pipeline.Pipeline([(f"s{i}", part) for i, part in enumerate(made)])


def _made(step: Step, seed: int) -> Any:
    """The transformer of one step; its parameters were checked by the pipeline's configuration."""
    params = dict(step.params)
    match step.kind:
        case "as_numbers":
            return AsNumbers()
        case "impute":
            return impute.SimpleImputer(**params, keep_empty_features=True)
        case "scale":
            method = params.pop("method", "standard")
            made = {"standard": "StandardScaler", "minmax": "MinMaxScaler", "robust": "RobustScaler"}[method]
            return getattr(preprocessing, made)()
        case "one_hot":
            unknown = "infrequent_if_exist" if params else "ignore"
            return preprocessing.OneHotEncoder(handle_unknown=unknown, sparse_output=False, **params)
        case "ordinal":
            return preprocessing.OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
        case "target":
            return preprocessing.TargetEncoder(cv=model_selection.KFold(5, shuffle=True, random_state=seed))
        case "bin":
            return preprocessing.KBinsDiscretizer(
                encode="ordinal", quantile_method="averaged_inverted_cdf", random_state=seed, **params
            )
        case "power":
            return preprocessing.PowerTransformer()
        case "interaction":
            return preprocessing.PolynomialFeatures(interaction_only=True, include_bias=False)
        case "log":
            return SignedLog()
        case "clip":
            return Clip(**params)
        case "date":
            return DateParts()
    raise Invalid(f"There is no transformation {step.kind!r}.")


def _classification(y: Array, predicted: Array, probabilities: Array | None, classes: int) -> dict[str, float]:
    average = "binary" if classes == 2 else "macro"
    found = {"accuracy": float(metrics.accuracy_score(y, predicted))}
    for name, function in (
        ("precision", metrics.precision_score),
        ("recall", metrics.recall_score),
        ("f1_score", metrics.f1_score),
    ):
        found[name] = float(function(y, predicted, average=average, zero_division=0))
    if probabilities is None:
        return found
    found["log_loss"] = float(metrics.log_loss(y, probabilities, labels=np.arange(classes)))
    present = np.unique(y)
    if classes == 2 and len(present) == 2:
        found["auc_roc"] = float(metrics.roc_auc_score(y, probabilities[:, 1]))
    elif classes > 2 and len(present) == classes:
        found["auc_roc"] = float(metrics.roc_auc_score(y, probabilities, multi_class="ovr"))
    return found


def _regression(y: Array, predicted: Array) -> dict[str, float]:
    return {
        "rmse": float(metrics.root_mean_squared_error(y, predicted)),
        "mae": float(metrics.mean_absolute_error(y, predicted)),
        "r2": float(metrics.r2_score(y, predicted)) if len(y) > 1 else float("nan"),
    }
