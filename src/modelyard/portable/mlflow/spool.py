"""Metric values on their way, checked, in a file once they are many: the memory of an import does not grow with a run's."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import suppress

from modelyard.portable.mlflow.values import Origin
from modelyard.tracking import Run
from modelyard.tracking.portable import Value, checked_values, latest

IN_MEMORY = 4 << 20  # bytes of one run's values


class Spool:
    """Every metric value of one run, read from where it is kept."""

    def __init__(self, origin: Origin, run: Run) -> None:
        self._file = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115 - closed by `close`
        self.newest: dict[str, Value] = {}
        self.count = 0
        try:
            for metric in run.latest_metrics:
                for points in origin.history(run, metric.key):
                    self._add(metric.key, checked_values(metric.key, points))
        except BaseException:
            self.close()
            raise

    def _add(self, key: str, values: list[Value]) -> None:
        if values:
            self._file.write(json.dumps([key, values]).encode() + b"\n")
            known = [self.newest[key]] if key in self.newest else []
            self.newest[key] = latest([*known, *values])
            self.count += len(values)

    def values(self) -> Iterator[tuple[str, list[Value]]]:
        """The values again, metric by metric, some at a time."""
        self._file.seek(0)
        for line in self._file:
            key, values = json.loads(line)
            yield key, values

    def close(self) -> None:
        """Let the file go."""
        with suppress(OSError):
            self._file.close()
