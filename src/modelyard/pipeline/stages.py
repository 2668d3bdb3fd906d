"""The ten stages of a training run. Each takes the run's state and adds to it."""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from modelyard.core import plugins
from modelyard.core.canonical import dumps
from modelyard.core.errors import Conflict, Invalid, nearest
from modelyard.core.learning import Block, Folding, Traits
from modelyard.core.models import PACKAGE_MANIFEST, FeatureKind, PackageManifest, Parity, Signature, Task
from modelyard.core.packages import manifest_text
from modelyard.pipeline import columns as kinds
from modelyard.pipeline import rules
from modelyard.pipeline.columns import Array
from modelyard.pipeline.config import CLASSIFICATION_METRICS, REGRESSION_METRICS, PipelineConfig
from modelyard.pipeline.results import Finding, PipelineStage, Trial
from modelyard.pipeline.tuning import Learner, cross_validate, tune
from modelyard.stats.parity import NEAR, parity

SAMPLE_ROWS = 100  # kept beside the model, so that anyone can try it
PARITY_ROWS = 2000  # training rows that the exported form is replayed on
NATIVE, EXPORTED, SAMPLE = "model.skops", "model.onnx", "sample.json"


@dataclass(slots=True, kw_only=True)
class Run:
    """Everything a run knows so far. `folder` is where its files go."""

    config: PipelineConfig
    folder: Path
    frame: Any = None
    columns: dict[str, Array] = field(default_factory=dict)
    kinds: dict[str, FeatureKind] = field(default_factory=dict)
    data_digest: str = ""
    findings: list[Finding] = field(default_factory=list)
    y: Array = field(default_factory=lambda: np.empty(0))
    task: Task = "binary"
    signature: Signature = field(default_factory=lambda: Signature(inputs=(), task="binary"))
    traits: Traits = field(default_factory=lambda: Traits(scaled=False, takes_missing=False))
    blocks: tuple[Block, ...] = ()
    x: Array = field(default_factory=lambda: np.empty((0, 0)))
    keys: Array = field(default_factory=lambda: np.empty(0))
    parts: dict[str, Array] = field(default_factory=dict)  # train, validation, test: row positions
    trials: list[Trial] = field(default_factory=list)
    tuned: dict[str, Any] = field(default_factory=dict)
    model: Any = None
    metrics: dict[str, float] = field(default_factory=dict)
    parity: Parity | None = None
    files: dict[str, str] = field(default_factory=dict)
    artifacts: dict[str, str] = field(default_factory=dict)

    @property
    def classes(self) -> int:
        """The number of classes; 0 for a regression."""
        return len(self.signature.classes)

    @property
    def learner(self) -> Learner:
        """The model to be fitted."""
        config = self.config
        return Learner(
            model_type=config.model_type,
            model_class=config.learner,
            params=dict(config.model_params),
            blocks=self.blocks,
            classes=self.classes,
            threads=config.threads or os.cpu_count() or 1,
        )

    def part(self, name: str) -> tuple[Array, Array]:
        """The rows and targets of one part."""
        return self.x[self.parts[name]], self.y[self.parts[name]]

    def folding(self, rows: Array) -> Folding:
        """How these rows are held out, for cross-validation and for the parts alike."""
        config = self.config
        groups = None
        if config.group_column:
            groups = np.unique(_keys_of(self.columns[config.group_column]), return_inverse=True)[1][rows]
        counts = np.bincount(self.y[rows]) if self.classes else np.zeros(0)
        enough = bool(self.classes) and int(counts.min()) >= max(2, config.cross_validation_folds)
        return Folding(
            folds=config.cross_validation_folds,
            seed=config.random_seed,
            stratified=config.stratify and enough,
            groups=groups,
            ordered=bool(config.time_column),
        )

    def scores(self, x: Array, y: Array, prefix: str) -> dict[str, float]:
        """The wanted scores of the fitted model at these rows, by prefixed name."""
        bench = plugins.load("trainer", "sklearn")
        predicted, probabilities = bench.answers(self.model, x, classification=self.classes > 0)
        return self.wanted(bench.scores(y, predicted, probabilities, classes=self.classes), prefix)

    def wanted(self, scores: dict[str, float], prefix: str) -> dict[str, float]:
        """The configured metrics among the scores, or all of them."""
        names = self.config.metrics or scores
        return {f"{prefix}_{name}": scores[name] for name in names if name in scores}


def load_data(run: Run) -> None:
    """Read the table and give every column a kind."""
    config = run.config
    tables = plugins.load("tables", "pandas")
    if run.frame is None:
        if not config.data_source:
            raise Invalid("data_source is empty. Name a .csv, .parquet or .json file, or pass frame=.")
        run.frame = tables.read(config.data_source)
    raw = tables.columns(run.frame)
    run.frame = None
    if not raw or not len(next(iter(raw.values()))):
        raise Invalid(f"{config.data_source or 'The frame'} has no rows. There is nothing to learn from.")
    for name, values in raw.items():
        run.columns[name], run.kinds[name] = kinds.tidy(values)
    run.data_digest = _digest(run.columns)


