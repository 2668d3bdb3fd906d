"""Two yards: one that publishes, one that fetches."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from modelyard import Yard
from modelyard.core.instants import FixedClock
from modelyard.core.work import Store
from modelyard.marketplace import Listing, Packed


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("migrated")
    Store.at(folder).close()
    return folder


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock(datetime(2026, 1, 1, tzinfo=UTC))


@pytest.fixture
def new_yard(migrated: Path, tmp_path: Path, clock: FixedClock) -> Callable[[str], Yard]:
    def made(name: str) -> Yard:
        shutil.copytree(migrated, tmp_path / name)
        return Yard(tmp_path / name, clock=clock)

    return made


@pytest.fixture
def theirs(new_yard: Callable[[str], Yard], small_model: Path) -> Yard:
    """A yard with one approved version."""
    yard = new_yard("theirs")
    yard.registry.register_model(
        "fraud",
        "v1.0.0",
        small_model,
        "lightgbm",
        "ana@example.org",
        metrics={"auc": 0.93},
        tags=["team=risk"],
        parameters={"trees": 3},
        description="Card payments",
    )
    yard.registry.request_promotion("fraud", "v1.0.0", "production", "ana@example.org", "better")
    yard.registry.approve_promotion("fraud", "v1.0.0", "max@example.org", "looks good")
    return yard


@pytest.fixture
def listing(theirs: Yard) -> Listing:
    return publish(theirs)


@pytest.fixture
def ours(new_yard: Callable[[str], Yard], theirs: Yard) -> Yard:
    """A yard that trusts the other one's key."""
    yard = new_yard("ours")
    yard.marketplace.trust_publisher("fraud team", theirs.marketplace.publishing_key().public_key, "root")
    return yard


@pytest.fixture
def packed(theirs: Yard, listing: Listing, tmp_path: Path) -> Packed:
    return theirs.marketplace.pack(listing.listing_id, tmp_path / "fraud.zip", "ben@example.org")


def publish(yard: Yard, version: str = "v1.0.0", **more: object) -> Listing:
    told = {"licence": "Apache-2.0", "owner": "ana@example.org", "summary": "Finds card fraud"}
    return yard.marketplace.publish("fraud", version, "ana@example.org", **told, **more)
