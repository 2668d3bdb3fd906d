"""What a version is made of: its source checked as MLflow does, its files found, and admitted by what they hold."""

from __future__ import annotations

import math
import posixpath
import re
import tempfile
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import unquote, unquote_plus, urlsplit

from modelyard.core.errors import NotFound
from modelyard.core.models import ModelStage, ModelVersion, References
from modelyard.server.mlflow import views
from modelyard.server.mlflow.calls import Call
from modelyard.server.mlflow.errors import Refused
from modelyard.tracking import LoggedModel, Run

ADMISSION = "modelyard.admission"
HOSTS = frozenset(
    {"http", "https", "ftp", "sftp", "hdfs", "viewfs", "ssh"}
)  # would have the server call a host of the caller's
OURS = "mlflow-artifacts"
UNKNOWN_FRAMEWORK = "files"
MOST_ENTRIES = 1_000  # metrics and parameters that a version keeps of its run's
_FLAVOUR = re.compile(r"^  ([a-z][a-z0-9_]*):", re.MULTILINE)
_BESIDE = frozenset({"python_function"})


@dataclass(slots=True)
class Source:
    """Where a version comes from. `path` is where its files lie below the artifact root, "" where they lie elsewhere."""

    source: str
    run_id: str = ""
    model_id: str = ""
    path: str = ""
    location: str = ""  # where clients find files that are not here
    digest: str = ""  # of bytes that are admitted already
    size: int = 0
    framework: str = UNKNOWN_FRAMEWORK
    quarantined: tuple[str, ...] = ()
    known: ModelVersion | None = None  # the version that it is a copy of


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


def admitted(call: Call, source: Source) -> ModelVersion:
    """The draft of a version with the source's files admitted, in quarantine where they may run code when loaded."""
    if source.path and not source.digest:
        _admit(call, source)
    now = call.yard.store.clock.now()
    draft = ModelVersion(
        name="",
        version="next",
        framework=source.framework,
        stage=ModelStage.DEVELOPMENT,
        digest=source.digest,
        size=source.size,
        created_by=call.who,
        created_at=now,
        updated_at=now,
        run_id=source.run_id,
        source=source.source,
    )
    return replace(draft, **_copied(source.known) if source.known is not None else _measured(call, source))


def _copied(known: ModelVersion) -> dict[str, Any]:
    """What a copy has of its original."""
    names = ("metrics", "parameters", "trained_by", "training_data", "references", "signature", "environment")
    return {name: getattr(known, name) for name in names} | {"parent": f"{known.name}:{known.version}"}


def _measured(call: Call, source: Source) -> dict[str, Any]:
    """What the run and the logged model say: policies ask for metrics, and who trained a model cannot approve it."""
    run = _run(call, source.run_id) if source.run_id else None
    model = _logged_model(call, source.model_id) if source.model_id else None
    if run is None:
        return {}
    metrics = dict(run.metrics)
    for one in sorted(model.metrics if model is not None else (), key=lambda one: (one.step, one.timestamp)):
        metrics[one.key] = one.value
    finite = {key: value for key, value in metrics.items() if math.isfinite(value)}
    parameters = dict(run.params) | (dict(model.params) if model is not None else {})
    digests = [f"{one.dataset.name}@{one.dataset.digest}" for one in run.datasets]
    return {
        "metrics": dict(islice(finite.items(), MOST_ENTRIES)),
        "parameters": dict(islice(parameters.items(), MOST_ENTRIES)),
        "trained_by": run.user_id,
        "training_data": ", ".join(digests)[:MOST_ENTRIES],
        "references": References(
            repository=run.tags.get("mlflow.source.git.repoURL", ""),
            commit=run.tags.get("mlflow.source.git.commit", ""),
        ),
    }


def noted(source: Source) -> dict[str, Any]:
    """What is kept of the source for MLflow's clients."""
    told: dict[str, Any] = {}
    if source.model_id:
        told["model_id"] = source.model_id
    if source.location:
        told["location"] = source.location
    if source.quarantined:
        told["findings"] = list(source.quarantined)[:50]
    return told


def _admit(call: Call, source: Source) -> None:
    """Copy the files out and hand them to the artifact store. Where nothing lies there (yet), there is nothing to admit."""
    files = call.yard.tracking.files
    with tempfile.TemporaryDirectory(prefix="modelyard-mlflow-") as folder:
        target = Path(folder) / "model"
        target.mkdir()
        try:
            files.copy_to(source.path, target)
        except NotFound:
            return
        described = target / "MLmodel"
        if described.is_file():
            source.framework = flavour(described.read_bytes()[:100_000].decode("utf-8", "replace"))
        artifact = call.yard.artifacts.quarantine(target, user=call.who)
    source.digest, source.size = artifact.digest, artifact.size
    if artifact.admission == "quarantined":
        source.quarantined = artifact.findings


def flavour(described: str) -> str:
    r"""The framework that an MLmodel file names first, read as lines: YAML's own readers can be made to work for hours.

    >>> flavour("artifact_path: m\nflavors:\n  python_function:\n    env: x\n  sklearn:\n    code: null\nmodel_id: m-1\n")
    'sklearn'
    """
    _, found, rest = described.partition("\nflavors:\n")
    if not found:
        return UNKNOWN_FRAMEWORK
    block = re.split(r"^\S", rest, maxsplit=1, flags=re.MULTILINE)[0]
    named = _FLAVOUR.findall(block)
    return next((name for name in named if name not in _BESIDE), "python_function" if named else UNKNOWN_FRAMEWORK)


def _of_version(call: Call, source: str, name: str, version: str) -> Source:
    """A version of a registered model as the source of another: its bytes are admitted already."""
    if urlsplit(source).netloc:
        raise Refused(
            f"Invalid model version source: '{source}'. Registered model sources must use the active model registry."
        )
    known = _version(call, name, version)
    more = known.metadata.get(views.OURS) or {}
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
        run = _run(call, of.run_id)
        if run is not None:
            _place_in_run(call, of, run, unquote(inner))
    elif scheme == "models":
        raise _not_of(of.source, "model_id")
    elif scheme == OURS:
        run = _run(call, of.run_id) if of.run_id else None
        if run is None or not _within(of.source, run.artifact_uri):
            raise _not_of(of.source, "run_id")
        of.path = _inner(of.source)


def _check_model_source(call: Call, of: Source) -> None:
    _check_place(of.source, "model_id", "run")
    scheme = urlsplit(of.source).scheme
    model = _logged_model(call, of.model_id)
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
        model = _logged_model(call, made.model_id)
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


def _run(call: Call, run_id: str) -> Run | None:
    try:
        found: Run = call.yard.tracking.get_run(run_id)
    except NotFound:
        return None
    return found


def _logged_model(call: Call, model_id: str) -> LoggedModel | None:
    try:
        found: LoggedModel = call.yard.tracking.get_logged_model(model_id)
    except NotFound:
        return None
    return found


def _not_of(source: str, field: str) -> Refused:
    return Refused(
        f"Invalid model version source: '{source}'. The {field} request parameter must identify the resource that contains "
        "the source."
    )
