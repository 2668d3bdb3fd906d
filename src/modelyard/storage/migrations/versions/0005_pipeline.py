"""Tables of the pipeline area."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0005", "0004"


def upgrade() -> None:
    op.create_table(
        "pipeline_runs",
        sa.Column("run_id", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("created_by", sa.Text, nullable=False),
        sa.Column("started_at", sa.BigInteger, nullable=False),
        sa.Column("completed_at", sa.BigInteger),
        sa.Column("data_source", sa.Text, nullable=False),
        sa.Column("data_digest", sa.Text, nullable=False),
        sa.Column("model_type", sa.Text, nullable=False),
        sa.Column("model_class", sa.Text, nullable=False),
        sa.Column("config", sa.Text, nullable=False),
        sa.Column("best_params", sa.Text, nullable=False),
        sa.Column("artifacts", sa.Text, nullable=False),
        sa.Column("failed_stage", sa.Text, nullable=False),
        sa.Column("error", sa.Text, nullable=False),
    )
    op.create_index("pipeline_runs_by_name", "pipeline_runs", ["name", "started_at"])
    op.create_table(
        "pipeline_metrics",
        sa.Column("run_id", sa.Text, sa.ForeignKey("pipeline_runs.run_id"), primary_key=True),
        sa.Column("metric", sa.Text, primary_key=True),
        sa.Column("value", sa.Float, nullable=False),
    )
    op.create_index("pipeline_metrics_by_value", "pipeline_metrics", ["metric", "value"])
