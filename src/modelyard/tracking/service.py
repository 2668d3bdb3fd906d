"""ExperimentTracker: what was trained, with what, and what came out."""

from __future__ import annotations

from collections.abc import Mapping

from modelyard.tracking.active import ActiveRun, begun
from modelyard.tracking.collecting import Collecting
from modelyard.tracking.following import Training, follow
from modelyard.tracking.logged_models import LoggedModels
from modelyard.tracking.recording import Recording
from modelyard.tracking.values import Run, RunStatus


class ExperimentTracker(Recording, Collecting, LoggedModels):
    """Experiments, runs and logged models in one store.

    >>> tracker = ExperimentTracker(folder)
    >>> run = tracker.create_run("0", name="first")
    >>> tracker.log_batch(run.run_id, metrics=[("auc", 0.9, 1_700_000_000_000, 0)], params={"depth": "6"})
    >>> tracker.end_run(run.run_id).metrics
    {'auc': 0.9}
    """

    def run(
        self, experiment: str, *, name: str = "", tags: Mapping[str, str] | None = None, user: str = "system"
    ) -> ActiveRun:
        """A new run for a `with` block, of the experiment of that name, which is made if there is none."""
        return begun(self, experiment, name=name, tags=tags or {}, user=user)

    def resume(self, run_id: str, *, user: str = "system") -> ActiveRun:
        """A run for another `with` block: it is running again."""
        return ActiveRun(self, self.update_run(run_id, status=RunStatus.RUNNING, user=user), user=user)

    def follow(self, training: Training) -> Run:
        """The run that keeps up with a training which another part of the yard carries out, under the same id."""
        return follow(self, training)
