"""What the chapters share: the yard, the people, the records, and the versions made so far."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from modelyard.core import plugins
from modelyard.data.census import FEATURES, LABEL
from modelyard.demo.load import Answer, Traffic, traffic
from modelyard.yard import Yard

MODEL = "employment"
PEOPLE = {"ana": "ana@example.org", "ben": "ben@example.org", "cem": "cem@example.org"}  # scientist, reviewer, operator
RATE = 400.0  # requests a second
BODIES = 4_000


@dataclass(slots=True)
class Scene:
    """The state of the story."""

    yard: Yard
    folder: Path
    records: Any  # a frame of all four years
    port: int = 0
    v3: Literal["broken", "healthy"] = "broken"
    url: str = ""
    packages: dict[str, Path] = field(default_factory=dict)  # version -> model package
    held_back: Any = None  # records of 2015 that no model was trained on
    outcomes: list[tuple[Answer, dict[str, Any], Any]] = field(default_factory=list)  # answers, requests, truths
    _number: Iterator[int] = field(default_factory=itertools.count)

    def year(self, *years: int) -> Any:
        """The records of some years."""
        return self.records[self.records["year"].isin(years)]

    def bodies(self, *years: int, seed: int = 0, count: int = BODIES) -> tuple[list[dict[str, Any]], list[Any]]:
        """Requests made of records of those years, and the true label of each."""
        rows = self.year(*years).sample(count, random_state=seed)
        features = rows[list(FEATURES)].to_dict("records")
        units = rows["id"].tolist()
        bodies = [{"features": row, "unit": f"person-{unit}"} for row, unit in zip(features, units, strict=True)]
        return bodies, rows[LABEL].tolist()

    @contextmanager
    def traffic(
        self, bodies: list[dict[str, Any]], *, seconds: float, endpoint: str = MODEL, rate: float = RATE
    ) -> Iterator[Traffic]:
        """HTTP requests to the serving processes, at a steady rate, from a process of its own."""
        out = self.folder / f"answers-{next(self._number)}.jsonl"
        with traffic(f"{self.url}/predict/{endpoint}", bodies, out, rate=rate, seconds=seconds) as running:
            yield running

    def table(self, name: str, frame: Any) -> Path:
        """A Parquet file of the frame in the story's folder."""
        path = self.folder / f"{name}.parquet"
        plugins.load("tables", "pandas").write(frame, path)
        return path


def features_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """The 16 inputs of a record."""
    return {name: row[name] for name in FEATURES}
