"""What a version is made of: its source checked as MLflow does, and its files found."""

from __future__ import annotations

import posixpath
import re
from urllib.parse import unquote, unquote_plus, urlsplit

from modelyard.core.errors import NotFound
from modelyard.core.models import ModelVersion
from modelyard.portable.mlflow import admitting
from modelyard.portable.mlflow.admitting import Source
from modelyard.server.mlflow import views
from modelyard.server.mlflow.calls import Call
from modelyard.server.mlflow.errors import Refused
from modelyard.tracking import LoggedModel, Run

HOSTS = frozenset(
    {"http", "https", "ftp", "sftp", "hdfs", "viewfs", "ssh"}
)  # would have the server call a host of the caller's
OURS = "mlflow-artifacts"


def check_seen(call: Call, source: str) -> None:
    """Refuse a source in another model that the caller may not use."""
    name, version = _name_and_version(source)
    if version:
        call.also("model", name)


def resolved(call: Call, source: str) -> Source:
    """The source, once it is sure that it belongs to the run or the logged model that the call names."""
    scheme = urlsplit(source).scheme.lower()
    if scheme in HOSTS:
        raise Refused(
            f"'source' cannot use the '{scheme}' scheme: the server would connect to a host that its caller names. "
            "Register from a run, a logged model or an object store."
        )
    run_id, model_id = call.text("run_id"), call.text("model_id")
    if scheme == "models":
        name, version = _name_and_version(source)
        if version:
            return _of_version(call, source, name, version)
    of = Source(source, run_id, model_id)
    if model_id:
        _check_model_source(call, of)
    else:
        _check_run_source(call, of)
    return of


def _of_version(call: Call, source: str, name: str, version: str) -> Source:
    """A version of a registered model as the source of another: its bytes are admitted already."""
    if urlsplit(source).netloc:
        raise Refused(
            f"Invalid model version source: '{source}'. Registered model sources must use the active model registry."
        )
    known = _version(call, name, version)
    more = known.metadata.get(admitting.OURS) or {}
    asked = (("run_id", known.run_id), ("model_id", more.get("model_id", "")))
    if any(field in call.values and call.text(field) != value for field, value in asked):
        raise Refused(
            f"Invalid model version source: '{source}'. The run_id and model_id request parameters must match the "
            "referenced model version."
        )
    return Source(
        source=f"models:/{name}/{known.number}",
        run_id=known.run_id,
        model_id=more.get("model_id", ""),
        location="" if known.digest else more.get("location") or known.source,
        digest=known.digest,
        size=known.size,
        framework=known.framework,
        quarantined=tuple(more.get("findings", ())),
        known=known,
    )


def _version(call: Call, name: str, version: str) -> ModelVersion:
    registry = call.yard.registry
    try:
        if version.startswith("@"):
            found: ModelVersion = registry.get_by_alias(name, version[1:])
            return found
        if version.isdigit():
            return registry.version_by_number(name, int(version[:18]))
        stages = {told.lower(): stage for stage, told in views.STAGES.items()}
        newest = registry.newest_in_stages([name])[name]
        shown = [one for one in newest if version.lower() == "latest" or stages.get(version.lower()) is one.stage]
        if shown:
            return max(shown, key=lambda one: one.number)
    except NotFound:
        pass
    try:
        registry.get_registered_model(name)
    except NotFound as error:
        raise Refused(f"Registered Model with name={name} not found", "RESOURCE_DOES_NOT_EXIST") from error
    raise Refused(f"Model Version (name={name}, version={version.lstrip('@')}) not found", "RESOURCE_DOES_NOT_EXIST")


def _name_and_version(source: str) -> tuple[str, str]:
    """The name and the version (a number, a stage, latest, or @ and an alias) of models:/NAME/VERSION; no version else."""
    path = urlsplit(source).path.strip("/")
    if "@" in path and "/" not in path:
        name, _, alias = path.rpartition("@")
        return name, f"@{alias}"
    name, _, version = path.partition("/")
    return name, version if "/" not in version else ""


