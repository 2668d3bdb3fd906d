"""Tables of the features area: definitions, groups, which features are written together, and the Parquet segments."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0004", "0003"


def upgrade() -> None:
    number = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    op.create_table(
        "feature_catalogue",
        sa.Column("identity", sa.Text, primary_key=True),
        sa.Column("generation", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "features",
        sa.Column("entity_type", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True),
        sa.Column("definition", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("created_by", sa.Text, nullable=False),
    )
    op.create_table(
        "feature_groups",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True),
        sa.Column("definition", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("created_by", sa.Text, nullable=False),
    )
    op.create_table(
        "feature_layouts",
        sa.Column("layout_id", number, primary_key=True, autoincrement=True),
        sa.Column("entity_type", sa.Text, nullable=False),
        sa.Column("features", sa.Text, nullable=False),
        sa.UniqueConstraint("entity_type", "features"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "feature_segments",
        sa.Column("segment_id", number, primary_key=True, autoincrement=True),
        sa.Column("layout_id", sa.BigInteger, sa.ForeignKey("feature_layouts.layout_id"), nullable=False),
        sa.Column("blob", sa.Text, nullable=False, unique=True),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("rows", sa.BigInteger, nullable=False),
        sa.Column("first_event", sa.BigInteger, nullable=False),
        sa.Column("last_event", sa.BigInteger, nullable=False),
        sa.Column("written", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("retired_at", sa.BigInteger),
        sqlite_autoincrement=True,
    )
    op.create_index("feature_segments_by_layout", "feature_segments", ["layout_id", "written"])
    op.create_table(
        "feature_online",
        sa.Column("view", sa.Text, primary_key=True),
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("event", sa.BigInteger, nullable=False),
        sa.Column("stamp", sa.LargeBinary, nullable=False),
        sa.Column("packed", sa.LargeBinary, nullable=False),
    )
