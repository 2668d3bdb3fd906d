"""Chapters of rolling out: serving over HTTP, shadow, canary, a rollback by the serving processes, and an A/B test."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from modelyard.ab_testing import TrafficSplitStrategy
from modelyard.core.decisions import Decision
from modelyard.core.traffic import Traffic, TrafficCounts
from modelyard.demo import building
from modelyard.demo.scene import MODEL, PEOPLE, Scene
from modelyard.demo.story import Chapter
from modelyard.deployment import Deployment, DeploymentStatus, DeploymentStrategy
from modelyard.stats.rollback import strongest
from modelyard.stats.sketch import quantile
from modelyard.ui.pages import number, percent

LOOK = 0.2  # seconds between two looks
BEFORE = 300  # answers of the version that a canary is compared with, before it begins
LONGEST = 150.0  # seconds that a chapter's traffic may run
TERMS: dict[str, Any] = {"margin": 0.02, "latency_margin": 1.0, "minimum_units": 200, "warmup": 20}


def serve(scene: Scene, chapter: Chapter) -> Any:
    """v1 answers over HTTP from two processes."""
    yard = scene.yard
    yard.provide(MODEL, "v1.0.0")
    yard.deployments.start(MODEL, "v1.0.0", strategy=DeploymentStrategy.DIRECT, created_by=PEOPLE["cem"])
    chapter.doing("starting two serving processes")
    started = time.perf_counter()
    plane = yard.serve(port=scene.port, workers=2, log_file=scene.folder / "serving.log")
    scene.url = plane.url
    seconds = time.perf_counter() - started
    bodies, labels = scene.bodies(2016)
    with scene.traffic(bodies[:200], seconds=0.5) as running:
        _until(lambda: not running.alive())
        answers = running.answers()
    right = sum(answer.prediction == labels[answer.index % 200] for answer in answers if answer.status == 200)
    chapter.facts |= {
        "url": plane.url,
        "pids": list(plane.pids),
        "start_seconds": seconds,
        "answers": len(answers),
        "failed": sum(answer.status != 200 for answer in answers),
        "right": right,
    }
    chapter.say(f"{MODEL} v1.0.0 answers at {plane.url}/v2/models/{MODEL}/infer from {len(plane.pids)} processes.")
    chapter.say(f"{len(answers)} requests with records of 2016: {right} right, {chapter.facts['failed']} failed.")
    return plane


def shadow(scene: Scene, chapter: Chapter) -> None:
    """v2 gets a copy of the live traffic; its answers are compared and reach nobody."""
    deployment = scene.yard.deploy(
        MODEL,
        "v2.0.0",
        strategy=DeploymentStrategy.SHADOW,
        minimum_agreement=0.7,
        minimum_units=500,
        margin=0.01,  # half as many copies as the usual one: a shadow gets what a busy machine leaves
        created_by=PEOPLE["cem"],
    )
    bodies, _ = scene.bodies(2016)
    with scene.traffic(bodies, seconds=LONGEST) as running:
        counts = scene.yard.serving.counts(MODEL)
        while scene.yard.deployments.get_deployment(deployment.deployment_id).status.active and running.alive():
            time.sleep(LOOK)
            counts = scene.yard.serving.counts(MODEL)
            decision = scene.yard.step(deployment.deployment_id)
            chapter.doing(f"shadow: {decision.reasons[0]}")
        answers = running.answers()
    seen = counts.shadow
    assert seen is not None  # the step had a shadow
    primary = quantile(counts.arms["baseline"].latency, 0.95) or 0.0
    copied = quantile(seen.latency, 0.95) or 0.0
    chapter.facts |= {
        "compared": seen.compared,
        "agreed": seen.agreed,
        "agreement_rate": seen.agreed / max(seen.compared, 1),
        "dropped": seen.dropped,
        "errors": seen.errors,
        "primary_p95_ms": primary / 1000,
        "shadow_p95_ms": copied / 1000,
        "failed_requests": sum(answer.status != 200 for answer in answers),
        "decision": list(decision.reasons),
    }
    chapter.say(
        f"v2 agreed with v1 in {percent(chapter.facts['agreement_rate'])} of {number(seen.compared)} live requests "
        f"({seen.errors} errors, {seen.dropped} copies dropped)."
    )
    chapter.say(f"Model time, 95th percentile: v1 {primary / 1000:.2f} ms, v2 {copied / 1000:.2f} ms.")


def canary(scene: Scene, chapter: Chapter, version: str, baseline: str, years: tuple[int, ...]) -> Deployment:
    """A version takes growing shares of live traffic while it is judged against the live baseline."""
    yard = scene.yard
    bodies, _ = scene.bodies(*years, seed=int(version[1]))
    for body in bodies:
        del body["unit"]  # requests of nobody in particular: each is a unit
    with scene.traffic(bodies, seconds=LONGEST) as running:
        _until(lambda: answered(yard.serving.counts(MODEL)) >= BEFORE)
        deployment = yard.roll_out(
            MODEL, version, strategy=DeploymentStrategy.CANARY, baseline=baseline, created_by=PEOPLE["cem"], **TERMS
        )
        watch = Watch(scene, deployment.deployment_id)
        while watch.deployment.status.active and running.alive():
            time.sleep(LOOK)
            chapter.doing(watch.look())
        _until(lambda: yard.serving.counts(MODEL).arms["baseline"].requests > 100, seconds=5)
        after = yard.serving.counts(MODEL)
        answers = running.answers()
    chapter.facts |= watch.facts() | {
        "version": version,
        "requests": len(answers),
        "failed": sum(answer.status != 200 for answer in answers),
        "after": {name: arm.requests for name, arm in after.arms.items()},
        "after_version": after_version(yard.serving.traffic(MODEL)),
    }
    return watch.deployment


def answered(counts: TrafficCounts) -> int:
    """Requests of all arms."""
    return sum(arm.requests for arm in counts.arms.values())


def after_version(traffic: Traffic) -> str:
    """The version that takes everything."""
    return max(traffic.arms, key=lambda arm: arm.weight).version


class Watch:
    """Looks at a running rollout and remembers what was seen."""

    def __init__(self, scene: Scene, deployment_id: str) -> None:
        self.scene, self.id = scene, deployment_id
        self.started = time.perf_counter()
        self.weights: list[tuple[float, float]] = []
        self.evidence: list[tuple[int, float]] = []
        self.steps: list[dict[str, Any]] = []
        self.before = 0
        self.deployment: Deployment = scene.yard.deployments.get_deployment(deployment_id)
        traffic = self.deployment.traffic
        assert traffic is not None  # a rollout that runs has a routing
        assert traffic.guard is not None  # and a canary is guarded
        self.threshold = 1 / traffic.guard.alpha

    def look(self) -> str:
        """One look: counts, decision, and where the rollout stands now."""
        yard, share, step = self.scene.yard, self.deployment.share, self.deployment.step
        counts = yard.serving.counts(MODEL)
        decision = yard.step(self.id)
        new, old = counts.arms.get("canary"), counts.arms.get("baseline")
        self.weights.append((round(time.perf_counter() - self.started, 2), share))
        self.deployment = yard.deployments.get_deployment(self.id)
        if new is None or old is None:
            return decision.reasons[0] if decision.reasons else ""
        self.evidence.append((self.before + new.requests, strongest(new.tests)[0]))
        if self.deployment.step != step or not self.deployment.status.active:
            self._left(share, new, old, decision)
            self.before += new.requests
        return (
            f"{percent(share, 0)} canary: {new.requests} requests, {new.errors} errors; {'; '.join(decision.reasons)}"
        )

    def _left(self, share: float, new: Any, old: Any, decision: Decision) -> None:
        status = self.deployment.status
        verdict = "roll_back" if status is DeploymentStatus.ROLLED_BACK else "promote"
        self.steps.append(
            {
                "weight": share,
                "canary_requests": new.requests,
                "baseline_requests": old.requests,
                "canary_errors": new.errors,
                "baseline_errors": old.errors,
                "verdict": verdict,
                "reasons": [self.deployment.reason or "; ".join(decision.reasons)],
            }
        )

    def facts(self) -> dict[str, Any]:
        """What the report draws."""
        end = round(time.perf_counter() - self.started, 2)
        return {
            "deployment_id": self.id,
            "status": self.deployment.status.value,
            "steps": self.steps,
            "weights": [*self.weights, (end, self.deployment.share)],
            "evidence": self.evidence,
            "threshold": self.threshold,
            "seconds": end,
        }


def tell_promotion(chapter: Chapter) -> None:
    """The canary's story in sentences."""
    facts = chapter.facts
    shares = " → ".join(percent(step["weight"], 0) for step in facts["steps"])
    chapter.say(
        f"Steps {shares} → 100 %: {facts['status'].replace('_', ' ')} after {number(facts['requests'])} live requests."
    )
    for step in facts["steps"]:
        chapter.say(f"{percent(step['weight'], 0)}: {step['reasons'][0]}")
    chapter.say(f"{facts['failed']} requests failed; {facts['after_version']} answers everything now.")


