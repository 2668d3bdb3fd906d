"""The composition root: one store, every area on it, and the wiring between them."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelyard import wiring
from modelyard.consequences import time_tests
from modelyard.core import plugins
from modelyard.core.decisions import Decision
from modelyard.core.errors import NotFound, Unavailable, YardError, nearest
from modelyard.core.instants import SYSTEM_CLOCK
from modelyard.core.ports import Clock
from modelyard.core.traffic import GuardTrip
from modelyard.core.work import Store
from modelyard.stats.rollback import frozen
from modelyard.stats.sketch import merged

log = logging.getLogger("modelyard.yard")

RECORD_TRIP = "modelyard.yard:record_trip"

if TYPE_CHECKING:
    from modelyard.ab_testing.service import ABTestManager
    from modelyard.access.service import AccessManager
    from modelyard.artifacts.service import ArtifactStore
    from modelyard.audit.service import AuditLogger
    from modelyard.ci_templates.service import CITemplateGenerator
    from modelyard.deployment.service import DeploymentManager
    from modelyard.features.service import FeatureStore
    from modelyard.governance.service import GovernanceManager
    from modelyard.marketplace.service import Marketplace
    from modelyard.monitoring.service import Monitors
    from modelyard.pipeline.service import Pipelines
    from modelyard.portable import Exported, Imported
    from modelyard.registry.service import ModelRegistry
    from modelyard.serving.nodes_serving import NodeServing
    from modelyard.serving.service import ModelServer
    from modelyard.serving.supervisor import Serving
    from modelyard.tracking.service import ExperimentTracker
    from modelyard.webhooks.service import Webhooks


class Yard:
    """Everything in one place: `Yard("./yard")` on a folder, `Yard("postgresql://...")` on a database.

    Areas open on first use and share one store, so that every change commits together with its event and the areas
    hear of each other. `files` is where bytes live when the place is a database: a folder or an object-store URL.
    `online` is where the newest feature values are read: redis://host/0, or embedded unless it is given.
    Several processes may open the same place at once.
    """

    def __init__(
        self,
        place: str | Path = "./yard",
        *,
        files: str | Path | None = None,
        online: str = "",
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.store = Store.at(place, files=files, clock=clock)
        self._place, self._files = _absolute(place), _absolute(files) if files else ""
        self._online = {"online": online} if online else {}
        self._opened: dict[str, Any] = {}
        self._dispatcher = wiring.connect(self.store, self.area)

    @cached_property
    def registry(self) -> ModelRegistry:
        """Versions, stages, approvals and comparison of models."""
        return self.area("registry")  # type: ignore[no-any-return]  # the plugin table is by name

    @cached_property
    def tracking(self) -> ExperimentTracker:
        """Experiments, runs and logged models."""
        return self.area("tracking")  # type: ignore[no-any-return]  # the plugin table is by name

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

    @cached_property
    def access(self) -> AccessManager:
        """People, services, roles, projects and tokens."""
        return self.area("access")  # type: ignore[no-any-return]  # the plugin table is by name

    @cached_property
    def webhooks(self) -> Webhooks:
        """Other systems that are told of events."""
        return self.area("webhooks")  # type: ignore[no-any-return]  # the plugin table is by name

    @cached_property
    def marketplace(self) -> Marketplace:
        """Models shared between teams."""
        return self.area("marketplace")  # type: ignore[no-any-return]  # the plugin table is by name

    def area(self, name: str) -> Any:
        """An area by its name in the operation table, opened on this yard's store."""
        if name not in plugins.AREAS:
            raise NotFound(f"There is no area {name!r}. {nearest(name, list(plugins.AREAS))}")
        if name not in self._opened:
            options = self._online if name == "features" else {}
            self._opened[name] = plugins.load("area", name)(self.store, **options)
        return self._opened[name]

    def deploy(self, endpoint: str, version: str, **options: Any) -> Any:
        """A started deployment: the version is made known to the serving processes first, then the rollout begins.

        `options` are those of `DeploymentManager.start`.
        """
        self.provide(endpoint, version)
        return self.roll_out(endpoint, version, **options)

    def roll_out(self, endpoint: str, version: str, **options: Any) -> Any:
        """A started deployment of a version that the serving processes know already.

        It goes on from the endpoint's present routing, and its guard compares with the latency that is measured there now.
        """
        known = {traffic.endpoint: traffic.generation for traffic in self.serving.endpoints()}
        if endpoint in known:
            latency = frozen(merged(*(arm.latency for arm in self.serving.counts(endpoint).arms.values())))
            options = {"latency_ms": latency, "after_generation": known[endpoint]} | options
        return self.deployments.start(endpoint, version, **options)

    def provide(self, model: str, version: str) -> None:
        """Make a registered version known to the serving processes under the endpoint of its name."""
        known = self.registry.get_model(model, version)
        path = self.registry.path(model, version)
        told = known.signature
        if told is not None and told.task != "regression" and not told.classes:
            told = None  # it says less than the file itself
        self.serving.install(model, model, version, path, known.framework, signature=told)

    def provide_service(self, model: str, version: str, reference: str, *, uses: Mapping[str, str]) -> None:
        """Make a Python service of this machine's own known to the serving processes, with the registered versions that it uses.

        `reference` is `module:Class` or `/path/file.py:Class`; `uses` maps the names of what its constructor takes to
        registered versions, `model:version`, which are made known too and pinned by digest. Forbidden unless the endpoint
        of the model's name was configured with `trusted_code`.
        """
        for reference_used in uses.values():
            name, _, used_version = reference_used.partition(":")
            self.provide(name, used_version)
        self.serving.install(model, model, version, reference, "python", uses=uses)

    def step(self, deployment_id: str, *, controller: str = "") -> Decision:
        """One look at a running rollout: its counts are read from the serving processes and the decision is carried out.

        A `controller` that names itself holds the rollout's lease, as in `DeploymentManager.advance`.
        """
        endpoint = self.deployments.get_deployment(deployment_id).endpoint
        counts, processes = self.serving.counts(endpoint), self.serving.processes()
        trouble = next((one.troubles[endpoint] for one in processes if endpoint in one.troubles), "")
        decision: Decision = self.deployments.advance(deployment_id, counts, controller=controller, trouble=trouble)
        self.dispatch()
        return decision

    def time_tests(self) -> None:
        """The guards of A/B tests on endpoints judge latency too, once their control has answered enough to compare with."""
        time_tests(self._dispatcher.area)

    def confirm(self) -> None:
        """Take back what has completed and no serving process can carry out, once its `ready_seconds` are over.

        Nobody looks at a completed deployment any more, and `direct` completes at once.
        """
        processes = [one for one in self.serving.processes() if one.ready]
        for deployment in self.deployments.completed() if any(one.troubles for one in processes) else ():
            endpoint = deployment.endpoint
            troubles = [one.troubles[endpoint] for one in processes if endpoint in one.troubles]
            if troubles and all(one.generations.get(endpoint, 0) < deployment.generation for one in processes):
                self.deployments.give_up(deployment.deployment_id, troubles[0])

    def serve(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        workers: int | None = None,
        log_file: str | Path | None = None,
        grpc_port: int | None = None,
        model_control: bool = False,
    ) -> Serving:
        """Serving processes that answer over HTTP and record their own rollbacks in this yard, as `ModelServer.start`.

        There are at least `workers`, by default as many as the endpoints' `min_replicas` say. What they log goes to
        standard error, or to `log_file`. With `grpc_port` they answer over gRPC too, and `model_control` lets clients load
        and unload installed versions.
        What the place says of passwords reaches them in their environment, which other users cannot read, and not on
        their command line, which they can.
        """
        return self.serving.start(
            host=host,
            port=port,
            workers=workers,
            report=RECORD_TRIP,
            place=_words_for(self._place, self._files),
            log=log_file,
            grpc_port=grpc_port,
            model_control=model_control,
        )

    def serve_on_nodes(
        self,
        engine: str = "ray",
        *,
        address: str | None = None,
        host: str = "127.0.0.1",
        port: int = 8000,
        workers: int | None = None,
    ) -> NodeServing:
        """Serving processes on the nodes of a cluster, as `ModelServer.start_on_nodes`, that record their own rollbacks here."""
        return self.serving.start_on_nodes(
            engine,
            address=address,
            host=host,
            port=port,
            workers=workers,
            report=RECORD_TRIP,
            place=_words_for(self._place, self._files),
        )

    def analyze_experiment(self, experiment_id: str, *, confidence_level: float = 0.95) -> dict[str, Any]:
        """The A/B analysis of an experiment whose traffic serving splits (`ModelServer.create_ab_test`), from what it counted.

        A request that was answered counts as a success, until outcomes are told (`ModelServer.record_outcomes`): then those
        requests count whose outcome is known, and as it turned out.
        """
        test = next((test for test in self.ab_tests.list_tests() if test.name == experiment_id), None)
        if test is None:
            known = [test.name for test in self.ab_tests.list_tests()]
            raise NotFound(f"There is no experiment {experiment_id!r}. {nearest(experiment_id, known)}")
        if self.serving.has_outcomes(experiment_id):
            return self.ab_tests.analyze_test(test.test_id, confidence_level)
        counts = self.serving.counts(experiment_id)
        endpoints = [arm.name for arm in self.serving.traffic(experiment_id).arms]  # the control first
        for endpoint, variant in zip(endpoints, (test.control, *test.treatments), strict=True):
            arm = counts.arms[endpoint]
            self.ab_tests.record_counts(
                test.test_id,
                variant.name,
                source=f"serving:{experiment_id}",
                generation=counts.generation,
                requests=arm.requests,
                errors=arm.errors,
                latency={str(bucket): count for bucket, count in arm.latency.items()},
            )
        return self.ab_tests.analyze_test(test.test_id, confidence_level)

    def export(self, folder: str | Path, *, user: str = "system") -> Exported:
        """The written folder of plain files: models, metadata, approvals, A/B tests, deployments and the log.

        The folder must not be there yet; it appears whole or not at all. That it was written is an event.
        """
        from modelyard import portable

        return portable.export(self, Path(folder), user=user)

    def import_(self, folder: str | Path, *, user: str = "system") -> Imported:
        """What came in of a folder that `export` wrote, whole or not at all; the same again changes nothing.

        It trusts the exporter for stages, approvals and the log, and nobody for bytes: every artifact is inspected anew.
        Damaged for a folder that is not as its manifest says, Conflict where something is here already and differs.
        """
        from modelyard import portable

        return portable.import_(self, Path(folder), user=user)

    def dispatch(self) -> None:
        """Hand events on that another process wrote or an interrupted one left behind."""
        self._dispatcher.catch_up()

    def close(self) -> None:
        """Sign what has happened and give connections back. Not closing loses nothing: the next one who looks signs it."""
        if self._dispatcher.heard:
            try:
                self.audit.catch_up()
            except YardError as error:  # a damaged log is told by `audit verify`; it must not keep a yard from closing
                log.warning("the audit log was not brought up to date: %s", error)
        self.store.close()

    def __enter__(self) -> Yard:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Yard({self.store.database.url!r})"


