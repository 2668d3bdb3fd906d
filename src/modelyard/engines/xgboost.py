"""XGBoost: estimators for the pipeline, and boosters from its JSON or UBJSON files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xgboost

from modelyard.bounds import OutOfBounds
from modelyard.bounds.xgboost import check
from modelyard.core.errors import Damaged, Invalid, NotFound, nearest
from modelyard.core.learning import Traits
from modelyard.core.models import FeatureSpec, Signature
from modelyard.core.ports import Output
from modelyard.core.runlog import RunLog, metric_key, plain_settings
from modelyard.engines.answers import likeliest

Array = np.ndarray[Any, np.dtype[Any]]

_SPACE: dict[str, dict[str, Any]] = {
    "max_depth": {"type": "int", "low": 3, "high": 10},
    "learning_rate": {"type": "float", "low": 0.02, "high": 0.3, "log": True},
    "min_child_weight": {"type": "float", "low": 0.5, "high": 20.0, "log": True},
    "subsample": {"type": "float", "low": 0.5, "high": 1.0},
    "colsample_bytree": {"type": "float", "low": 0.4, "high": 1.0},
}


class XgboostTrainer:
    """Makes XGBoost estimators for a scikit-learn pipeline."""

    @staticmethod
    def traits(model_class: str, *, classification: bool) -> Traits:  # noqa: ARG004
        """Trees want no scaling, and take missing values themselves."""
        if model_class not in ("XGB", "XGBClassifier", "XGBRegressor"):
            raise Invalid(f"XGBoost's learner {model_class!r} is unknown. {nearest(model_class, ['XGB'])}")
        return Traits(scaled=False, takes_missing=True, space=_SPACE)

    @staticmethod
    def estimator(
        model_class: str,  # noqa: ARG004
        params: Mapping[str, Any],
        *,
        classification: bool,
        seed: int,
        threads: int,
    ) -> Any:
        """An unfitted estimator; Invalid for a parameter that it does not have."""
        made = xgboost.XGBClassifier if classification else xgboost.XGBRegressor
        known = list(made().get_params())
        for name in params:
            if name not in known:
                raise Invalid(f"{made.__name__} has no parameter {name!r}. {nearest(name, known)}")
        return made(**{"random_state": seed, "n_jobs": threads, "verbosity": 0, **params})

    @staticmethod
    def contributions(model: Any, seen: Array) -> tuple[Array, Array]:
        """Values (n, columns) and base values (n,) in log-odds or in the target's unit, for the last class."""
        return _last(model.get_booster(), seen)


class XgboostRuntime:
    """Answers with a booster from a .json or .ubj file."""

    def __init__(self, path: Path, signature: Signature | None = None) -> None:
        if not path.exists():
            raise NotFound(f"There is no model file {path}. Check the path.")
        content = path.read_bytes()
        self.native = xgboost.Booster()
        try:
            check(content)
            self.native.load_model(bytearray(content))
        except OutOfBounds as error:
            raise Damaged(f"{path} is refused: {error}. Write it again with booster.save_model(path).") from error
        except xgboost.core.XGBoostError as error:
            raise Damaged(f"{path} cannot be read by XGBoost: {str(error).splitlines()[0]}") from error
        self.native.set_param({"nthread": 1})
        self._signature = signature or _signature_of(self.native)
        self._classes = np.asarray(self._signature.classes)

    @property
    def signature(self) -> Signature:
        """What the model takes and gives."""
        return self._signature

    def predict(self, batch: Array) -> Output:
        """The answer to a float batch of shape (n, inputs)."""
        raw = self.native.inplace_predict(np.ascontiguousarray(batch, dtype=np.float64), validate_features=False)
        if self._signature.task == "regression":
            return Output(predictions=raw.astype(np.float64))
        probabilities = np.column_stack([1.0 - raw, raw]) if raw.ndim == 1 else raw
        return Output(predictions=self._classes[likeliest(probabilities)], probabilities=probabilities)

    def contributions(self, batch: Array) -> tuple[Array, Array]:
        """XGBoost's own TreeSHAP: values (n, inputs) and base values (n,), margins of the last class."""
        return _last(self.native, batch)

    def unload(self) -> None:
        """Free the booster."""
        self.native = None


def _last(booster: Any, seen: Array) -> tuple[Array, Array]:
    data = xgboost.DMatrix(np.asarray(seen, dtype=np.float64), feature_names=booster.feature_names)
    values = np.asarray(booster.predict(data, pred_contribs=True), dtype=np.float64)
    last = values if values.ndim == 2 else values[:, -1, :]
    return last[:, :-1], last[:, -1]


def _signature_of(booster: Any) -> Signature:
    """What the file tells: names, objective and number of classes. XGBoost takes missing values, so inputs may be."""
    count = booster.num_features()
    inputs = tuple(FeatureSpec(name=n, nullable=True) for n in booster.feature_names or [f"x{i}" for i in range(count)])
    learner = json.loads(booster.save_config())["learner"]
    objective = learner["objective"]["name"]
    if objective == "binary:logistic":
        return Signature(inputs=inputs, task="binary", classes=(0, 1))
    if objective == "multi:softprob":
        classes = int(learner["learner_model_param"]["num_class"])
        return Signature(inputs=inputs, task="multiclass", classes=tuple(range(classes)))
    if objective.startswith(("reg:", "count:", "survival:")):
        return Signature(inputs=inputs, task="regression")
    raise Invalid(
        f"XGBoost's objective {objective!r} is not served here. Use binary:logistic, multi:softprob or reg:*."
    )


class LogRounds(xgboost.callback.TrainingCallback):  # type: ignore[misc]  # XGBoost has no types
    """An XGBoost callback that logs the parameters once, and each round's evaluations with the round as the step.

    It is XGBoost's own kind of callback, for `xgboost.train`, `xgboost.cv` and the `callbacks` of an estimator. A copy of it,
    as a search makes with its estimators, logs nothing: its trainings have other parameters.
    """

    def __init__(self, run: RunLog) -> None:
        super().__init__()
        self._run: RunLog | None = run

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_run": None}

    def before_training(self, model: Any) -> Any:
        """Log what the booster is set to; a cross-validation has several boosters, which do not say."""
        if self._run is not None and hasattr(model, "save_config"):
            learner = json.loads(model.save_config())["learner"]
            told = {**learner["learner_train_param"], **_settings(learner["gradient_booster"])}
            self._run.log_params(plain_settings(told))
        return model

    def after_iteration(self, model: Any, epoch: int, evals_log: Mapping[str, Mapping[str, Any]]) -> bool:  # noqa: ARG002
        """Log the round's evaluations, and go on."""
        if self._run is None:
            return False
        metrics: dict[str, float] = {}
        for data, told in evals_log.items():
            for name, values in told.items():
                value, *spread = values[-1] if isinstance(values[-1], tuple) else (values[-1],)
                metrics[metric_key(data, name)] = float(value)
                if spread:  # a cross-validation's standard deviation
                    metrics[metric_key(data, name, "std")] = float(spread[0])
        self._run.log_metrics(metrics, step=epoch)
        return False


def _settings(booster: Mapping[str, Any]) -> dict[str, Any]:
    """What a booster was set to; one of dart has one of trees within it."""
    told: dict[str, Any] = {}
    for name, value in booster.items():
        if name.endswith("_train_param"):
            told |= value
        elif isinstance(value, Mapping):
            told |= _settings(value)
    return told