def validate_data(run: Run) -> None:
    """Check the target, the named columns and each input; note what a person should know."""
    config = run.config
    for label, name in (
        ("target", config.target_column),
        ("group", config.group_column),
        ("time", config.time_column),
        *(("excluded", column) for column in config.exclude_columns),
    ):
        if name and name not in run.columns:
            raise Invalid(f"The table has no {label} column {name!r}. {nearest(name, list(run.columns))}")
    _drop_unlabelled(run)
    _order_by_time(run)
    target = run.columns[config.target_column]
    y, task, classes = kinds.target_of(target, run.kinds[config.target_column], config.task)
    run.y, run.task = y, task
    _check_metrics(config, task)
    apart = {config.target_column, config.group_column, config.time_column, *config.exclude_columns}
    specs = []
    for name, values in run.columns.items():
        if name in apart:
            continue
        spec = kinds.spec_of(name, values, run.kinds[name])
        run.findings += rules.column_findings(spec, values)
        run.findings += rules.leakage_findings(spec, values, y, task)
        if spec.kind == "string" and rules.is_identifier(spec, values) and not _named(config, name):
            continue  # text of its own in every row teaches nothing; the finding says so
        if spec.kind != "string" and (np.abs(values[~np.isnan(values)]) > np.finfo(np.float32).max).any():
            raise Invalid(f"The column {name!r} holds values beyond 3.4e38. Replace them or leave them empty.")
        specs.append(spec)
    if not specs:
        raise Invalid("The table has no input column beside the target. Add columns to learn from.")
    run.signature = Signature(inputs=tuple(specs), task=task, classes=classes)
    run.keys = _row_keys(run)
    run.findings += rules.row_findings(run.keys, y, task)


def engineer_features(run: Run) -> None:
    """Decide each column's preparation and build the batch; the steps themselves are fitted on training rows only."""
    trainer = plugins.load("trainer", run.config.model_type)
    run.traits = trainer.traits(run.config.learner, classification=run.task != "regression")
    run.blocks = kinds.blocks_of(run.signature, run.columns, run.config.feature_transforms, run.traits)
    run.x = kinds.matrix(run.columns, run.signature)
    run.learner.model({}, run.config.random_seed)  # a misspelt parameter is told before anything is fitted


def split_data(run: Run) -> None:
    """Hold out test and validation rows; count the rows that occur on both sides."""
    bench, config = plugins.load("trainer", "sklearn"), run.config
    rows = np.arange(len(run.y))
    held_out = [("test", config.test_size), ("validation", config.validation_size / (1 - config.test_size))]
    for name, share in held_out:
        run.parts[name] = rows[:0]
        if share > 0:
            folding = run.folding(rows)
            kept, held = _split(bench, run.y[rows], share, folding)
            run.parts[name], rows = rows[held], rows[kept]
            run.findings += rules.shared_rows(run.keys, rows, run.parts[name], name)
    run.parts["train"] = rows
    if run.classes and len(np.unique(run.y[rows])) < run.classes:
        raise Invalid("The training part lacks a class of the target. Give more rows of it, or drop it from the table.")


def tune_parameters(run: Run) -> None:
    """Find the parameters that cross-validate best on the training part, where tuning is on."""
    config = run.config
    if not config.enable_tuning:
        return
    space = dict(config.param_space or run.traits.space)
    if not space:
        raise Invalid(f"{config.learner} has no parameters that are tuned by default. Give param_space.")
    for name, spec in space.items():
        run.learner.model({name: _any_of(spec)}, config.random_seed)
    metric = config.tuning_metric or ("log_loss" if run.classes else "rmse")
    rows = run.parts["train"]
    if len(rows) > config.tuning_rows:
        some = np.random.default_rng(config.random_seed).permutation(len(rows))[: config.tuning_rows]
        rows = rows[np.sort(some)]
        text = f"Parameters were tuned on {len(rows)} of {len(run.parts['train'])} training rows (tuning_rows)."
        run.findings.append(Finding(kind="tuning_rows", severity="info", message=text, value=float(len(rows))))
    data = (run.x[rows], run.y[rows])
    run.trials = tune(config, run.learner, space, metric=metric, rows=data, folding=run.folding(rows))
    best = rules.best(run.trials, metric)
    if best is None:
        raise Invalid(f"All {len(run.trials)} trials failed. The first: {run.trials[0].reason}")
    run.tuned = dict(best.params)


