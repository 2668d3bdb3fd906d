"""LightGBM: estimators for the pipeline, and boosters from its text files."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np

from modelyard.bounds import OutOfBounds
from modelyard.bounds.lightgbm import check
from modelyard.core.errors import Damaged, Invalid, NotFound, nearest
from modelyard.core.learning import Traits
from modelyard.core.models import FeatureSpec, Signature
from modelyard.core.ports import Output
from modelyard.core.runlog import RunLog, metric_key, plain_settings
from modelyard.engines.answers import likeliest

Array = np.ndarray[Any, np.dtype[Any]]

_QUIET = {"verbose": -1, "deterministic": True, "force_row_wise": True}  # the same trees for the same seed and threads
_ALIASES = {  # LightGBM's own names for what its scikit-learn classes call otherwise
    "feature_fraction": "colsample_bytree",
    "bagging_fraction": "subsample",
    "bagging_freq": "subsample_freq",
    "lambda_l1": "reg_alpha",
    "lambda_l2": "reg_lambda",
    "min_data_in_leaf": "min_child_samples",
    "num_iterations": "n_estimators",
}
_EXTRA = ("path_smooth", "extra_trees", "max_bin", "min_data_per_group", "max_delta_step", "scale_pos_weight",
          "is_unbalance", "linear_tree", "feature_fraction_bynode", "monotone_constraints")  # fmt: skip
_SPACE: dict[str, dict[str, Any]] = {
    "num_leaves": {"type": "int", "low": 8, "high": 128, "log": True},
    "learning_rate": {"type": "float", "low": 0.02, "high": 0.3, "log": True},
    "min_child_samples": {"type": "int", "low": 5, "high": 100, "log": True},
    "colsample_bytree": {"type": "float", "low": 0.4, "high": 1.0},
    "reg_lambda": {"type": "float", "low": 1e-3, "high": 10.0, "log": True},
}


class LightgbmTrainer:
    """Makes LightGBM estimators for a scikit-learn pipeline."""

    @staticmethod
    def traits(model_class: str, *, classification: bool) -> Traits:  # noqa: ARG004
        """Trees want no scaling, and take missing values themselves."""
        if model_class not in ("LGBM", "LGBMClassifier", "LGBMRegressor"):
            raise Invalid(f"LightGBM's learner {model_class!r} is unknown. {nearest(model_class, ['LGBM'])}")
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
        made = lightgbm.LGBMClassifier if classification else lightgbm.LGBMRegressor
        known = [*made().get_params(), *_EXTRA]
        named = {_ALIASES.get(name, name): value for name, value in params.items()}
        for name in named:
            if name not in known:
                raise Invalid(f"{made.__name__} has no parameter {name!r}. {nearest(name, known)}")
        return made(**{"random_state": seed, "n_jobs": threads, **_QUIET, **named})

    @staticmethod
    def contributions(model: Any, seen: Array) -> tuple[Array, Array]:
        """Values (n, columns) and base values (n,) in log-odds or in the target's unit, for the last class."""
        return _last(model.booster_, seen)

    @staticmethod
    def for_float32(model: Any) -> Any:
        """A copy that answers every float32 row alike and whose thresholds are float32 numbers.

        A threshold t becomes the largest float32 <= t: no float32 number lies between, so no decision changes. Converters
        round to the nearest instead, which sends boundary rows the wrong way.
        """
        text = re.sub(r"^threshold=(.*)$", _floored, _unsized(model.booster_.model_to_string()), flags=re.MULTILINE)
        twin = copy.copy(model)
        twin._Booster = lightgbm.Booster(model_str=text)
        return twin


