"""What every runtime does alike: numbers as float32, and the likeliest class with ties settled."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from modelyard.core.errors import Invalid, Unfit
from modelyard.core.models import Signature
from modelyard.core.ports import Output

Array = np.ndarray[Any, np.dtype[Any]]

ROUNDING = 1e-2  # a softmax in half precision sums to one only so nearly
TIE = 1e-6  # float32 and float64 forms of one model differ by less; within it the earlier class is taken


def likeliest(probabilities: Array) -> Array:
    """The position of each row's likeliest class (n,), the earlier of classes that are alike to 1e-6.

    A forest's votes often tie exactly, and rounding would otherwise let two forms of one model answer differently.

    >>> likeliest(np.array([[0.5, 0.5000001], [0.2, 0.8]])).tolist()
    [0, 1]
    """
    if probabilities.shape[1] == 2:
        found: Array = (probabilities[:, 1] - probabilities[:, 0] > TIE).astype(np.intp)
        return found
    return np.asarray((probabilities >= probabilities.max(axis=1, keepdims=True) - TIE).argmax(axis=1))


def as_float32(values: Array) -> Array:
    """The nearest float32 numbers, as float64: what an exported graph sees, so that every form sees the same."""
    with np.errstate(over="ignore"):  # beyond 3.4e38 is infinite to a float32 model
        return values.astype(np.float32).astype(np.float64)


def unfit(ask: Callable[[Array], object], batch: Array, fine: Array, names: tuple[str, ...]) -> Unfit | None:
    """Which feature of which row a library refuses, found by asking: with more and more of the row taken from `fine`, a row
    (1, inputs) that it answers. None where it does not answer even that one: then it is the model that fails.
    """

    told: Exception = ValueError()

    def answers(rows: Array) -> bool:
        nonlocal told
        try:
            ask(rows)
        except (ValueError, TypeError) as error:
            told = error
            return False
        return True

    if not answers(fine):
        return None
    first, last = 0, len(batch)  # a row that is refused lies from first up to last
    while last - first > 1:
        middle = (first + last) // 2
        first, last = (middle, last) if answers(batch[first:middle]) else (first, middle)
    row = batch[first:last]
    if answers(row):  # only together are its rows too much
        return None
    why = " ".join(str(told).split())
    low, high = 0, len(names)  # with `high` features taken from the fine row it is answered, with `low` it is not
    while high - low > 1:
        middle = (low + high) // 2
        trial = np.concatenate([fine[:, :middle], row[:, middle:]], axis=1)
        low, high = (low, middle) if answers(trial) else (middle, high)
    shown = repr(row[0, low])[:40]
    return Unfit(f"Row {first}: the model refuses the feature {names[low]!r}, which is {shown}: {why[:300]}")


def network_signature(path: Path, signature: Signature | None) -> Signature:
    """The signature that a network's file, which names no inputs, was given; Invalid for none and for text inputs."""
    if signature is None:
        raise Invalid(
            f"{path.name} names no inputs. Pass its signature: load_model(path, Signature(inputs=(FeatureSpec(name=...), "
            '...), task="binary", classes=(0, 1))); in a model package, modelyard.json holds it.'
        )
    if not signature.numeric:
        text = ", ".join(spec.name for spec in signature.inputs if spec.kind == "string")
        raise Invalid(f"{path.name} takes numbers, and its signature says that {text} is text. Encode it as numbers.")
    if signature.task != "regression" and len(signature.classes) < 2:
        raise Invalid(f"{path.name} has a signature of task {signature.task} without its classes. Name them.")
    return signature


def network_output(answer: Array, rows: int, signature: Signature) -> Output:
    """A network's numbers (n,) or (n, 1), or its probabilities (n, classes), as an answer to n rows.

    One probability a row is that of the last of two classes. Invalid for another shape and for what is no probability.

    >>> yes_no = Signature(inputs=(), task="binary", classes=("no", "yes"))
    >>> network_output(np.array([[0.9], [0.2]]), 2, yes_no).predictions.tolist()
    ['yes', 'no']
    """
    numbers = answer.astype(np.float64)
    width = 1 if signature.task == "regression" else len(signature.classes)
    one = numbers.shape in ((rows,), (rows, 1))
    if not (one and width <= 2) and numbers.shape != (rows, width):
        raise Invalid(
            f"The network gives the shape {numbers.shape} for {rows} rows; its signature asks for ({rows}, {width})."
        )
    if signature.task == "regression":
        return Output(predictions=numbers.reshape(-1))
    if one:
        last = numbers.reshape(-1)
        numbers = np.column_stack([1.0 - last, last])
    sums = numbers.sum(axis=1)
    if not (np.abs(sums - 1.0) <= ROUNDING).all() or numbers.min(initial=0.0) < -ROUNDING:
        row = int(np.argmax(~(np.abs(sums - 1.0) <= ROUNDING) | (numbers.min(axis=1) < -ROUNDING)))
        raise Invalid(
            f"The network gives {numbers[row].tolist()} for row {row}, which are no probabilities. "
            "End it with a softmax or a sigmoid."
        )
    return Output(predictions=np.asarray(signature.classes)[likeliest(numbers)], probabilities=numbers)
