"""The operation of batch prediction, for installed and registered versions and for a package or model file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

from modelyard.core import plugins
from modelyard.core.area import Area
from modelyard.core.errors import Invalid
from modelyard.core.events import EventType
from modelyard.core.models import PACKAGE_MANIFEST
from modelyard.core.operations import operation
from modelyard.core.refs import Resource
from modelyard.serving import batch, store
from modelyard.serving.batch import CHUNK_ROWS, BatchReport
from modelyard.serving.values import Installed


class BatchPrediction(Area):
    """Answers the rows of files."""

    @operation("POST", "/serving/batch-predictions", needs="serving.write", remote=False)
    def predict_batch(
        self,
        model: str,
        source: str | Path,
        output: str | Path,
        *,
        keep: list[str] | None = None,
        rejects: bool = False,
        chunk_rows: int = CHUNK_ROWS,
        workers: int = 0,
        runner: Literal["processes", "ray", "ray_data"] = "processes",
    ) -> BatchReport:
        """What became of the rows of a file or folder (CSV, JSON lines, Parquet, each also .gz): their answers as Parquet.

        `model` is NAME:VERSION of an installed or registered version, or the path of a package or model file. The answers
        have the columns file and row (where the row stands, from 1), what the input has besides the features (or only the
        columns `keep`), prediction and probabilities. Run again after an interruption, it goes on and leaves the same
        bytes as an uninterrupted run. A bad row is told with its place and ends the run (Invalid); with `rejects` it is
        left out and told in rejects.jsonl. `workers` processes answer chunks of `chunk_rows` (0: one a core); with the
        runners ray and ray_data they run on the cluster of RAY_ADDRESS, which needs the files at the same paths.

        >>> from modelyard.serving import ModelServer
        >>> _ = (folder / "today.csv").write_text("customer,a,b,c\\n17,1.0,0.0,0.0\\n")
        >>> report = ModelServer(folder).predict_batch(str(model_file), folder / "today.csv", folder / "answers")
        >>> report.predicted, report.parts
        (1, 1)
        """
        installed = self._wanted(model)
        with batch.progress_bar() as tell:
            report = batch.predict(
                installed,
                Path(source),
                Path(output).absolute(),
                keep=keep,
                rejects=rejects,
                chunk_rows=chunk_rows,
                workers=workers or os.cpu_count() or 1,
                runner=runner,
                tell=tell,
            )
        details: dict[str, Any] = {"source": str(source), "output": report.output, "predicted": report.predicted}
        with self.store.work() as work:
            subject = Resource("model", f"{installed.model}:{installed.version}".rstrip(":"))
            work.emit(EventType.BATCH_PREDICTED, subject, {**details, "rejected": report.rejected})
        return report

    def _wanted(self, model: str) -> Installed:
        path = Path(model)
        if path.exists():
            framework = "" if (path / PACKAGE_MANIFEST).is_file() else _framework(path)
            return Installed(model=path.stem, version="", path=str(path.absolute()), framework=framework)
        name, colon, version = model.rpartition(":")
        if not colon or "/" in model:
            raise Invalid(f"{model!r} is no path, and no model. Write NAME:VERSION, or the path of a model or package.")
        with self.store.reading() as rows:
            known = {(one.model, one.version): one for one in store.all_models(rows)}
        if (name, version) in known:
            return known[name, version]
        registry = plugins.load("area", "registry")(self.store)
        found = registry.get_model(name, version)
        path = registry.path(name, found.version)
        return Installed(model=name, version=found.version, path=str(path), framework=found.framework)


def _framework(path: Path) -> str:
    if path.is_dir():
        files = [entry for entry in path.iterdir() if entry.is_file()]
        path = files[0] if len(files) == 1 else path
    found: str = plugins.load("loader", "framework")(path)
    return found
