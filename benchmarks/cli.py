"""CPU seconds of starting the command line: `python benchmarks/cli.py`."""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import tempfile

COMMANDS = [["--help"], ["--version"], ["config", "show"], ["registry", "--help"], ["registry", "list-models"]]


def cpu_seconds(command: list[str], folder: str) -> float:
    """CPU of one run, children included."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "modelyard", *command], cwd=folder, capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def main() -> None:
    """Print the median of five runs of each command, beside a bare interpreter's."""
    with tempfile.TemporaryDirectory() as folder:
        print("| command | CPU ms, median of 5 |\n|---|---|")
        for command in COMMANDS:
            cpu_seconds(command, folder)
            found = statistics.median(cpu_seconds(command, folder) for _ in range(5))
            print(f"| modelyard {' '.join(command)} | {found * 1000:.0f} |")


if __name__ == "__main__":
    main()
