"""The files of a run, by its id."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import BinaryIO

from modelyard.core.operations import operation
from modelyard.tracking.experiments import Experiments
from modelyard.tracking.files import ArtifactFiles, FileEntry, checked_path
from modelyard.tracking.runs import active_run, in_store, root_of, run_row
from modelyard.tracking.values import LoggedModel


class RunFiles(Experiments):
    """Files that runs log. They lie in this store unless the experiment says another place."""

    @cached_property
    def files(self) -> ArtifactFiles:
        """Every run's files by path."""
        return ArtifactFiles(self.store)

    @operation("POST", "/runs/{run_id}/artifacts", needs="tracking.write")
    def log_artifact(self, run_id: str, file: str | Path, *, folder: str = "") -> FileEntry:
        """The stored copy of a file, or of a folder with all that is in it, in a folder of the run's files.

        >>> from modelyard.tracking import ExperimentTracker
        >>> tracker = ExperimentTracker(folder)
        >>> run = tracker.create_run("0")
        >>> _ = (folder / "notes.txt").write_text("good")
        >>> tracker.log_artifact(run.run_id, folder / "notes.txt", folder="about").size
        4
        """
        source = Path(file)
        with self.store.reading() as rows:
            root = root_of(active_run(rows, run_id))
        return self.files.add(source, "/".join(part for part in (root, folder, source.name) if part))

    def write_artifact(self, run_id: str, path: str, source: BinaryIO) -> FileEntry:
        """The stored file of a run with the stream's bytes."""
        with self.store.reading() as rows:
            root = root_of(active_run(rows, run_id))
        return self.files.write(f"{root}/{checked_path(path)}", source)

    def store_model(self, model: LoggedModel, source: Path) -> FileEntry:
        """The stored copy of a logged model's file or folder, where the logged model says its files lie."""
        root = in_store(model.artifact_location, f"logged model {model.model_id}")
        return self.files.add(source, root if source.is_dir() else f"{root}/{source.name}")

    @operation("GET", "/runs/{run_id}/artifacts", needs="tracking.read")
    def list_artifacts(self, run_id: str, *, folder: str = "") -> list[FileEntry]:
        """What lies right in a folder of the run's files; paths are the run's own.

        >>> from modelyard.tracking import ExperimentTracker
        >>> tracker = ExperimentTracker(folder)
        >>> run = tracker.create_run("0")
        >>> _ = (folder / "notes.txt").write_text("good")
        >>> _ = tracker.log_artifact(run.run_id, folder / "notes.txt", folder="about")
        >>> [(entry.path, entry.is_dir) for entry in tracker.list_artifacts(run.run_id)]
        [('about', True)]
        """
        root = self._root(run_id)
        found = self.files.list(f"{root}/{folder}" if folder else root)
        return [
            FileEntry(path=one.path.removeprefix(f"{root}/"), is_dir=one.is_dir, size=one.size, digest=one.digest)
            for one in found
        ]

    @operation("GET", "/runs/{run_id}/artifacts/download", needs="tracking.read")
    def download_artifact(self, run_id: str, path: str, output_path: str | Path) -> FileEntry:
        """One file of a run, written to `output_path`, verified.

        >>> from modelyard.tracking import ExperimentTracker
        >>> tracker = ExperimentTracker(folder)
        >>> run = tracker.create_run("0")
        >>> _ = (folder / "notes.txt").write_text("good")
        >>> _ = tracker.log_artifact(run.run_id, folder / "notes.txt")
        >>> _ = tracker.download_artifact(run.run_id, "notes.txt", folder / "copy.txt")
        >>> (folder / "copy.txt").read_text()
        'good'
        """
        return self.files.save(f"{self._root(run_id)}/{checked_path(path)}", Path(output_path))

    @operation("DELETE", "/runs/{run_id}/artifacts", needs="tracking.write")
    def delete_artifact(self, run_id: str, path: str, *, user: str = "system") -> int:
        """How many files of a run were deleted: one, or all in a folder.

        >>> from modelyard.tracking import ExperimentTracker
        >>> tracker = ExperimentTracker(folder)
        >>> run = tracker.create_run("0")
        >>> _ = (folder / "notes.txt").write_text("good")
        >>> _ = tracker.log_artifact(run.run_id, folder / "notes.txt")
        >>> tracker.delete_artifact(run.run_id, "notes.txt")
        1
        """
        return self.files.delete(f"{self._root(run_id)}/{checked_path(path)}", user=user)

    def _root(self, run_id: str) -> str:
        with self.store.reading() as rows:
            return root_of(run_row(rows, run_id))
