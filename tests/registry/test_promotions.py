"""Nobody approves their own work, nor anything but what was asked for."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest

from modelyard.core.errors import Conflict, Forbidden, Invalid, NotFound
from modelyard.core.events import EventSeverity, EventType
from modelyard.core.instants import FixedClock
from modelyard.registry import ModelRegistry, ModelStage, RequestStatus

ANA, MAX, EVE, ZOE, TIM = (f"{name}@example.com" for name in ("ana", "max", "eve", "zoe", "tim"))
PRODUCTION, STAGING = ModelStage.PRODUCTION, ModelStage.STAGING


@pytest.fixture
def registry(yard: Path, clock: FixedClock, small_model: Path) -> ModelRegistry:
    registry = ModelRegistry(yard, clock=clock)
    registry.register_model("fraud", "v1.0.0", small_model, "lightgbm", ANA, trained_by=TIM, metrics={"auc": 0.9})
    return registry


def _stage(registry: ModelRegistry) -> ModelStage:
    return registry.get_model("fraud", "v1.0.0").stage


@pytest.mark.parametrize("reviewers", [[MAX, ZOE], None])
@pytest.mark.parametrize("approver", [ANA, TIM, EVE, MAX, "ANA@example.com", " tim@Example.COM ", "eve@ｅxample.com"])
def test_who_uploads_trains_or_asks_cannot_approve(
    registry: ModelRegistry, approver: str, reviewers: list[str] | None
) -> None:
    registry.request_promotion("fraud", "v1.0.0", PRODUCTION, EVE, reviewers=reviewers)
    if approver == MAX:
        registry.approve_promotion("fraud", "v1.0.0", approver)
        assert _stage(registry) is PRODUCTION
        return
    for act in (registry.approve_promotion, registry.reject_promotion):
        with pytest.raises(Forbidden):
            act("fraud", "v1.0.0", approver)
        told = registry.history("fraud", "v1.0.0")[-1]
        assert (told.event_type, told.severity) == (EventType.SECURITY_VIOLATION, EventSeverity.WARNING)
        assert told.details["action"] == act.__name__
    assert _stage(registry) is ModelStage.DEVELOPMENT
    assert registry.list_requests()[0].status is RequestStatus.OPEN, "a wrong person's try does not close it"


def test_only_named_reviewers_count(registry: ModelRegistry) -> None:
    registry.request_promotion("fraud", "v1.0.0", PRODUCTION, EVE, reviewers=[MAX])
    with pytest.raises(Forbidden, match=r"zoe@example\.com is no reviewer"):
        registry.approve_promotion("fraud", "v1.0.0", ZOE)
    with pytest.raises(Invalid, match="approver"):
        registry.approve_promotion("fraud", "v1.0.0", "  ")


def test_a_quorum_needs_different_people(registry: ModelRegistry) -> None:
    registry.request_promotion("fraud", "v1.0.0", PRODUCTION, EVE, reviewers=[MAX, ZOE], quorum=2)
    assert registry.approve_promotion("fraud", "v1.0.0", MAX, "fine").status is RequestStatus.OPEN
    with pytest.raises(Conflict, match="already"):
        registry.approve_promotion("fraud", "v1.0.0", MAX.upper())
    assert _stage(registry) is ModelStage.DEVELOPMENT
    done = registry.approve_promotion("fraud", "v1.0.0", ZOE)
    assert (done.status, [one.approver for one in done.approvals]) == (RequestStatus.APPROVED, [MAX, ZOE])
    assert registry.list_requests("fraud", status=RequestStatus.APPROVED) == [done]
    assert registry.history("fraud", "v1.0.0")[-2].details["approvers"] == [MAX, ZOE]


@pytest.mark.parametrize(
    ("reviewers", "quorum"), [([EVE], 1), ([ANA, TIM, EVE], 1), ([MAX], 2), ([MAX, MAX.upper()], 2), (None, 0)]
)
def test_a_request_that_could_never_be_approved_is_refused(
    registry: ModelRegistry, reviewers: list[str] | None, quorum: int
) -> None:
    with pytest.raises(Invalid):
        registry.request_promotion("fraud", "v1.0.0", PRODUCTION, EVE, reviewers=reviewers, quorum=quorum)


def test_one_request_at_a_time(registry: ModelRegistry) -> None:
    registry.request_promotion("fraud", "v1.0.0", PRODUCTION, EVE)
    with pytest.raises(Conflict, match="open already"):
        registry.request_promotion("fraud", "v1.0.0", STAGING, MAX)
    with pytest.raises(Forbidden, match="Only eve"):
        registry.withdraw_promotion("fraud", "v1.0.0", MAX)
    registry.withdraw_promotion("fraud", "v1.0.0", EVE, "later")
    with pytest.raises(NotFound, match="request-promotion"):
        registry.approve_promotion("fraud", "v1.0.0", MAX)
    registry.request_promotion("fraud", "v1.0.0", STAGING, MAX)
    closed = registry.reject_promotion("fraud", "v1.0.0", ZOE, "no test of fairness")
    assert (closed.status, closed.reason) == (RequestStatus.REJECTED, "no test of fairness")
    assert _stage(registry) is ModelStage.DEVELOPMENT


def test_the_stages_that_can_be_reached(registry: ModelRegistry) -> None:
    """From each stage to each: by request, freely, or not at all, as the table says."""
    reach = {
        ModelStage.DEVELOPMENT: [],
        STAGING: [STAGING],
        PRODUCTION: [PRODUCTION],
        ModelStage.ARCHIVED: [ModelStage.ARCHIVED],
    }
    asked, freely = set(), set()
    for start, target in product(ModelStage, ModelStage):
        _bring(registry, [ModelStage.ARCHIVED, ModelStage.DEVELOPMENT, *reach[start]])
        try:
            registry.request_promotion("fraud", "v1.0.0", target, EVE)
            registry.withdraw_promotion("fraud", "v1.0.0", EVE)
            asked.add((start.value[0], target.value[0]))
        except Conflict:
            pass
        try:
            registry.demote("fraud", "v1.0.0", target, EVE)
            freely.add((start.value[0], target.value[0]))
        except Forbidden:
            pass
    assert asked == {("d", "s"), ("d", "p"), ("s", "p")}
    assert freely == {("d", "a"), ("s", "d"), ("s", "a"), ("p", "s"), ("p", "d"), ("p", "a"), ("a", "d")}


def _bring(registry: ModelRegistry, stages: list[ModelStage]) -> None:
    for stage in stages:
        if _stage(registry) is stage:
            continue
        if stage in (STAGING, PRODUCTION):
            registry.request_promotion("fraud", "v1.0.0", stage, EVE)
            registry.approve_promotion("fraud", "v1.0.0", MAX)
        else:
            registry.demote("fraud", "v1.0.0", stage, EVE)


def test_bytes_that_changed_on_the_disk_void_the_request(registry: ModelRegistry) -> None:
    registry.request_promotion("fraud", "v1.0.0", PRODUCTION, EVE)
    [key] = registry.store.blobs.keys()
    path = registry.store.blobs.path(key)
    path.chmod(0o644)
    path.write_bytes(path.read_bytes().replace(b"leaf_value=", b"leaf_value=-", 1))
    with pytest.raises(Forbidden, match="not those that were registered"):
        registry.approve_promotion("fraud", "v1.0.0", MAX)
    assert registry.list_requests()[0].status is RequestStatus.VOID
    assert _stage(registry) is ModelStage.DEVELOPMENT


def test_other_bytes_under_the_same_version_void_the_request(registry: ModelRegistry, tmp_path: Path) -> None:
    """Even when the row is changed behind the registry's back."""
    registry.request_promotion("fraud", "v1.0.0", PRODUCTION, EVE)
    (tmp_path / "other.txt").write_text("other bytes")
    other = registry.store.artifacts.admit(tmp_path / "other.txt")
    with registry.store.work() as work:
        work.rows.run("UPDATE model_versions SET digest = :digest", digest=other.digest)
    with pytest.raises(Forbidden, match=r"bytes of fraud v1\.0\.0 changed"):
        registry.approve_promotion("fraud", "v1.0.0", MAX)
    assert registry.list_requests()[0].status is RequestStatus.VOID
    assert registry.history("fraud", "v1.0.0")[-1].event_type is EventType.SECURITY_VIOLATION


