"""Webhooks and their deliveries."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0014", "0013"


def upgrade() -> None:
    op.create_table(
        "webhooks",
        sa.Column("webhook_id", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("events", sa.Text, nullable=False),
        sa.Column("mlflow", sa.Integer, nullable=False),  # 1 if one of the events is MLflow's
        sa.Column("secret", sa.Text, nullable=False),  # "", a reference, or stored:CIPHERTEXT
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("created_by", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        sa.Column("seen", sa.BigInteger, nullable=False),  # events up to this position are not, or no longer, its business
        sa.Column("failures", sa.Integer, nullable=False),  # in a row
        sa.Column("last_error", sa.Text, nullable=False),
    )
    op.create_index("webhooks_newest", "webhooks", ["created_at", "webhook_id"])
    op.create_table(
        "webhook_deliveries",
        sa.Column("sequence", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("delivery_id", sa.Text, nullable=False, unique=True),
        sa.Column("webhook_id", sa.Text, nullable=False),
        sa.Column("position", sa.BigInteger, nullable=False),  # of the event, whose content is not copied
        sa.Column("event", sa.Text, nullable=False),  # the subscribed name it is sent under
        sa.Column("part", sa.Integer, nullable=False),  # one event may be several of MLflow's
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("next_attempt_at", sa.BigInteger, nullable=False),
        sa.Column("ended_at", sa.BigInteger, nullable=True),
        sa.Column("response_status", sa.Integer, nullable=True),
        sa.Column("error", sa.Text, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("webhook_deliveries_in_order", "webhook_deliveries", ["webhook_id", "status", "sequence"])
    op.create_index("webhook_deliveries_ended", "webhook_deliveries", ["ended_at"])
