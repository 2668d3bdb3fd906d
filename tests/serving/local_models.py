"""Small real models that need no library, loaded by the serving processes as Python code of this machine's own."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np

from modelyard.core.models import FeatureSpec, Signature
from modelyard.core.ports import Output
from modelyard.core.traffic import GuardTrip


class Linear:
    """sign(a + b - shift), with faults: raises for rows whose `a` has a fraction below `fail`, takes `slow` ms, or waits
    until the file `held` is gone."""

    def __init__(self, settings: str = "{}") -> None:
        given = json.loads(settings)
        self.shift = given.get("shift", 0.0)
        self.fail = given.get("fail", 0.0)
        self.slow = given.get("slow", 0.0)
        self.held = given.get("held", "")
        task = given.get("task", "binary")
        self.signature = Signature(
            inputs=(FeatureSpec(name="a"), FeatureSpec(name="b", nullable=True)),
            task=task,
            classes=() if task == "regression" else (0, 1),
        )

    def predict(self, batch: np.ndarray) -> Output:
        if ((batch[:, 0] % 1 < self.fail) & (batch[:, 0] != 0)).any():
            raise FloatingPointError("the graph is wrong for this row")
        if self.slow:
            time.sleep(self.slow / 1000)
        while self.held and Path(self.held).exists():
            time.sleep(0.01)
        score = np.nansum(batch, axis=1) - self.shift
        if self.signature.task == "regression":
            return Output(predictions=score)
        p = 1 / (1 + np.exp(-score))
        return Output(predictions=(p > 0.5).astype(np.int64), probabilities=np.column_stack([1 - p, p]))


class Texts:
    """Whether the colour is red, from one text and one whole number."""

    signature = Signature(
        inputs=(FeatureSpec(name="colour", kind="string"), FeatureSpec(name="n", kind="int")),
        task="multiclass",
        classes=("no", "yes"),
    )

    def predict(self, batch: np.ndarray) -> Output:
        return Output(predictions=np.array(["yes" if row[0] == "red" else "no" for row in batch], dtype=object))


def write_down(place: str, trip: GuardTrip) -> None:
    """A report hook: fails the first time it is called, as a busy database may."""
    tried = Path(place) / "tried"
    if not tried.exists():
        tried.touch()
        raise ConnectionError("not yet")
    with (Path(place) / "reported.txt").open("a") as stream:
        stream.write(f"{trip.rollout_id} {trip.step} {trip.metric}\n")
