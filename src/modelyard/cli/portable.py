"""`modelyard export FOLDER` and `modelyard import SOURCE ...`: one subcommand a kind of source."""

from __future__ import annotations

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
