"""`modelyard serve`: the control plane and the serving processes of a yard."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from modelyard.cli.derive import YARD
from modelyard.core.errors import Invalid
from modelyard.server.run import Listening
from modelyard.server.run import serve as run
from modelyard.settings import checked_port, settings


def serve(
    *,
    host: Annotated[str | None, Parameter(help="Address to listen on.")] = None,
    port: Annotated[
        int | None, Parameter(help="Port of the control plane; predictions are answered on the next one.")
    ] = None,
    workers: Annotated[
        int | None, Parameter(help="Serving processes at least; as the endpoints' min_replicas say by default.")
    ] = None,
    predict_host: Annotated[
        str, Parameter(help="Address that predictions are answered on, to anybody who reaches it, without a token.")
    ] = "127.0.0.1",
    grpc_port: Annotated[
        int | None, Parameter(help="Answer predictions over gRPC too (Open Inference Protocol), on this port.")
    ] = None,
    model_control: Annotated[
        bool, Parameter(help="Let anybody who reaches the predictions load and unload installed versions.", negative="")
    ] = False,
    engine: Annotated[
        Literal["processes", "ray"],
        Parameter(help="What answers predictions: processes of this machine, or Ray Serve on the nodes of a cluster."),
    ] = "processes",
    cluster: Annotated[
        str | None, Parameter(help="Address of the Ray cluster; RAY_ADDRESS, or one started here, by default.")
    ] = None,
    tls_cert: Annotated[Path | None, Parameter(help="Certificate file, needed to listen beyond this machine.")] = None,
    tls_key: Annotated[Path | None, Parameter(help="Its private key.")] = None,
    client_ca: Annotated[
        Path | None, Parameter(help="Let in only callers with a certificate that this authority has signed.")
    ] = None,
    oidc: Annotated[str | None, Parameter(help="TOML file of the token issuer that is trusted.")] = None,
    yard: YARD = None,
) -> None:
    """Start the control plane and the serving processes, and control running rollouts, until interrupted."""
    numbers = {name: None if value is None else str(value) for name, value in (("port", port), ("workers", workers))}
    flags = {"host": host, "yard": yard, "oidc": oidc, **numbers}
    chosen = settings(flags)
    found = {name: setting.value for name, setting in chosen.items()}
    listening = Listening(
        host=found["host"],
        port=checked_port(chosen["port"].number),
        workers=chosen["workers"].number if chosen["workers"].value else None,
        predict_host=predict_host,
        grpc_port=grpc_port,
        model_control=model_control,
        engine=engine,
        cluster=cluster,
        tls_cert=tls_cert,
        tls_key=tls_key,
        client_ca=client_ca,
    )
    if listening.workers is not None and listening.workers < 1:
        raise Invalid(f"{listening.workers} serving processes answer no prediction. Ask for at least one: --workers 1")
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s"
    )
    logging.getLogger("alembic").setLevel(logging.WARNING)
    run(found["yard"], found["files"] or None, listening, user=found["user"], oidc=found["oidc"])
