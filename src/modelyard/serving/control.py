"""The control plane of serving: which versions are known, how traffic is split, what was counted, which processes serve."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from modelyard.core import plugins
from modelyard.core.area import Area
from modelyard.core.canonical import plain
from modelyard.core.errors import Forbidden, Invalid, NotFound, nearest
from modelyard.core.events import EventSeverity, EventType
from modelyard.core.ids import checked_name
from modelyard.core.instants import SYSTEM_CLOCK
from modelyard.core.models import Signature
from modelyard.core.operations import operation
from modelyard.core.ports import Clock, Connection
from modelyard.core.refs import Resource
from modelyard.core.traffic import GuardTrip, Traffic, TrafficCounts
from modelyard.core.work import Store, Work
from modelyard.serving import counters, detectors, metrics, store
from modelyard.serving.compiling import compiled
from modelyard.serving.composed import code_digest, used
from modelyard.serving.fleet import fleet_of, has_others
from modelyard.serving.guard import mark_recorded
from modelyard.serving.listening import appending, grpc_reserved, listen
from modelyard.serving.nodes_serving import NodeServing
from modelyard.serving.nodes_yard import Headquarters
from modelyard.serving.places import Places, Published, SlotReport, read, write
from modelyard.serving.rules import checked_traffic
from modelyard.serving.scaler import PublishedTargets
from modelyard.serving.supervisor import Serving
from modelyard.serving.trials import forget
from modelyard.serving.values import EndpointConfig, Installed, ModelFramework
from modelyard.serving.vigil import HANG_S, Death, bury_orphans

ALIASES = {"scikit-learn": "sklearn", "pytorch": "torch", "keras": "tensorflow"}
KEPT_GENERATIONS = 4
STRANGERS = 8  # servers of one database that may judge too, until they have told of themselves


class EndpointControl(Area):
    """Publishes routing for the serving processes and reads what they count."""

    def __init__(self, storage_path: str | Path | Store, *, clock: Clock = SYSTEM_CLOCK) -> None:
        super().__init__(storage_path, clock=clock)
        self.places = Places(self.store.folder)
        self._followed: dict[str, int] = {}

    def install(
        self,
        endpoint: str,
        model: str,
        version: str,
        path: str | Path,
        framework: ModelFramework | str,
        *,
        signature: Signature | None = None,
        uses: Mapping[str, str] | None = None,
    ) -> Installed:
        """The version that the serving processes can now load for the endpoint; it gets no traffic by this.

        A model of trees is compiled, and answers in its compiled form where that proved alike: see `compiled` of the result.
        `path` is a package folder (with modelyard.json) or a model file. The framework `python` runs this machine's own
        code and is Forbidden unless the endpoint was configured with `trusted_code`. `signature` is needed for a file
        that names no inputs. `uses` maps the names of what a Python service is given to installed versions,
        `model:version`, each pinned by the digest of its content; NotFound for one that is not installed.

        >>> from modelyard.serving import ModelServer
        >>> ModelServer(folder).install("fraud", "fraud", "v1.0.0", model_file, "lightgbm").framework
        'lightgbm'
        """
        plainly = replace(_installed(model, version, path, framework), signature=signature)
        if uses and plainly.framework != "python":
            raise Invalid(f"{model} {version} is a {plainly.framework} file. Only Python code uses other models.")
        installed = compiled(self.places, plainly)
        with self.store.work() as work:
            if installed.framework == "python" and not store.config_of(work.rows, endpoint).trusted_code:
                raise Forbidden(
                    f"{model} {version} is Python code. Allow it for {endpoint} first: "
                    f'configure("{endpoint}", {{"trusted_code": True}}), and only for code of your own.'
                )
            if installed.framework == "python":
                installed = replace(installed, code=code_digest(installed.path))
            if uses:
                known = {(one.model, one.version): one for one in store.all_models(work.rows)}
                installed = replace(installed, uses=used(uses, known))
            store.put_model(work, installed)
            forget(self.places, model, version)
            if installed.compiled is not None:
                told = plain(installed.compiled)
                work.emit(EventType.MODEL_COMPILED, Resource("model", f"{model}:{version}"), told)
        self.publish()
        return installed

    def configure(self, endpoint: str, endpoint_config: Mapping[str, Any]) -> EndpointConfig:
        """The endpoint's settings from now on; a setting that is not given has its default.

        >>> from modelyard.serving import ModelServer
        >>> ModelServer(folder).configure("fraud", {"payload_sampling": 0.1}).payload_sampling
        0.1
        """
        config = EndpointConfig.parse(endpoint_config)
        with self.store.work() as work:
            store.put_config(work, checked_name(endpoint, "endpoint"), config)
        self.publish()
        return config

    def apply(self, traffic: Traffic) -> None:
        """The routing is in force: each serving process swaps to it once it has loaded its versions and they have answered.

        Raises Conflict unless the generation is above the present one, Invalid for arms whose weights do not sum to 1.

        >>> from modelyard.core.traffic import Arm
        >>> from modelyard.serving import ModelServer
        >>> server = ModelServer(folder)
        >>> only = Arm(name="baseline", model="fraud", version="v1.0.0", weight=1.0)
        >>> server.apply(Traffic(endpoint="fraud", generation=1, arms=(only,)))
        >>> server.traffic("fraud").generation
        1
        """
        with self.store.work() as work:
            self.apply_within(work, traffic)
        self.publish()

    def apply_within(self, work: Work, traffic: Traffic, *, details: Mapping[str, Any] | None = None) -> None:
        """`apply` in a transaction that the caller owns; call `publish` once it has committed.

        `details` is what a new endpoint's event tells besides its generation.
        """
        current = store.traffic_of(work.rows, traffic.endpoint)
        checked_traffic(traffic, current)
        store.put_traffic(work, traffic)
        resource = Resource("endpoint", traffic.endpoint)
        if current is None:
            work.emit(EventType.ENDPOINT_CREATED, resource, {"generation": traffic.generation, **(details or {})})
        work.emit(EventType.TRAFFIC_CHANGED, resource, {"traffic": plain(traffic)})

    def publish(self) -> None:
        """The files that the serving processes read say what the store says. Again changes nothing."""
        with self.places.publishing():
            with self.store.reading() as rows:
                models = store.all_models(rows)
                published = [
                    Published(traffic=one, config=store.config_of(rows, one.endpoint))
                    for one in store.all_traffic(rows)
                ]
            known = list(self.places.read_models().values())
            if models != known:
                write(self.places.models, models)
            for one in published:
                self._publish_one(one)
            for name in set(self.places.traffic_files()) - {one.traffic.endpoint for one in published}:
                self.places.traffic(name).unlink(missing_ok=True)
                self.places.carried(name).unlink(missing_ok=True)

    def follow(self) -> bool:
        """Publish here what another machine has decided since, for each event is handed on by one of them; True if it has.

        A server's controller calls it twice a second: a rollback reaches the serving processes of every machine.

        >>> from modelyard.serving import ModelServer
        >>> ModelServer(folder).follow()
        False
        """
        with self.store.reading() as rows:
            stands = store.generations(rows)
        if stands == self._followed:
            return False
        self.publish()
        self._followed = stands
        return True

    def _publish_one(self, published: Published) -> None:
        traffic = published.traffic
        path = self.places.traffic(traffic.endpoint)
        if path.exists() and self.places.read_traffic(traffic.endpoint) == published:
            return
        self._forget_namesake(traffic)
        new = not self.places.counters(traffic.endpoint, traffic.generation).exists()
        file = counters.begin(self.places, traffic)
        if new and has_others(self.store):
            counters.Counters(file).share(STRANGERS)
        write(
            file.with_suffix(".json"), traffic
        )  # whose arms the counts are of, also once another generation is in force
        write(path, published)
        old = sorted(int(each.stem) for each in file.parent.glob("[0-9]*.bin"))[:-KEPT_GENERATIONS]
        for generation in old:
            gone = self.places.counters(traffic.endpoint, generation)
            gone.unlink(missing_ok=True)
            gone.with_suffix(".json").unlink(missing_ok=True)
            self.places.signatures(traffic.endpoint, generation).unlink(missing_ok=True)

    def _forget_namesake(self, traffic: Traffic) -> None:
        """Drop what an endpoint of the same name has counted here that was removed, and made anew, on another machine."""
        file = self.places.counters(traffic.endpoint, traffic.generation)
        kept = file.with_suffix(".json")
        if kept.exists() and read(kept, Traffic) != traffic:
            file.unlink(missing_ok=True)

    @operation("GET", "/serving/endpoints", needs="serving.read")
    def endpoints(self) -> list[Traffic]:
        """Every endpoint's routing, by name.

        >>> from modelyard.serving import ModelServer
        >>> ModelServer(folder).endpoints()
        []
        """
        with self.store.reading() as rows:
            return store.all_traffic(rows)

    @operation("GET", "/serving/endpoints/{endpoint}/traffic", needs="serving.read")
    def traffic(self, endpoint: str) -> Traffic:
        """The endpoint's routing as it was last decided; NotFound for an unknown endpoint.

        >>> from modelyard.serving import ModelServer
        >>> ModelServer(folder).traffic("fraud")
        Traceback (most recent call last):
        modelyard.core.errors.NotFound: There is no endpoint 'fraud'. None exist yet.
        """
        with self.store.reading() as rows:
            return known_traffic(rows, endpoint)

    @operation("GET", "/serving/endpoints/{endpoint}/counts", needs="serving.read")
    def counts(self, endpoint: str, generation: int | None = None) -> TrafficCounts:
        """What the endpoint's arms and shadow have counted in a generation (the present one by default), over all processes.

        With a guard, `units`, `errors` and `slower` leave out the warm-up and count a unit once a step; `requests` and
        `latency` (microseconds, stats.sketch) have everything. `tests` is how far the guard's tests are.

        >>> from modelyard.core.traffic import Arm
        >>> from modelyard.serving import ModelServer
        >>> server = ModelServer(folder)
        >>> only = Arm(name="baseline", model="fraud", version="v1.0.0", weight=1.0)
        >>> server.apply(Traffic(endpoint="fraud", generation=1, arms=(only,)))
        >>> server.counts("fraud").arms["baseline"].requests
        0
        """
        with self.store.reading() as rows:
            traffic = known_traffic(rows, endpoint)
        wanted = traffic.generation if generation is None else generation
        file = self.places.counters(endpoint, wanted)
        if not file.exists():
            if wanted == traffic.generation:
                return TrafficCounts(endpoint=endpoint, generation=wanted)
            raise NotFound(f"{endpoint} keeps no counts of generation {wanted}. It is at {traffic.generation}.")
        kept = file.with_suffix(".json")
        counted = read(kept, Traffic) if wanted != traffic.generation and kept.exists() else traffic
        return replace(detectors.counted(counters.Counters(file), counted), generation=wanted)

    @operation("GET", "/serving/trips", needs="serving.read")
    def trips(self) -> list[GuardTrip]:
        """Every rollback that the serving processes decided, oldest first, whether or not it is recorded yet.

        >>> from modelyard.serving import ModelServer
        >>> ModelServer(folder).trips()
        []
        """
        with self.store.reading() as rows:
            kept = {(trip.rollout_id, trip.step): trip for trip in store.all_trips(rows)}
        found = {(trip.rollout_id, trip.step): trip for trip in self.places.all_trips()}
        return sorted({**found, **kept}.values(), key=lambda trip: trip.at)

    def record(self, trip: GuardTrip) -> bool:
        """True if the decision was not known yet: it is kept, and told as an event, once for each rollout and step."""
        with self.store.work("serving") as work:
            new = store.add_trip(work, trip)
            if new:
                bare = {name: replace(arm, latency={}) for name, arm in trip.counts.arms.items()}
                told = replace(trip, counts=replace(trip.counts, arms=bare, shadow=None))
                work.emit(
                    EventType.GUARD_TRIPPED,
                    Resource("endpoint", trip.endpoint),
                    {"trip": plain(told)},
                    severity=EventSeverity.CRITICAL,
                )
        file = self.places.trip(trip.rollout_id, trip.step)
        if file.exists():
            mark_recorded(file)
        return new

    @operation("GET", "/serving/processes", needs="serving.read")
    def processes(self) -> list[SlotReport]:
        """The live processes: which generation of each endpoint they carry out, and what they could not load.

        One that `shadows` answers nobody: it asks the shadows, while an endpoint has one.

        >>> from modelyard.serving import ModelServer
        >>> ModelServer(folder).processes()
        []
        """
        return [report for _, report in sorted(self.places.slot_reports().items())]

    def start(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        workers: int | None = None,
        report: str | None = None,
        place: str | None = None,
        log: str | Path | None = None,
        grpc_port: int | None = None,
        model_control: bool = False,
        hang_s: float = HANG_S,
    ) -> Serving:
        """Serving processes that answer over HTTP; `.url`, `.port`, `.pids` and `.stop()` of the result.

        `report` is a "module:function" that the processes call as f(place, trip) when a guard trips; `place` is what it
        gets (this store's folder or URL by default). What the processes have to say goes to the end of the file `log`,
        or to standard error. There are at least `workers` (by default the largest `min_replicas` of the endpoints, which
        is 2), and more come and go with the load where an endpoint's `max_replicas` allows. With `grpc_port` (0 for a
        free one) they answer over gRPC too, at `.grpc` of the result; `model_control` lets anybody who reaches them load
        and unload installed versions. A process whose event loop has not turned for `hang_s` seconds is replaced. Raises
        Unavailable for a port in use or a log that cannot be written.
        """
        self.publish()
        bury_orphans(self.places)
        with ExitStack() as undone:
            listener = undone.enter_context(listen(host, port))
            calls = None if grpc_port is None else undone.enter_context(grpc_reserved(host, grpc_port))
            output = None if log is None else appending(log)
            undone.pop_all()
        serving = Serving(
            self.store.folder,
            listener,
            place=place or self._place(),
            report=report,
            targets=PublishedTargets(self.places, least=workers),
            latency_ms=metrics.LatencyWindow(self.places).p95,
            scaled=self._scaled,
            died=self._died,
            hang_s=hang_s,
            output=output,
            grpc=calls,
            model_control=model_control,
            fleet=fleet_of(self.store, self.places),
        )
        return serving.begin()

    def start_on_nodes(
        self,
        engine: str = "ray",
        *,
        address: str | None = None,
        host: str = "127.0.0.1",
        port: int = 8000,
        workers: int | None = None,
        report: str | None = None,
        place: str | None = None,
    ) -> NodeServing:
        """Serving processes spread over the nodes of a cluster, with an HTTP proxy on every node that has one.

        `address` is the cluster's (RAY_ADDRESS by default, or one is started on this machine). The nodes need modelyard
        and none of this store's folders: routing and models are sent to them, and what they count, log and decide comes
        back. The other arguments are those of `start`. Raises Unavailable for a cluster that cannot be used.
        """
        self.publish()
        head = Headquarters(self.places)
        cluster = plugins.load("engine", engine)(head.yard, address=address)
        serving = NodeServing(
            self.places,
            cluster,
            head,
            host=host,
            port=port,
            targets=PublishedTargets(self.places, least=workers),
            place=place or self._place(),
            report=report,
            fleet=fleet_of(self.store, self.places),
        )
        return serving.begin()

    def _place(self) -> str:
        url = self.store.database.url
        return url if "://" in url else str(self.store.folder)

    def _scaled(self, before: int, after: int) -> None:
        with self.store.work("serving") as work:
            work.emit(EventType.SCALED, Resource("serving", "workers"), {"before": before, "after": after})

    def _died(self, death: Death) -> None:
        tell_death(self.store, death)

    def remove(self, endpoint: str) -> None:
        """The endpoint answers no more; its counts are gone, its payload log stays."""
        with self.store.work() as work:
            known_traffic(work.rows, endpoint)
            store.remove_endpoint(work, endpoint)
            work.emit(EventType.ENDPOINT_REMOVED, Resource("endpoint", endpoint))
        self.publish()
        shutil.rmtree(self.places.counters(endpoint, 0).parent, ignore_errors=True)


def tell_death(kept: Store, death: Death) -> None:
    """Record as an event that a process was replaced."""
    of = Resource("serving", "shadow" if death.shadowed else "workers")
    with kept.work("serving") as work:
        work.emit(EventType.WORKER_REPLACED, of, plain(death), severity=EventSeverity.WARNING)


def known_traffic(rows: Connection, endpoint: str) -> Traffic:
    """The endpoint's routing; NotFound names the nearest known ones."""
    found = store.traffic_of(rows, endpoint)
    if found is None:
        known = [one.endpoint for one in store.all_traffic(rows)]
        raise NotFound(f"There is no endpoint {endpoint!r}. {nearest(endpoint, known)}")
    return found


def _installed(model: str, version: str, path: str | Path, framework: ModelFramework | str) -> Installed:
    name = framework.value if isinstance(framework, ModelFramework) else framework
    name = ALIASES.get(name, name)
    if name == "python":
        return Installed(model=checked_name(model, "model"), version=version, path=str(path), framework=name)
    place = Path(path).absolute()
    if not place.exists():
        raise NotFound(f"{model} {version} has no file {place}. Install it with a path that exists.")
    return Installed(model=checked_name(model, "model"), version=version, path=str(place), framework=name)
