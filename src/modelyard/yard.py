"""The composition root: one store, every area on it, and the wiring between them."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelyard import wiring
from modelyard.core import plugins
from modelyard.core.decisions import Decision
from modelyard.core.errors import NotFound, nearest
from modelyard.core.instants import SYSTEM_CLOCK
from modelyard.core.ports import Clock
from modelyard.core.traffic import GuardTrip
from modelyard.core.work import Store

if TYPE_CHECKING:
    from modelyard.ab_testing.service import ABTestManager
    from modelyard.artifacts.service import ArtifactStore
    from modelyard.audit.service import AuditLogger
    from modelyard.ci_templates.service import CITemplateGenerator
    from modelyard.deployment.service import DeploymentManager
    from modelyard.features.service import FeatureStore
    from modelyard.governance.service import GovernanceManager
    from modelyard.monitoring.service import Monitors
    from modelyard.pipeline.service import Pipelines
    from modelyard.registry.service import ModelRegistry
    from modelyard.serving.service import ModelServer


class Yard:
    """Everything in one place: `Yard("./yard")` on a folder, `Yard("postgresql://...")` on a database.

    Areas open on first use and share one store, so that every change commits together with its event and the areas
    hear of each other. `files` is where bytes live when the place is a database: a folder or an object-store URL.
    Several processes may open the same place at once.
    """

    def __init__(
        self, place: str | Path = "./yard", *, files: str | Path | None = None, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self.store = Store.at(place, files=files, clock=clock)
        self._opened: dict[str, Any] = {}
        self._dispatcher = wiring.connect(self.store, self.area)

    @cached_property
    def registry(self) -> ModelRegistry:
        """Versions, stages, approvals and comparison of models."""
        return self.area("registry")  # type: ignore[no-any-return]  # the plugin table is by name

    @cached_property
    def artifacts(self) -> ArtifactStore:
        """Stored bytes by digest."""
        return self.area("artifacts")  # type: ignore[no-any-return]  # the plugin table is by name

    @cached_property
    def audit(self) -> AuditLogger:
        """The tamper-evident log."""
        return self.area("audit")  # type: ignore[no-any-return]  # the plugin table is by name

    @cached_property
    def features(self) -> FeatureStore:
        """Feature definitions, values and history."""
        return self.area("features")  # type: ignore[no-any-return]  # the plugin table is by name

    @cached_property
    def pipelines(self) -> Pipelines:
        """Training runs."""
        return self.area("pipeline")  # type: ignore[no-any-return]  # the plugin table is by name

    @cached_property
    def serving(self) -> ModelServer:
        """Endpoints, in process and as server processes."""
        return self.area("serving")  # type: ignore[no-any-return]  # the plugin table is by name

    @cached_property
    def deployments(self) -> DeploymentManager:
        """Rollouts of versions."""
        return self.area("deployment")  # type: ignore[no-any-return]  # the plugin table is by name

    @cached_property
    def ab_tests(self) -> ABTestManager:
        """Experiments."""
        return self.area("ab_testing")  # type: ignore[no-any-return]  # the plugin table is by name

    @cached_property
    def monitoring(self) -> Monitors:
        """Drift, performance and explanations."""
        return self.area("monitoring")  # type: ignore[no-any-return]  # the plugin table is by name

    @cached_property
    def governance(self) -> GovernanceManager:
        """Bias, compliance and lineage."""
        return self.area("governance")  # type: ignore[no-any-return]  # the plugin table is by name

    @cached_property
    def ci_templates(self) -> CITemplateGenerator:
        """Pipelines for continuous integration."""
        return self.area("ci_templates")  # type: ignore[no-any-return]  # the plugin table is by name

    def area(self, name: str) -> Any:
        """An area by its name in the operation table, opened on this yard's store."""
        if name not in plugins.AREAS:
            raise NotFound(f"There is no area {name!r}. {nearest(name, list(plugins.AREAS))}")
        if name not in self._opened:
            self._opened[name] = plugins.load("area", name)(self.store)
        return self._opened[name]

    def deploy(self, endpoint: str, version: str, **options: Any) -> Any:
        """A started deployment: the version is made known to the serving processes first, then the rollout begins.

        `options` are those of `DeploymentManager.start`.
        """
        self.provide(endpoint, version)
        known = {traffic.endpoint: traffic.generation for traffic in self.serving.endpoints()}
        return self.deployments.start(endpoint, version, after_generation=known.get(endpoint, 0), **options)

    def provide(self, model: str, version: str) -> None:
        """Make a registered version known to the serving processes under the endpoint of its name."""
        known = self.registry.get_model(model, version)
        self.serving.install(model, model, version, self.registry.path(model, version), known.framework)

    def step(self, deployment_id: str) -> Decision:
        """One look at a running rollout: its counts are read from the serving processes and the decision is carried out."""
        endpoint = self.deployments.get_deployment(deployment_id).endpoint
        decision: Decision = self.deployments.advance(deployment_id, self.serving.counts(endpoint))
        self.dispatch()
        return decision

    def dispatch(self) -> None:
        """Hand events on that another process wrote or an interrupted one left behind."""
        self._dispatcher.catch_up()

    def close(self) -> None:
        """Give connections back. Not closing loses nothing."""
        self.store.close()

    def __enter__(self) -> Yard:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Yard({self.store.database.url!r})"


def record_trip(place: str, trip: GuardTrip) -> None:
    """Write a serving process's rollback into the yard: the event, the deployment's state and the new routing.

    Called by the serving processes themselves, so it needs no other process of modelyard to be alive.
    """
    with Yard(place) as yard:
        yard.serving.record(trip)
        yard.dispatch()
