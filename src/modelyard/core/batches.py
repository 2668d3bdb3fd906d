"""From records to a model's batch: every value checked against the signature, in the model's column order."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from modelyard.core.errors import Invalid, nearest
from modelyard.core.models import FeatureSpec, Signature

Records = Sequence[Mapping[str, Any]]
Batch = list[list[Any]]

_FAR = 2**63  # an int64 tensor holds nothing beyond


def batch_of(signature: Signature, records: Records) -> Batch:
    """The records as rows in the signature's column order, each value of the kind that its column has.

    Numbers and bools become float (a missing one not-a-number); text stays text (a missing one None). A not-a-number
    counts as missing. Raises Invalid, naming the row and the feature, for a feature that is missing, unknown, null
    where it may not be, or of another type. To read many batches use `batch_reader`.

    >>> batch_of(Signature(inputs=(FeatureSpec(name="age"), FeatureSpec(name="job", kind="string")), task="binary"),
    ...     [{"job": "cook", "age": 41}])
    [[41.0, 'cook']]
    """
    return batch_reader(signature)(records)


def batch_reader(signature: Signature) -> Callable[[Records], Batch]:
    """`batch_of` for one signature, prepared once: what a server keeps beside each loaded model."""
    readers = [(spec.name, spec, _READERS[spec.kind]) for spec in signature.inputs]
    count = len(readers)

    def read(records: Records) -> Batch:
        batch = []
        for position, record in enumerate(records):
            try:
                row = [reader(record[name], spec) for name, spec, reader in readers]
            except (KeyError, TypeError, AttributeError) as error:
                raise _misnamed(signature, record, position) from error
            except ValueError as error:
                raise Invalid(f"Row {position}: {error}") from error
            if len(record) != count:
                raise _misnamed(signature, record, position)
            batch.append(row)
        return batch

    return read


def _misnamed(signature: Signature, record: Any, position: int) -> Invalid:
    """What is wrong with a record's keys."""
    if not isinstance(record, Mapping):
        return Invalid(
            f"Row {position} is a {type(record).__name__}. Send an object that maps feature names to values."
        )
    known = list(signature.names)
    extra = [str(name) for name in record if name not in known]
    lacking = [name for name in known if name not in record]
    if extra and lacking:
        return Invalid(
            f"Row {position} has the unknown feature {extra[0]!r} and lacks {lacking[0]!r}. {nearest(extra[0], lacking)}"
        )
    if lacking:
        return Invalid(f"Row {position} lacks the feature {', '.join(map(repr, lacking[:5]))}. Send every input.")
    return Invalid(f"Row {position} has the unknown feature {extra[0]!r}. {nearest(extra[0], known)}")


def _number(value: Any, spec: FeatureSpec) -> float:
    if value is None:
        number = math.nan
    elif isinstance(value, (float, int)) or _is_number(value):
        number = _as_float(value, spec)
    else:
        raise _mistyped(value, spec, "a number")
    if math.isfinite(number):
        return number
    if math.isinf(number):
        raise _mistyped(value, spec, "a finite number")
    if not spec.nullable:
        raise ValueError(f"the feature {spec.name!r} is missing its value, and may not. Send a number.")
    return number


def _as_float(value: Any, spec: FeatureSpec) -> float:
    try:
        return float(value)
    except OverflowError as error:  # a whole number beyond 1.8e308
        raise _mistyped(value, spec, "a smaller number") from error


def _whole(value: Any, spec: FeatureSpec) -> float:
    number = _number(value, spec)
    if not math.isnan(number) and (not number.is_integer() or abs(number) >= _FAR):
        raise _mistyped(value, spec, "a whole number")
    return number


def _truth(value: Any, spec: FeatureSpec) -> float:
    number = _number(value, spec)
    if not math.isnan(number) and number not in (0.0, 1.0):
        raise _mistyped(value, spec, "true or false")
    return number


def _text(value: Any, spec: FeatureSpec) -> str | None:
    if isinstance(value, str):
        return str(value)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        if not spec.nullable:
            raise ValueError(f"the feature {spec.name!r} is missing its value, and may not. Send text.")
        return None
    raise _mistyped(value, spec, "text")


def _is_number(value: Any) -> bool:
    """NumPy's scalars and the like: not text, and they say what they are worth."""
    return not isinstance(value, (str, bytes)) and hasattr(value, "__float__") and not hasattr(value, "__len__")


def _mistyped(value: Any, spec: FeatureSpec, wanted: str) -> ValueError:
    try:
        shown = repr(value)[:40]
    except ValueError:  # Python writes no whole number of more than 4,300 digits
        shown = "too long to write"
    return ValueError(f"the feature {spec.name!r} is {shown}, a {type(value).__name__}. Send {wanted}.")


_READERS: dict[str, Callable[[Any, FeatureSpec], Any]] = {
    "float": _number,
    "int": _whole,
    "bool": _truth,
    "string": _text,
}
