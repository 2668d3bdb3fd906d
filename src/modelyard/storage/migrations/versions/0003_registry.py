"""Tables of the registry area and of the artifacts it keeps."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0003", "0002"

# Versions are ordered by a byte string; a language's own collation would reorder it.
BYTES_ORDER = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    _artifacts()
    _versions()
    _promotions()


def _artifacts() -> None:
    op.create_table(
        "artifacts",
        sa.Column("digest", sa.Text, primary_key=True),
        sa.Column("kind", sa.Text, nullable=False),  # file or folder
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("format", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("admission", sa.Text, nullable=False),  # accepted or quarantined
        sa.Column("findings", sa.Text, nullable=False),
        sa.Column("rules_version", sa.Integer, nullable=False),
        sa.Column("created_by", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("touched_at", sa.BigInteger, nullable=False),  # last admitted: what the grace period counts from
    )
    op.create_index("artifacts_by_touch", "artifacts", ["touched_at"])
    op.create_table(
        "artifact_members",
        sa.Column("digest", sa.Text, primary_key=True),
        sa.Column("path", sa.Text, primary_key=True),
        sa.Column("member_digest", sa.Text, nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
    )
    op.create_index("artifact_members_by_blob", "artifact_members", ["member_digest"])
    op.create_table(
        "artifact_holds",
        sa.Column("digest", sa.Text, primary_key=True),
        sa.Column("holder", sa.Text, primary_key=True),
    )
    op.create_table(
        "loose_blobs",  # bytes without an artifact, with the time at which the collector first saw them
        sa.Column("blob", sa.Text, primary_key=True),
        sa.Column("seen_at", sa.BigInteger, nullable=False),
    )


def _versions() -> None:
    op.create_table(
        "model_versions",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("canonical", sa.Text, primary_key=True),  # the version without its leading v
        sa.Column("version", sa.Text, nullable=False),  # as written
        sa.Column("sort_key", BYTES_ORDER, nullable=False),
        sa.Column("prerelease", sa.Integer, nullable=False),
        sa.Column("framework", sa.Text, nullable=False),
        sa.Column("stage", sa.Text, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("created_by", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("metrics", sa.Text, nullable=False),
        sa.Column("parameters", sa.Text, nullable=False),
        sa.Column("trained_by", sa.Text, nullable=False),
        sa.Column("training_data", sa.Text, nullable=False),
        sa.Column("code_version", sa.Text, nullable=False),
        sa.Column("parent", sa.Text, nullable=False),
        sa.Column("signature", sa.Text, nullable=True),
        sa.Column("metadata", sa.Text, nullable=False),
    )
    op.create_index("model_versions_in_order", "model_versions", ["name", "sort_key", "canonical"])
    op.create_index("model_versions_newest", "model_versions", ["name", "prerelease", "sort_key"])
    op.create_index("model_versions_by_stage", "model_versions", ["stage", "name", "sort_key"])
    op.create_index("model_versions_by_digest", "model_versions", ["digest"])
    op.create_table(
        "model_tags",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("canonical", sa.Text, primary_key=True),
        sa.Column("tag", sa.Text, primary_key=True),
    )
    op.create_index("model_tags_by_tag", "model_tags", ["tag", "name", "canonical"])
    op.create_table(
        "model_aliases",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("alias", sa.Text, primary_key=True),
        sa.Column("canonical", sa.Text, nullable=False),
    )
    op.create_index("model_aliases_by_version", "model_aliases", ["name", "canonical"])


def _promotions() -> None:
    op.create_table(
        "promotion_requests",
        sa.Column("request_id", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("canonical", sa.Text, nullable=False),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("from_stage", sa.Text, nullable=False),
        sa.Column("target_stage", sa.Text, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("evidence", sa.Text, nullable=False),  # digest of the figures the request rests on
        sa.Column("requested_by", sa.Text, nullable=False),
        sa.Column("justification", sa.Text, nullable=False),
        sa.Column("reviewers", sa.Text, nullable=False),
        sa.Column("quorum", sa.Integer, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("decided_at", sa.BigInteger, nullable=True),
        sa.Column("reason", sa.Text, nullable=False),
    )
    op.create_index(
        "promotion_requests_one_open",
        "promotion_requests",
        ["name", "canonical"],
        unique=True,
        sqlite_where=sa.text("status = 'open'"),
        postgresql_where=sa.text("status = 'open'"),
    )
    op.create_index("promotion_requests_by_version", "promotion_requests", ["name", "canonical", "created_at"])
    op.create_index("promotion_requests_by_status", "promotion_requests", ["status", "created_at"])
    op.create_table(
        "promotion_approvals",
        sa.Column("request_id", sa.Text, primary_key=True),
        sa.Column("person", sa.Text, primary_key=True),  # the approver, folded for comparison
        sa.Column("approver", sa.Text, nullable=False),
        sa.Column("comment", sa.Text, nullable=False),
        sa.Column("approved_at", sa.BigInteger, nullable=False),
    )
