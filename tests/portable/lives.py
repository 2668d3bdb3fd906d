"""What may happen in a yard, drawn by hypothesis and done by the yard's own services."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from modelyard import Yard
from modelyard.core.errors import YardError
from modelyard.core.instants import FixedClock
from modelyard.core.models import ModelStage, ModelVersion
from modelyard.deployment import DeploymentStrategy, PerformanceMetrics

PEOPLE = ("ana@example.com", "Max Müller", "zoe")
NAMES = ("fraud", "Fraud", "FRAUD detector", "con", "aux.1", "a+b", "x_y.", "n" * 128, "N" * 128)
VERSIONS = ("v1.0.0", "1.2.0", "2.0.0-rc.1+b.7", "2.0.0-RC.1", "v10.0.0")
TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=20)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)
KEYS = st.text("abcdé ._-", min_size=1, max_size=6).filter(str.strip)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)


class Life:
    """What may happen in a yard, one thing after another; what the yard refuses is part of its life."""

    def __init__(self, yard: Yard, clock: FixedClock, files: dict[str, Path], draw: Callable[[Any], Any]) -> None:
        self.yard, self.clock, self.files, self.draw = yard, clock, files, draw
        self.chance = draw(st.randoms(use_true_random=True))  # hypothesis draws values; what happens is left to chance

    def one_of(self, *choices: Any) -> Any:
        return self.chance.choice(choices)

    def happen(self, times: int) -> None:
        kinds = (
            *(self.register,) * 4,
            self.register_quarantined,
            *(self.request,) * 2,
            *(self.decide,) * 3,
            self.move,
            self.label,
            self.rename,
            self.delete,
            *(self.experiment,) * 2,
            *(self.result,) * 3,
            *(self.deploy,) * 2,
            self.steer,
            self.report,
            self.shadow,
            self.score,
            self.rule,
            self.break_glass,
        )
        for _ in range(times):
            self.clock.advance(self.one_of(0, 0.5, 60, 90_000))
            with suppress(YardError):
                self.one_of(*kinds)()

    def where(self) -> tuple[str, str]:
        """A version that there is, mostly."""
        known = self.yard.registry.list_models()
        if not known or self.one_of(*range(10)) == 0:
            return "fraud", "v1.0.0"
        chosen = self.one_of(*known)
        return chosen.name, chosen.version

    def register(self) -> None:
        self.yard.registry.register_model(
            self.one_of(*NAMES),
            self.one_of(*VERSIONS, "next"),
            self.files[self.one_of("file", "other", "package")],
            "lightgbm",
            self.one_of(*PEOPLE),
            metrics=self.draw(st.dictionaries(KEYS, FLOATS, max_size=3)),
            tags=self.draw(st.lists(st.sampled_from(["risk", "team=a=b", "note=", "é"]), max_size=3)),
            parameters=self.draw(st.dictionaries(KEYS, VALUES, max_size=3)),
            metadata=self.draw(st.dictionaries(KEYS, VALUES, max_size=2)),
            description=self.draw(TEXTS),
            changelog=self.draw(TEXTS),
            references={"commit": "4f1d09c", "dirty": self.one_of(True, False)},
            example={"input": self.draw(VALUES)},
            environment={"python": "3.11"},
            parent=self.one_of("", "", "fraud:v1.0.0"),
        )

    def register_quarantined(self) -> None:
        kept = self.yard.artifacts.quarantine(self.files["pickle"], "zoe")
        now = self.clock.now()
        draft = ModelVersion(
            name="pickled",
            version="next",
            framework="sklearn",
            stage=ModelStage.DEVELOPMENT,
            digest=self.one_of("", kept.digest),
            created_by="zoe",
            created_at=now,
            updated_at=now,
            source="runs:/1/model",
        )
        self.yard.registry.register_version(draft)

    def request(self) -> None:
        target = self.one_of(ModelStage.STAGING, ModelStage.PRODUCTION, ModelStage.PRODUCTION)
        self.yard.registry.request_promotion(*self.where(), target, "rex", self.draw(TEXTS))

    def decide(self) -> None:
        registry, (name, version) = self.yard.registry, self.where()
        some = registry.list_requests()
        if some:
            name, version = some[0].name, some[0].version
        verb = self.one_of(registry.approve_promotion, registry.approve_promotion, registry.reject_promotion)
        if self.one_of(True, False):
            registry.comment_promotion(name, version, self.one_of(*PEOPLE), self.draw(TEXTS))
        verb(name, version, self.one_of(*PEOPLE), self.draw(TEXTS))

    def score(self) -> None:
        numbers = self.draw(st.lists(FLOATS, min_size=1, max_size=5))
        self.yard.registry.store_scores(*self.where(), self.one_of("cases", "é"), numbers, "zoe")

    def rule(self) -> None:
        registry = self.yard.registry
        scope = self.one_of("*", "Fraud", "fraud")
        made = registry.propose_policy(
            scope,
            ModelStage.PRODUCTION,
            "ana@example.com",
            justification=self.draw(TEXTS),
            metrics={"auc": {"min": 0.1}},
        )
        self.one_of(registry.approve_policy, registry.reject_policy)(made.policy_id, self.one_of(*PEOPLE))

    def break_glass(self) -> None:
        registry = self.yard.registry
        made = registry.break_glass(*self.where(), ModelStage.PRODUCTION, "rex", reason="outage", incident="INC-7")
        if self.one_of(True, False):
            registry.review_break_glass(made.break_id, self.one_of(*PEOPLE), "justified", self.draw(TEXTS))

    def move(self) -> None:
        registry = self.yard.registry
        self.one_of(registry.archive, registry.restore)(*self.where(), self.one_of(*PEOPLE))

    def label(self) -> None:
        name, version = self.where()
        self.yard.registry.set_alias(name, self.one_of("challenger", "champion", "B"), version, self.one_of(*PEOPLE))
        self.yard.registry.update(name, version, "zoe", metrics={"auc": self.draw(FLOATS)}, tags=["new"])

    def rename(self) -> None:
        self.yard.registry.rename_model(self.one_of(*NAMES), self.one_of(*NAMES), self.one_of(*PEOPLE))

    def delete(self) -> None:
        self.yard.registry.delete(*self.where(), self.one_of(*PEOPLE))

    def experiment(self) -> None:
        tests = self.yard.ab_tests
        made = tests.create_test(
            self.one_of("checkout", "ranking"),
            control_variant="fraud:v1.0.0",
            treatment_variant=self.one_of("fraud:1.2.0", ["fraud:1.2.0", "Fraud:v10.0.0"]),
            traffic_split=0.25,
            planned_units=self.one_of(None, 400),
            description=self.draw(TEXTS),
            created_by=self.one_of(*PEOPLE),
        )
        if self.one_of(True, False):
            tests.start_test(made.test_id, user="ana@example.com")

    def result(self) -> None:
        tests = self.yard.ab_tests
        known = tests.list_tests()
        if not known:
            return
        test = self.one_of(*known)
        outcomes = self.draw(st.lists(st.booleans(), min_size=1, max_size=8))
        results = []
        for number, good in enumerate(outcomes):
            unit = f"u{number}"
            variant = tests.get_variant(test.test_id, unit) or "control"
            more = {"custom_metrics": {"revenue": self.draw(st.floats(0, 1e9))}}
            results.append({"variant": variant, "success": good, "latency": 0.1, "unit_id": unit, **more})
        tests.record_many(test.test_id, results)
        step = self.one_of(None, "analyze", "stop", "conclude")
        if step == "analyze":
            tests.analyze_test(test.test_id)
        if step == "stop":
            tests.stop_test(test.test_id, reason=self.draw(TEXTS))
        if step == "conclude":
            tests.conclude_test(test.test_id, winner="treatment", conclusion=self.draw(TEXTS))

    def deploy(self) -> None:
        name, version = self.where()
        strategy = self.one_of(*DeploymentStrategy)
        if self.one_of(True, False):
            self.yard.deployments.create_deployment(
                name, version, strategy, baseline_metrics=PerformanceMetrics(error_rate=self.draw(st.floats(0, 1)))
            )
        else:
            self.yard.deployments.start(name, version, strategy=strategy, created_by=self.one_of(*PEOPLE))

    def steer(self) -> None:
        manager = self.yard.deployments
        known = manager.list_deployments()
        if known:
            verb = self.one_of(manager.pause, manager.resume, manager.promote, manager.abort, manager.rollback)
            verb(self.one_of(*known).deployment_id, reason=self.draw(TEXTS), user=self.one_of(*PEOPLE))

    def report(self) -> None:
        known = self.yard.deployments.list_deployments()
        if known:
            self.yard.deployments.report_metrics(
                self.one_of(*known).deployment_id, request_count=1000, error_rate=self.draw(st.floats(0, 1))
            )

    def shadow(self) -> None:
        manager = self.yard.deployments
        made = manager.shadow_deploy("fraud:v1.0.0", "fraud:1.2.0", 12.5, self.one_of(*PEOPLE))
        for _ in range(self.one_of(0, 1, 3)):
            manager.record_shadow_comparison(
                made.shadow_id,
                primary_result={"p": 1},
                shadow_result={"p": self.draw(st.sampled_from([1, 2]))},
                primary_latency=0.1,
                shadow_latency=self.draw(st.floats(0.001, 2)),
            )
