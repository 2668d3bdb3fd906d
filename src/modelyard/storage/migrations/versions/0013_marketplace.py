"""Listings of models shared between teams, with ratings and requests for access."""

revision, down_revision = "0013", "0012"


def upgrade() -> None:
    pass
