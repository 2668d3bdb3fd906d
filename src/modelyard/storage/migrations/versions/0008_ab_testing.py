"""Tables of the ab_testing area."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0008", "0007"


def upgrade() -> None:
    op.create_table(
        "ab_tests",
        sa.Column("test_id", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("strategy", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("created_by", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("started_at", sa.BigInteger),
        sa.Column("ended_at", sa.BigInteger),
        sa.Column("exclusive_group", sa.Text, nullable=False),
        sa.Column("group_start", sa.Float, nullable=False),
        sa.Column("winner", sa.Text, nullable=False),
        sa.Column("conclusion", sa.Text, nullable=False),
        sa.Column("plan", sa.Text, nullable=False),  # JSON, written once
    )
    op.create_index("ab_tests_by_group", "ab_tests", ["exclusive_group", "status"])
    op.create_table(
        "ab_arms",
        sa.Column("test_id", sa.Text, sa.ForeignKey("ab_tests.test_id"), primary_key=True),
        sa.Column("variant", sa.Text, primary_key=True),
        sa.Column("round", sa.Integer, primary_key=True),  # of Thompson sampling; 0 in other tests
        sa.Column("tally", sa.Text, nullable=False),  # JSON: exact sums and an integer histogram
    )
    op.create_table(
        "ab_parts",  # sorted keys, each with a value: what units have brought, and the results that were told with an id
        sa.Column("part", sa.Text, primary_key=True),
        sa.Column("test_id", sa.Text, sa.ForeignKey("ab_tests.test_id"), nullable=False),
        sa.Column("owner", sa.Text, nullable=False),  # the variant of units; "": results
        sa.Column("run", sa.BigInteger, nullable=False),
        sa.Column("first_key", sa.BigInteger, nullable=False),
        sa.Column("last_key", sa.BigInteger, nullable=False),
        sa.Column("entries", sa.BigInteger, nullable=False),
        sa.Column("keys", sa.LargeBinary, nullable=False),  # their first 64 bits
        sa.Column("rest", sa.LargeBinary, nullable=False),  # their other 64 bits, lengths of values, values
    )
    op.create_index("ab_parts_by_owner", "ab_parts", ["test_id", "owner"])
    op.create_table(
        "ab_layouts",  # how values of parts are written
        sa.Column("test_id", sa.Text, sa.ForeignKey("ab_tests.test_id"), primary_key=True),
        sa.Column("layout", sa.Integer, primary_key=True),
        sa.Column("told", sa.Text, nullable=False),  # JSON
    )
    op.create_table(
        "ab_sources",  # running totals told by serving, one row a source and generation
        sa.Column("test_id", sa.Text, sa.ForeignKey("ab_tests.test_id"), primary_key=True),
        sa.Column("variant", sa.Text, primary_key=True),
        sa.Column("source", sa.Text, primary_key=True),
        sa.Column("generation", sa.BigInteger, primary_key=True),
        sa.Column("requests", sa.BigInteger, nullable=False),
        sa.Column("errors", sa.BigInteger, nullable=False),
        sa.Column("latency", sa.Text, nullable=False),
    )
    op.create_table(
        "ab_journals",  # how far each journal file is already in ab_arms
        sa.Column("journal", sa.Text, primary_key=True),
        sa.Column("folded", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "ab_looks",
        sa.Column("test_id", sa.Text, sa.ForeignKey("ab_tests.test_id"), primary_key=True),
        sa.Column("look", sa.Integer, primary_key=True),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("fraction", sa.Float, nullable=False),
        sa.Column("alpha", sa.Float, nullable=False),
        sa.Column("significant", sa.Text, nullable=False),  # JSON: names of the treatments that crossed the bound
        sa.Column("p_values", sa.Text, nullable=False),  # JSON: by treatment:metric
        sa.Column("guardrails", sa.Text, nullable=False),  # JSON: by treatment:metric
    )
    op.create_table(
        "ab_rounds",
        sa.Column("test_id", sa.Text, sa.ForeignKey("ab_tests.test_id"), primary_key=True),
        sa.Column("round", sa.Integer, primary_key=True),
        sa.Column("shares", sa.Text, nullable=False),  # JSON: variant to share
        sa.Column("assigned", sa.BigInteger, nullable=False),
        sa.Column("started_at", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "ab_assignments",  # of Thompson sampling: other tests compute them
        sa.Column("test_id", sa.Text, sa.ForeignKey("ab_tests.test_id"), primary_key=True),
        sa.Column("unit", sa.Text, primary_key=True),
        sa.Column("variant", sa.Text, nullable=False),
        sa.Column("round", sa.Integer, nullable=False),
    )
    op.create_table(
        "ab_holdouts",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("share", sa.Float, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("created_by", sa.Text, nullable=False),
        sa.Column("ended_at", sa.BigInteger),
    )
