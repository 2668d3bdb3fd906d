"""`modelyard import mlflow`: check, write what is missing, count both sides, and tell the log once."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from modelyard.core.errors import Invalid
from modelyard.core.events import EventSeverity, EventType
from modelyard.core.refs import Resource
from modelyard.portable.may import check_may_import
from modelyard.portable.mlflow import registering, training
from modelyard.portable.mlflow.bringing import Bringing, Tell
from modelyard.portable.mlflow.counting import Brought
from modelyard.portable.mlflow.values import Origin

if TYPE_CHECKING:
    from modelyard.yard import Yard


def import_(yard: Yard, uri: str, *, user: str, artifacts: Path | None = None, tell: Tell = lambda _: None) -> Brought:
    """What came over from an MLflow server's address, a file store's folder, or sqlite:///FILE, both sides counted.

    `artifacts` is the folder that the server of a database kept files in. Nothing is written where a name here is taken by
    something else (Conflict). The same again brings nothing new; an import that was interrupted goes on.
    """
    check_may_import(yard, user)
    with closing(origin_of(uri, artifacts)) as origin:
        bringing = Bringing(yard=yard, origin=origin, user=user, tell=tell)
        training.check(bringing)
        registering.check(bringing)
        with yard.store.quietly():
            training.bring(bringing)
            registering.bring(bringing)
    brought = bringing.tally.brought(origin.place)
    if brought.new:
        _tell(bringing, brought)
    return brought


def origin_of(uri: str, artifacts: Path | None = None) -> Origin:
    """The store that a text names."""
    if uri.startswith(("http://", "https://")):
        from modelyard.portable.mlflow.server import Server

        return Server(uri)
    if uri.startswith("sqlite:///"):
        from modelyard.portable.mlflow.database import Database

        return Database(Path(uri.removeprefix("sqlite:///")), artifacts)
    folder = Path(uri.removeprefix("file://").removeprefix("file:"))
    if "://" in uri.removeprefix("file://"):
        raise Invalid(
            f"{uri.partition(':')[0]!r:.40} cannot be read itself. Start `mlflow server` on it and import its address, or "
            "name a folder mlruns or sqlite:///FILE."
        )
    if folder.is_file():
        raise Invalid(f"{folder} is a file. Write sqlite:///{folder} for a database, or name a folder mlruns.")
    from modelyard.portable.mlflow.folder import Folder

    return Folder(folder, artifacts)


def _tell(bringing: Bringing, brought: Brought) -> None:
    counts = {one.kind: {"there": one.there, "here": one.here, "new": one.new} for one in brought.counts}
    told = {"source": brought.source, "counts": counts, "records": bringing.records.hexdigest()}
    with bringing.yard.store.work(bringing.user) as work:
        name = brought.source.rstrip("/").rpartition("/")[2] or "mlflow"
        work.emit(EventType.TRACKING_IMPORTED, Resource("tracking", name), told, severity=EventSeverity.WARNING)
