from typing import Any

import numpy as np

Buffer = np.ndarray[Any, Any]

class Forest:
    def __new__(
        cls,
        nodes: Buffer,
        leaves: Buffer,
        roots: Buffer,
        depths: Buffer,
        values: Buffer,
        base: Buffer,
        width: int,
        link: int,
        single: bool,
    ) -> Forest: ...
    @property
    def columns(self) -> int: ...
    def predict(self, batch: Buffer, out: Buffer, likely: Buffer) -> None: ...