def tell_rollback(scene: Scene, chapter: Chapter, deployment: Deployment) -> None:
    """What happened to v3, in sentences; the numbers are the serving processes' own."""
    facts = chapter.facts
    facts["rolled_back"] = deployment.status is DeploymentStatus.ROLLED_BACK
    trip = next((t for t in scene.yard.serving.trips() if t.rollout_id == deployment.deployment_id), None)
    if trip is None:
        chapter.say(
            f"v3 is {deployment.status.value.replace('_', ' ')}: no serving process found it worse than the baseline."
        )
        tell_promotion(chapter)
        return
    new, old = trip.counts.arms["canary"], trip.counts.arms["baseline"]
    earlier = sum(step["canary_requests"] for step in facts["steps"][: trip.step])
    facts |= {
        "canary_requests": earlier + new.requests,
        "e_value": trip.e_value,
        "metric": trip.metric,
        "canary_errors": new.errors,
        "baseline_errors": old.errors,
        "reason": trip.reason,
    }
    chapter.say(
        f"v3 was rolled back by the serving processes themselves after {facts['canary_requests']} canary requests: {trip.reason}"
    )
    chapter.say(
        f"Of those, {new.errors} failed; of the baseline's {number(old.requests)}, {old.errors}. "
        f"The evidence weighed most on {trip.metric}: e-value {trip.e_value:.4g}, threshold {trip.threshold:.4g}."
    )
    chapter.say(
        f"{facts['after_version']} answers everything again: {number(facts['after'].get('baseline', 0))} requests since."
    )


