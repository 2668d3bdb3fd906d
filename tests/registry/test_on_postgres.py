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
    seen += _more(registry, model)
    clock.advance(10_000_000)
    seen += [artifacts.collect(grace_hours=1), artifacts.list_artifacts()]
    return seen


def _more(registry: ModelRegistry, model: Path) -> list[object]:
    """Policies, glass, scores, names and tags."""
    seen: list[object] = []
    for version in ("v1.0.0", "v2.0.0"):
        registry.register_model("cards", version, model, "lightgbm", ANA, metrics={"auc": 0.9}, parameters={"depth": 3})
        registry.store_scores("cards", version, "may", [1.0, 0.0, float(len(version))], ANA)
    registry.set_tag("cards", "v1.0.0", "note", ANA, value="ß" * 100_000)
    registry.set_model_tag("cards", "team", ANA, value="risk")
    made = registry.propose_policy("*", ModelStage.PRODUCTION, ANA, requires=["scan"], expires_after_hours=1)
    with pytest.raises(Forbidden):
        registry.approve_policy(made.policy_id, ANA)
    registry.approve_policy(made.policy_id, MAX)
    registry.request_promotion("cards", "v1.0.0", ModelStage.PRODUCTION, ANA)
    registry.comment_promotion("cards", "v1.0.0", ZOE, "'; --")
    check = registry.check_promotion("cards", "v1.0.0", ModelStage.PRODUCTION)
    broken = registry.break_glass("cards", "v2.0.0", ModelStage.STAGING, ANA, reason="outage", incident="INC-1")
    registry.review_break_glass(broken.break_id, ZOE, "justified")
    renamed = registry.rename_model("cards", "payments", ANA)
    registry.store.clock.advance(3601)  # type: ignore[attr-defined]
    expired = registry.expire_requests()
    seen += [check.missing, check.requirements, renamed, expired[0].comments, expired[0].status]
    seen += [
        registry.compare_versions(["payments:v1.0.0", "payments:v2.0.0"]),
        registry.version_by_number("payments", 2),
    ]
    seen += [registry.search_versions("params.depth = 3", text="note").items, registry.search_models(text="risk")]
    seen += [(one.status, one.verdict, one.version) for one in registry.list_break_glass("payments")]
    registry.transition("payments", "v2.0.0", ModelStage.ARCHIVED, ANA)
    registry.delete_model("payments", ANA)
    seen += [registry.search_models().items, [event.event_type for event in registry.history("payments", "v2.0.0")]]
    return seen


def test_one_life_of_a_model_is_the_same_on_both(
    yard: Path, postgres_url: str, small_model: Path, clock: FixedClock, tmp_path: Path
) -> None:
    other = FixedClock(clock.now())
    on_sqlite = _story(Store.at(yard, clock=clock), clock, small_model)
    on_postgres = _story(Store.at(postgres_url, files=tmp_path / "files", clock=other), other, small_model)
    assert on_postgres == on_sqlite
