"""Tables of the registry area and of the artifacts it keeps."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0003", "0002"

# Text is compared and ordered byte by byte, as SQLite does it; a language's own collation would reorder it.
TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
OPEN, ACTIVE, PROPOSED = (
    {"sqlite_where": sa.text(f"status = '{status}'"), "postgresql_where": sa.text(f"status = '{status}'")}
    for status in ("open", "active", "proposed")
)


def upgrade() -> None:
    _artifacts()
    _models()
    _versions()
    _entries()
    _promotions()
    _policies()


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
    op.create_table(
        "artifact_releases",  # requests to load what is in quarantine, in a sandbox
        sa.Column("release_id", sa.Text, primary_key=True),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("requested_by", sa.Text, nullable=False),
        sa.Column("justification", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("decided_at", sa.BigInteger, nullable=True),
    )
    op.create_index(
        "artifact_releases_one_live",
        "artifact_releases",
        ["digest"],
        unique=True,
        sqlite_where=sa.text("status IN ('open', 'approved')"),
        postgresql_where=sa.text("status IN ('open', 'approved')"),
    )
    op.create_index("artifact_releases_by_digest", "artifact_releases", ["digest", "created_at"])
    op.create_table(
        "artifact_release_approvals",
        sa.Column("release_id", sa.Text, primary_key=True),
        sa.Column("person", sa.Text, primary_key=True),  # the approver, folded for comparison
        sa.Column("approver", sa.Text, nullable=False),
        sa.Column("comment", sa.Text, nullable=False),
        sa.Column("approved_at", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "artifact_uploads",
        sa.Column("upload_id", sa.Text, primary_key=True),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("created_by", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("touched_at", sa.BigInteger, nullable=False),  # the last part: what its expiry counts from
    )
    op.create_index("artifact_uploads_by_touch", "artifact_uploads", ["touched_at"])
    op.create_table(
        "artifact_upload_parts",
        sa.Column("upload_id", sa.Text, primary_key=True),
        sa.Column("start", sa.BigInteger, primary_key=True),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("blob", sa.Text, nullable=False),  # its key among the blobs
    )
    op.create_table(
        "artifact_signatures",
        sa.Column("digest", sa.Text, primary_key=True),
        sa.Column("key_id", sa.Text, primary_key=True),  # SHA-256 of the public key
        sa.Column("bundle", sa.Text, nullable=False),
        sa.Column("method", sa.Text, nullable=False),  # key or keyless
        sa.Column("signed_by", sa.Text, nullable=False),
        sa.Column("signed_at", sa.BigInteger, nullable=False),
    )


def _models() -> None:
    op.create_table(
        "registered_models",
        sa.Column("name", TEXT, primary_key=True),
        sa.Column("project", TEXT, nullable=False),
        sa.Column("description", TEXT, nullable=False),
        sa.Column("owner", TEXT, nullable=False),
        sa.Column("licence", TEXT, nullable=False),
        sa.Column("last_number", sa.BigInteger, nullable=False),  # of the newest version; never taken back
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
    )
    op.create_index("registered_models_by_project", "registered_models", ["project", "name"])
    op.create_table(
        "model_renames",  # under which names a model's history is told
        sa.Column("name", TEXT, primary_key=True),
        sa.Column("former", TEXT, primary_key=True),
        sa.Column("position", sa.BigInteger, primary_key=True),  # of the event of the renaming
    )


def _versions() -> None:
    op.create_table(
        "model_versions",
        sa.Column("name", TEXT, primary_key=True),
        sa.Column("canonical", TEXT, primary_key=True),  # the version without its leading v
        sa.Column("version", TEXT, nullable=False),  # as written
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.Column("sort_key", TEXT, nullable=False),
        sa.Column("prerelease", sa.Integer, nullable=False),
        sa.Column("framework", TEXT, nullable=False),
        sa.Column("stage", TEXT, nullable=False),
        sa.Column("digest", TEXT, nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("created_by", TEXT, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        sa.Column("description", TEXT, nullable=False),
        sa.Column("changelog", TEXT, nullable=False),
        sa.Column("metrics", TEXT, nullable=False),
        sa.Column("parameters", TEXT, nullable=False),
        sa.Column("trained_by", TEXT, nullable=False),
        sa.Column("training_data", TEXT, nullable=False),
        sa.Column("code_version", TEXT, nullable=False),
        sa.Column("repository", TEXT, nullable=False),
        sa.Column("commit_id", TEXT, nullable=False),
        sa.Column("dirty", sa.Integer, nullable=False),
        sa.Column("data_digest", TEXT, nullable=False),
        sa.Column("lock_digest", TEXT, nullable=False),
        sa.Column("run_id", TEXT, nullable=False),
        sa.Column("source", TEXT, nullable=False),
        sa.Column("parent", TEXT, nullable=False),
        sa.Column("signature", TEXT, nullable=True),
        sa.Column("example", TEXT, nullable=True),
        sa.Column("environment", TEXT, nullable=False),
        sa.Column("metadata", TEXT, nullable=False),
    )
    op.create_index("model_versions_in_order", "model_versions", ["name", "sort_key", "canonical"])
    op.create_index("model_versions_newest", "model_versions", ["name", "prerelease", "sort_key"])
    op.create_index("model_versions_by_number", "model_versions", ["name", "number"], unique=True)
    op.create_index("model_versions_by_stage", "model_versions", ["stage", "name", "sort_key"])
    op.create_index("model_versions_by_number_in_stage", "model_versions", ["name", "stage", "number"])
    # The newest first, of all models and of one: as pages ask for them, and in the order of MLflow's clients.
    for time in ("created_at", "updated_at"):
        op.create_index(f"model_versions_by_{time}", "model_versions", [time, "name", "number"])
        op.create_index(f"model_versions_of_name_by_{time}", "model_versions", ["name", time, "number"])
    newest_first = [sa.text("updated_at DESC"), "name", sa.text("number DESC")]
    op.create_index("model_versions_newest_first", "model_versions", newest_first)
    op.create_index("model_versions_by_digest", "model_versions", ["digest"])
    op.create_index("model_versions_by_run", "model_versions", ["run_id"])
    op.create_index("model_versions_by_parent", "model_versions", ["parent"])
    op.create_table(
        "model_aliases",
        sa.Column("name", TEXT, primary_key=True),
        sa.Column("alias", TEXT, primary_key=True),
        sa.Column("canonical", TEXT, nullable=False),
    )
    op.create_index("model_aliases_by_version", "model_aliases", ["name", "canonical"])
    op.create_index("model_aliases_by_alias", "model_aliases", ["alias", "name", "canonical"])


def _entries() -> None:
    """What searches look up by key, value or word. A row whose canonical is "" belongs to the model itself."""
    op.create_table(
        "model_tags",
        sa.Column("name", TEXT, primary_key=True),
        sa.Column("canonical", TEXT, primary_key=True),
        sa.Column("key", TEXT, primary_key=True),
        sa.Column("value", TEXT, nullable=True),  # null for a label
        sa.Column("head", TEXT, nullable=True),  # the value's first characters: an index entry has a limit
        sqlite_with_rowid=False,
    )
    op.create_index("model_tags_by_key", "model_tags", ["key", "head", "name", "canonical"])
    op.create_table(
        "model_metrics",
        sa.Column("name", TEXT, primary_key=True),
        sa.Column("canonical", TEXT, primary_key=True),
        sa.Column("key", TEXT, primary_key=True),
        sa.Column("value", sa.Float, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("model_metrics_by_key", "model_metrics", ["key", "value", "name", "canonical"])
    op.create_table(
        "model_parameters",
        sa.Column("name", TEXT, primary_key=True),
        sa.Column("canonical", TEXT, primary_key=True),
        sa.Column("key", TEXT, primary_key=True),
        sa.Column("value", TEXT, nullable=False),  # a text as it is, anything else as JSON
        sa.Column("head", TEXT, nullable=False),
        sa.Column("number", sa.Float, nullable=True),
        sqlite_with_rowid=False,
    )
    op.create_index("model_parameters_by_key", "model_parameters", ["key", "head", "name", "canonical"])
    op.create_index("model_parameters_by_number", "model_parameters", ["key", "number", "name", "canonical"])
    op.create_table(
        "model_words",
        sa.Column("name", TEXT, primary_key=True),
        sa.Column("canonical", TEXT, primary_key=True),
        sa.Column("word", TEXT, primary_key=True),
        sqlite_with_rowid=False,
    )
    op.create_index("model_words_by_word", "model_words", ["word", "name", "canonical"])
    op.create_table(
        "model_scores",
        sa.Column("name", TEXT, primary_key=True),
        sa.Column("canonical", TEXT, primary_key=True),
        sa.Column("dataset", TEXT, primary_key=True),
        sa.Column("metric", TEXT, primary_key=True),
        sa.Column("n", sa.BigInteger, nullable=False),
        sa.Column("mean", sa.Float, nullable=False),
        sa.Column("rows_digest", TEXT, nullable=False),
        sa.Column("packed", sa.LargeBinary, nullable=False),  # little-endian doubles
        sa.Column("created_by", TEXT, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
    )


def _promotions() -> None:
    op.create_table(
        "promotion_requests",
        sa.Column("request_id", TEXT, primary_key=True),
        sa.Column("name", TEXT, nullable=False),
        sa.Column("canonical", TEXT, nullable=False),
        sa.Column("version", TEXT, nullable=False),
        sa.Column("from_stage", TEXT, nullable=False),
        sa.Column("target_stage", TEXT, nullable=False),
        sa.Column("digest", TEXT, nullable=False),
        sa.Column("evidence", TEXT, nullable=False),  # digest of the figures the request rests on
        sa.Column("requested_by", TEXT, nullable=False),
        sa.Column("justification", TEXT, nullable=False),
        sa.Column("reviewers", TEXT, nullable=False),
        sa.Column("quorum", sa.Integer, nullable=False),
        sa.Column("status", TEXT, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("decided_at", sa.BigInteger, nullable=True),
        sa.Column("reason", TEXT, nullable=False),
        sa.Column("policy_id", TEXT, nullable=False),
        sa.Column("policy_version", sa.Integer, nullable=False),
        sa.Column("roles", TEXT, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=True),
        sa.Column("requirements", TEXT, nullable=False),
    )
    op.create_index(
        "promotion_requests_one_open",
        "promotion_requests",
        ["name", "canonical"],
        unique=True,
        **OPEN,
    )
    op.create_index("promotion_requests_by_version", "promotion_requests", ["name", "canonical", "created_at"])
    op.create_index("promotion_requests_by_status", "promotion_requests", ["status", "created_at"])
    op.create_index("promotion_requests_by_expiry", "promotion_requests", ["expires_at"], **OPEN)
    op.create_table(
        "promotion_comments",
        sa.Column("request_id", TEXT, primary_key=True),
        sa.Column("position", sa.BigInteger, primary_key=True),  # of the event that tells of it
        sa.Column("author", TEXT, nullable=False),
        sa.Column("text", TEXT, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "promotion_approvals",
        sa.Column("request_id", TEXT, primary_key=True),
        sa.Column("person", TEXT, primary_key=True),  # the approver, folded for comparison
        sa.Column("approver", TEXT, nullable=False),
        sa.Column("comment", TEXT, nullable=False),
        sa.Column("approved_at", sa.BigInteger, nullable=False),
    )


def _policies() -> None:
    op.create_table(
        "promotion_policies",
        sa.Column("policy_id", TEXT, primary_key=True),
        sa.Column("scope", TEXT, nullable=False),  # a model's name, or *
        sa.Column("target_stage", TEXT, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("status", TEXT, nullable=False),
        sa.Column("asked", TEXT, nullable=False),
        sa.Column("proposed_by", TEXT, nullable=False),
        sa.Column("proposed_at", sa.BigInteger, nullable=False),
        sa.Column("justification", TEXT, nullable=False),
        sa.Column("decided_by", TEXT, nullable=False),
        sa.Column("decided_at", sa.BigInteger, nullable=True),
        sa.Column("reason", TEXT, nullable=False),
        sa.Column("agreed_by", TEXT, nullable=False),  # the people who approved it: a JSON list
    )
    kind = ["scope", "target_stage"]
    op.create_index("promotion_policies_in_order", "promotion_policies", [*kind, "version"], unique=True)
    op.create_index("promotion_policies_one_active", "promotion_policies", kind, unique=True, **ACTIVE)
    op.create_index("promotion_policies_one_proposed", "promotion_policies", kind, unique=True, **PROPOSED)
    op.create_table(
        "break_glass_moves",
        sa.Column("break_id", TEXT, primary_key=True),
        sa.Column("name", TEXT, nullable=False),
        sa.Column("canonical", TEXT, nullable=False),
        sa.Column("version", TEXT, nullable=False),
        sa.Column("from_stage", TEXT, nullable=False),
        sa.Column("target_stage", TEXT, nullable=False),
        sa.Column("digest", TEXT, nullable=False),
        sa.Column("broken_by", TEXT, nullable=False),
        sa.Column("reason", TEXT, nullable=False),
        sa.Column("incident", TEXT, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("status", TEXT, nullable=False),
        sa.Column("reviewer", TEXT, nullable=False),
        sa.Column("verdict", TEXT, nullable=False),
        sa.Column("comment", TEXT, nullable=False),
        sa.Column("reviewed_at", sa.BigInteger, nullable=True),
    )
    op.create_index("break_glass_moves_by_model", "break_glass_moves", ["name", "created_at"])
    op.create_index("break_glass_moves_by_status", "break_glass_moves", ["status", "created_at"])
