"""Runs a yard's server: the control plane in this process, the serving processes beside it, and the rollouts' controller."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import uvicorn
from cryptography import x509
from starlette.types import ASGIApp

from modelyard.access.identity import Identities
from modelyard.core.errors import Forbidden, Invalid, Unavailable
from modelyard.core.lasting import Lasting
from modelyard.deployment.rollouts import DeploymentStatus
from modelyard.server.app import LOOPBACK, create_app
from modelyard.server.protocol import BoundedProtocol
from modelyard.yard import Yard

if TYPE_CHECKING:
    from modelyard.access.oidc import Issuer
    from modelyard.deployment import Deployment

log = logging.getLogger("modelyard.server")

LOOK_EVERY = 0.5  # seconds between two looks at running rollouts
ASK_EVERY = 5.0  # seconds between two looks for guardrails that are due
TIDY_EVERY = 60.0  # seconds between two looks for what has run out of time
COLLECT_EVERY = 6 * 3600.0  # seconds between two looks for bytes that nobody names any more
PARTING_S = 0.5  # for which callers are answered, and told that it is the last time, unless all have gone before
DRAIN_S = 30  # requests under way may take this long when the server ends
MOST_CONNECTIONS = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening:
    """Where a server listens, and with which certificate."""

    host: str = "127.0.0.1"
    port: int = 8080
    workers: int | None = None  # as many as the endpoints ask for
    predict_host: str = "127.0.0.1"  # predictions need no token, so opening them to others is a choice of its own
    grpc_port: int | None = None
    model_control: bool = False  # whether clients of the predictions may load and unload installed versions
    engine: str = "processes"  # or "ray": predictions are answered by the nodes of a cluster
    cluster: str | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    client_ca: Path | None = None  # only callers with a certificate of this authority are let in

    @property
    def url(self) -> str:
        """Where the control plane answers."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls_cert else 'http'}://{host}:{self.port}"

    @property
    def loopback(self) -> bool:
        """True if only this machine can reach it."""
        return self.host in LOOPBACK or self.host.startswith("127.") or self.host == "::1"


class Controller:
    """Looks at the running rollouts twice a second and carries their decisions out, in a thread and with a yard of its own.

    Another thread asks Prometheus, which may take its time, for their guardrails.
    """

    def __init__(self, place: str, files: str | None) -> None:
        self._place, self._files = place, files
        self._stop = threading.Event()
        self._lasting = Lasting("Controller", log)
        self._looked = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="modelyard-controller", daemon=True)

    def start(self) -> None:
        """Begin looking."""
        self._thread.start()

    def stop(self) -> None:
        """Stop after the look that is under way."""
        self._stop.set()
        self._thread.join(timeout=30)

    @property
    def silent_s(self) -> float:
        """Seconds since it last looked at everything that is to be looked at."""
        return time.monotonic() - self._looked

    def _run(self) -> None:
        while not self._stop.is_set():
            with self._lasting.round(), Yard(self._place, files=self._files) as yard:
                self._control(yard)
            self._stop.wait(LOOK_EVERY)

    def _control(self, yard: Yard) -> None:
        name = f"{socket.gethostname()}:{os.getpid()}"
        yard.audit.start_sequencer()
        deliverer = yard.webhooks.start()
        asking = threading.Thread(target=self._ask, args=(yard,), name="modelyard-guardrails", daemon=True)
        asking.start()
        tidied, collected = -TIDY_EVERY, time.monotonic()
        while not self._stop.wait(LOOK_EVERY):
            self._look(yard, name)
            if time.monotonic() >= tidied + TIDY_EVERY:
                with self._lasting.round():
                    yard.registry.expire_requests()
                with self._lasting.round():
                    yard.deployments.release_due()
                with self._lasting.round():
                    yard.confirm()
                tidied = time.monotonic()
            if time.monotonic() >= collected + COLLECT_EVERY:
                with self._lasting.round():
                    yard.tracking.files.collect()
                with self._lasting.round():
                    yard.audit.expire_events(user="modelyard")
                collected = time.monotonic()
        deliverer.stop()
        asking.join(timeout=30)
        with self._lasting.round():
            yard.deployments.let_go(name)

    def _look(self, yard: Yard, name: str) -> None:
        before = self._lasting.failures
        with self._lasting.round():
            yard.dispatch()
            yard.serving.follow()
            for deployment in _running(yard):
                with self._lasting.round():  # one that cannot be looked at keeps no other waiting
                    yard.step(deployment.deployment_id, controller=name)
            with self._lasting.round():
                yard.time_tests()
        if self._lasting.failures == before:
            self._looked = time.monotonic()

    def _ask(self, yard: Yard) -> None:
        lasting = Lasting("Guardrails", log)
        while not self._stop.wait(ASK_EVERY):
            with lasting.round():
                for deployment in _running(yard):
                    with lasting.round():
                        yard.deployments.check_guardrails(deployment.deployment_id)


def _running(yard: Yard) -> list[Deployment]:
    """The live rollouts that are under way, of which there are few, however many there have been."""
    found = [yard.deployments.list_deployments(status=status) for status in DeploymentStatus if status.active]
    return [one for some in found for one in some if one.traffic]


