"""Python services for the tests: code that composes other models, and what may go wrong in it."""

from __future__ import annotations

import asyncio

import numpy as np

from modelyard.core.errors import Invalid
from modelyard.core.models import FeatureSpec, Signature
from modelyard.core.ports import Output

INPUTS = (
    FeatureSpec(name="amount"),
    FeatureSpec(name="visits", kind="int"),
    FeatureSpec(name="member", kind="bool"),
    FeatureSpec(name="age", nullable=True),
)
BINARY = Signature(inputs=INPUTS, task="binary", classes=(0, 1))


def output(chance: np.ndarray) -> Output:
    return Output(predictions=(chance > 0.5).astype(np.int64), probabilities=np.column_stack([1 - chance, chance]))


class Careful:
    """Asks its one model by named columns."""

    signature = BINARY

    def __init__(self, model):
        self.model = model

    def predict_columns(self, columns):
        return self.model.predict(columns)


class Matrix:
    """Asks its one model with the matrix as it came, in a coroutine."""

    signature = BINARY

    def __init__(self, model):
        self.model = model

    async def predict(self, batch):
        await asyncio.sleep(0)
        return self.model.predict(batch)


class Cascade:
    """The quick model answers; the careful one is asked where that is unsure, and says so by its probability."""

    signature = Signature(
        inputs=(*INPUTS, FeatureSpec(name="colour", kind="string", categories=("green", "red"))),
        task="binary",
        classes=(0, 1),
    )

    def __init__(self, quick, careful):
        self.quick, self.careful = quick, careful

    def predict_columns(self, columns):
        if (columns["amount"] > 1000).any():
            raise Invalid("The amount is above 1000. Send it by mail.")
        if (columns["amount"] < -1000).any():
            raise LookupError("no rate for this amount")
        chance = self.quick.predict(columns).probabilities[:, 1]
        unsure = np.abs(chance - 0.5) < 0.2
        if unsure.any():
            rows = {name: values[unsure] for name, values in columns.items()}
            chance[unsure] = self.careful.predict(rows).probabilities[:, 1]
        return output(np.where(columns["colour"] == "red", chance / 2, chance))


class Ensemble:
    """The mean of what its models say, asked at the same time."""

    signature = BINARY

    def __init__(self, first, second):
        self.models = first, second

    async def predict_columns(self, columns):
        answers = await asyncio.gather(*(asyncio.to_thread(one.predict, columns) for one in self.models))
        return output(np.mean([one.probabilities[:, 1] for one in answers], axis=0))


class Together:
    """Answers nobody before as many requests are waiting in it as `amount` says: without a thread for each."""

    signature = BINARY

    def __init__(self):
        self.here, self.all = 0, None

    async def predict(self, batch):
        wanted = int(batch[0, 0])
        if wanted:
            self.all = self.all or asyncio.Event()
            self.here += 1
            if self.here >= wanted:
                self.all.set()
            await self.all.wait()
        return output(np.full(len(batch), 0.75))


class Odd:
    """Gives what is no answer, as `kind` says."""

    signature = BINARY

    def __init__(self, kind):
        self.kind = kind

    def predict(self, batch):
        if (batch[:, 0] == 0).all():  # the warm-up
            return output(np.zeros(len(batch)))
        half = np.full((len(batch), 2), 0.5)
        return {
            "nothing": None,
            "list": [1] * len(batch),
            "rows": Output(predictions=np.zeros(len(batch) + 1)),
            "classes": Output(predictions=np.zeros(len(batch)), probabilities=half[:, :1]),
            "words": Output(predictions=np.zeros(len(batch)), probabilities=np.full((len(batch), 2), "x")),
        }[self.kind]