def record_trip(place: str, trip: GuardTrip) -> None:
    """Write a serving process's rollback into the yard: the event, the deployment's state and the new routing.

    Called by the serving processes themselves, so it needs no other process of modelyard to be alive. `place` is a
    folder, a database URL, or env:NAME for an environment variable with both the place and where its files are.
    """
    with _told(place) as yard:
        yard.serving.record(trip)
        yard.dispatch()


def _words_for(place: str, files: str) -> str:
    """A yard's place as a serving process is told it: in the environment where it may hold a password."""
    if "://" not in place and not files:
        return place
    value = json.dumps({"place": place, "files": files})
    name = f"MODELYARD_PLACE_{hashlib.sha256(value.encode()).hexdigest()[:16].upper()}"
    os.environ[name] = value  # for good: a process that ends is started anew with it
    return f"env:{name}"


def _told(place: str) -> Yard:
    """The yard at a place in the words of `_words_for`."""
    kind, _, name = place.partition(":")
    if kind != "env":
        return Yard(place)
    try:
        told = json.loads(os.environ[name])
    except KeyError as error:
        raise Unavailable(
            f"The environment variable {name} with the yard's place is not set. Start with Yard.serve."
        ) from error
    return Yard(told["place"], files=told["files"] or None)


def _absolute(place: str | Path) -> str:
    """A URL as it is, a folder from the root."""
    return str(place) if "://" in str(place) else str(Path(place).absolute())
