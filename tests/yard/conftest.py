"""A yard on SQLite and on PostgreSQL, and a model in it that may get live traffic."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from modelyard import Yard

ANA, BEN = "ana@example.com", "ben@example.com"

Approve = Callable[..., None]


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str | None]:
    """Where a yard is, and where its files are."""
    if request.param == "sqlite":
        return str(tmp_path / "yard"), None
    return request.getfixturevalue("postgres_url"), str(tmp_path / "yard")


@pytest.fixture
def yard(place: tuple[str, str | None]) -> Iterator[Yard]:
    with Yard(place[0], files=place[1]) as opened:
        yield opened


def register(yard: Yard, file: Path, version: str, *, name: str = "fraud", approved: bool = True) -> None:
    yard.registry.register_model(name, version, file, "lightgbm", ANA)
    if approved:
        yard.registry.request_promotion(name, version, "production", ANA, "good", reviewers=[BEN])
        yard.registry.approve_promotion(name, version, BEN)


@pytest.fixture
def registered(small_model: Path) -> Approve:
    """Register a version in a yard, by default approved for production."""

    def make(yard: Yard, version: str, **options: object) -> None:
        register(yard, small_model, version, **options)  # type: ignore[arg-type]  # keywords as they come

    return make
