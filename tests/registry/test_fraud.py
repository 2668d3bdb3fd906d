"""What somebody might try who may write to the registry and wants a version in production that nobody else approved."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from modelyard.core.errors import Conflict, Forbidden, Invalid, NotFound, YardError
from modelyard.core.events import EventType
from modelyard.core.instants import FixedClock
from modelyard.core.refs import Resource
from modelyard.registry import ModelRegistry, ModelStage, PolicyStatus, RequestStatus, ReviewStatus

ANA, TIM, EVE, MAX, ZOE = (f"{name}@example.com" for name in ("ana", "tim", "eve", "max", "zoe"))
STAGING, PRODUCTION = ModelStage.STAGING, ModelStage.PRODUCTION
CYRILLIC_A = "\N{CYRILLIC SMALL LETTER A}"
SPELLINGS = [
    "{0}",
    " {0}",
    "{0} ",
    "{0}\N{NO-BREAK SPACE}",
    "{0}\N{COMBINING GRAPHEME JOINER}",
    "\N{HANGUL FILLER}{0}",
    "{0}\N{VARIATION SELECTOR-16}",
]


@pytest.fixture
def registry(yard: Path, clock: FixedClock) -> ModelRegistry:
    return ModelRegistry(yard, clock=clock)


@pytest.fixture
def add(registry: ModelRegistry, small_model: Path):
    def register(version: str = "v1.0.0", name: str = "fraud", trained_by: str = TIM, **more):
        return registry.register_model(name, version, small_model, "lightgbm", ANA, trained_by=trained_by, **more)

    return register


@pytest.fixture
def force(registry: ModelRegistry):
    def approved(scope: str, stage: ModelStage, **asked):
        made = registry.propose_policy(scope, stage, ANA, **asked)
        others = iter([MAX, ZOE, "lea@example.com", "tom@example.com"])
        while made.status is PolicyStatus.PROPOSED:  # as many as the policy that it replaces asks for
            made = registry.approve_policy(made.policy_id, next(others))
        return made

    return approved


def _promote(registry: ModelRegistry, version: str = "v1.0.0", stage: ModelStage = PRODUCTION) -> None:
    registry.request_promotion("fraud", version, stage, ANA)
    registry.approve_promotion("fraud", version, MAX)


def _stage(registry: ModelRegistry, version: str = "v1.0.0") -> ModelStage:
    return registry.get_model("fraud", version).stage


@pytest.mark.parametrize("who", [ANA, TIM, EVE])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_no_other_spelling_makes_another_person(registry: ModelRegistry, add, who: str, spelling: str) -> None:
    add()
    registry.request_promotion("fraud", "v1.0.0", PRODUCTION, EVE)
    names = [spelling.format(one) for one in (who, who.upper(), who.title(), who.replace("e", "ｅ"))]
    names += [
        spelling.format(who.replace("a", CYRILLIC_A)),
        spelling.format(who.replace("o", "\N{GREEK SMALL LETTER OMICRON}")),
    ]
    for name in names:
        with pytest.raises((Forbidden, Invalid)):
            registry.approve_promotion("fraud", "v1.0.0", name)
    assert _stage(registry) is ModelStage.DEVELOPMENT


def test_a_name_that_looks_like_a_reviewers_is_no_reviewers(registry: ModelRegistry, add) -> None:
    """What looks alike is barred together and is not let in together."""
    add()
    registry.request_promotion("fraud", "v1.0.0", PRODUCTION, ANA, reviewers=[MAX])
    with pytest.raises(Forbidden, match="no reviewer"):
        registry.approve_promotion("fraud", "v1.0.0", MAX.replace("a", CYRILLIC_A))
    registry.approve_promotion("fraud", "v1.0.0", MAX)


def test_two_spellings_of_one_person_are_no_quorum(registry: ModelRegistry, add) -> None:
    add()
    registry.request_promotion("fraud", "v1.0.0", PRODUCTION, ANA, quorum=2)
    registry.approve_promotion("fraud", "v1.0.0", MAX)
    for name in (MAX.replace("a", CYRILLIC_A), MAX + "\N{COMBINING GRAPHEME JOINER}", MAX.upper()):
        with pytest.raises(Conflict, match="already"):
            registry.approve_promotion("fraud", "v1.0.0", name)
    with pytest.raises(Invalid, match="may approve"):
        registry.request_promotion(
            "fraud", add("v2.0.0").version, PRODUCTION, ANA, reviewers=[MAX, MAX.replace("a", CYRILLIC_A)], quorum=2
        )


@pytest.mark.parametrize(
    "told",
    [f"{MAX}, {TIM}", f"Max Muster <{MAX}>", f"{TIM}; {MAX.upper()}", f"tim & max ({MAX})", f"{TIM},{MAX}\u3164"],
)
def test_everybody_who_trained_it_is_barred_however_they_are_listed(registry: ModelRegistry, add, told: str) -> None:
    add(trained_by=told)
    registry.request_promotion("fraud", "v1.0.0", PRODUCTION, ANA)
    with pytest.raises(Forbidden, match="trained it"):
        registry.approve_promotion("fraud", "v1.0.0", MAX)
    assert registry.approve_promotion("fraud", "v1.0.0", ZOE).status is RequestStatus.APPROVED


@pytest.mark.parametrize("hidden", ["\u200b", "  ", f"{TIM}\u200b", "a\nb", "x" * 300])
def test_a_trainer_is_named_by_what_can_be_read(registry: ModelRegistry, add, hidden: str) -> None:
    with pytest.raises(Invalid, match="trained_by"):
        add(trained_by=hidden)


def test_who_asks_names_nobody_in_place_of_a_role(registry: ModelRegistry, add, force) -> None:
    force("*", PRODUCTION, roles=["risk officer"])
    add()
    with pytest.raises(Invalid, match="risk officer"):
        registry.request_promotion("fraud", "v1.0.0", PRODUCTION, ANA, reviewers=[MAX])


def test_an_accomplice_cannot_weaken_the_policy_that_the_request_was_made_by(
    registry: ModelRegistry, add, force
) -> None:
    force("fraud", PRODUCTION, quorum=2)
    add()
    registry.request_promotion("fraud", "v1.0.0", PRODUCTION, ANA)
    registry.approve_promotion("fraud", "v1.0.0", MAX)
    force("fraud", STAGING, quorum=1)  # another stage's: nothing to do with it
    assert registry.list_requests(status=RequestStatus.OPEN)
    registry.approve_policy(registry.propose_policy("*", PRODUCTION, ANA, quorum=1).policy_id, ZOE)
    assert registry.list_requests(status=RequestStatus.OPEN), "its own policy holds, not that of all"
    force("fraud", PRODUCTION, quorum=1)
    with pytest.raises(NotFound, match="No promotion"):
        registry.approve_promotion("fraud", "v1.0.0", ZOE)
    assert _stage(registry) is ModelStage.DEVELOPMENT
    registry.request_promotion("fraud", "v1.0.0", PRODUCTION, ANA)
    with pytest.raises(Forbidden, match="asked for"):
        registry.approve_promotion("fraud", "v1.0.0", ANA)


def test_approvals_of_a_withdrawn_request_do_not_count_for_the_next(registry: ModelRegistry, add) -> None:
    add()
    registry.request_promotion("fraud", "v1.0.0", PRODUCTION, EVE, quorum=2)
    registry.approve_promotion("fraud", "v1.0.0", MAX)
    registry.withdraw_promotion("fraud", "v1.0.0", EVE)
    again = registry.request_promotion("fraud", "v1.0.0", PRODUCTION, EVE, quorum=2)
    assert again.approvals == ()
    assert registry.approve_promotion("fraud", "v1.0.0", ZOE).status is RequestStatus.OPEN
    assert _stage(registry) is ModelStage.DEVELOPMENT


def test_the_same_name_and_version_is_not_the_same_evidence(registry: ModelRegistry, add, force) -> None:
    """What was found of a version that was deleted says nothing of the bytes that took its name."""
    force(
        "*",
        PRODUCTION,
        requires=["bias_assessment", "compliance:eu_ai_act", "drift_reference"],
        min_shadow_agreement=0.9,
    )

    def assess(version: str) -> None:
        about = Resource("model", f"fraud:{version}")
        shadow = {"shadow_model": f"fraud:{version}", "comparisons": 99, "agreement_interval": [0.95, 1.0]}
        with registry.store.work(ZOE) as work:
            work.emit(EventType.BIAS_ASSESSED, about, {"biased": False, "n": 10})
            work.emit(EventType.COMPLIANCE_ASSESSED, about, {"framework": "eu_ai_act", "failed": []})
            work.emit(EventType.CONFIGURATION_CHANGED, about, {"reference_set": True, "rows": 9})
            work.emit(EventType.SHADOW_COMPARED, Resource("shadow", "shd"), shadow)

    def unmet(version: str) -> list[str]:
        return [one.name for one in registry.check_promotion("fraud", version, PRODUCTION).requirements if not one.met]

    every = ["bias_assessment", "compliance:eu_ai_act", "drift_reference", "shadow_agreement"]
    add("v1.0.0")
    assess("v1.0.0")
    assert unmet("v1.0.0") == []
    registry.delete("fraud", "v1.0.0", ANA)
    add("1.0.0")
    assert unmet("1.0.0") == every
    assess("1.0.0")
    assert unmet("1.0.0") == []
    registry.delete_model("fraud", ANA)
    add("v1.0.0", name="other")
    registry.rename_model("other", "fraud", ANA)
    assert unmet("v1.0.0") == every, "nor does that of a model that had the name before"


def test_the_champion_is_not_talked_down(registry: ModelRegistry, add, force) -> None:
    """Whoever wants a worse version in must not first worsen what it is compared with."""
    add("v1.0.0", metrics={"auc": 0.9})
    _promote(registry)
    force("*", PRODUCTION, no_worse_than_champion={"auc": 0.01})
    for metrics in ({"auc": 0.1}, {"auc": 0.99}, {"f1": 0.5}):
        with pytest.raises(Conflict, match="approval for production rests on"):
            registry.update("fraud", "v1.0.0", ANA, metrics=metrics)
    registry.update("fraud", "v1.0.0", ANA, metrics={"auc": 0.9}, description="the same figures, other words")
    add("v2.0.0", metrics={"auc": 0.5})
    steps = (
        lambda: None,
        lambda: registry.delete_alias("fraud", "champion", user=ANA),
        lambda: registry.demote("fraud", "v1.0.0", ModelStage.ARCHIVED, ANA),
    )
    for step in steps:
        step()
        unmet = [one for one in registry.check_promotion("fraud", "v2.0.0", PRODUCTION).requirements if not one.met]
        assert [one.name for one in unmet] == ["champion.auc"]


def test_no_name_is_left_without_its_policy(registry: ModelRegistry, add, force) -> None:
    force("fraud", PRODUCTION, quorum=3)
    add()
    with pytest.raises(Conflict, match="approved for the name fraud"):
        registry.rename_model("fraud", "old", ANA)
    add("v1.0.0", name="weak")
    with pytest.raises(Conflict, match="model fraud already"):
        registry.rename_model("weak", "fraud", ANA)
    registry.delete_model("fraud", ANA)
    with pytest.raises(Conflict, match="approved for the name fraud"):
        registry.rename_model("weak", "fraud", ANA)
    add()
    assert registry.request_promotion("fraud", "v1.0.0", PRODUCTION, ANA).quorum == 3


@pytest.mark.parametrize("alias", ["champion", "Champion", "CHAMPION"])
def test_no_alias_passes_an_unapproved_version_off_as_the_champion(registry: ModelRegistry, add, alias: str) -> None:
    add()
    for put in (
        lambda: registry.set_alias("fraud", alias, "v1.0.0", user=ANA),
        lambda: registry.promote_champion("fraud", "v1.0.0", ANA),
    ):
        with pytest.raises(Forbidden, match="only a production version"):
            put()
    with pytest.raises(NotFound):
        registry.get_by_alias("fraud", alias)


def test_a_version_that_left_production_does_not_come_back_by_itself(registry: ModelRegistry, add) -> None:
    add()
    _promote(registry)
    registry.archive("fraud", "v1.0.0", ANA)
    assert registry.get_model("fraud", "v1.0.0").aliases == ()
    assert registry.restore("fraud", "v1.0.0", ANA).stage is ModelStage.DEVELOPMENT
    for stage in (STAGING, PRODUCTION):
        with pytest.raises(Forbidden, match="needs an approval"):
            registry.transition("fraud", "v1.0.0", stage, ANA)
    with pytest.raises(Forbidden, match="only a production version"):
        registry.set_alias("fraud", "champion", "v1.0.0", user=ANA)


def test_an_approval_for_staging_is_none_for_production(registry: ModelRegistry, add) -> None:
    add()
    _promote(registry, stage=STAGING)
    with pytest.raises(Forbidden, match="needs an approval"):
        registry.transition("fraud", "v1.0.0", PRODUCTION, ANA)
    with pytest.raises(NotFound):
        registry.approve_promotion("fraud", "v1.0.0", MAX)


def test_a_request_that_was_seen_past_its_time_stays_closed_when_the_clock_goes_back(
    registry: ModelRegistry, add, force, clock: FixedClock
) -> None:
    force("*", PRODUCTION, expires_after_hours=2)
    add()
    registry.request_promotion("fraud", "v1.0.0", PRODUCTION, ANA)
    clock.advance(3 * 3600)
    with pytest.raises(Conflict, match="Ask again"):
        registry.approve_promotion("fraud", "v1.0.0", MAX)
    clock.advance(-3 * 3600)
    with pytest.raises(NotFound, match="No promotion"):
        registry.approve_promotion("fraud", "v1.0.0", MAX)
    assert _stage(registry) is ModelStage.DEVELOPMENT


def test_broken_glass_opens_nothing_further(registry: ModelRegistry, add, clock: FixedClock) -> None:
    """Twice in a day is two loud moves with two reviews, whatever became of the versions; a day later nothing moves."""
    for version in ("v1.0.0", "v2.0.0", "v3.0.0"):
        add(version)
    first = registry.break_glass("fraud", "v1.0.0", STAGING, ANA, reason="outage", incident="INC-1")
    second = registry.break_glass("fraud", "v1.0.0", PRODUCTION, ANA, reason="outage", incident="INC-1")
    with pytest.raises(Conflict, match="cannot be promoted"):
        registry.break_glass("fraud", "v1.0.0", PRODUCTION, ANA, reason="outage", incident="INC-1")
    waiting = registry.list_break_glass("fraud", ReviewStatus.OPEN)
    assert {one.break_id for one in waiting} == {first.break_id, second.break_id}
    registry.archive("fraud", "v1.0.0", ANA)
    registry.delete("fraud", "v1.0.0", ANA)
    add("v1.0.0")
    assert _stage(registry) is ModelStage.DEVELOPMENT
    clock.advance(timedelta(hours=25).total_seconds())
    with pytest.raises(Forbidden, match="more than 24 hours"):
        registry.break_glass("fraud", "v1.0.0", PRODUCTION, MAX, reason="outage", incident="INC-2")
    for person in (ANA, ANA.upper(), ANA.replace("a", CYRILLIC_A)):
        with pytest.raises(Forbidden, match="cannot review"):
            registry.review_break_glass(first.break_id, person, "justified")


def test_whoever_made_the_version_does_not_justify_its_broken_glass(registry: ModelRegistry, add) -> None:
    add()
    made = registry.break_glass("fraud", "v1.0.0", PRODUCTION, EVE, reason="outage", incident="INC-1")
    for person in (ANA, TIM, EVE):
        with pytest.raises(Forbidden, match="cannot review"):
            registry.review_break_glass(made.break_id, person, "justified")
    assert registry.review_break_glass(made.break_id, MAX, "justified").reviewer == MAX


def test_nothing_that_is_refused_is_silent(registry: ModelRegistry, add) -> None:
    add()
    registry.request_promotion("fraud", "v1.0.0", PRODUCTION, ANA)
    tries = (
        lambda: registry.approve_promotion("fraud", "v1.0.0", ANA),
        lambda: registry.transition("fraud", "v1.0.0", PRODUCTION, ANA),
        lambda: registry.set_alias("fraud", "champion", "v1.0.0", user=ANA),
        lambda: registry.withdraw_promotion("fraud", "v1.0.0", MAX),
    )
    for number, attempt in enumerate(tries, start=1):
        with pytest.raises(YardError):
            attempt()
        told = [one for one in registry.history("fraud", "v1.0.0") if one.event_type is EventType.SECURITY_VIOLATION]
        assert len(told) == number
