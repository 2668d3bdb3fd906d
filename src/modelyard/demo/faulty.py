"""A version that is broken on purpose: the model of a package behind a lookup that fails for some rows and is slow for others."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from modelyard.core import plugins
from modelyard.core.models import PACKAGE_MANIFEST, Signature
from modelyard.core.packages import manifest_of
from modelyard.core.ports import Output, Runtime

SLOWER = 0.004  # seconds that the lookup takes
SLOW_FROM = 80  # years: about 5 % of the records
FAILING_AGES = range(7, 200, 20)  # about 5 % of the records


class Faulty:
    """Answers like the package's model, for older people 4 ms later, and fails for an age in twenty."""

    def __init__(self, package: str) -> None:
        manifest = manifest_of((Path(package) / PACKAGE_MANIFEST).read_bytes(), package)
        file = Path(package) / manifest.files[manifest.primary]
        self._runtime: Runtime = plugins.load("runtime", manifest.primary)(file)
        self.signature: Signature = manifest.signature
        self._age = self.signature.names.index("AGEP")

    def predict(self, batch: np.ndarray) -> Output:
        """The wrapped model's answer, or an error for a row whose age the step does not know."""
        ages = batch[:, self._age]
        if ages.max() >= SLOW_FROM:
            time.sleep(SLOWER)
        refuse(int(age) for age in ages)
        return self._runtime.predict(batch)


def refuse(ages: Iterable[int]) -> None:
    """The fault: a lookup that has no entry for some ages."""
    for age in ages:
        if age in FAILING_AGES:
            raise LookupError(f"no income bracket for age {age}")
