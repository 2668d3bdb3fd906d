"""What kind of thing each column is, and how it is prepared for the learner. Pure functions on arrays."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np

from modelyard.core.errors import Invalid, nearest
from modelyard.core.learning import Block, Step, Traits
from modelyard.core.models import FeatureKind, FeatureSpec, Signature, Task

Array = np.ndarray[Any, np.dtype[Any]]
Columns = Mapping[str, Array]

MANY_CATEGORIES = 32  # above it a column a category costs more than it tells; the target's mean by category is used
MAX_CLASSES = 20  # a whole-number target with more values is a quantity
_ENCODERS = ("one_hot", "ordinal", "target", "date")
_FOR_NUMBERS = ("scale", "log", "power", "bin", "clip", "interaction")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}|\Z)")


def tidy(values: Array) -> tuple[Array, FeatureKind]:
    """A column as float64 (missing = NaN), or as text in objects (missing = None), with its kind.

    Dates become ISO text. A column of several kinds becomes text.

    >>> tidy(np.array([1, 2]))[1], tidy(np.array([True, None], dtype=object))[1], tidy(np.array(["a"], dtype=object))[1]
    ('int', 'bool', 'string')
    """
    if values.dtype.kind in "iufb":
        kinds: dict[str, FeatureKind] = {"f": "float", "b": "bool"}
        return values.astype(np.float64), kinds.get(values.dtype.kind, "int")
    present = [value for value in values.tolist() if value is not None]
    if present and all(isinstance(value, bool) for value in present):
        return np.array([np.nan if value is None else float(value) for value in values.tolist()]), "bool"
    text = [None if value is None else _as_text(value) for value in values.tolist()]
    return np.array(text, dtype=object), "string"


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else value.isoformat() if hasattr(value, "isoformat") else str(value)


def as_float32(values: Array) -> Array:
    """The nearest float32 numbers, as float64; beyond 3.4e38 they are infinite."""
    with np.errstate(over="ignore"):
        return values.astype(np.float32).astype(np.float64)


def missing(values: Array) -> Array:
    """True where a value is missing."""
    found: Array = np.isnan(values) if values.dtype.kind == "f" else np.equal(values, np.array(None))
    return found


def is_date(values: Array) -> bool:
    """True if every present text is an ISO date or time."""
    present = [value for value in values.tolist() if value]
    if not present or not all(_DATE.match(value) for value in present[:100]):
        return False
    try:
        for value in present:
            datetime.fromisoformat(value)
    except ValueError:
        return False
    return True


def spec_of(name: str, values: Array, kind: FeatureKind) -> FeatureSpec:
    """The signature of one input: it may be missing only where it was missing in the table."""
    categories = None
    if kind == "string":
        found = sorted({value for value in values.tolist() if value is not None})
        categories = tuple(found) if len(found) <= MANY_CATEGORIES and not is_date(values) else None
    return FeatureSpec(name=name, kind=kind, nullable=bool(missing(values).any()), categories=categories)


def target_of(values: Array, kind: FeatureKind, wanted: str) -> tuple[Array, Task, tuple[Any, ...]]:
    """(y, task, classes): class codes and the classes they stand for, or float64 numbers and no classes.

    Under `auto`, text and bools are classes, and so are whole numbers of two values, or of at most 20 in an int column.

    >>> target_of(np.array(["no", "yes", "no"], dtype=object), "string", "auto")
    (array([0, 1, 0]), 'binary', ('no', 'yes'))
    """
    levels = sorted(set(values.tolist()))
    if len(levels) < 2:
        raise Invalid(f"The target has {len(levels)} distinct value(s). It takes two or more to learn from.")
    whole = kind != "string" and all(float(level).is_integer() for level in levels)
    few = len(levels) == 2 or (kind == "int" and len(levels) <= MAX_CLASSES)
    classifies = kind in ("string", "bool") or (whole and few)
    if wanted == "regression" or (wanted == "auto" and not classifies):
        if kind == "string":
            raise Invalid("The target is text, which a regression cannot predict. Set task to auto.")
        return values.astype(np.float64), "regression", ()
    if wanted == "binary" and len(levels) != 2:
        raise Invalid(f"task is binary and the target has {len(levels)} values. Set task to multiclass or auto.")
    codes = np.searchsorted(np.array(levels), values.astype(np.array(levels).dtype))
    read = {"bool": bool, "string": str}.get(kind, int if whole else float)
    return codes, "binary" if len(levels) == 2 else "multiclass", tuple(read(level) for level in levels)


def matrix(columns: Columns, signature: Signature) -> Array:
    """The batch of the columns in the signature's order: float64, or objects where some are text (missing = "").

    Numbers are rounded to float32, in training and in every answer: an exported graph takes float32, and a value that
    rounds across a split would be answered otherwise by the graph than by the native model.
    """
    if signature.numeric:
        return np.column_stack([as_float32(columns[name]) for name in signature.names])
    batch = np.empty((len(next(iter(columns.values()))), len(signature.inputs)), dtype=object)
    for position, spec in enumerate(signature.inputs):
        values = columns[spec.name]
        batch[:, position] = np.where(missing(values), "", values) if spec.kind == "string" else as_float32(values)
    return batch


def blocks_of(
    signature: Signature, columns: Columns, transforms: Sequence[Mapping[str, Any]], traits: Traits
) -> tuple[Block, ...]:
    """How every column is prepared: the steps asked for, and what the column and the learner need beside them."""
    asked = _asked(signature, transforms)
    groups: dict[tuple[Any, ...], list[int]] = {}
    steps_of: dict[tuple[Any, ...], tuple[Step, ...]] = {}
    blocks: list[Block] = []
    for position, spec in enumerate(signature.inputs):
        steps = [step for step in asked[position] if step.kind != "interaction"]
        if not steps and any(step.kind == "interaction" for step in asked[position]):
            continue  # the interaction's own block has the column itself too
        chain = _chain(spec, columns[spec.name], steps, signature, traits)
        key = tuple((step.kind, *sorted(step.params.items())) for step in chain)
        groups.setdefault(key, []).append(position)
        steps_of[key] = chain
    blocks = [Block(columns=tuple(found), steps=steps_of[key]) for key, found in groups.items()]
    return (*blocks, *_interactions(signature, transforms, traits))


def _asked(signature: Signature, transforms: Sequence[Mapping[str, Any]]) -> list[list[Step]]:
    names = list(signature.names)
    asked: list[list[Step]] = [[] for _ in names]
    for transform in transforms:
        kind = transform["type"]
        for column in transform["columns"]:
            if column not in names:
                raise Invalid(f"feature_transforms names the unknown column {column!r}. {nearest(str(column), names)}")
            spec = signature.inputs[names.index(column)]
            if (kind in _FOR_NUMBERS and spec.kind == "string") or (kind == "date" and spec.kind != "string"):
                raise Invalid(f"The transformation {kind} does not fit {column!r}, a {spec.kind} column. Take it out.")
            if kind == "impute" and spec.kind == "string":
                raise Invalid(f"{column!r} is text: missing text is a category of its own. Take the impute out.")
            options = {name: value for name, value in transform.items() if name not in ("type", "columns")}
            asked[names.index(column)].append(Step(kind=kind, params=options))
    return asked


def _chain(
    spec: FeatureSpec, values: Array, steps: list[Step], signature: Signature, traits: Traits
) -> tuple[Step, ...]:
    chain = list(steps)
    kinds = [step.kind for step in chain]
    is_text = spec.kind == "string"
    if is_text and not set(kinds) & set(_ENCODERS):
        chain = [*chain, Step(kind=_encoder(spec, values))]
    dated = any(step.kind == "date" for step in chain)
    coded = any(step.kind in ("one_hot", "ordinal", "target") for step in chain)
    fill = Step(kind="impute", params={"strategy": "median"})
    if spec.nullable and not traits.takes_missing and "impute" not in kinds and (dated or not (is_text or coded)):
        chain = [chain[0], fill, *chain[1:]] if dated else [fill, *chain]
    if traits.scaled and not {"scale", "power", "bin", "one_hot"} & {step.kind for step in chain}:
        chain.append(Step(kind="scale"))
    if not is_text and not signature.numeric:
        chain.insert(0, Step(kind="as_numbers"))
    return tuple(chain)


def _encoder(spec: FeatureSpec, values: Array) -> str:
    if spec.categories is not None:
        return "one_hot"
    return "date" if is_date(values) else "target"


def _interactions(signature: Signature, transforms: Sequence[Mapping[str, Any]], traits: Traits) -> list[Block]:
    blocks = []
    for transform in transforms:
        if transform["type"] == "interaction":
            places = tuple(signature.names.index(name) for name in transform["columns"])
            steps = [] if signature.numeric else [Step(kind="as_numbers")]
            if any(signature.inputs[place].nullable for place in places):
                steps.append(Step(kind="impute", params={"strategy": "median"}))
            steps.append(Step(kind="interaction"))
            blocks.append(Block(columns=places, steps=(*steps, *([Step(kind="scale")] if traits.scaled else []))))
    return blocks