def train_model(run: Run) -> None:
    """Fit the model on the training part."""
    bench = plugins.load("trainer", "sklearn")
    model = run.learner.model(run.tuned, run.config.random_seed)
    run.model, notes = bench.fit(model, *run.part("train"))
    for note in notes:
        run.findings.append(Finding(kind="training", severity="warning", message=note))


def validate_model(run: Run) -> None:
    """Score the validation part, and cross-validate on the training part."""
    if len(run.parts["validation"]):
        run.metrics.update(run.scores(*run.part("validation"), "validation"))
    if not run.config.cross_validation_folds:
        return
    rows = run.parts["train"]
    model = run.learner.model(run.tuned, run.config.random_seed)
    folds = cross_validate(model, *run.part("train"), run.folding(rows), run.classes)
    for name in folds[0]:
        values = [scores[name] for scores in folds if name in scores]
        run.metrics.update(run.wanted({name: float(np.mean(values))}, "cv"))
        if f"cv_{name}" in run.metrics:
            run.metrics[f"cv_{name}_std"] = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def test_model(run: Run) -> None:
    """Score the test part, which nothing before has looked at."""
    run.metrics.update(run.scores(*run.part("test"), "test"))


def export_model(run: Run) -> None:
    """Write the native form, and the ONNX form if it can be had and answers alike."""
    bench = plugins.load("trainer", "sklearn")
    package = run.folder
    package.mkdir(parents=True, exist_ok=True)
    _one_thread(run.model)
    bench.save(run.model, package / NATIVE)
    run.files["sklearn"] = NATIVE
    rows = run.parts["train"][:PARITY_ROWS]
    probe = np.concatenate([run.x[rows], rules.boundary_rows(run.x[rows], run.signature.inputs)])
    try:
        plugins.load("exporter", "onnx")(run.model, run.signature, package / EXPORTED)
        exported = plugins.load("runtime", "onnx")(package / EXPORTED, run.signature).predict(probe)
    except (Invalid, OSError) as error:
        reason = f"{error} The native model answers instead."
        run.parity = Parity(rows=0, max_difference=0.0, tolerance=NEAR, passed=False, reason=reason)
    else:
        predicted, probabilities = bench.answers(run.model, probe, classification=run.classes > 0)
        native = predicted if probabilities is None else probabilities
        told = exported.predictions if exported.probabilities is None else exported.probabilities
        run.parity = parity(native, told, sample=len(rows))
    if run.parity.passed:
        run.files["onnx"] = EXPORTED
        return
    (package / EXPORTED).unlink(missing_ok=True)
    run.findings.append(Finding(kind="export", severity="info", message=run.parity.reason))


def prepare_deployment(run: Run) -> None:
    """Write the package's manifest and sample rows, open the package as a server would, and compare its answers."""
    package, config = run.folder, run.config
    bench = plugins.load("trainer", "sklearn")
    x = run.part("train")[0]
    means = bench.transformed(run.model, x).mean(axis=0).tolist() if hasattr(run.model[-1], "coef_") else []
    manifest = PackageManifest(
        name=config.name,
        framework=config.model_type,
        primary="onnx" if "onnx" in run.files else "sklearn",
        files=run.files,
        signature=run.signature,
        parity=run.parity,
        metrics=run.metrics,
        parameters={**config.model_params, **run.tuned},
        environment=_environment(config.model_type),
        training={
            "rows": len(x),
            "model_class": config.learner,
            "random_seed": config.random_seed,
            "data_source": config.data_source,
            "data_digest": run.data_digest,
            "input_precision": "float32",
            **({"transformed_means": means} if means else {}),
        },
    )
    sample = [_record(run.signature, row) for row in x[:SAMPLE_ROWS]]
    (package / SAMPLE).write_text(dumps(sample) + "\n", encoding="utf-8")
    (package / PACKAGE_MANIFEST).write_text(manifest_text(manifest), encoding="utf-8")
    opened = plugins.load("loader", "path")(package)
    predicted, probabilities = bench.answers(run.model, x[:SAMPLE_ROWS], classification=run.classes > 0)
    expected = predicted if probabilities is None else probabilities
    told = opened.predict_proba(sample) if run.classes else opened.predict(sample)
    if not parity(expected, told, sample=len(sample)).passed:
        raise Conflict(f"The package in {package} answers otherwise than the model it was made from. Report this.")
    run.artifacts["model"] = str(package)
    run.artifacts["native"] = str(package / NATIVE)
    if "onnx" in run.files:
        run.artifacts["onnx"] = str(package / EXPORTED)


STAGES: dict[PipelineStage, Callable[[Run], None]] = {
    PipelineStage.DATA_LOADING: load_data,
    PipelineStage.DATA_VALIDATION: validate_data,
    PipelineStage.FEATURE_ENGINEERING: engineer_features,
    PipelineStage.DATA_SPLITTING: split_data,
    PipelineStage.HYPERPARAMETER_TUNING: tune_parameters,
    PipelineStage.MODEL_TRAINING: train_model,
    PipelineStage.MODEL_VALIDATION: validate_model,
    PipelineStage.MODEL_TESTING: test_model,
    PipelineStage.MODEL_EXPORT: export_model,
    PipelineStage.DEPLOYMENT_PREP: prepare_deployment,
}


