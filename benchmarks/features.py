"""The feature store against the clock: online reads, bulk writes and the point-in-time join. Run: python benchmarks/features.py

Prints wall time, which neighbours disturb, and CPU seconds, which they hardly do. Peers measured on a like machine:
Feast 0.67 reads 1 x 10 in 450 microseconds (SQLite) and joins 100,000 labels to 1,000,000 rows in 2.9 CPU seconds (DuckDB).
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from modelyard.features import Feature, FeatureStore, FeatureType

ENTITIES, ROWS, LABELS = 70_000, 1_000_000, 100_000
START = pd.Timestamp("2026-01-01", tz="UTC")


def timed(name: str, call: Callable[[], Any], *, repeat: int = 1, units: int = 1, unit: str = "") -> None:
    """Print one line: the best and the median wall time of a call, its mean CPU time, and units a second."""
    walls, cpu = [], time.process_time()
    for _ in range(repeat):
        begun = time.perf_counter()
        call()
        walls.append(time.perf_counter() - begun)
    cpu = (time.process_time() - cpu) / repeat
    speed = f"{units / min(walls):14,.0f} {unit}/s" if unit else ""
    print(f"{name:44}{min(walls) * 1e6:14,.1f}{np.median(walls) * 1e6:14,.1f}{cpu:14.6f}{speed}")


def table(rows: int, names: list[str], entities: np.ndarray) -> pd.DataFrame:
    """Random float features at random moments of 100 days."""
    draw = np.random.default_rng(0)
    columns = {name: draw.normal(size=rows) for name in names}
    moments = START + pd.to_timedelta(draw.integers(0, 8_640_000, rows), unit="s")
    return pd.DataFrame({"card": entities, "event_timestamp": moments, **columns})


def main() -> None:
    """Measure in a scratch folder."""
    with tempfile.TemporaryDirectory() as folder:
        store = FeatureStore(folder)
        wide, many = [f"w{n}" for n in range(50)], [f"m{n}" for n in range(10)]
        for name in wide + many:
            store.register_feature(Feature(name=name, entity_type="card", feature_type=FeatureType.FLOAT))
        print(f"{'':44}{'best us':>14}{'median us':>14}{'CPU s':>14}")
        people = np.array([f"c{n}" for n in range(ENTITIES)], dtype=object)
        narrow, full = table(ENTITIES, wide[:16], people), table(ENTITIES, wide, people)
        timed("write 70,000 x 16", lambda: store.write_features(narrow), units=ENTITIES, unit="rows")
        timed("write 70,000 x 50", lambda: store.write_features(full), units=ENTITIES, unit="rows")
        drawn = np.random.default_rng(1)
        rows = table(ROWS, many, drawn.choice(people[:10_000], ROWS))
        timed("write 1,000,000 x 10 of 10,000 entities", lambda: store.write_features(rows), units=ROWS, unit="rows")
        timed("online 1 x 10", lambda: store.get_online_features(["c77"], many), repeat=2_000)
        hundred = [f"c{n}" for n in range(100)]
        timed("online 100 x 50, in two layouts", lambda: store.get_online_features(hundred, wide), repeat=100)
        timed("materialize 70,000 x 50", lambda: store.materialize(wide[16:]), units=ENTITIES, unit="rows")
        spine = table(LABELS, [], drawn.choice(people[:10_000], LABELS))
        timed("point in time, 100,000 labels, 1,000,000 x 10", lambda: store.get_offline_features(spine, many))
        timed("statistics of 1,000,000 values", lambda: store.compute_feature_statistics("m0"))


if __name__ == "__main__":
    main()
