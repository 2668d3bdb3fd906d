"""Webhooks and their deliveries."""

revision, down_revision = "0014", "0013"


def upgrade() -> None:
    pass
