"""Experiments, runs, their metrics, parameters and tags, datasets and logged models."""

revision, down_revision = "0012", "0011"


def upgrade() -> None:
    pass
