"""Tables of the governance area: the lineage graph, bias reports, attestations and compliance assessments."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0010", "0009"

NUMBER = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.create_table(
        "governance_nodes",
        sa.Column("position", NUMBER, primary_key=True, autoincrement=True),
        sa.Column("node_id", sa.Text, nullable=False, unique=True),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("details", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
    )
    op.create_index("governance_nodes_by_name", "governance_nodes", ["kind", "name", "position"])
    op.create_table(
        "governance_edges",
        sa.Column("source", sa.Text, primary_key=True),
        sa.Column("target", sa.Text, primary_key=True),
        sa.Column("relation", sa.Text, primary_key=True),
        sa.Column("created_at", sa.BigInteger, nullable=False),
    )
    op.create_index("governance_edges_by_target", "governance_edges", ["target"])
    op.create_table(
        "governance_bias",
        sa.Column("position", NUMBER, primary_key=True, autoincrement=True),
        sa.Column("report_id", sa.Text, nullable=False, unique=True),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("assessed_at", sa.BigInteger, nullable=False),
        sa.Column("report", sa.Text, nullable=False),
    )
    op.create_index("governance_bias_by_model", "governance_bias", ["model", "position"])
    op.create_table(
        "governance_attestations",
        sa.Column("position", NUMBER, primary_key=True, autoincrement=True),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("framework", sa.Text, nullable=False),
        sa.Column("control", sa.Text, nullable=False),
        sa.Column("says", sa.Text, nullable=False),
        sa.Column("statement", sa.Text, nullable=False),
        sa.Column("attested_by", sa.Text, nullable=False),
        sa.Column("attested_at", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=True),
        sa.Column("event_id", sa.Text, nullable=False),
    )
    op.create_index("governance_attestations_by_model", "governance_attestations", ["model", "framework", "position"])
    op.create_table(
        "governance_compliance",
        sa.Column("position", NUMBER, primary_key=True, autoincrement=True),
        sa.Column("assessment_id", sa.Text, nullable=False, unique=True),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("framework", sa.Text, nullable=False),
        sa.Column("assessed_at", sa.BigInteger, nullable=False),
        sa.Column("report", sa.Text, nullable=False),
    )
    op.create_index("governance_compliance_by_model", "governance_compliance", ["model", "framework", "position"])
