"""MLflow's file store: a folder `mlruns`, in which every experiment, run, metric, parameter and tag is a file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from modelyard.core.errors import Damaged, Invalid
from modelyard.portable.mlflow import answers
from modelyard.portable.mlflow.local import LocalFiles
from modelyard.portable.mlflow.values import FoundModel, FoundVersion
from modelyard.tracking import DatasetInput, Experiment, LoggedModel, Metric, ModelMetric, ModelOutput, Run
from modelyard.tracking.values import Point

META = "meta.yaml"
TRASH = ".trash"
BESIDE_RUNS = frozenset({"tags", "datasets", "traces", "models"})
LONGEST_META = 32 << 20  # a dataset's profile is the longest of its texts, with 16 million characters
VALUES = 10_000  # points at a time
DELETED = "Deleted_Internal"
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Folder(LocalFiles):
    """A file store. Its folders say where things belong, so that it may have been copied here from another machine."""

    parallel = 1

    def __init__(self, root: Path, artifacts: Path | None = None) -> None:
        if (root / "mlruns").is_dir() and not list(root.glob(f"*/{META}")):
            root = root / "mlruns"
        if (
            not any(root.glob(f"*/{META}"))
            and not any(root.glob(f"{TRASH}/*/{META}"))
            and not (root / "models").is_dir()
        ):
            raise Invalid(
                f"{root} holds no experiments. Name MLflow's folder mlruns; for a database sqlite:///FILE, or the address of "
                "a server that is started on it."
            )
        super().__init__([root, *([artifacts] if artifacts else [])], artifacts)
        self.root = root.resolve()
        self.place = str(self.root)

    def experiments(self) -> Iterator[Experiment]:
        """Every experiment, deleted ones too."""
        for above in (self.root, self.root / TRASH):
            for folder in _folders(above):
                if (folder / META).is_file() and folder.name != "models":
                    meta = _meta(folder)
                    stage = "deleted" if above.name == TRASH else meta.get("lifecycle_stage")
                    tags = [{"key": key, "value": text} for key, text in _texts(folder / "tags")]
                    yield answers.experiment(
                        {**meta, "experiment_id": folder.name, "lifecycle_stage": stage, "tags": tags}
                    )

    def runs(self, experiment_id: str) -> Iterator[Run]:
        """The runs of an experiment, deleted ones too."""
        above = self._experiment(experiment_id)
        for folder in _folders(above):
            if folder.name not in BESIDE_RUNS and (folder / META).is_file():
                yield self._run(above, folder)

    def history(self, run: Run, key: str) -> Iterator[list[Point]]:
        """Every value of a metric; one that was written down twice counts once, as it does in MLflow's databases."""
        file = self._experiment(run.experiment_id) / run.run_id / "metrics" / key
        found: dict[tuple[int, int, str], Point] = {}
        with file.open(encoding="utf-8") as lines:
            for line in lines:
                point = _point(file, key, line)
                found[(point[2], point[3], repr(point[1]))] = point
        points = list(found.values())
        for start in range(0, len(points), VALUES):
            yield points[start : start + VALUES]

    def logged_models(self, experiment_id: str) -> Iterator[LoggedModel]:
        """The logged models of an experiment."""
        for folder in _folders(self._experiment(experiment_id) / "models"):
            if (folder / META).is_file():
                meta = {**_meta(folder), "experiment_id": experiment_id, "model_id": folder.name}
                metrics = (
                    _model_metric(folder.name, key, line)
                    for key, file in _files(folder / "metrics")
                    for line in file.read_text("utf-8").splitlines()
                )
                yield answers.logged_model_of(
                    meta,
                    tags=dict(_texts(folder / "tags")),
                    params=dict(_texts(folder / "params")),
                    metrics=tuple(dict.fromkeys(one for one in metrics if one is not None)),
                )

    def models(self) -> Iterator[FoundModel]:
        """The registered models."""
        for folder in _folders(self.root / "models"):
            if (folder / META).is_file():
                meta = _meta(folder)
                yield FoundModel(
                    name=str(meta.get("name") or folder.name),
                    description=str(meta.get("description") or ""),
                    tags=dict(_texts(folder / "tags")),
                    aliases={alias: int(text) for alias, text in _texts(folder / "aliases")},
                )

    def versions(self, name: str) -> Iterator[FoundVersion]:
        """The versions of a registered model, the oldest first."""
        found = []
        for folder in _folders(self.root / "models" / name):
            if folder.name.startswith("version-") and (folder / META).is_file():
                meta = _meta(folder)
                if meta.get("current_stage") != DELETED:
                    found.append(answers.version_of({**meta, "name": name}, dict(_texts(folder / "tags"))))
        yield from sorted(found, key=lambda one: one.number)

    def _experiment(self, experiment_id: str) -> Path:
        here = self.root / experiment_id
        return here if here.is_dir() else self.root / TRASH / experiment_id

    def _run(self, above: Path, folder: Path) -> Run:
        keys = ((key, _last_point(file, key)) for key, file in _files(folder / "metrics"))
        return answers.run_of(
            {**_meta(folder), "experiment_id": above.name, "run_id": folder.name},
            tags=dict(_texts(folder / "tags")),
            params=dict(_texts(folder / "params")),
            latest_metrics=tuple(Metric(*point) for _, point in keys if point is not None),
            datasets=tuple(self._inputs(above, folder)),
            model_inputs=tuple(
                str(meta["source_id"]) for meta in _metas(folder / "inputs") if meta.get("source_type") != "DATASET"
            ),
            model_outputs=tuple(
                ModelOutput(model_id=str(meta["destination_id"]), step=int(meta.get("step") or 0))
                for meta in _metas(folder / "outputs")
            ),
        )

    def _inputs(self, above: Path, folder: Path) -> Iterator[DatasetInput]:
        for meta in _metas(folder / "inputs"):
            if meta.get("source_type") == "DATASET":
                dataset = above / "datasets" / _plain(str(meta["source_id"]))
                tags = {str(key): str(text) for key, text in (meta.get("tags") or {}).items()}
                yield DatasetInput(dataset=answers.dataset(_meta(dataset)), tags=tags)