def third(scene: Scene, chapter: Chapter) -> None:
    """v3 is registered and approved like any other; people can be wrong, and the canary finds out."""
    version = "v3.0.0"
    chapter.doing("registering v3")
    building.third_version(scene, version)
    _provide_third(scene, version)
    deployment = canary(scene, chapter, version, "v2.0.0", (2016, 2017))
    tell_rollback(scene, chapter, deployment)


def _provide_third(scene: Scene, version: str) -> None:
    """Make v3 known to the serving processes: v2's model, or the same behind a lookup that fails for some ages and is slow for others."""
    serving = scene.yard.serving
    scene.yard.provide(MODEL, version)
    if scene.v3 == "healthy":
        return
    serving.configure(MODEL, {"trusted_code": True})
    serving.install(MODEL, MODEL, version, f"modelyard.demo.faulty:Faulty@{scene.packages[version]}", "python")


def experiment(scene: Scene, chapter: Chapter) -> None:
    """v1 against v2 on the same live traffic, until it is sure who is right more often: the test may be looked at any time."""
    tests = scene.yard.ab_tests
    test = tests.create_test(
        name="v1 against v2",
        description="Which version is right more often about records of 2017?",
        control_variant=f"{MODEL}:v1.0.0",
        treatment_variant=f"{MODEL}:v2.0.0",
        traffic_split=0.5,
        strategy=TrafficSplitStrategy.HASH_BASED,
        created_by=PEOPLE["ana"],
    )
    tests.start_test(test.test_id)
    endpoint = f"{MODEL}-experiment"
    scene.yard.serving.apply(tests.traffic(test.test_id, endpoint))
    bodies, labels = scene.bodies(2017, seed=3, count=20_000)
    with scene.traffic(bodies, seconds=len(bodies) / 500, endpoint=endpoint, rate=500) as running:  # each person once
        done, significant = 0, False
        while not significant and running.alive():
            time.sleep(5 * LOOK)
            answers = [answer for answer in running.answers() if answer.status == 200]
            for answer in answers[done:]:
                tests.record_request(
                    test_id=test.test_id,
                    variant=answer.arm,
                    success=answer.prediction == labels[answer.index],
                    latency=answer.latency_ms / 1000,
                    unit_id=bodies[answer.index]["unit"],
                )
            done = len(answers)
            analysis = tests.analyze_test(test.test_id, confidence_level=0.95)
            significant = analysis["statistically_significant"]
            chapter.doing(f"{done} results: {analysis['conclusion']}")
    scene.outcomes = [(answer, bodies[answer.index], labels[answer.index]) for answer in answers]
    tests.stop_test(test.test_id, reason=analysis["conclusion"], user=PEOPLE["ana"])
    _tell_experiment(chapter, _experiment_facts(analysis))


def _tell_experiment(chapter: Chapter, facts: dict[str, Any]) -> None:
    chapter.facts |= facts
    chapter.say(
        f"v1 was right in {percent(facts['control']['rate'])} of {facts['control']['n']} requests, "
        f"v2 in {percent(facts['treatment']['rate'])} of {facts['treatment']['n']}."
    )
    interval = f"{percent(facts['low'])} to {percent(facts['high'])}"
    chapter.say(f"Difference {percent(facts['difference'])}, 95 % interval {interval}, valid at every look.")
    chapter.say(facts["conclusion"])


def _experiment_facts(analysis: dict[str, Any]) -> dict[str, Any]:
    arms = {}
    for name in ("control", "treatment"):
        arm = analysis[name]
        low, high = arm["success_interval"]
        arms[name] = {"rate": arm["success_rate"], "low": low, "high": high, "n": arm["requests"]}
    low, high = analysis["improvement"]["absolute_interval"]
    difference = arms["treatment"]["rate"] - arms["control"]["rate"]
    return {
        **arms,
        "difference": difference,
        "low": low,
        "high": high,
        "p_value": analysis["p_value"],
        "significant": analysis["statistically_significant"],
        "conclusion": analysis["conclusion"],
        "method": analysis["method"],
    }


def _until(reached: Callable[[], bool], *, seconds: float = LONGEST) -> bool:
    """Wait until something is so, or the time is up."""
    end = time.perf_counter() + seconds
    while not reached():
        if time.perf_counter() > end:
            return False
        time.sleep(0.05)
    return True
