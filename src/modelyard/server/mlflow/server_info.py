"""What the server says of itself."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from modelyard.server.callers import PUBLIC
from modelyard.server.mlflow.calls import Call, route
from modelyard.server.mlflow.experiments import READ

SPEAKS = "3.17.2"  # the version of MLflow whose protocol this is: its clients ask which calls they may make


def information(_: Call) -> dict[str, Any]:
    """What MLflow's client asks before it chooses among its ways."""
    return {
        "store_type": "SqlStore",
        "workspaces_enabled": False,
        "trace_archival_enabled": False,
        "multipart_uploads_enabled": True,
        "multipart_downloads_enabled": False,
        "presigned_upload_run_id_supported": True,
        "presigned_upload_model_id_supported": True,
        "features_enabled": {"gateway": False},
    }


INFORMATION = route("GET", "/server-info", READ, information, anywhere=True)
ASIDE: tuple[tuple[str, str], ...] = (("/health", "OK"), ("/version", SPEAKS))


def said(text: str) -> Any:
    """An endpoint that answers anybody with one word."""

    async def endpoint(_: Any) -> Response:
        return Response(text, media_type="text/plain")

    endpoint.needs = PUBLIC  # type: ignore[attr-defined]  # functions take attributes
    return endpoint