def test_a_version_deleted_and_registered_again_needs_a_new_request(registry: ModelRegistry, small_model: Path) -> None:
    registry.request_promotion("fraud", "v1.0.0", PRODUCTION, EVE)
    registry.delete("fraud", "v1.0.0", EVE)
    registry.register_model("fraud", "v1.0.0", small_model, "lightgbm", EVE)
    with pytest.raises(NotFound, match="No promotion"):
        registry.approve_promotion("fraud", "v1.0.0", MAX)


@pytest.mark.parametrize("change", ["metrics", "stage"])
def test_new_figures_or_a_moved_version_void_the_request(registry: ModelRegistry, change: str) -> None:
    registry.request_promotion("fraud", "v1.0.0", PRODUCTION, EVE)
    if change == "metrics":
        registry.update("fraud", "v1.0.0", ANA, metrics={"auc": 0.99})
    else:
        registry.archive("fraud", "v1.0.0", ANA)
    assert registry.list_requests()[0].status is RequestStatus.VOID
    with pytest.raises(NotFound):
        registry.approve_promotion("fraud", "v1.0.0", MAX)


def test_a_description_does_not_void_it(registry: ModelRegistry) -> None:
    registry.request_promotion("fraud", "v1.0.0", PRODUCTION, EVE)
    registry.update("fraud", "v1.0.0", ANA, description="better words")
    assert registry.approve_promotion("fraud", "v1.0.0", MAX).status is RequestStatus.APPROVED


def test_text_that_looks_like_sql_or_is_no_text_harms_nothing(registry: ModelRegistry) -> None:
    words = "'); DROP TABLE promotion_requests; -- :name <script>"
    registry.request_promotion("fraud", "v1.0.0", PRODUCTION, EVE, words, reviewers=[words, MAX])
    assert registry.list_requests(name=words) == []
    done = registry.approve_promotion("fraud", "v1.0.0", MAX, words)
    assert (done.justification, done.approvals[0].comment) == (words, words)
    with pytest.raises(Invalid, match="justification"):
        registry.request_promotion("fraud", "v1.0.0", PRODUCTION, EVE, "a\0b")
