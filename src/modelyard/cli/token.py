"""`modelyard token`: access tokens for the server."""

from __future__ import annotations

from typing import Annotated

from cyclopts import App, Parameter

from modelyard.cli.derive import FORMAT, YARD
from modelyard.cli.output import show
from modelyard.server.access import Access
from modelyard.settings import settings
from modelyard.yard import Yard

app = App(help="Create, list and revoke access tokens.", help_format="plaintext")

Days = Annotated[float, Parameter(help="After how many days it expires.")]


@app.command
def create(subject: str, role: str = "viewer", *, days: Days = 90, yard: YARD = None, format: FORMAT = None) -> None:
    """Create a token for a person or service and show its secret once. Roles: viewer, contributor, approver, admin."""
    found = settings({"yard": yard, "format": format})
    with Yard(found["yard"].value, files=found["files"].value or None) as opened:
        token, secret = Access(opened.store).create_token(subject, role, created_by=found["user"].value, days=days)
    show({"token_id": token.token_id, "subject": subject, "role": role, "secret": secret}, found["format"].value)


@app.command(name="list")
def list_tokens(*, yard: YARD = None, format: FORMAT = None) -> None:
    """List the tokens; their secrets are not kept."""
    found = settings({"yard": yard, "format": format})
    with Yard(found["yard"].value, files=found["files"].value or None) as opened:
        show(Access(opened.store).list_tokens(), found["format"].value)


@app.command
def revoke(token_id: str, *, yard: YARD = None, format: FORMAT = None) -> None:
    """Make a token useless at once."""
    found = settings({"yard": yard, "format": format})
    with Yard(found["yard"].value, files=found["files"].value or None) as opened:
        show(Access(opened.store).revoke_token(token_id, user=found["user"].value), found["format"].value)
