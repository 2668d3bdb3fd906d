"""Answers predictions: in process, and over HTTP from processes that split, shadow, count and roll back by themselves."""

from modelyard.serving.values import (
    EndpointConfig,
    Installed,
    ModelFramework,
    PredictionRequest,
    PredictionResponse,
)

__all__ = [
    "EndpointConfig",
    "Installed",
    "ModelFramework",
    "ModelServer",
    "PredictionRequest",
    "PredictionResponse",
]


def __getattr__(name: str) -> object:
    """`ModelServer` on first use: the serving processes import this package and need no database."""
    if name == "ModelServer":
        from modelyard.serving.service import ModelServer

        return ModelServer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
