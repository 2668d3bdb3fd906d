"""ExperimentTracker: what was trained, with what, and what came out."""

from __future__ import annotations

from modelyard.tracking.logged_models import LoggedModels
from modelyard.tracking.recording import Recording
from modelyard.tracking.run_files import RunFiles


class ExperimentTracker(Recording, RunFiles, LoggedModels):
    """Experiments, runs and logged models in one store.

    >>> tracker = ExperimentTracker(folder)
    >>> run = tracker.create_run("0", name="first")
    >>> tracker.log_batch(run.run_id, metrics=[("auc", 0.9, 1_700_000_000_000, 0)], params={"depth": "6"})
    >>> tracker.end_run(run.run_id).metrics
    {'auc': 0.9}
    """
