"""What to train, from which table, and how: checked when it is made."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from modelyard.core.errors import Invalid, nearest
from modelyard.core.ids import checked_name

MODEL_TYPES = {"sklearn": "RandomForest", "lightgbm": "LGBM", "xgboost": "XGB"}  # and the class of each by default
CLASSIFICATION_METRICS = ("accuracy", "precision", "recall", "f1_score", "auc_roc", "log_loss")
REGRESSION_METRICS = ("rmse", "mae", "r2")
METRICS = (*CLASSIFICATION_METRICS, *REGRESSION_METRICS)
LOWER_IS_BETTER = ("log_loss", "rmse", "mae")
TASKS = ("auto", "binary", "multiclass", "regression")

_NUMBERS: dict[str, tuple[type, ...]] = {"int": (int,), "float": (int, float)}

# transformation -> its options and the values that each takes
TRANSFORMS: dict[str, dict[str, Sequence[Any] | tuple[type, ...]]] = {
    "scale": {"method": ("standard", "minmax", "robust")},
    "impute": {"strategy": ("mean", "median", "most_frequent", "constant"), "fill_value": (int, float)},
    "one_hot": {"max_categories": (int,), "min_frequency": (int, float)},
    "ordinal": {},
    "target": {},
    "log": {},
    "power": {},
    "bin": {"n_bins": (int,), "strategy": ("quantile", "uniform", "kmeans")},
    "clip": {"low": (int, float), "high": (int, float)},
    "interaction": {},
    "date": {},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineConfig:
    """A training run: the table, the target, the learner, and how it is tuned and judged.

    `model_class` is a family such as RandomForest, LogisticRegression or LGBM; the task (`auto`) is told from the target.
    `param_space` maps a parameter to `{"type": "int" | "float", "low", "high", "log"}` or to
    `{"type": "categorical", "choices"}`; without one the learner's own is used. `tuning_metric` is log_loss or rmse
    unless it is given. Columns that no entry of `feature_transforms` names are prepared automatically. Rows of one group
    stay on one side of every split; with a time column the newest rows are held out. Neither column is an input.

    >>> PipelineConfig(name="churn", data_source="churn.csv", target_column="churned", test_size=1.5)
    Traceback (most recent call last):
    modelyard.core.errors.Invalid: test_size is 1.5. Give a number between 0 and 0.9.
    """

    name: str
    target_column: str
    data_source: str = ""
    task: str = "auto"
    model_type: str = "sklearn"
    model_class: str = ""
    model_params: Mapping[str, Any] = field(default_factory=dict)
    feature_transforms: Sequence[Mapping[str, Any]] = ()
    exclude_columns: Sequence[str] = ()
    group_column: str = ""
    time_column: str = ""
    test_size: float = 0.2
    validation_size: float = 0.1
    stratify: bool = True
    cross_validation_folds: int = 5
    metrics: Sequence[str] = ()
    enable_tuning: bool = False
    tuning_method: Literal["optuna"] = "optuna"
    tuning_trials: int = 20
    tuning_timeout: float | None = None
    tuning_metric: str = ""
    tuning_rows: int = 20_000
    tuning_workers: int = 1
    param_space: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    random_seed: int = 0
    threads: int = 0
    output_dir: str = ""

    def __post_init__(self) -> None:
        """Refuse what cannot work, by the field's name."""
        checked_name(self.name, "pipeline")
        _text(self, "target_column", "data_source", "model_class", "group_column", "time_column", "output_dir")
        if not self.target_column:
            raise Invalid("target_column is empty. Name the column to predict.")
        _one_of("model_type", self.model_type, list(MODEL_TYPES))
        _one_of("task", self.task, list(TASKS))
        _one_of("tuning_method", self.tuning_method, ["optuna"])
        _numbers(self)
        for name in self.metrics:
            _one_of("metrics", name, list(METRICS))
        if self.tuning_metric:
            _one_of("tuning_metric", self.tuning_metric, list(METRICS))
        for name, spec in self.param_space.items():
            _check_range(name, spec)
        for position, transform in enumerate(self.feature_transforms):
            _check_transform(position, transform)

    @property
    def learner(self) -> str:
        """The model class, or the model type's own default."""
        return self.model_class or MODEL_TYPES[self.model_type]

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> PipelineConfig:
        """The configuration that a mapping (a JSON, TOML or YAML file) holds; Invalid for an unknown field."""
        if not isinstance(values, Mapping):
            raise Invalid(f"A {type(values).__name__} is no pipeline configuration. Write a mapping of fields.")
        known = [entry.name for entry in dataclasses.fields(cls)]
        for name in values:
            if name not in known:
                raise Invalid(f"A pipeline has no field {name!r}. {nearest(str(name), known)}")
        for name in ("name", "target_column"):
            if name not in values:
                raise Invalid(f"The pipeline configuration lacks {name!r}. Add it.")
        return cls(**values)


