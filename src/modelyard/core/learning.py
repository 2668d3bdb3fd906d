"""What the pipeline tells a learning library: how columns are prepared, how rows are split, what a learner wants."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One transformation, for example `impute` with `{"strategy": "median"}`."""

    kind: str
    params: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Columns (positions in the signature) that go through the same steps."""

    columns: tuple[int, ...]
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What a learner wants: scaled columns, whether it takes missing values itself, and what is worth tuning."""

    scaled: bool
    takes_missing: bool
    space: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Folding:
    """How rows are held out: stratified by class, whole groups together, or in the order of time."""

    folds: int
    seed: int
    stratified: bool = False
    groups: np.ndarray | None = None  # (n,) group codes
    ordered: bool = False  # rows are in the order of time; later ones are held out
