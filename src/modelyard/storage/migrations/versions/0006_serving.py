"""Tables of the serving area."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0006", "0005"


def upgrade() -> None:
    op.create_table(
        "serving_endpoints",
        sa.Column("endpoint", sa.Text, primary_key=True),
        sa.Column("generation", sa.BigInteger, nullable=False),
        sa.Column("traffic", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "serving_settings",
        sa.Column("endpoint", sa.Text, primary_key=True),
        sa.Column("config", sa.Text, nullable=False),
    )
    op.create_table(
        "serving_models",
        sa.Column("model", sa.Text, primary_key=True),
        sa.Column("version", sa.Text, primary_key=True),
        sa.Column("path", sa.Text, nullable=False),
        sa.Column("framework", sa.Text, nullable=False),
        sa.Column("compiled", sa.Text, nullable=False),
        sa.Column("signature", sa.Text, nullable=False),
        sa.Column("uses", sa.Text, nullable=False),
        sa.Column("code", sa.Text, nullable=False),
        sa.Column("installed_at", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "serving_trips",
        sa.Column("rollout_id", sa.Text, primary_key=True),
        sa.Column("step", sa.BigInteger, primary_key=True),
        sa.Column("endpoint", sa.Text, nullable=False),
        sa.Column("trip", sa.Text, nullable=False),
        sa.Column("recorded_at", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "serving_experiments",
        sa.Column("experiment_id", sa.Text, primary_key=True),
        sa.Column("control", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "serving_outcomes",
        sa.Column("endpoint", sa.Text, primary_key=True),
        sa.Column("request_id", sa.Text, primary_key=True),
        sa.Column("row_number", sa.BigInteger, primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
        sa.Column("known_at", sa.BigInteger, nullable=False),
        sa.Column("recorded_at", sa.BigInteger, nullable=False),
        sa.Column("told", sa.Integer, nullable=False),  # 0: not handed on yet, 1: handed on, 2: its prediction is awaited
    )
    op.create_table(
        "serving_fleet",  # what servers with folders of their own tell each other while something is on trial
        sa.Column("revision", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("endpoint", sa.Text, nullable=False),
        sa.Column("generation", sa.BigInteger, nullable=False),
        sa.Column("source", sa.Text, nullable=False),  # whose counts; "" says who looks for late faults
        sa.Column("part", sa.Integer, nullable=False),  # 0: counts, from 1 on marks of units
        sa.Column("body", sa.LargeBinary, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("serving_fleet_by_source", "serving_fleet", ["endpoint", "generation", "source", "part"])
    op.create_index("serving_outcomes_by_time", "serving_outcomes", ["endpoint", "recorded_at"])
    op.create_index("serving_outcomes_by_told", "serving_outcomes", ["endpoint", "told", "recorded_at"])