def _text(config: PipelineConfig, *names: str) -> None:
    for name in names:
        if not isinstance(getattr(config, name), str):
            raise Invalid(f"{name} is {getattr(config, name)!r}. Give text.")


def _one_of(name: str, value: Any, known: list[str]) -> None:
    if value not in known:
        raise Invalid(f"{name} is {value!r}. {nearest(str(value), known)}")


def _numbers(config: PipelineConfig) -> None:
    _within("test_size", config.test_size, 0, 0.9, open_low=True)
    _within("validation_size", config.validation_size, 0, 0.9)
    if config.test_size + config.validation_size > 0.9:
        raise Invalid("test_size and validation_size leave less than a tenth of the rows for training. Lower one.")
    for name, low, high in (
        ("cross_validation_folds", 0, 50),
        ("tuning_trials", 1, 100_000),
        ("tuning_rows", 100, 10**9),
        ("tuning_workers", 1, 1024),
        ("random_seed", 0, 2**32 - 1),
        ("threads", 0, 1024),
    ):
        value = getattr(config, name)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise Invalid(f"{name} is {value!r}. Give a whole number from {low} to {high}.")
    if config.cross_validation_folds == 1 or (config.enable_tuning and not config.cross_validation_folds):
        raise Invalid("cross_validation_folds must be 2 or more (0 for none, where nothing is tuned).")
    if config.tuning_timeout is not None:
        _within("tuning_timeout", config.tuning_timeout, 0, 1e9, open_low=True)


def _within(name: str, value: Any, low: float, high: float, *, open_low: bool = False) -> None:
    fine = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not fine or not low <= value <= high or (open_low and value == low):
        raise Invalid(f"{name} is {value!r}. Give a number between {low} and {high:g}.")


def _check_range(name: str, spec: Any) -> None:
    where = f"param_space[{name!r}]"
    if not isinstance(spec, Mapping) or spec.get("type") not in ("int", "float", "categorical"):
        raise Invalid(f"{where} is {spec!r}. Give a type: int, float or categorical.")
    if spec["type"] == "categorical":
        choices = spec.get("choices")
        if (
            not isinstance(choices, Sequence)
            or isinstance(choices, str)
            or not choices
            or set(spec) > {"type", "choices"}
        ):
            raise Invalid(f"{where} is {spec!r}. Give a list of choices.")
        return
    for key in spec:
        _one_of(where, key, ["type", "low", "high", "log"])
    bounds: list[Any] = [spec.get("low"), spec.get("high")]
    if not all(_is_number(bound, spec["type"]) for bound in bounds):
        raise Invalid(f"{where} is {spec!r}. Give low and high as {spec['type']} numbers.")
    if not spec["low"] < spec["high"]:
        raise Invalid(f"{where}: low {spec['low']} is not below high {spec['high']}.")
    if spec.get("log") and spec["low"] <= 0:
        raise Invalid(f"{where}: a log range must start above 0, not at {spec['low']}.")


def _is_number(value: Any, kind: str) -> bool:
    return isinstance(value, _NUMBERS[kind]) and not isinstance(value, bool) and math.isfinite(value)  # type: ignore[arg-type]


def _check_transform(position: int, transform: Any) -> None:
    where = f"feature_transforms[{position}]"
    if not isinstance(transform, Mapping) or "type" not in transform:
        raise Invalid(f"{where} is {transform!r}. Give a type and columns.")
    _one_of(f"{where} type", transform["type"], list(TRANSFORMS))
    columns = transform.get("columns")
    if not isinstance(columns, Sequence) or isinstance(columns, str) or not columns:
        raise Invalid(f"{where} names no columns. Give a list of column names.")
    options = TRANSFORMS[transform["type"]]
    for name, value in transform.items():
        if name in ("type", "columns"):
            continue
        _one_of(f"{where} option", name, list(options))
        allowed = options[name]
        if isinstance(allowed[0], str):
            _one_of(f"{where} {name}", value, [str(choice) for choice in allowed])
        elif not isinstance(value, tuple(allowed)) or isinstance(value, bool):
            raise Invalid(f"{where} {name} is {value!r}. Give a number.")
