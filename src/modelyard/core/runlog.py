"""What a training library's callback needs of a run: somewhere to put numbers and settings."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Protocol

PLAIN = (str, int, float, bool, type(None))


class RunLog(Protocol):
    """A run that is being recorded."""

    def log_metrics(self, metrics: Mapping[str, float], *, step: int = 0) -> None:
        """Log one value of each metric."""
        ...

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log parameters, as text."""
        ...


def plain_settings(settings: Mapping[str, Any], *, longest: int = 250) -> dict[str, Any]:
    """The settings that are short plain values; data, functions and estimators among them are left out.

    Their names are made such as parameters have here: a pipeline's steps may be called anything.

    >>> plain_settings({"depth": 6, "objective": len, "classes": [0, 1], "scale (std)__copy": True})
    {'depth': 6, 'classes': '[0, 1]', 'scale _std___copy': True}
    """
    kept: dict[str, Any] = {}
    for name, value in settings.items():
        listed = isinstance(value, (list, tuple)) and all(isinstance(one, PLAIN) for one in value)
        if (isinstance(value, PLAIN) or listed) and len(str(value)) <= longest:
            kept[metric_key(str(name))] = str(list(value)) if listed else value
    return kept


def metric_key(*parts: str) -> str:
    """A metric's or parameter's name of a library's own words, which may have signs that names here have not.

    >>> metric_key("valid", "ndcg@5")
    'valid-ndcg_5'
    """
    return re.sub(r"[^\w.\- :]", "_", "-".join(parts))[:250]