def _folders(above: Path) -> list[Path]:
    if not above.is_dir():
        return []
    return sorted(one for one in above.iterdir() if one.is_dir() and not one.is_symlink() and one.name != TRASH)


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Files below a folder by path: the names of metrics, parameters and tags may have slashes."""
    if folder.is_dir():
        for file in sorted(folder.rglob("*")):
            if file.is_file() and not file.is_symlink():
                yield file.relative_to(folder).as_posix(), file


def _texts(folder: Path) -> Iterator[tuple[str, str]]:
    for name, file in _files(folder):
        yield name, file.read_bytes().decode("utf-8", "replace")


def _metas(folder: Path) -> list[dict[str, Any]]:
    return [_meta(one) for one in _folders(folder) if (one / META).is_file()]


def _plain(name: str) -> str:
    if not name.isalnum():
        raise Damaged(f"{name!r:.100} is no id of a dataset.")
    return name


def _meta(folder: Path) -> dict[str, Any]:
    file = folder / META
    try:
        if file.stat().st_size > LONGEST_META:
            raise Damaged(f"{file} is longer than MLflow writes it.")
        text = file.read_text("utf-8")
        if "<<" in text and any(isinstance(one, yaml.AnchorToken) for one in yaml.scan(text)):
            raise Damaged(f"{file} has anchors, which MLflow never writes.")  # merges of merges take hours to load
        found = yaml.load(text, _LOADER)  # noqa: S506 - a loader of plain values
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise Damaged(f"{file} cannot be read: {error!s:.200}. Repair it or move its folder away.") from error
    if not isinstance(found, dict):
        raise Damaged(f"{file} holds no entries. Repair it or move its folder away.")
    return found


def _point(file: Path, key: str, line: str) -> Point:
    parts = line.split()
    try:
        return key, float(parts[1]), int(parts[0]), int(parts[2]) if len(parts) > 2 else 0
    except (ValueError, IndexError) as error:
        raise Damaged(f"{file} has the line {line!r:.100}, which is no time, value and step.") from error


def _last_point(file: Path, key: str) -> Point | None:
    """The last line's: an import counts on histories, so that this need not be the latest value."""
    with file.open("rb") as data:
        data.seek(0, 2)
        data.seek(max(0, data.tell() - 4096))
        lines = data.read().decode("utf-8", "replace").splitlines()
    return _point(file, key, lines[-1]) if lines else None


def _model_metric(model_id: str, key: str, line: str) -> ModelMetric | None:
    parts = line.split(" ")
    if len(parts) < 4:
        return None
    return ModelMetric(
        model_id=model_id,
        key=key,
        value=float(parts[1]),
        timestamp=int(parts[0]),
        step=int(parts[2]),
        run_id=parts[3],
        dataset_name=parts[4] if len(parts) == 6 else None,
        dataset_digest=parts[5] if len(parts) == 6 else None,
    )