def serve(place: str, files: str | None, listening: Listening, *, user: str, oidc: str = "") -> None:
    """Serve until SIGTERM or SIGINT. A bind that other machines can reach needs access tokens and TLS.

    `oidc` is a TOML file that names an OpenID Connect issuer, whose tokens are then let in.
    """
    issuer = _issuer(oidc) if oidc else None
    _refuse_lone_certificates(listening)
    with Yard(place, files=files) as yard, _ended_by_signals(), ThreadPoolExecutor(1) as meanwhile:
        _refuse_open_doors(Identities(yard.store, issuer), listening)
        _refuse_taken_port(listening.host, listening.port)
        user = user if listening.loopback else ""
        hosts = LOOPBACK | {listening.host.lower(), f"[{listening.host}]"} | _certified(listening.tls_cert)
        making = meanwhile.submit(create_app, yard, local_user=user, hosts=hosts, issuer=issuer)
        with _predictions(yard, listening) as plane:
            app = making.result()  # made while the serving processes started
            controller = app.state.controller = Controller(place, files)
            controller.start()
            log.info("control plane on %s, predictions on %s", listening.url, plane.url)
            try:
                _answer(app, listening)
            finally:
                controller.stop()


def _predictions(yard: Yard, listening: Listening) -> AbstractContextManager[Answering]:
    """What answers predictions, on the port after the control plane's."""
    host, port, workers = listening.predict_host, listening.port + 1, listening.workers
    if listening.engine == "processes":
        return yard.serve(
            host=host,
            port=port,
            workers=workers,
            grpc_port=listening.grpc_port,
            model_control=listening.model_control,
        )
    if listening.grpc_port is not None or listening.model_control:
        raise Invalid(f"--grpc-port and --model-control go with --engine processes, not with {listening.engine}.")
    return yard.serve_on_nodes(listening.engine, address=listening.cluster, host=host, port=port, workers=workers)


class Answering(Protocol):
    """What answers predictions somewhere."""

    @property
    def url(self) -> str:
        """Where."""
        ...


class _Server(uvicorn.Server):
    """Tells callers to go before it hangs up: who was told by an answer sends nothing into a closing connection."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        self.server_state.default_headers = [*self.server_state.default_headers, (b"connection", b"close")]
        end = time.monotonic() + PARTING_S
        while self.server_state.connections and time.monotonic() < end:
            await asyncio.sleep(0.01)
        for _ in range(2):  # what has arrived meanwhile is read, if this process itself was not run for so long
            await asyncio.sleep(0)
        await super().shutdown(sockets)


def _answer(app: ASGIApp, listening: Listening) -> None:
    config = uvicorn.Config(
        app,
        host=listening.host,
        port=listening.port,
        log_level="warning",
        access_log=False,
        http=BoundedProtocol,
        ws="none",
        server_header=False,
        limit_concurrency=MOST_CONNECTIONS,
        ssl_certfile=listening.tls_cert,
        ssl_keyfile=listening.tls_key,
        ssl_ca_certs=None if listening.client_ca is None else str(listening.client_ca),
        ssl_cert_reqs=ssl.CERT_NONE if listening.client_ca is None else ssl.CERT_REQUIRED,
        timeout_graceful_shutdown=DRAIN_S,
    )
    server = _Server(config)
    server.run()
    if not server.started:
        raise Unavailable(f"The control plane could not start on {listening.url}. The log says why.")


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGINT end the block in order and count as success.

    uvicorn ends on them too, but then raises them anew, which by default kills the process before anything is stopped.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {name: signal.signal(name, _leave) for name in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    except _Ended:
        log.info("ended")
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


class _Ended(BaseException):
    """Raised by a signal where the server is. No Exception, so that nobody takes it for a fault."""


def _leave(*_: object) -> None:
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, signal.SIG_IGN)  # what has begun to end must end whole
    raise _Ended


def _issuer(file: str) -> Issuer:
    from modelyard.access.oidc import Issuer, trust_from  # PyJWT takes a fifth of a second

    return Issuer(trust_from(file))


def _certified(certificate: Path | None) -> frozenset[str]:
    """The names that the server's own certificate has, which are those that it is called by."""
    if certificate is None:
        return frozenset()
    try:
        names = x509.load_pem_x509_certificate(certificate.read_bytes()).extensions.get_extension_for_class(
            x509.SubjectAlternativeName
        )
    except x509.ExtensionNotFound:
        return frozenset()
    except ValueError as error:
        raise Invalid(f"{certificate} is no certificate in PEM form: {error}") from error
    addresses = [str(address) for address in names.value.get_values_for_type(x509.IPAddress)]
    hosts = [*names.value.get_values_for_type(x509.DNSName), *addresses, *(f"[{one}]" for one in addresses)]
    return frozenset(host.lower() for host in hosts)


def _refuse_lone_certificates(listening: Listening) -> None:
    if (listening.tls_cert is None) != (listening.tls_key is None):
        raise Invalid("A certificate comes with its key. Pass both --tls-cert and --tls-key.")
    if listening.client_ca is not None and listening.tls_cert is None:
        raise Invalid("Callers show certificates over TLS only. Pass --tls-cert and --tls-key too.")
    for file in (listening.tls_cert, listening.tls_key, listening.client_ca):
        if file is not None and not file.is_file():
            raise Invalid(f"There is no file {file}. Check the path.")


def _refuse_open_doors(identities: Identities, listening: Listening) -> None:
    if listening.loopback:
        return
    if not identities.guarded():
        raise Forbidden(
            f"Other machines could reach {listening.host} without a token. "
            "Create one first: modelyard access create-token NAME --role admin"
        )
    if listening.tls_cert is None or listening.tls_key is None:
        raise Forbidden(
            f"Tokens would cross the network in the clear on {listening.host}. Pass --tls-cert and --tls-key."
        )


def _refuse_taken_port(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise Unavailable(
                f"{host}:{port} cannot be used: {error.strerror}. Choose another port: modelyard serve --port N"
            ) from error
