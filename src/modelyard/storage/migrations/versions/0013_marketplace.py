"""Listings of models shared between teams, with ratings, requests for access and the publishers that are trusted."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0013", "0012"

# Text is compared and ordered byte by byte, as SQLite does it; a language's own collation would reorder it.
TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def _where(condition: str) -> dict:
    return {"sqlite_where": sa.text(condition), "postgresql_where": sa.text(condition)}


def upgrade() -> None:
    op.create_table(
        "marketplace_listings",
        sa.Column("listing_id", TEXT, primary_key=True),
        sa.Column("model", TEXT, nullable=False),
        sa.Column("canonical", TEXT, nullable=False),  # the version without its leading v
        sa.Column("version", TEXT, nullable=False),
        sa.Column("digest", TEXT, nullable=False),
        sa.Column("project", TEXT, nullable=False),
        sa.Column("summary", TEXT, nullable=False),
        sa.Column("card", TEXT, nullable=False),  # Markdown
        sa.Column("licence", TEXT, nullable=False),  # an SPDX expression
        sa.Column("owner", TEXT, nullable=False),
        sa.Column("visibility", TEXT, nullable=False),  # open or restricted
        sa.Column("status", TEXT, nullable=False),  # listed or withdrawn
        sa.Column("published_by", TEXT, nullable=False),
        sa.Column("published_at", sa.BigInteger, nullable=False),
        sa.Column("withdrawn_at", sa.BigInteger),
        sa.Column("withdrawn_because", TEXT, nullable=False),
        sa.Column("words", TEXT, nullable=False),  # what full text is searched in, folded
        sa.Column("fetches", sa.BigInteger, nullable=False),
        sa.Column("stars", sa.BigInteger, nullable=False),  # the sum of all ratings
        sa.Column("ratings", sa.BigInteger, nullable=False),
    )
    op.create_index(
        "marketplace_one_listing", "marketplace_listings", ["model", "canonical"], unique=True, **_where("status = 'listed'")
    )
    op.create_index("marketplace_newest", "marketplace_listings", ["status", "published_at", "listing_id"])
    op.create_table(
        "marketplace_ratings",
        sa.Column("listing_id", TEXT, sa.ForeignKey("marketplace_listings.listing_id"), primary_key=True),
        sa.Column("person", TEXT, primary_key=True),  # folded for comparison
        sa.Column("rated_by", TEXT, nullable=False),
        sa.Column("stars", sa.Integer, nullable=False),
        sa.Column("comment", TEXT, nullable=False),
        sa.Column("rated_at", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "marketplace_requests",
        sa.Column("request_id", TEXT, primary_key=True),
        sa.Column("listing_id", TEXT, sa.ForeignKey("marketplace_listings.listing_id"), nullable=False),
        sa.Column("person", TEXT, nullable=False),  # folded for comparison
        sa.Column("requested_by", TEXT, nullable=False),
        sa.Column("reason", TEXT, nullable=False),
        sa.Column("requested_at", sa.BigInteger, nullable=False),
        sa.Column("status", TEXT, nullable=False),  # open, granted or denied
        sa.Column("decided_by", TEXT, nullable=False),
        sa.Column("decided_at", sa.BigInteger),
        sa.Column("comment", TEXT, nullable=False),
        sa.Column("expires_at", sa.BigInteger),
    )
    op.create_index(
        "marketplace_one_open_request",
        "marketplace_requests",
        ["listing_id", "person"],
        unique=True,
        **_where("status = 'open'"),
    )
    op.create_index("marketplace_requests_by_listing", "marketplace_requests", ["listing_id", "person", "requested_at"])
    op.create_table(
        "marketplace_publishers",
        sa.Column("name", TEXT, primary_key=True),
        sa.Column("key_id", TEXT, nullable=False, unique=True),
        sa.Column("public_key", TEXT, nullable=False),  # PEM
        sa.Column("trusted_by", TEXT, nullable=False),
        sa.Column("trusted_at", sa.BigInteger, nullable=False),
    )
