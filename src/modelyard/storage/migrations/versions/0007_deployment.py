"""Tables of the deployment area."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0007", "0006"

LIVE = "status IN ('running', 'waiting', 'paused') AND source = 'live'"


def upgrade() -> None:
    op.create_table(
        "deployments",
        sa.Column("deployment_id", sa.Text, primary_key=True),
        sa.Column("source", sa.Text, nullable=False),  # live: counts of serving; reported: metrics by hand
        sa.Column("endpoint", sa.Text, nullable=False),
        sa.Column("model_name", sa.Text, nullable=False),
        sa.Column("model_version", sa.Text, nullable=False),
        sa.Column("baseline", sa.Text, nullable=False),
        sa.Column("strategy", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("step", sa.Integer, nullable=False),
        sa.Column("generation", sa.BigInteger, nullable=False),
        sa.Column("step_started_at", sa.BigInteger, nullable=False),
        sa.Column("created_by", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("plan", sa.Text, nullable=False),  # JSON: steps and terms
        sa.Column("state", sa.Text, nullable=False),  # JSON, what a controller resumes from
    )
    op.create_index("deployments_by_endpoint", "deployments", ["endpoint", "created_at"])
    op.create_index(
        "deployments_one_live",
        "deployments",
        ["endpoint"],
        unique=True,
        sqlite_where=sa.text(LIVE),
        postgresql_where=sa.text(LIVE),
    )
    op.create_table(
        "deployment_generations",
        sa.Column("endpoint", sa.Text, primary_key=True),
        sa.Column("generation", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "deployment_history",
        sa.Column("position", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("deployment_id", sa.Text, sa.ForeignKey("deployments.deployment_id"), nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("what", sa.Text, nullable=False),
        sa.Column("step", sa.Integer, nullable=False),
        sa.Column("share", sa.Float, nullable=False),
        sa.Column("generation", sa.BigInteger, nullable=False),
        sa.Column("reasons", sa.Text, nullable=False),
        sa.Column("measurements", sa.Text, nullable=False),
    )
    op.create_index("deployment_history_by_deployment", "deployment_history", ["deployment_id", "position"])
    op.create_table(
        "deployment_looks",  # the last look of a controller at a rollout, and who holds the lease
        sa.Column("deployment_id", sa.Text, sa.ForeignKey("deployments.deployment_id"), primary_key=True),
        sa.Column("controller", sa.Text, nullable=False),
        sa.Column("lease_until", sa.BigInteger, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("seen", sa.Text, nullable=False),  # JSON: the decision and each arm's counts
    )
    op.create_table(
        "shadow_deployments",
        sa.Column("shadow_id", sa.Text, primary_key=True),
        sa.Column("primary_model", sa.Text, nullable=False),
        sa.Column("shadow_model", sa.Text, nullable=False),
        sa.Column("traffic_percentage", sa.Float, nullable=False),
        sa.Column("created_by", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("counts", sa.Text, nullable=False),  # JSON: integers and two histograms
    )
