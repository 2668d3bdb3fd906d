"""The kept schema is the one that the revisions make, so that a new folder needs no Alembic."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from modelyard.storage import schema


def test_the_kept_schema_is_what_the_revisions_make() -> None:
    first, _, script = schema.KEPT.read_text().partition("\n")
    assert undated(script) == undated(schema.made_by_revisions()), (
        "a revision has changed: python scripts/keep_schema.py"
    )
    assert first == schema._marked(), "a revision has changed: python scripts/keep_schema.py"


def undated(script: str) -> str:
    """Without the moment at which a revision wrote a row."""
    return re.sub(r"\b1[0-9]{12}\b", "NOW", script)


def test_a_new_folder_loads_no_migration_tool(tmp_path: Path) -> None:
    code = "import sys; from modelyard import Yard; Yard(sys.argv[1]).store; print('alembic' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
