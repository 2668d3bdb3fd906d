"""MLflow's route table, mounted where its clients look: /api and the copies under /ajax-api."""

from __future__ import annotations

from collections.abc import Iterable

from starlette.routing import BaseRoute, Mount, Router
from starlette.routing import Route as StarletteRoute

from modelyard.server.mlflow import (
    artifacts,
    experiments,
    histories,
    inputs,
    logged_models,
    metrics,
    models,
    runs,
    server_info,
    versions,
    webhooks,
)

TABLE = (
    *experiments.ROUTES,
    *metrics.ROUTES,
    *inputs.ROUTES,
    *histories.ROUTES,
    *runs.ROUTES,
    *versions.ROUTES,
    *models.ROUTES,
    *logged_models.ROUTES,
    *artifacts.ROUTES,
    *webhooks.ROUTES,
)


def routes() -> list[BaseRoute]:
    """MLflow's routes, for `create_app(more=...)`."""
    found: list[BaseRoute] = [
        StarletteRoute(path, server_info.said(text), methods=["GET"], name=f"mlflow {path}")
        for path, text in server_info.ASIDE
    ]
    for prefix in ("/api", "/ajax-api"):
        found += [
            Mount(f"{prefix}/2.0/mlflow", app=_router(entry.mounted() for entry in TABLE)),
            Mount(f"{prefix}/2.0/mlflow-artifacts", app=_router(artifacts.proxy())),
            Mount(f"{prefix}/3.0/mlflow", app=_router([server_info.INFORMATION.mounted()])),
        ]
    return found


def _router(inner: Iterable[BaseRoute]) -> Router:
    return Router(routes=list(inner), redirect_slashes=False)
