"""modelyard: one package for the whole life of a machine-learning model.

`Yard("./yard")` opens everything in one folder; `load_model(path)` reads a trained model. Names load on first use, so
importing modelyard imports no third-party package.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modelyard.client.client import Client as Client
    from modelyard.core.decisions import Decision as Decision
    from modelyard.core.events import Event as Event
    from modelyard.core.measures import Measurement as Measurement
    from modelyard.core.models import ModelStage as ModelStage
    from modelyard.core.models import ModelVersion as ModelVersion
    from modelyard.core.refs import ModelRef as ModelRef
    from modelyard.engines.loading import load_model as load_model
    from modelyard.yard import Yard as Yard

__version__ = "0.1.0"

_WHERE = {
    "Client": "modelyard.client.client",
    "Decision": "modelyard.core.decisions",
    "Event": "modelyard.core.events",
    "Measurement": "modelyard.core.measures",
    "ModelRef": "modelyard.core.refs",
    "ModelStage": "modelyard.core.models",
    "ModelVersion": "modelyard.core.models",
    "Yard": "modelyard.yard",
    "load_model": "modelyard.engines.loading",
}

__all__ = [
    "Client",
    "Decision",
    "Event",
    "Measurement",
    "ModelRef",
    "ModelStage",
    "ModelVersion",
    "Yard",
    "load_model",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'modelyard' has no attribute {name!r}")
    value = getattr(importlib.import_module(_WHERE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_WHERE])
