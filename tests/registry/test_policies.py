"""Nothing enters a protected stage but as its policy says, or through broken glass that everybody hears."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from modelyard.core.errors import Conflict, Forbidden, Invalid, NotFound, YardError
from modelyard.core.events import EventSeverity, EventType
from modelyard.core.instants import FixedClock
from modelyard.core.refs import Resource
from modelyard.core.work import Store
from modelyard.registry import ModelRegistry, ModelStage, PolicyStatus, RequestStatus, ReviewStatus
from modelyard.registry.policy import COMPLIANCE, REQUIREMENTS
from modelyard.registry.requirements import CHECKS

ANA, MAX, ZOE, EVE = "ana@example.com", "max@example.com", "zoe@example.com", "eve@example.com"
STAGING, PRODUCTION = ModelStage.STAGING, ModelStage.PRODUCTION


@pytest.fixture
def registry(yard: Path, clock: FixedClock) -> ModelRegistry:
    return ModelRegistry(yard, clock=clock)


@pytest.fixture
def add(registry: ModelRegistry, small_model: Path):
    def register(version: str, name: str = "fraud", **more):
        return registry.register_model(name, version, small_model, "lightgbm", ANA, **more)

    return register


@pytest.fixture
def force(registry: ModelRegistry):
    def approved(scope: str, stage: ModelStage, **asked):
        made = registry.propose_policy(scope, stage, ANA, **asked)
        others = iter([MAX, ZOE, "lea@example.com", "tom@example.com"])
        while made.status is PolicyStatus.PROPOSED:
            made = registry.approve_policy(made.policy_id, next(others))
        return made

    return approved


def _events(registry: ModelRegistry, kind: EventType) -> list[dict]:
    import json

    with registry.store.reading() as rows:
        found = rows.all(
            "SELECT details, severity FROM events WHERE event_type = :kind ORDER BY position", kind=kind.value
        )
    return [{**json.loads(row["details"]), "severity": row["severity"]} for row in found]


def test_a_policy_takes_two_people_also_the_first(registry: ModelRegistry) -> None:
    made = registry.propose_policy("*", PRODUCTION, ANA, quorum=0)
    for person in (ANA, "ANA@example.com ", "ａna@example.com"):
        with pytest.raises(Forbidden, match="proposed the policy"):
            registry.approve_policy(made.policy_id, person)
    assert registry.policy_of("fraud", PRODUCTION).protected
    assert registry.approve_policy(made.policy_id, MAX).status is PolicyStatus.ACTIVE
    assert not registry.policy_of("fraud", PRODUCTION).protected
    with pytest.raises(Forbidden, match="is active"):
        registry.approve_policy(made.policy_id, ZOE)
    assert len(_events(registry, EventType.SECURITY_VIOLATION)) == 4
    assert _events(registry, EventType.POLICY_APPROVED)[0]["barred"] == [ANA]


def test_a_policy_is_replaced_by_as_many_people_as_it_asks_for(registry: ModelRegistry, force) -> None:
    """Else two people could open a stage that takes three."""
    force("*", PRODUCTION, quorum=3)
    made = registry.propose_policy("*", PRODUCTION, ANA, quorum=0)
    one = registry.approve_policy(made.policy_id, MAX)
    assert (one.status, one.agreed_by) == (PolicyStatus.PROPOSED, (MAX,))
    for again in (MAX, "Max@example.com", ANA):
        with pytest.raises(Forbidden, match=r"already|proposed the policy"):
            registry.approve_policy(made.policy_id, again)
    assert registry.approve_policy(made.policy_id, ZOE).agreed_by == (MAX, ZOE)
    assert registry.policy_of("fraud", PRODUCTION).quorum == 3
    assert registry.get_policy(made.policy_id).agreed_by == (MAX, ZOE)
    last = registry.approve_policy(made.policy_id, "lea@example.com", comment="agreed in the meeting")
    assert (last.status, last.decided_by) == (PolicyStatus.ACTIVE, "lea@example.com")
    assert registry.policy_of("fraud", PRODUCTION).quorum == 0
    assert [told["approver"] for told in _events(registry, EventType.POLICY_AGREED)] == [MAX, ZOE]
    made = registry.propose_policy("*", PRODUCTION, ANA, quorum=2)  # what leaves the stage open takes one person to end
    assert registry.approve_policy(made.policy_id, MAX).status is PolicyStatus.ACTIVE


def test_a_models_own_policy_comes_before_that_of_all(registry: ModelRegistry, force) -> None:
    force("*", PRODUCTION, quorum=2)
    own = force("fraud", PRODUCTION, quorum=3)
    force("*", PRODUCTION, quorum=4)
    assert registry.policy_of("fraud", PRODUCTION) == own
    assert registry.policy_of("churn", PRODUCTION).quorum == 4
    assert registry.policy_of("fraud", STAGING).policy_id == "default"
    assert [(one.version, one.status.value) for one in registry.list_policies("*")] == [
        (2, "active"),
        (1, "superseded"),
    ]


def test_one_proposal_at_a_time_waits_and_its_maker_may_take_it_back(registry: ModelRegistry) -> None:
    made = registry.propose_policy("*", PRODUCTION, ANA)
    with pytest.raises(Conflict, match="waits for a decision"):
        registry.propose_policy("*", PRODUCTION, MAX, quorum=2)
    assert registry.reject_policy(made.policy_id, ANA).status is PolicyStatus.WITHDRAWN
    again = registry.propose_policy("*", PRODUCTION, ANA)
    assert again.version == 2
    assert registry.reject_policy(again.policy_id, MAX).status is PolicyStatus.REJECTED
    with pytest.raises(Conflict, match="already"):
        registry.reject_policy(again.policy_id, MAX)
    with pytest.raises(NotFound, match="no policy"):
        registry.get_policy("pol_0")


@pytest.mark.parametrize(
    ("asked", "word"),
    [
        ({"quorum": -1}, "quorum"),
        ({"quorum": True}, "quorum"),
        ({"requires": ["bias_asessment"]}, "Did you mean bias_assessment"),
        ({"requires": ["compliance:"]}, "requires"),
        ({"metrics": {"auc": {"mini": 1}}}, "metrics"),
        ({"metrics": {"auc": {"min": float("nan")}}}, "metrics"),
        ({"metrics": {"auc": {}}}, "metrics"),
        ({"no_worse_than_champion": {"auc": -1}}, "no_worse_than_champion"),
        ({"min_shadow_agreement": 1.1}, "min_shadow_agreement"),
        ({"expires_after_hours": 0}, "expires_after_hours"),
        ({"quorum": 2, "reviewers": [ANA, "ANA@example.com"]}, "reviewers are named"),
    ],
)
def test_a_policy_that_cannot_be_is_refused_by_field(registry: ModelRegistry, asked: dict, word: str) -> None:
    with pytest.raises(Invalid, match=word):
        registry.propose_policy("*", PRODUCTION, ANA, **asked)
    assert registry.list_policies() == []


def test_only_stages_that_can_be_asked_for_have_policies(registry: ModelRegistry) -> None:
    for stage in (ModelStage.DEVELOPMENT, ModelStage.ARCHIVED):
        with pytest.raises(Invalid, match="only staging and production"):
            registry.propose_policy("*", stage, ANA)


def test_a_new_policy_voids_the_requests_that_the_old_one_was_asked_by(registry: ModelRegistry, add, force) -> None:
    for version, name in (("v1.0.0", "fraud"), ("v2.0.0", "fraud"), ("v1.0.0", "churn")):
        add(version, name=name)
    registry.request_promotion("fraud", "v1.0.0", PRODUCTION, ANA)
    registry.request_promotion("fraud", "v2.0.0", STAGING, ANA)
    registry.request_promotion("churn", "v1.0.0", PRODUCTION, ANA)
    made = force("fraud", PRODUCTION, quorum=1)
    with pytest.raises(NotFound, match="No promotion"):
        registry.approve_promotion("fraud", "v1.0.0", MAX)
    assert registry.list_requests("fraud", "v1.0.0")[0].status is RequestStatus.VOID
    assert registry.approve_promotion("fraud", "v2.0.0", MAX).status is RequestStatus.APPROVED
    assert registry.approve_promotion("churn", "v1.0.0", MAX).status is RequestStatus.APPROVED
    request = registry.request_promotion("fraud", "v1.0.0", PRODUCTION, ANA)
    assert (request.policy_id, request.policy_version) == (made.policy_id, 1)


def test_metrics_bounds_and_the_champion_are_held_to(registry: ModelRegistry, add, force) -> None:
    add("v1.0.0", metrics={"auc": 0.9, "loss": 0.2})
    registry.request_promotion("fraud", "v1.0.0", PRODUCTION, ANA)
    registry.approve_promotion("fraud", "v1.0.0", MAX)
    force("*", PRODUCTION, metrics={"auc": {"min": 0.8}}, no_worse_than_champion={"auc": 0.01, "loss": 0.05})
    add("v2.0.0", metrics={"auc": 0.88, "loss": 0.26})
    check = registry.check_promotion("fraud", "v2.0.0", PRODUCTION)
    assert [(one.name, one.met) for one in check.requirements] == [
        ("bytes", True),
        ("metrics.auc.min", True),
        ("champion.auc", False),
        ("champion.loss", False),
    ]
    assert check.requirements[3].needed == pytest.approx(0.25)
    registry.request_promotion("fraud", "v2.0.0", PRODUCTION, ANA)
    with pytest.raises(Conflict, match=r"champion.auc: auc is 0.88; at least 0.89 is needed"):
        registry.approve_promotion("fraud", "v2.0.0", MAX)
    assert registry.list_requests(status=RequestStatus.OPEN)[0].approvals == ()
    registry.update("fraud", "v2.0.0", ANA, metrics={"auc": 0.89, "loss": 0.25})
    registry.request_promotion("fraud", "v2.0.0", PRODUCTION, ANA)
    done = registry.approve_promotion("fraud", "v2.0.0", MAX)
    assert all(one.met for one in done.requirements)
    assert done in registry.list_requests("fraud", "v2.0.0")
    add("v3.0.0", metrics={"auc": 0.95})
    assert [
        one.name for one in registry.check_promotion("fraud", "v3.0.0", PRODUCTION).requirements if not one.met
    ] == ["champion.loss"]


def test_every_requirement_has_a_function_and_starts_unmet(registry: ModelRegistry, add, force) -> None:
    assert {name.partition(":")[0] for name in [*REQUIREMENTS, COMPLIANCE]} == CHECKS.keys()
    force("*", STAGING, requires=[*REQUIREMENTS, "compliance:eu_ai_act"], min_shadow_agreement=0.9)
    add("v1.0.0")
    unmet = {one.name for one in registry.check_promotion("fraud", "v1.0.0", STAGING).requirements if not one.met}
    assert unmet == {*REQUIREMENTS, "compliance:eu_ai_act", "shadow_agreement"} - {"scan", "input_signature"} | (
        unmet & {"input_signature"}
    )


def _tell(registry: ModelRegistry, kind: EventType, resource: str, details: dict, kinds: str = "model") -> None:
    with registry.store.work(ZOE) as work:
        work.emit(kind, Resource(kinds, resource), details)


def test_evidence_of_other_areas_meets_requirements_and_the_newest_counts(registry: ModelRegistry, add, force) -> None:
    model = add(
        "v1.0.0", description="d", changelog="c", example={"inputs": [1]}, environment={"python": "3.11"},
        references={"commit": "4f1d09c", "data_digest": "x", "lock_digest": "y"},
        signature={"inputs": [{"name": "a"}], "task": "binary", "classes": [0, 1]},
    )  # fmt: skip
    add("v2.0.0")
    registry.update_model("fraud", ANA, licence="MIT")
    force("*", STAGING, requires=[*REQUIREMENTS, "compliance:eu_ai_act"], min_shadow_agreement=0.9)

    def unmet() -> list[str]:
        return [one.name for one in registry.check_promotion("fraud", "v1.0.0", STAGING).requirements if not one.met]

    evidence = ["signature", "bias_assessment", "drift_reference", "compliance:eu_ai_act", "shadow_agreement"]
    assert unmet() == evidence
    _tell(registry, EventType.ARTIFACT_SIGNED, model.digest, {}, "artifact")
    _tell(registry, EventType.BIAS_ASSESSED, "fraud:1.0.0", {"biased": True, "n": 10})
    _tell(registry, EventType.BIAS_ASSESSED, "fraud:v2.0.0", {"biased": False, "n": 10})
    _tell(registry, EventType.CONFIGURATION_CHANGED, "fraud:v1.0.0", {"reference_set": True, "rows": 5})
    _tell(
        registry,
        EventType.COMPLIANCE_ASSESSED,
        "fraud:v1.0.0",
        {"framework": "eu_ai_act", "failed": ["A"], "score": 0.5},
    )
    _tell(registry, EventType.COMPLIANCE_ASSESSED, "fraud:v1.0.0", {"framework": "gdpr", "failed": [], "score": 1.0})
    shadow = {"shadow_model": "fraud:v1.0.0", "comparisons": 100, "agreement_interval": [0.89, 0.99]}
    _tell(registry, EventType.SHADOW_COMPARED, "shd_1", shadow, "shadow")
    assert unmet() == ["bias_assessment", "compliance:eu_ai_act", "shadow_agreement"]
    _tell(registry, EventType.BIAS_ASSESSED, "fraud:v1.0.0", {"biased": False, "n": 10})
    _tell(
        registry, EventType.COMPLIANCE_ASSESSED, "fraud:v1.0.0", {"framework": "eu_ai_act", "failed": [], "score": 1.0}
    )
    rollout = {
        "model": "fraud", "version": "v1.0.0", "strategy": "shadow",
        "measurements": [{"name": "agreement", "low": 0.95, "n": 2000}],
    }  # fmt: skip
    _tell(registry, EventType.DEPLOYMENT_COMPLETED, "dep_1", rollout, "deployment")
    assert unmet() == []
    _tell(registry, EventType.SHADOW_COMPARED, "shd_1", shadow, "shadow")
    assert unmet() == ["shadow_agreement"], "the newest shadow counts"


def test_reviewers_and_roles_of_the_policy_bind_the_request(registry: ModelRegistry, add, force) -> None:
    force("fraud", PRODUCTION, quorum=2, reviewers=[MAX, ZOE])
    add("v1.0.0")
    with pytest.raises(Invalid, match="not among the policy's reviewers"):
        registry.request_promotion("fraud", "v1.0.0", PRODUCTION, ANA, reviewers=[EVE, MAX])
    request = registry.request_promotion("fraud", "v1.0.0", PRODUCTION, ANA)
    assert (request.quorum, request.reviewers) == (2, (MAX, ZOE))
    with pytest.raises(Forbidden, match="no reviewer"):
        registry.approve_promotion("fraud", "v1.0.0", EVE)
    force("fraud", STAGING, roles=["approver"], reviewers=[MAX])
    registry.withdraw_promotion("fraud", "v1.0.0", ANA)
    registry.request_promotion("fraud", "v1.0.0", STAGING, ANA, quorum=2)
    registry.approve_promotion("fraud", "v1.0.0", MAX)
    registry.approve_promotion("fraud", "v1.0.0", EVE)
    named, by_role = _events(registry, EventType.APPROVAL_GRANTED)
    assert (named["roles"], by_role["roles"]) == ([], ["approver"])
    assert (named["barred"], by_role["approved_by"]) == ([ANA], [MAX])


def test_a_handler_may_refuse_an_approval_by_role(registry: ModelRegistry, add, force) -> None:
    def has_role(work, event) -> None:
        if event.details["roles"]:
            raise Forbidden(f"{event.details['approver']} is no {event.details['roles'][0]}.")

    registry.store.wires.inside[EventType.APPROVAL_GRANTED] = [has_role]
    force("*", PRODUCTION, roles=["approver"])
    add("v1.0.0")
    registry.request_promotion("fraud", "v1.0.0", PRODUCTION, ANA)
    with pytest.raises(Forbidden, match="is no approver"):
        registry.approve_promotion("fraud", "v1.0.0", MAX)
    assert registry.list_requests()[0].approvals == ()
    assert registry.get_model("fraud", "v1.0.0").stage is ModelStage.DEVELOPMENT


def test_a_request_past_its_time_is_closed_on_use_and_by_the_server(
    registry: ModelRegistry, add, force, clock: FixedClock
) -> None:
    force("*", PRODUCTION, expires_after_hours=2)
    for version in ("v1.0.0", "v2.0.0", "v3.0.0"):
        add(version)
        registry.request_promotion("fraud", version, PRODUCTION, ANA)
        clock.advance(1)
    clock.advance(7_197)
    with pytest.raises(Conflict, match="Ask again"):
        registry.approve_promotion("fraud", "v1.0.0", MAX)
    clock.advance(1.5)
    again = registry.request_promotion("fraud", "v2.0.0", PRODUCTION, ANA)
    assert again.status is RequestStatus.OPEN
    assert [one.version for one in registry.expire_requests()] == []
    clock.advance(2)
    assert [one.version for one in registry.expire_requests()] == ["v3.0.0"]
    assert [one.status.value for one in registry.list_requests("fraud", "v1.0.0")] == ["expired"]
    assert len(_events(registry, EventType.REQUEST_EXPIRED)) == 3
    assert registry.approve_promotion("fraud", "v2.0.0", MAX).status is RequestStatus.APPROVED


def test_an_open_stage_is_entered_without_asking_and_still_asks_for_figures(
    registry: ModelRegistry, add, force
) -> None:
    force("*", STAGING, quorum=0, metrics={"auc": {"min": 0.5}})
    add("v1.0.0")
    with pytest.raises(Forbidden, match="auc is not recorded"):
        registry.transition("fraud", "v1.0.0", STAGING, ANA)
    registry.update("fraud", "v1.0.0", ANA, metrics={"auc": 0.6})
    with pytest.raises(Conflict, match="staging is open"):
        registry.request_promotion("fraud", "v1.0.0", STAGING, ANA)
    assert registry.transition("fraud", "v1.0.0", STAGING, ANA).stage is STAGING
    with pytest.raises(Forbidden, match="needs an approval"):
        registry.transition("fraud", "v1.0.0", PRODUCTION, ANA)
    with pytest.raises(Forbidden, match="only a production version"):
        registry.set_alias("fraud", "champion", "v1.0.0", user=ANA)
    force("fraud", PRODUCTION, quorum=0)
    assert registry.set_alias("fraud", "champion", "v1.0.0", user=ANA).aliases == ("champion",)


def test_comments_decide_nothing_and_are_kept_in_order(registry: ModelRegistry, add) -> None:
    add("v1.0.0")
    registry.request_promotion("fraud", "v1.0.0", PRODUCTION, ANA)
    registry.comment_promotion("fraud", "v1.0.0", MAX, "On which data?")
    shown = registry.comment_promotion("fraud", "v1.0.0", ANA, "All of May.")
    assert [(one.author, one.text) for one in shown.comments] == [(MAX, "On which data?"), (ANA, "All of May.")]
    assert registry.list_requests()[0] == shown
    registry.withdraw_promotion("fraud", "v1.0.0", ANA)
    with pytest.raises(NotFound, match="No promotion"):
        registry.comment_promotion("fraud", "v1.0.0", MAX, "Too late")


def test_broken_glass_moves_at_once_is_loud_and_waits_for_another_person(
    registry: ModelRegistry, add, clock: FixedClock
) -> None:
    for version in ("v1.0.0", "v1.0.1", "v1.0.2"):
        add(version)
    registry.request_promotion("fraud", "v1.0.1", PRODUCTION, ANA)
    with pytest.raises(Invalid, match="incident is empty"):
        registry.break_glass("fraud", "v1.0.1", PRODUCTION, ANA, reason="outage", incident=" ")
    made = registry.break_glass("fraud", "v1.0.1", PRODUCTION, ANA, reason="outage", incident="INC-7")
    assert registry.champion("fraud").version == "v1.0.1"
    assert registry.list_requests()[0].status is RequestStatus.VOID
    assert _events(registry, EventType.BREAK_GLASS_USED)[0]["severity"] == EventSeverity.CRITICAL.value
    assert registry.list_break_glass(status=ReviewStatus.OPEN) == [made]
    clock.advance(23 * 3600)
    registry.break_glass("fraud", "v1.0.2", STAGING, MAX, reason="again", incident="INC-8")
    clock.advance(3601)
    with pytest.raises(Forbidden, match="more than 24 hours"):
        registry.break_glass("fraud", "v1.0.0", STAGING, ANA, reason="again", incident="INC-9")
    for person in (ANA, "ANA@example.com"):
        with pytest.raises(Forbidden, match="cannot review"):
            registry.review_break_glass(made.break_id, person, "justified")
    with pytest.raises(Invalid, match="verdict"):
        registry.review_break_glass(made.break_id, MAX, "fine")
    registry.archive("fraud", "v1.0.1", ANA)
    registry.delete("fraud", "v1.0.1", ANA)
    assert registry.review_break_glass(made.break_id, MAX, "unjustified", "no test").verdict == "unjustified"
    with pytest.raises(Forbidden, match="already"):
        registry.review_break_glass(made.break_id, ZOE, "justified")
    registry.break_glass("fraud", "v1.0.0", STAGING, ANA, reason="again", incident="INC-9")


def test_no_glass_is_broken_for_damaged_or_quarantined_bytes_or_an_archived_version(
    registry: ModelRegistry, add, yard: Path
) -> None:
    model = add("v1.0.0")
    registry.archive("fraud", "v1.0.0", ANA)
    with pytest.raises(Conflict, match="Restore it"):
        registry.break_glass("fraud", "v1.0.0", STAGING, ANA, reason="x", incident="y")
    registry.restore("fraud", "v1.0.0", ANA)
    blob = next(
        path for path in (yard / "blobs").rglob("*") if path.is_file() and model.digest.endswith(path.name[-8:])
    )
    blob.chmod(0o600)
    blob.write_bytes(b"other")
    with pytest.raises(YardError, match="not what was admitted"):
        registry.break_glass("fraud", "v1.0.0", STAGING, ANA, reason="x", incident="y")
    assert registry.get_model("fraud", "v1.0.0").stage is ModelStage.DEVELOPMENT


PHASES = [one for one in Phase if one is not Phase.shrink]  # a step takes 20 ms: what fails is told as it is
PEOPLE = st.sampled_from([ANA, MAX, ZOE, EVE])
STAGES = st.sampled_from([STAGING, PRODUCTION])
ANY_STAGE = st.sampled_from(list(ModelStage))
VERSIONS = st.sampled_from(["1.0.0", "2.0.0"])


class Promotions(RuleBasedStateMachine):
    """Four people do whatever the registry lets them; every entry into a protected stage is checked from the outside.

    The check knows nothing of the registry's rows: it follows what was asked and answered.
    """

    template: Path
    model: Path

    @initialize()
    def begin(self) -> None:
        import tempfile

        self.folder = Path(tempfile.mkdtemp())
        shutil.copytree(self.template, self.folder / "yard")
        self.clock = FixedClock(datetime(2026, 1, 1, tzinfo=UTC))
        self.registry = ModelRegistry(Store.at(self.folder / "yard", clock=self.clock))
        for version in ("1.0.0", "2.0.0"):
            self.registry.register_model(
                "fraud", version, self.model, "lightgbm", ANA, trained_by=EVE, metrics={"auc": 0.8}
            )
        self.stages = dict.fromkeys(("1.0.0", "2.0.0"), ModelStage.DEVELOPMENT)
        self.policies: dict[ModelStage, dict] = {}  # what is in force
        self.proposed: dict[str, tuple[ModelStage, str, dict]] = {}
        self.yes: dict[str, set[str]] = {}  # who approved the open request, by version
        self.asked: dict[str, tuple[ModelStage, str, int]] = {}

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.registry.close()
            shutil.rmtree(self.folder)

    @rule(stage=STAGES, person=PEOPLE, quorum=st.integers(0, 2), least=st.sampled_from([None, 0.7, 0.9]))
    def propose(self, stage: ModelStage, person: str, quorum: int, least: float | None) -> None:
        asked = {"quorum": quorum, "metrics": {"auc": {"min": least}} if least else {}}
        try:
            made = self.registry.propose_policy("fraud", stage, person, **asked)
        except YardError:
            return
        self.proposed[made.policy_id] = (stage, person, asked)

    @rule(person=PEOPLE, place=st.integers(0, 99))
    def decide_policy(self, person: str, place: int) -> None:
        if not self.proposed:
            return
        # by the order of proposing: that of their ids is another one in every run, and what is drawn must not depend on it
        policy_id = list(self.proposed)[place % len(self.proposed)]
        stage, proposer, asked = self.proposed[policy_id]
        try:
            made = self.registry.approve_policy(policy_id, person)
        except YardError:
            return
        assert person != proposer
        needed = max(self.policies.get(stage, {"quorum": 1})["quorum"], 1)
        assert (made.status is PolicyStatus.ACTIVE) == (len(made.agreed_by) >= needed)
        if made.status is not PolicyStatus.ACTIVE:  # the policy before asks for more people
            return
        self.proposed.pop(policy_id)
        self.policies[stage] = asked
        for version, (target, *_) in list(self.asked.items()):
            if target is stage:
                self.asked.pop(version)

    @rule(version=VERSIONS, stage=STAGES, person=PEOPLE, quorum=st.integers(1, 2))
    def ask(self, version: str, stage: ModelStage, person: str, quorum: int) -> None:
        try:
            request = self.registry.request_promotion("fraud", version, stage, person, quorum=quorum)
        except YardError:
            return
        assert version not in self.asked
        self.asked[version] = (stage, person, max(quorum, self.policies.get(stage, {"quorum": 1})["quorum"]))
        self.yes[version] = set()
        assert request.quorum == self.asked[version][2]

    @rule(version=VERSIONS, person=PEOPLE)
    def approve(self, version: str, person: str) -> None:
        before = self.registry.get_model("fraud", version).stage
        try:
            request = self.registry.approve_promotion("fraud", version, person)
        except YardError:
            assert self.registry.get_model("fraud", version).stage is before
            return
        stage, requester, quorum = self.asked[version]
        self.yes[version].add(person)
        assert not {person} & {ANA, EVE, requester}
        least = self.policies.get(stage, {}).get("metrics", {}).get("auc", {}).get("min")
        assert least is None or self.registry.get_model("fraud", version).metrics["auc"] >= least
        if request.status is RequestStatus.APPROVED:
            assert len(self.yes[version]) >= quorum
            self.stages[version] = stage
            self.asked.pop(version)

    @rule(version=VERSIONS, person=PEOPLE, stage=ANY_STAGE)
    def move(self, version: str, person: str, stage: ModelStage) -> None:
        before = self.stages[version]
        try:
            self.registry.transition("fraud", version, stage, person)
        except YardError:
            return
        rises = stage in (STAGING, PRODUCTION) and not (before is PRODUCTION and stage is STAGING)
        assert not rises or self.policies.get(stage, {"quorum": 1})["quorum"] == 0
        self.stages[version] = stage
        self.asked.pop(version, None)

    @rule(version=VERSIONS, person=PEOPLE, stage=STAGES)
    def break_glass(self, version: str, person: str, stage: ModelStage) -> None:
        try:
            made = self.registry.break_glass("fraud", version, stage, person, reason="x", incident="y")
        except YardError:
            return
        assert made in self.registry.list_break_glass("fraud", ReviewStatus.OPEN)
        self.stages[version] = stage
        self.asked.pop(version, None)

    @rule(version=VERSIONS, auc=st.sampled_from([0.6, 0.75, 0.95]))
    def measure(self, version: str, auc: float) -> None:
        before, stage = self.registry.get_model("fraud", version).metrics["auc"], self.stages[version]
        try:
            self.registry.update("fraud", version, ANA, metrics={"auc": auc})
        except Conflict:
            assert stage in (STAGING, PRODUCTION)
            assert self.policies.get(stage, {"quorum": 1})["quorum"] > 0
            return
        if before != auc:
            self.asked.pop(version, None)

    @rule(hours=st.sampled_from([1, 30]))
    def wait(self, hours: int) -> None:
        self.clock.advance(hours * 3600)

    @invariant()
    def versions_stand_where_they_were_let(self) -> None:
        if hasattr(self, "registry"):
            for version, stage in self.stages.items():
                assert self.registry.get_model("fraud", version).stage is stage
            open_requests = {one.version for one in self.registry.list_requests(status=RequestStatus.OPEN)}
            assert open_requests == self.asked.keys()


def test_no_version_enters_a_protected_stage_otherwise(migrated: Path, small_model: Path) -> None:
    Promotions.template, Promotions.model = migrated, small_model
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(
        Promotions, settings=settings(max_examples=40, stateful_step_count=30, deadline=None, phases=PHASES)
    )
