"""scikit-learn: what a fit was given, and how it went.

scikit-learn 1.9 has callbacks, and a few of its estimators call them; `LogFit` is one. All others have none, and replacing
their `fit` from outside would change every program that imports them, so `fit` is a call of one's own around theirs.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from modelyard.core.runlog import RunLog, metric_key, plain_settings

_CURVES = ("loss_curve_", "validation_scores_", "train_score_", "validation_score_", "train_score")


class LogFit:
    """A scikit-learn callback that logs an estimator's parameters, its score after each iteration, and the time it took.

    For `estimator.set_callbacks(LogFit(run))`. Where a fit runs in several processes, the main one logs.
    """

    def __init__(self, run: RunLog) -> None:
        self._run: RunLog | None = run
        self._began = 0.0

    def setup(self, estimator: Any, context: Any) -> None:  # noqa: ARG002
        """Log the parameters."""
        self._began = time.perf_counter()
        if self._run is not None:
            self._run.log_params(settings_of(estimator))

    def teardown(self, estimator: Any, context: Any) -> None:  # noqa: ARG002
        """Log the time."""
        if self._run is not None:
            self._run.log_metrics({"fit seconds": time.perf_counter() - self._began})

    def on_fit_task_begin(self, estimator: Any, context: Any) -> None:
        """Nothing is known yet."""

    def on_fit_task_end(
        self,
        estimator: Any,  # noqa: ARG002
        context: Any,
        *,
        X: Any = None,  # noqa: N803 - scikit-learn passes it by name
        y: Any = None,
        fitted_estimator: Any = None,
    ) -> None:
        """Log the score on the training data as it would be if the fit ended here."""
        iterates = context.max_subtasks == 0 and context.parent is not None
        if self._run is None or not iterates or fitted_estimator is None or X is None or y is None:
            return
        if hasattr(fitted_estimator, "score"):
            score = float(fitted_estimator.score(X, y))
            self._run.log_metrics({metric_key(context.task_name, "training score"): score}, step=context.task_id)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_run": None}  # a run stays in its process


def fit(run: RunLog, estimator: Any, x: Any, y: Any = None, **more: Any) -> Any:
    """The estimator, fitted; the run has its parameters, the time, the score on the training data, and what it kept of how
    it went: its loss or score curves, the candidates of a search and the best one's parameters."""
    run.log_params(settings_of(estimator))
    began = time.perf_counter()
    fitted = estimator.fit(x, **more) if y is None else estimator.fit(x, y, **more)
    run.log_metrics({"fit seconds": time.perf_counter() - began})
    if y is not None and hasattr(fitted, "score") and getattr(fitted, "refit", True) is not False:
        run.log_metrics({"training score": float(fitted.score(x, y))})
    _log_curves(run, fitted)
    results = getattr(fitted, "cv_results_", None)
    if isinstance(results, Mapping):
        _log_search(run, fitted, results)
    return fitted


def settings_of(estimator: Any) -> dict[str, Any]:
    """The class of an estimator and those of its parameters that are plain values, of nested ones too."""
    return {"estimator": type(estimator).__name__, **plain_settings(estimator.get_params())}


def _log_curves(run: RunLog, fitted: Any) -> None:
    for name in _CURVES:
        curve = getattr(fitted, name, None)
        if curve is not None and not callable(curve):
            for step, value in enumerate(curve):
                run.log_metrics({name.rstrip("_"): float(value)}, step=step)


def _log_search(run: RunLog, fitted: Any, results: Mapping[str, Any]) -> None:
    logged = [name for name in results if name.startswith(("mean_test_", "std_test_", "mean_fit_time"))]
    for name in logged:  # a search by several scores has a column for each
        for step, value in enumerate(results[name]):
            run.log_metrics({metric_key(name): float(value)}, step=step)
    if hasattr(fitted, "best_score_"):
        run.log_metrics({"best score": float(fitted.best_score_)})
    if hasattr(fitted, "best_params_"):
        best = plain_settings(fitted.best_params_)
        run.log_params({f"best {name}"[:250]: value for name, value in best.items()})
