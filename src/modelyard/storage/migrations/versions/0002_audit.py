"""Tables of the audit area: the tree's leaves and hashes, the signed checkpoints and where they are copied to, the sealed
parts of events about a person, what has expired, and legal holds."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0002", "0001"


def number() -> sa.types.TypeEngine:
    """A key that is given, not counted up."""
    return sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    # Which events the leaves are: each row is a run of leaves whose events stand at consecutive positions.
    op.create_table(
        "audit_leaves",
        sa.Column("leaf_index", number(), primary_key=True, autoincrement=False),
        sa.Column("position", sa.BigInteger, nullable=False, unique=True),
        sa.Column("count", sa.BigInteger, nullable=False),
        sa.Column("integrated_at", sa.BigInteger, nullable=False),
        sa.Column("earliest", sa.BigInteger, nullable=False),
        sa.Column("latest", sa.BigInteger, nullable=False),
    )
    # The hashes of all complete subtrees in the order in which they become known, 62 a block.
    op.create_table(
        "audit_blocks",
        sa.Column("block", number(), primary_key=True, autoincrement=False),
        sa.Column("hashes", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "audit_checkpoints",
        sa.Column("size", number(), primary_key=True, autoincrement=False),
        sa.Column("note", sa.Text, nullable=False),
    )
    op.create_table(
        "audit_witnesses",
        sa.Column("target", sa.Text, primary_key=True),
        sa.Column("within", sa.BigInteger, nullable=False),
        sa.Column("added_by", sa.Text, nullable=False),
        sa.Column("copied_size", sa.BigInteger, nullable=False),
        sa.Column("copied_at", sa.BigInteger, nullable=False),
        sa.Column("failures", sa.BigInteger, nullable=False),
        sa.Column("tried_at", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "audit_payloads",
        sa.Column("position", number(), primary_key=True, autoincrement=False),
        sa.Column("key_id", sa.Text, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
    )
    op.create_index("audit_payloads_by_key", "audit_payloads", ["key_id", "position"])
    op.create_table(
        "audit_expired",
        sa.Column("position", number(), primary_key=True, autoincrement=False),
        sa.Column("expired_by", sa.Text, nullable=False),
    )
    op.create_table(
        "audit_holds",
        sa.Column("hold_id", sa.Text, primary_key=True),
        sa.Column("resource_type", sa.Text, nullable=False),
        sa.Column("resource_id", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("placed_by", sa.Text, nullable=False),
        sa.Column("placed_at", sa.BigInteger, nullable=False),
    )
    op.create_index("audit_holds_by_resource", "audit_holds", ["resource_type", "resource_id"])