class LightgbmRuntime:
    """Answers with a booster from a text file."""

    def __init__(self, path: Path, signature: Signature | None = None) -> None:
        if not path.exists():
            raise NotFound(f"There is no model file {path}. Check the path.")
        content = path.read_bytes()
        try:
            check(content)
            text = content.decode("utf-8")
            self.native = lightgbm.Booster(model_str=_unsized(text))
        except (OutOfBounds, UnicodeDecodeError) as error:
            raise Damaged(f"{path} is refused: {error}. Write it again with booster.save_model(path).") from error
        except lightgbm.basic.LightGBMError as error:
            raise Damaged(f"{path} cannot be read by LightGBM: {error}") from error
        self._signature = signature or _signature_of(self.native, text)
        self._classes = np.asarray(self._signature.classes)

    @property
    def signature(self) -> Signature:
        """What the model takes and gives."""
        return self._signature

    def predict(self, batch: Array) -> Output:
        """The answer to a float batch of shape (n, inputs)."""
        raw = self.native.predict(np.ascontiguousarray(batch, dtype=np.float64), num_threads=1)
        if self._signature.task == "regression":
            return Output(predictions=raw)
        probabilities = np.column_stack([1.0 - raw, raw]) if raw.ndim == 1 else raw
        return Output(predictions=self._classes[likeliest(probabilities)], probabilities=probabilities)

    def contributions(self, batch: Array) -> tuple[Array, Array]:
        """LightGBM's own TreeSHAP: values (n, inputs) and base values (n,), raw scores of the last class."""
        return _last(self.native, batch)

    def unload(self) -> None:
        """Free the booster."""
        self.native = None


def _last(booster: Any, seen: Array) -> tuple[Array, Array]:
    values = np.asarray(booster.predict(np.ascontiguousarray(seen, dtype=np.float64), pred_contrib=True, num_threads=1))
    width = booster.num_feature() + 1
    last = values[:, -width:]
    return last[:, :-1], last[:, -1]


def _unsized(text: str) -> str:
    """The text without its table of tree sizes. With one, LightGBM reads trees in parallel, and a tree of another length
    than it says ends the whole process; without one, it reads them in order and a damaged tree is an error."""
    return re.sub(r"^tree_sizes=.*\n", "", text, flags=re.MULTILINE)


def _floored(line: re.Match[str]) -> str:
    numbers = []
    for word in line[1].split():
        exact = float(word)
        near = np.float32(np.clip(exact, -3.4e38, 3.4e38))
        down = np.nextafter(near, np.float32(-np.inf)) if float(near) > exact else near
        numbers.append(repr(float(down)))
    return "threshold=" + " ".join(numbers)


def _signature_of(booster: Any, text: str) -> Signature:
    """What the file tells: names, objective and number of classes. LightGBM takes missing values, so inputs may be."""
    inputs = tuple(FeatureSpec(name=name, nullable=True) for name in booster.feature_name())
    objective = re.search(r"^objective=(\w+)", text, flags=re.MULTILINE)
    kind = objective[1] if objective else "regression"
    if kind in ("binary", "cross_entropy"):
        return Signature(inputs=inputs, task="binary", classes=(0, 1))
    if kind.startswith("multiclass"):
        count = booster.num_model_per_iteration()
        return Signature(inputs=inputs, task="multiclass", classes=tuple(range(count)))
    return Signature(inputs=inputs, task="regression")


def log_rounds(run: RunLog) -> Callable[[Any], None]:
    """A LightGBM callback that logs the parameters once, and each round's evaluations with the round as the step.

    It is LightGBM's own kind of callback, for `lightgbm.train`, `lightgbm.cv` and the `callbacks` of an estimator's `fit`.
    """

    def log(told: Any) -> None:
        if told.iteration == told.begin_iteration:
            run.log_params(plain_settings({**told.params, "num_boost_round": told.end_iteration}))
        metrics: dict[str, float] = {}
        for data, name, value, _, *spread in told.evaluation_result_list or ():
            metrics[metric_key(data, name)] = value
            if spread and spread[0] is not None:  # a cross-validation's standard deviation
                metrics[metric_key(data, name, "std")] = spread[0]
        run.log_metrics(metrics, step=told.iteration)

    log.order = 20  # type: ignore[attr-defined]  # before early stopping, which is 30 and ends the training
    return log
