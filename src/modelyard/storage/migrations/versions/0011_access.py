"""Who may call the server: subjects, their roles, their tokens, and the project that each thing belongs to."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0011", "0010"


def upgrade() -> None:
    op.create_table(
        "access_subjects",
        sa.Column("folded", sa.Text, primary_key=True),  # the subject as people are compared
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),  # person or service
        sa.Column("owner", sa.Text, nullable=False),  # of a service the person it counts as, else the subject itself
        sa.Column("issuer", sa.Text, nullable=False),  # who vouches for it; "" for this yard itself
        sa.Column("password", sa.Text),  # an argon2id hash in PHC form
        sa.Column("created_by", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("disabled_at", sa.BigInteger),
    )
    op.create_table(
        "access_grants",
        sa.Column("folded", sa.Text, sa.ForeignKey("access_subjects.folded"), primary_key=True),
        sa.Column("role", sa.Text, primary_key=True),
        sa.Column("project", sa.Text, primary_key=True),  # * for every project
        sa.Column("issuer", sa.Text, primary_key=True),  # whose groups say so; "" for a grant given here
        sa.Column("granted_by", sa.Text, nullable=False),
        sa.Column("granted_at", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "access_tokens",
        sa.Column("token_id", sa.Text, primary_key=True),
        sa.Column("token_hash", sa.Text, nullable=False, unique=True),  # HMAC-SHA-256 under the pepper
        sa.Column("folded", sa.Text, sa.ForeignKey("access_subjects.folded"), nullable=False),
        sa.Column("scopes", sa.Text, nullable=False),  # JSON
        sa.Column("project", sa.Text, nullable=False),  # * for every project
        sa.Column("created_by", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
        sa.Column("revoked_at", sa.BigInteger),
        sa.Column("last_used_at", sa.BigInteger),  # to the minute
    )
    op.create_index("access_tokens_by_subject", "access_tokens", ["folded", "created_at"])
    op.create_table(
        "access_objects",
        sa.Column("kind", sa.Text, primary_key=True),  # experiment; a model carries its project itself
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("project", sa.Text, nullable=False),
        sa.Column("placed_at", sa.BigInteger, nullable=False),
    )
    op.create_index("access_objects_by_project", "access_objects", ["project", "kind", "name"])
    op.create_table(
        "access_failures",
        sa.Column("key", sa.Text, primary_key=True),  # HMAC-SHA-256 of an account or an address, under the pepper
        sa.Column("count", sa.Integer, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),  # of the last one
    )
    op.create_index("access_failures_by_time", "access_failures", ["at"])
