"""Tables of the monitoring area."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0009", "0008"


def upgrade() -> None:
    op.create_table(
        "monitors",
        sa.Column("model", sa.Text, primary_key=True),
        sa.Column("sensitivity", sa.Float, nullable=False),
        sa.Column("set_at", sa.BigInteger, nullable=False),
        sa.Column("profile", sa.LargeBinary, nullable=False),
        sa.Column("tally", sa.Text, nullable=False),
        sa.Column("watch", sa.Text),
    )
    op.create_table(
        "monitor_predictions",
        sa.Column("model", sa.Text, primary_key=True),
        sa.Column("request_id", sa.Text, primary_key=True),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("prediction", sa.Text, nullable=False),
        sa.Column("probability", sa.Float),
        sa.Column("features", sa.Text, nullable=False),
        sa.Column("outcome", sa.Text),
        sa.Column("latency_ms", sa.Float),
        sa.Column("failed", sa.Integer, nullable=False),
    )
    op.create_index("monitor_predictions_by_time", "monitor_predictions", ["model", "at"])
    op.create_table(
        "monitor_minutes",
        sa.Column("model", sa.Text, primary_key=True),
        sa.Column("minute", sa.BigInteger, primary_key=True),
        sa.Column("tally", sa.Text, nullable=False),
    )
    op.create_table(
        "monitor_checks",
        sa.Column("check_id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("row_count", sa.BigInteger, nullable=False),
        sa.Column("alert_count", sa.Integer, nullable=False),
        sa.Column("alerts", sa.Text, nullable=False),
    )
    op.create_index("monitor_checks_by_model", "monitor_checks", ["model", "check_id"])
