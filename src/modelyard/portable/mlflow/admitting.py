"""A version as MLflow means it becomes one of the registry: its files admitted by what they hold, its figures its run's."""

from __future__ import annotations

import math
import re
import tempfile
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelyard.core.errors import NotFound
from modelyard.core.models import ModelStage, ModelVersion, References
from modelyard.tracking import LoggedModel, Run

if TYPE_CHECKING:
    from modelyard.yard import Yard

OURS = "mlflow"  # the entry of a version's metadata that has what only MLflow's clients ask for
ADMISSION = "modelyard.admission"
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


def drafted(yard: Yard, source: Source, who: str) -> ModelVersion:
    """The draft of a version with the source's files admitted, in quarantine where they may run code when loaded."""
    if source.path and not source.digest:
        _admit(yard, source, who)
    now = yard.store.clock.now()
    draft = ModelVersion(
        name="",
        version="next",
        framework=source.framework,
        stage=ModelStage.DEVELOPMENT,
        digest=source.digest,
        size=source.size,
        created_by=who,
        created_at=now,
        updated_at=now,
        run_id=source.run_id,
        source=source.source,
    )
    return replace(draft, **_copied(source.known) if source.known is not None else _measured(yard, source))


def _copied(known: ModelVersion) -> dict[str, Any]:
    """What a copy has of its original."""
    names = ("metrics", "parameters", "trained_by", "training_data", "references", "signature", "environment")
    return {name: getattr(known, name) for name in names} | {"parent": f"{known.name}:{known.version}"}


def _measured(yard: Yard, source: Source) -> dict[str, Any]:
    """What the run and the logged model say: policies ask for metrics, and who trained a model cannot approve it."""
    run = run_of(yard, source.run_id) if source.run_id else None
    model = logged_model_of(yard, source.model_id) if source.model_id else None
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


def _admit(yard: Yard, source: Source, who: str) -> None:
    """Copy the files out and hand them to the artifact store. Where nothing lies there (yet), there is nothing to admit."""
    with tempfile.TemporaryDirectory(prefix="modelyard-mlflow-") as folder:
        target = Path(folder) / "model"
        target.mkdir()
        try:
            yard.tracking.files.copy_to(source.path, target)
        except NotFound:
            return
        described = target / "MLmodel"
        if described.is_file():
            source.framework = flavour(described.read_bytes()[:100_000].decode("utf-8", "replace"))
        artifact = yard.artifacts.quarantine(target, user=who)
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


def run_of(yard: Yard, run_id: str) -> Run | None:
    """The run of an id, if there is one."""
    try:
        found: Run = yard.tracking.get_run(run_id)
    except NotFound:
        return None
    return found


def logged_model_of(yard: Yard, model_id: str) -> LoggedModel | None:
    """The logged model of an id, if there is one."""
    try:
        found: LoggedModel = yard.tracking.get_logged_model(model_id)
    except NotFound:
        return None
    return found
