"""The registry and the artifacts answer the same on PostgreSQL as on SQLite."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelyard.artifacts import ArtifactStore
from modelyard.core.errors import Conflict, Forbidden, NotFound
from modelyard.core.instants import FixedClock
from modelyard.core.work import Store
from modelyard.registry import ModelRegistry, ModelStage, RequestStatus

pytestmark = pytest.mark.postgres
ANA, MAX, ZOE = "ana@example.com", "max@example.com", "zoe@example.com"


def _story(store: Store, clock: FixedClock, model: Path) -> list[object]:
    """What everybody sees of a model's life, without the identifiers that are random."""
    registry, artifacts = ModelRegistry(store), ArtifactStore(store)
    seen: list[object] = []
    for version in ("v1.10.0", "v1.9.0", "v2.0.0-rc.1", "v2.0.0-Rc.1", "v2.0.0-10", "v2.0.0-9"):
        clock.advance(1)
        registry.register_model("fraud", version, model, "lightgbm", ANA, metrics={"auc": 0.9}, tags=["b", "B", "ä"])
    with pytest.raises(Conflict):
        registry.register_model("fraud", "1.9.0", model, "lightgbm", MAX)
    seen += [(one.version, one.tags) for one in registry.list_models(tag="B")]
    seen += [one.version for one in registry.list_models(after="fraud:v1.9.0", limit=3)]
    seen.append(registry.latest("fraud").version)
    registry.request_promotion("fraud", "v1.9.0", ModelStage.PRODUCTION, ANA, reviewers=[MAX, ZOE], quorum=2)
    with pytest.raises(Conflict):
        registry.request_promotion("fraud", "v1.9.0", ModelStage.STAGING, MAX)
    with pytest.raises(Forbidden):
        registry.approve_promotion("fraud", "v1.9.0", ANA)
    registry.approve_promotion("fraud", "v1.9.0", MAX)
    with pytest.raises(Conflict):
        registry.approve_promotion("fraud", "v1.9.0", MAX)
    registry.approve_promotion("fraud", "v1.9.0", ZOE)
    registry.set_alias("fraud", "challenger", "v1.10.0", user=ANA)
    registry.update("fraud", "v1.10.0", ANA, tags=["new"], description="'; --")
    seen += [
        registry.champion("fraud"),
        registry.resolve("fraud@challenger"),
        registry.path("fraud", "v1.9.0").read_bytes(),
    ]
    seen += [(one.status, len(one.approvals)) for one in registry.list_requests(status=RequestStatus.APPROVED)]
    registry.delete("fraud", "v2.0.0-9", ANA)
    with pytest.raises(NotFound):
        registry.get_model("fraud", "v2.0.0-9")
    seen += [(event.event_type, event.actor) for event in registry.history("fraud", "v1.9.0")]
    clock.advance(10_000_000)
    seen += [artifacts.collect(grace_hours=1), artifacts.list_artifacts()]
    return seen


def test_one_life_of_a_model_is_the_same_on_both(
    yard: Path, postgres_url: str, small_model: Path, clock: FixedClock, tmp_path: Path
) -> None:
    other = FixedClock(clock.now())
    on_sqlite = _story(Store.at(yard, clock=clock), clock, small_model)
    on_postgres = _story(Store.at(postgres_url, files=tmp_path / "files", clock=other), other, small_model)
    assert on_postgres == on_sqlite