def _check_run_source(call: Call, of: Source) -> None:
    _check_place(of.source, "run_id", "run")
    scheme = urlsplit(of.source).scheme
    if scheme == "runs":
        run_id, _, inner = urlsplit(of.source).path.strip("/").partition("/")
        if urlsplit(of.source).netloc or not of.run_id or run_id != of.run_id:
            raise _not_of(of.source, "run_id")
        run = admitting.run_of(call.yard, of.run_id)
        if run is not None:
            _place_in_run(call, of, run, unquote(inner))
    elif scheme == "models":
        raise _not_of(of.source, "model_id")
    elif scheme == OURS:
        run = admitting.run_of(call.yard, of.run_id) if of.run_id else None
        if run is None or not _within(of.source, run.artifact_uri):
            raise _not_of(of.source, "run_id")
        of.path = _inner(of.source)


def _check_model_source(call: Call, of: Source) -> None:
    _check_place(of.source, "model_id", "run")
    scheme = urlsplit(of.source).scheme
    model = admitting.logged_model_of(call.yard, of.model_id)
    if scheme == "runs":
        raise _not_of(of.source, "model_id")
    if scheme == "models":
        if urlsplit(of.source).netloc or urlsplit(of.source).path.strip("/") != of.model_id or model is None:
            raise _not_of(of.source, "model_id")
        _place_of_model(of, model)
    elif scheme == OURS:
        if model is None or not _within(of.source, model.artifact_location):
            raise _not_of(of.source, "model_id")
        of.path = _inner(of.source)
    if model is not None:
        of.run_id = of.run_id or model.source_run_id or ""


def _place_in_run(call: Call, of: Source, run: Run, inner: str) -> None:
    """Where runs:/ID/PATH lies: among the run's files, or as the logged model of that name."""
    if not run.artifact_uri.startswith(f"{OURS}:/"):
        of.location = f"{run.artifact_uri}/{inner}"
        return
    path = f"{_inner(run.artifact_uri)}/{inner}".rstrip("/")
    of.path = path
    if call.yard.tracking.files.list(path):
        return
    for made in run.model_outputs:
        model = admitting.logged_model_of(call.yard, made.model_id)
        if model is not None and model.name == inner:
            _place_of_model(of, model)
            return


def _place_of_model(of: Source, model: LoggedModel) -> None:
    if model.artifact_location.startswith(f"{OURS}:/"):
        of.path = _inner(model.artifact_location)
    else:
        of.location = model.artifact_location


def _check_place(source: str, field: str, of: str) -> None:
    """Refuse folders of the server, and ways up."""
    parts = urlsplit(source)
    if parts.scheme in ("", "file"):
        raise Refused(
            f"Invalid model version source: '{source}'. To use a local path as a model version source, the {field} request "
            f"parameter has to be specified and the local path has to be contained within the artifact directory of the {of} "
            f"specified by the {field}."
        )
    bare = source
    for _ in range(20):
        further = unquote_plus(bare)
        if further == bare:
            break
        bare = further
    path = re.sub(r"/+", "/", urlsplit(bare).path.rstrip("/"))
    if (
        "\0" in path
        or "\\" in path
        or ".." in bare.split("/")
        or unquote_plus(bare) != bare
        or posixpath.normpath(path) != path
    ):
        raise Refused(
            f"Invalid model version source: '{source}'. If supplying a source as an http, https, local file path, ftp, "
            "objectstore, or mlflow-artifacts uri, an absolute path must be provided without relative path references "
            "present. Please provide an absolute path."
        )


def _within(source: str, root: str) -> bool:
    parts, outer = urlsplit(source), urlsplit(root)
    inner, above = ([unquote(part) for part in one.path.split("/") if part] for one in (parts, outer))
    return (parts.scheme, parts.netloc) == (outer.scheme, outer.netloc) and bool(above) and inner[: len(above)] == above


def _inner(uri: str) -> str:
    return re.sub(rf"^{OURS}:/*", "", uri).strip("/")


def _not_of(source: str, field: str) -> Refused:
    return Refused(
        f"Invalid model version source: '{source}'. The {field} request parameter must identify the resource that contains "
        "the source."
    )