def _drop_unlabelled(run: Run) -> None:
    config = run.config
    known = ~kinds.missing(run.columns[config.target_column])
    if known.all():
        return
    share = 1 - float(known.mean())
    text = f"{share:.1%} of the rows have no target and were left out."
    run.findings.append(Finding(kind="missing_target", severity="warning", message=text, value=share))
    run.columns = {name: values[known] for name, values in run.columns.items()}
    if not known.any():
        raise Invalid(f"The target column {config.target_column!r} is empty in every row.")


def _order_by_time(run: Run) -> None:
    name = run.config.time_column
    if not name:
        return
    values = run.columns[name]
    if kinds.missing(values).any():
        raise Invalid(f"The time column {name!r} has missing values. Fill them or drop the rows.")
    if values.dtype.kind != "f" and not kinds.is_date(values):
        raise Invalid(f"The time column {name!r} is neither a number nor an ISO date such as 2026-01-31.")
    order = np.argsort(values.astype(str) if values.dtype.kind != "f" else values, kind="stable")
    run.columns = {column: found[order] for column, found in run.columns.items()}


def _check_metrics(config: PipelineConfig, task: Task) -> None:
    defined = REGRESSION_METRICS if task == "regression" else CLASSIFICATION_METRICS
    for name in (*config.metrics, *([config.tuning_metric] if config.tuning_metric else [])):
        if name not in defined:
            raise Invalid(f"The metric {name} is not defined for a {task} target. {nearest(name, list(defined))}")


def _named(config: PipelineConfig, name: str) -> bool:
    return any(name in transform["columns"] for transform in config.feature_transforms)


def _split(bench: Any, y: Array, share: float, folding: Folding) -> tuple[Array, Array]:
    try:
        kept, held = bench.split(y, share, folding)
    except ValueError as error:
        raise Invalid(f"{len(y)} rows cannot be split: {error} Give more rows, or hold out fewer.") from error
    if not len(kept) or not len(held):
        raise Invalid(f"{len(y)} rows leave a part empty. Give more rows, or hold out fewer.")
    return kept, held


def _any_of(spec: Any) -> Any:
    return spec["choices"][0] if spec["type"] == "categorical" else spec["low"]


def _one_thread(model: Any) -> None:
    """A served model answers on one thread: a pool of them costs more than a small batch."""
    if "n_jobs" in model[-1].get_params():
        model[-1].set_params(n_jobs=1)


def _record(signature: Signature, row: Array) -> dict[str, Any]:
    """One batch row as a request would send it."""
    record: dict[str, Any] = {}
    for spec, value in zip(signature.inputs, row.tolist(), strict=True):
        if spec.kind == "string":
            record[spec.name] = value or (None if spec.nullable else "")
        elif np.isnan(value):
            record[spec.name] = None
        else:
            record[spec.name] = bool(value) if spec.kind == "bool" else int(value) if spec.kind == "int" else value
    return record


def _keys_of(values: Array) -> Array:
    return values if values.dtype.kind == "f" else np.array([value or "" for value in values.tolist()])


def _row_keys(run: Run) -> Array:
    """One 64-bit hash a row over inputs and target."""
    names = [*run.signature.names, run.config.target_column]
    total = np.zeros(len(run.y), dtype=np.uint64)
    for position, name in enumerate(names):
        levels, codes = np.unique(_keys_of(run.columns[name]), return_inverse=True)
        # splitmix64's multiplier spreads (column, value) pairs; equal rows get equal sums
        weights = np.random.default_rng([position, len(levels)]).integers(1, 2**63, len(levels), dtype=np.uint64)
        total = total * np.uint64(6364136223846793005) + weights[codes]
    return total


def _digest(columns: dict[str, Array]) -> str:
    """SHA-256 over names and values, in column order."""
    found = hashlib.sha256()
    for name, values in columns.items():
        found.update(name.encode() + b"\x00")
        if values.dtype.kind == "f":
            found.update(np.ascontiguousarray(values).tobytes())
        else:
            found.update("\x1f".join("\x00" if value is None else value for value in values.tolist()).encode())
    return found.hexdigest()


def _environment(model_type: str) -> dict[str, str]:
    found = {name: version(name) for name in ("numpy", "scikit-learn", "skl2onnx", "onnxruntime")}
    if model_type != "sklearn":  # asked of the module, since xgboost's package has two names
        found[model_type] = str(sys.modules[model_type].__version__)
    return {"python": platform.python_version(), **found}
