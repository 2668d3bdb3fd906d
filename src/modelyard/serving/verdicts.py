"""What an outcome says of its prediction."""

from __future__ import annotations

from typing import Any


def success(prediction: Any, outcome: Any) -> bool | None:
    """Whether a prediction turned out well; None for a number that was predicted, of which only the error can be told.

    A class is right or wrong. Of a number, an outcome of true or false says by itself whether what was aimed at came about.

    >>> success(1, 1.0), success("yes", "no"), success(0.7, True), success(0.7, 0.9)
    (True, False, True, None)
    """
    if isinstance(prediction, float):
        return outcome if isinstance(outcome, bool) else None
    return bool(prediction == outcome)
