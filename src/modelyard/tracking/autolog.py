"""Logging that training libraries do by themselves, through their own callbacks and hooks. Nothing is patched.

One run logs one training: a second one with other parameters is refused, as any changed parameter is. Give each a run of
its own: `with run.nested("fold 1") as fold`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from modelyard.core import plugins
from modelyard.core.runlog import RunLog

if TYPE_CHECKING:
    from collections.abc import Callable


def lightgbm(run: RunLog) -> Callable[[Any], None]:
    """A LightGBM callback: parameters, and each round's evaluations.

    >>> import lightgbm as lgb, numpy as np
    >>> from modelyard.tracking import ExperimentTracker
    >>> tracker, x = ExperimentTracker(folder), np.arange(100.0).reshape(-1, 1)
    >>> data = lgb.Dataset(x, x[:, 0] > 50)
    >>> with tracker.run("trees") as run:
    ...     told = {"objective": "binary", "verbose": -1, "num_threads": 1}
    ...     _ = lgb.train(told, data, 3, valid_sets=[data], callbacks=[lightgbm(run)])
    >>> tracker.get_run(run.run_id).params["objective"]
    'binary'
    """
    callback: Callable[[Any], None] = plugins.load("autolog", "lightgbm")(run)
    return callback


def xgboost(run: RunLog) -> Any:
    """An XGBoost callback: parameters, and each round's evaluations.

    `xgboost.train(..., evals=[(test, "test")], callbacks=[autolog.xgboost(run)])`
    """
    return plugins.load("autolog", "xgboost")(run)


def sklearn(run: RunLog) -> Any:
    """A scikit-learn callback (1.9 and later) for `estimator.set_callbacks`: parameters, the score of each iteration, time.

    Few estimators have callbacks; `fit` logs any.
    """
    return plugins.load("autolog", "sklearn")(run)


def fit(run: RunLog, estimator: Any, x: Any, y: Any = None, **more: Any) -> Any:
    """A scikit-learn estimator, fitted, with its parameters, time, training score, curves and search results in the run.

    >>> from sklearn.linear_model import Ridge
    >>> from modelyard.tracking import ExperimentTracker
    >>> tracker = ExperimentTracker(folder)
    >>> with tracker.run("ridge") as run:
    ...     model = fit(run, Ridge(alpha=0.5), [[0.0], [1.0], [2.0]], [0.0, 1.0, 2.0])
    >>> found = tracker.get_run(run.run_id)
    >>> found.params["estimator"], found.params["alpha"], found.metrics["training score"] > 0.9
    ('Ridge', '0.5', True)
    """
    return plugins.load("autolog", "sklearn_fit")(run, estimator, x, y, **more)


def torch(run: RunLog, model: Any, optimizer: Any, loss: Any = None, *, every: int = 1) -> Any:
    """A watch on a PyTorch training loop: parameters, and at every `every`-th optimizer step the loss, the learning rate and
    the norm of the gradients. `loss` is the loss module; `stop()` takes the hooks off."""
    return plugins.load("autolog", "torch")(run, model, optimizer, loss, every=every)
