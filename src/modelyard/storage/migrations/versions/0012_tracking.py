"""Experiments, runs, their metrics, parameters and tags, datasets, logged models and files.

Times are whole milliseconds since 1970, as tracking clients send and compare them. A metric's value that is not a number
is 0 with is_nan = 1, so that it can stand in a primary key.
"""


import sqlalchemy as sa
from alembic import op

revision, down_revision = "0012", "0011"

KEY = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    experiments()
    runs()
    metrics()
    datasets()
    logged_models()
    files()


def experiments() -> None:
    table = op.create_table(
        "experiments",
        sa.Column("experiment_id", KEY, primary_key=True, autoincrement=False),
        sa.Column("name", sa.Text, nullable=False, unique=True),
        sa.Column("artifact_location", sa.Text, nullable=False),
        sa.Column("lifecycle_stage", sa.Text, nullable=False),
        sa.Column("creation_time", sa.BigInteger, nullable=False),
        sa.Column("last_update_time", sa.BigInteger, nullable=False),
    )
    now = 1_767_225_600_000  # one moment for all databases, so that the kept schema says what the revisions do
    op.bulk_insert(
        table,
        [
            {
                "experiment_id": 0,
                "name": "Default",
                "artifact_location": "mlflow-artifacts:/0",
                "lifecycle_stage": "active",
                "creation_time": now,
                "last_update_time": now,
            }
        ],
    )
    op.create_table(
        "experiment_tags",
        sa.Column("experiment_id", sa.BigInteger, sa.ForeignKey("experiments.experiment_id"), primary_key=True),
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
    )


def runs() -> None:
    op.create_table(
        "runs",
        sa.Column("number", KEY, primary_key=True, autoincrement=True),
        sa.Column("run_id", sa.Text, nullable=False, unique=True),
        sa.Column("experiment_id", sa.BigInteger, sa.ForeignKey("experiments.experiment_id"), nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("user_id", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("start_time", sa.BigInteger, nullable=False),
        sa.Column("end_time", sa.BigInteger),
        sa.Column("lifecycle_stage", sa.Text, nullable=False),
        sa.Column("artifact_uri", sa.Text, nullable=False),
        sa.Column("deleted_at", sa.BigInteger),  # since when it is deleted; known of runs that were deleted here
    )
    op.create_index("runs_by_experiment", "runs", ["experiment_id", "lifecycle_stage", "start_time", "run_id"])
    for table in ("run_params", "run_tags"):
        op.create_table(
            table,
            sa.Column("run", sa.BigInteger, sa.ForeignKey("runs.number"), primary_key=True),
            sa.Column("key", sa.Text, primary_key=True),
            sa.Column("value", sa.Text, nullable=False),
            sqlite_with_rowid=False,
        )


def metrics() -> None:
    op.create_table(
        "run_metrics",  # the order of the key is that of a history
        sa.Column("run", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("timestamp", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("step", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("value", sa.Float, primary_key=True),
        sa.Column("is_nan", sa.Integer, primary_key=True, autoincrement=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "run_latest_metrics",
        sa.Column("run", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("timestamp", sa.BigInteger, nullable=False),
        sa.Column("step", sa.BigInteger, nullable=False),
        sa.Column("value", sa.Float, nullable=False),
        sa.Column("is_nan", sa.Integer, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("run_latest_metrics_by_value", "run_latest_metrics", ["key", "value", "is_nan", "run"])


def datasets() -> None:
    op.create_table(
        "run_datasets",
        sa.Column("number", KEY, primary_key=True, autoincrement=True),
        sa.Column("experiment_id", sa.BigInteger, sa.ForeignKey("experiments.experiment_id"), nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("source_type", sa.Text, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("schema", sa.Text),
        sa.Column("profile", sa.Text),
        sa.UniqueConstraint("experiment_id", "name", "digest"),
    )
    op.create_table(
        "run_inputs",
        sa.Column("run", sa.BigInteger, sa.ForeignKey("runs.number"), primary_key=True),
        sa.Column("dataset", sa.BigInteger, sa.ForeignKey("run_datasets.number"), primary_key=True),
        sa.Column("tags", sa.Text, nullable=False),  # JSON: [[key, value], ...]
        sa.Column("context", sa.Text),  # the tag mlflow.data.context, which searches ask for
        sqlite_with_rowid=False,
    )
    op.create_index("run_inputs_by_dataset", "run_inputs", ["dataset"])


def logged_models() -> None:
    op.create_table(
        "logged_models",
        sa.Column("number", KEY, primary_key=True, autoincrement=True),
        sa.Column("model_id", sa.Text, nullable=False, unique=True),
        sa.Column("experiment_id", sa.BigInteger, sa.ForeignKey("experiments.experiment_id"), nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("source_run_id", sa.Text),
        sa.Column("model_type", sa.Text),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("lifecycle_stage", sa.Text, nullable=False),
        sa.Column("artifact_location", sa.Text, nullable=False),
        sa.Column("creation_time", sa.BigInteger, nullable=False),
        sa.Column("last_update_time", sa.BigInteger, nullable=False),
    )
    op.create_index("logged_models_by_experiment", "logged_models", ["experiment_id", "lifecycle_stage", "creation_time"])
    for table in ("logged_model_params", "logged_model_tags"):
        op.create_table(
            table,
            sa.Column("model", sa.BigInteger, sa.ForeignKey("logged_models.number"), primary_key=True),
            sa.Column("key", sa.Text, primary_key=True),
            sa.Column("value", sa.Text, nullable=False),
            sqlite_with_rowid=False,
        )
    op.create_table(
        "logged_model_metrics",
        sa.Column("model", sa.BigInteger, sa.ForeignKey("logged_models.number"), primary_key=True),
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("timestamp", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("step", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("run_id", sa.Text, primary_key=True),
        sa.Column("value", sa.Float, nullable=False),
        sa.Column("is_nan", sa.Integer, nullable=False),
        sa.Column("dataset_name", sa.Text),
        sa.Column("dataset_digest", sa.Text),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "run_models",
        sa.Column("run", sa.BigInteger, sa.ForeignKey("runs.number"), primary_key=True),
        sa.Column("direction", sa.Text, primary_key=True),  # input or output
        sa.Column("model_id", sa.Text, primary_key=True),
        sa.Column("step", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )


def files() -> None:
    op.create_table(
        "run_files",  # a folder is a row without a digest
        sa.Column("folder", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("digest", sa.Text),
        sa.Column("size", sa.BigInteger),
        sqlite_with_rowid=False,
    )
    op.create_index("run_files_by_digest", "run_files", ["digest"])
    op.create_table(
        "run_blobs",  # the bytes of files and parts, and when somebody last stored them
        sa.Column("digest", sa.Text, primary_key=True),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("touched_at", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "run_uploads",
        sa.Column("upload_id", sa.Text, primary_key=True),
        sa.Column("path", sa.Text, nullable=False),
        sa.Column("started_at", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "run_upload_parts",
        sa.Column("upload_id", sa.Text, sa.ForeignKey("run_uploads.upload_id"), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
    )
    op.create_index("run_upload_parts_by_digest", "run_upload_parts", ["digest"])
