"""The table of named adapters, tests, metrics and strategies. Listing imports nothing; loading imports one module."""

from __future__ import annotations

import importlib
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from modelyard.core.errors import MissingExtra, NotFound, nearest

AREAS = {
    "registry": "modelyard.registry.service:ModelRegistry",
    "tracking": "modelyard.tracking.service:ExperimentTracker",
    "artifacts": "modelyard.artifacts.service:ArtifactStore",
    "audit": "modelyard.audit.service:AuditLogger",
    "features": "modelyard.features.service:FeatureStore",
    "pipeline": "modelyard.pipeline.service:Pipelines",
    "serving": "modelyard.serving.service:ModelServer",
    "deployment": "modelyard.deployment.service:DeploymentManager",
    "ab_testing": "modelyard.ab_testing.service:ABTestManager",
    "monitoring": "modelyard.monitoring.service:Monitors",
    "governance": "modelyard.governance.service:GovernanceManager",
    "ci_templates": "modelyard.ci_templates.service:CITemplateGenerator",
    "webhooks": "modelyard.webhooks.service:Webhooks",
    "access": "modelyard.access.service:AccessManager",
    "marketplace": "modelyard.marketplace.service:Marketplace",
}

TABLE: dict[str, dict[str, str]] = {
    "area": AREAS,
    "database": {
        "sqlite": "modelyard.storage.sqlite:SqliteDatabase",
        "postgresql": "modelyard.storage.postgres:PostgresDatabase",
    },
    "blobs": {
        "file": "modelyard.storage.files:FileBlobs",
        "s3": "modelyard.storage.objects:ObjectBlobs",
        "gs": "modelyard.storage.objects:ObjectBlobs",
        "az": "modelyard.storage.objects:ObjectBlobs",
    },
    "online_store": {
        "sqlite": "modelyard.storage.online:SqliteOnlineStore",
        "database": "modelyard.storage.online:DatabaseOnlineStore",
        "redis": "modelyard.storage.redis:RedisOnlineStore",
        "rediss": "modelyard.storage.redis:RedisOnlineStore",
    },
    "offline_store": {"duckdb": "modelyard.storage.offline:DuckOfflineStore"},
    "parquet": {
        "read": "modelyard.storage.duckdb:read_parquet",
        "write": "modelyard.storage.duckdb:write_parquet",
        "from_lines": "modelyard.storage.duckdb:parquet_from_lines",
        "rows": "modelyard.storage.duckdb:Rows",
        "segment": "modelyard.storage.duckdb:Segment",
        "chosen": "modelyard.storage.duckdb:Chosen",
        "write_segment": "modelyard.storage.duckdb:write_segment",
        "merge_segments": "modelyard.storage.duckdb:merge_segments",
    },
    "tables": {"pandas": "modelyard.engines.frames:PandasTables"},
    "runtime": {
        "onnx": "modelyard.engines.onnx:OnnxRuntime",
        "sklearn": "modelyard.engines.sklearn_runtime:SklearnRuntime",
        "lightgbm": "modelyard.engines.lightgbm:LightgbmRuntime",
        "xgboost": "modelyard.engines.xgboost:XgboostRuntime",
        "torch": "modelyard.engines.torch:TorchRuntime",
        "tensorflow": "modelyard.engines.tensorflow:TensorflowRuntime",
        "python": "modelyard.serving.callables:PythonRuntime",
        "trees": "modelyard.engines.flat:opened",
    },
    "compiler": {
        "trees": "modelyard.engines.trees_process:compiled",
        "here": "modelyard.engines.trees_compile:compiled",
    },
    "trees": {
        "onnx": "modelyard.engines.trees_onnx:ensemble",
        "sklearn": "modelyard.engines.sklearn_flat:flat",
        "lightgbm": "modelyard.engines.trees_lightgbm:ensemble",
        "xgboost": "modelyard.engines.trees_xgboost:ensemble",
    },
    "trainer": {
        "sklearn": "modelyard.engines.sklearn:SklearnTrainer",
        "lightgbm": "modelyard.engines.lightgbm:LightgbmTrainer",
        "xgboost": "modelyard.engines.xgboost:XgboostTrainer",
    },
    "bounds": {
        "lightgbm": "modelyard.bounds.lightgbm:check",
        "xgboost": "modelyard.bounds.xgboost:check",
        "xgboost-snapshot": "modelyard.bounds.xgboost:check_snapshot",
        "skops": "modelyard.bounds.skops:check",
    },
    "exporter": {"onnx": "modelyard.engines.onnx_export:export"},
    "tuner": {"optuna": "modelyard.engines.optuna:OptunaTuner"},
    "runner": {
        "processes": "modelyard.engines.processes:ProcessRunner",
        "ray": "modelyard.engines.ray:RayRunner",
        "ray_data": "modelyard.engines.ray:RayDataRunner",
    },
    "engine": {"ray": "modelyard.engines.ray_serve:RayServe"},
    "protocol": {"grpc": "modelyard.serving.grpc_service:GrpcService"},
    "tracer": {"otel": "modelyard.serving.tracing:Tracer"},
    "explainer": {
        "own": "modelyard.engines.contributions:contributions",
        "shap": "modelyard.engines.shap:ShapExplainer",
        "lime": "modelyard.engines.lime:LimeExplainer",
    },
    "opener": {"skops": "modelyard.engines.sklearn_untrusted:open_untrusted"},
    "signer": {"sigstore": "modelyard.engines.sigstore:SigstoreSigner"},
    "sandbox": {"process": "modelyard.engines.sandbox:Sandbox"},
    "autolog": {
        "lightgbm": "modelyard.engines.lightgbm:log_rounds",
        "xgboost": "modelyard.engines.xgboost:LogRounds",
        "sklearn": "modelyard.engines.sklearn_fitting:LogFit",
        "sklearn_fit": "modelyard.engines.sklearn_fitting:fit",
        "torch": "modelyard.engines.torch:Watch",
    },
    "unpacker": {"zip": "modelyard.artifacts.archives:unzip"},
    "proof": {"tlog": "modelyard.audit.proofs:check_proof"},
    "package_source": {"http": "modelyard.marketplace.remote:download"},
    "loader": {"path": "modelyard.engines.loading:load_model", "framework": "modelyard.engines.loading:framework_of"},
    "drift": {
        "anderson_darling": "modelyard.monitoring.drift.anderson_darling:anderson_darling",
        "ks": "modelyard.monitoring.drift.ks:ks",
        "chi_square": "modelyard.monitoring.drift.chi_square:chi_square",
        "missing": "modelyard.monitoring.drift.missing:missing",
        "psi": "modelyard.monitoring.drift.psi:psi",
        "jensen_shannon": "modelyard.monitoring.drift.jensen_shannon:jensen_shannon",
        "wasserstein": "modelyard.monitoring.drift.wasserstein:wasserstein",
    },
    "performance": {
        "accuracy": "modelyard.monitoring.performance.accuracy:accuracy",
        "precision": "modelyard.monitoring.performance.precision:precision",
        "recall": "modelyard.monitoring.performance.recall:recall",
        "f1": "modelyard.monitoring.performance.f1:f1",
        "auc": "modelyard.monitoring.performance.auc:auc",
        "rmse": "modelyard.monitoring.performance.rmse:rmse",
        "error_rate": "modelyard.monitoring.performance.error_rate:error_rate",
        "latency_p50": "modelyard.monitoring.performance.latency:latency_p50",
        "latency_p95": "modelyard.monitoring.performance.latency:latency_p95",
        "latency_p99": "modelyard.monitoring.performance.latency:latency_p99",
    },
    "fairness": {
        "statistical_parity": "modelyard.governance.fairness.statistical_parity:METRIC",
        "disparate_impact": "modelyard.governance.fairness.disparate_impact:METRIC",
        "equal_opportunity": "modelyard.governance.fairness.equal_opportunity:METRIC",
        "equalized_odds": "modelyard.governance.fairness.equalized_odds:METRIC",
        "predictive_parity": "modelyard.governance.fairness.predictive_parity:METRIC",
        "accuracy_parity": "modelyard.governance.fairness.accuracy_parity:METRIC",
    },
    "asked": {"serving": "modelyard.serving.forgetting:asked"},
    "forgetter": {
        "ab_testing": "modelyard.ab_testing.forgetting:forget",
        "features": "modelyard.features.forgetting:forget",
        "monitoring": "modelyard.monitoring.forgetting:forget",
        "serving": "modelyard.serving.forgetting:forget",
    },
    "strategy": {
        "direct": "modelyard.deployment.strategies.direct:plan",
        "shadow": "modelyard.deployment.strategies.shadow:plan",
        "canary": "modelyard.deployment.strategies.canary:plan",
        "blue_green": "modelyard.deployment.strategies.blue_green:plan",
        "rolling": "modelyard.deployment.strategies.rolling:plan",
    },
}

