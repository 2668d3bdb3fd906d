"""Events, the cursors of those who read them, which of them nobody acts on, and leases."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0001", None


def upgrade() -> None:
    op.create_table(
        "events",
        sa.Column("position", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("event_id", sa.Text, nullable=False, unique=True),
        sa.Column("event_type", sa.Text, nullable=False),
        sa.Column("severity", sa.Text, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("resource_type", sa.Text, nullable=False),
        sa.Column("resource_id", sa.Text, nullable=False),
        sa.Column("occurred_at", sa.BigInteger, nullable=False),
        sa.Column("details", sa.Text, nullable=False),
        sqlite_autoincrement=True,
    )
    # every answer is in the order of positions, so that a page goes on where the last one ended
    op.create_index("events_by_type", "events", ["event_type", "position"])
    op.create_index("events_by_resource", "events", ["resource_type", "resource_id", "position"])
    op.create_index("events_by_actor", "events", ["actor", "position"])
    unusual = sa.text("severity <> 'info'")  # nearly all are info: those are found without an index
    op.create_index(
        "events_by_severity",
        "events",
        ["severity", "position"],
        sqlite_where=unusual,
        postgresql_where=unusual,
    )
    op.create_table(
        "event_cursors",
        sa.Column("reader", sa.Text, primary_key=True),
        sa.Column("position", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "quiet_events",  # ranges that came of an import: they are told, and nobody acts on them
        sa.Column("first_position", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("last_position", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "leases",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("holder", sa.Text, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
    )
