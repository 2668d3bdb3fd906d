"""`modelyard export FOLDER` and `modelyard import SOURCE ...`: one subcommand a kind of source."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cyclopts import App

from modelyard.cli.derive import FORMAT, YARD
from modelyard.cli.output import show
from modelyard.settings import settings

importing = App(help="Bring a yard, or another system's registry, into this yard.", help_format="plaintext")


def export(folder: Path, *, user: str | None = None, yard: YARD = None, format: FORMAT = None) -> int:
    """Write models, metadata, approvals, A/B tests, deployments and the log into a new folder of plain files.

    The folder appears whole or not at all. Its manifest has the SHA-256 of every file.
    """
    from modelyard.yard import Yard

    found = settings({"yard": yard, "format": format, "user": user})
    with Yard(found["yard"].value, files=found["files"].value or None) as opened:
        show(opened.export(folder, user=found["user"].value), found["format"].value)
    return 0


@importing.command(name="yard")
def import_yard(folder: Path, *, user: str | None = None, yard: YARD = None, format: FORMAT = None) -> int:
    """Take in a folder that `modelyard export` wrote, whole or not at all; the same again changes nothing.

    It trusts the exporter for stages, approvals and the log, and nobody for bytes: every artifact is inspected anew.
    """
    from modelyard.yard import Yard

    found = settings({"yard": yard, "format": format, "user": user})
    with Yard(found["yard"].value, files=found["files"].value or None) as opened:
        show(opened.import_(folder, user=found["user"].value), found["format"].value)
    return 0


@importing.command(name="mlflow")
def import_mlflow(
    uri: str, *, artifacts: Path | None = None, user: str | None = None, yard: YARD = None, format: FORMAT = None
) -> int:
    """Bring over a running MLflow server (http://...), a folder mlruns, or sqlite:///FILE, and compare the counts.

    Ids, numbers, times and histories stay; stages wait for an approval. The same again brings nothing new, and goes on after
    an interruption. Exit code 1 if something is missing. A server's MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and
    MLFLOW_TRACKING_PASSWORD, are taken from the environment. `artifacts` is where a database's server kept files.
    """
    from modelyard.portable import mlflow
    from modelyard.yard import Yard

    found = settings({"yard": yard, "format": format, "user": user})
    with Yard(found["yard"].value, files=found["files"].value or None) as opened, progress_line() as tell:
        brought = mlflow.import_(opened, uri, user=found["user"].value, artifacts=artifacts, tell=tell)
    chosen = found["format"].value
    show(brought if (chosen or ("table" if sys.stdout.isatty() else "json")) == "json" else brought.counts, chosen)
    for note in brought.notes:
        sys.stderr.write(f"{note}\n")
    return 0 if brought.complete else 1


@contextmanager
def progress_line() -> Iterator[Callable[[str], None]]:
    """Writes a line over and over on a terminal, and nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    try:
        yield lambda text: print(f"\r\x1b[K{text[:120]}", end="", file=sys.stderr, flush=True)
    finally:
        print(file=sys.stderr)