EXTRA_OF = {
    "psycopg": "postgres",
    "redis": "redis",
    "shap": "explain",
    "lime": "explain",
    "xgboost": "xgboost",
    "fairlearn": "fairness",
    "openlineage": "lineage",
    "model_signing": "sign",
    "pyarrow": "arrow",
    "torch": "torch",
    "tensorflow": "tensorflow",
    "ray": "ray",
    "grpc": "grpc",
    "opentelemetry": "otel",
}


@cache
def names(kind: str) -> dict[str, str]:
    """Every known name of a kind and where it is, entry points of other packages (group `modelyard.KIND`) included."""
    found = dict(TABLE[kind])
    for point in entry_points(group=f"modelyard.{kind}"):
        found.setdefault(point.name, point.value)
    return found


def load(kind: str, name: str) -> Any:
    """The object behind a name; a misspelt name is answered with the nearest known one.

    >>> load("database", "sqlit")
    Traceback (most recent call last):
    modelyard.core.errors.NotFound: There is no database 'sqlit'. Did you mean sqlite? Known: postgresql, sqlite.
    """
    known = names(kind)
    if name not in known:
        raise NotFound(f"There is no {kind.replace('_', ' ')} {name!r}. {nearest(name, list(known))}")
    module, _, attribute = known[name].partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        raise missing(error, f"{kind.replace('_', ' ')} {name!r}") from error


def missing(error: ModuleNotFoundError, purpose: str) -> Exception:
    """The error that says which extra to install; an unknown module's own error comes back unchanged.

    >>> print(missing(ModuleNotFoundError(name="psycopg"), "database 'postgresql'"))
    database 'postgresql' needs the package psycopg, which is not installed. Install it: pip install 'modelyard[postgres]'
    """
    package = (error.name or "").partition(".")[0]
    extra = EXTRA_OF.get(package)
    if extra is None:
        return error
    return MissingExtra(
        f"{purpose} needs the package {package}, which is not installed. Install it: pip install 'modelyard[{extra}]'"
    )
