"""scikit-learn: fitted models kept by skops, and what such a file may hold."""

from __future__ import annotations

import io
import json
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from skops import io as skops_io

from modelyard.bounds import OutOfBounds
from modelyard.bounds import skops as boosters
from modelyard.core import plugins
from modelyard.core.errors import Damaged, Invalid, NotFound
from modelyard.engines.sklearn_bounds import refuse_out_of_bounds

# What a model file may hold beside skops' own list: each was looked at, none runs code when it is made or called.
TRUSTED = (
    "collections.OrderedDict",
    "lightgbm.basic.Booster",
    "lightgbm.sklearn.LGBMClassifier",
    "lightgbm.sklearn.LGBMRegressor",
    "modelyard.engines.sklearn.AsNumbers",
    "modelyard.engines.sklearn.Clip",
    "modelyard.engines.sklearn.DateParts",
    "modelyard.engines.sklearn.SignedLog",
    "numpy.dtype",
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.feature_selection._univariate_selection.chi2",
    "sklearn.feature_selection._univariate_selection.f_classif",
    "sklearn.feature_selection._univariate_selection.f_regression",
    "sklearn.metrics._dist_metrics.EuclideanDistance64",
    "sklearn.metrics._dist_metrics.ManhattanDistance64",
    "sklearn.metrics._dist_metrics.MinkowskiDistance64",
    "sklearn.model_selection._split.KFold",
    "sklearn.neighbors._ball_tree.BallTree",
    "sklearn.neighbors._kd_tree.KDTree",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
    "sklearn.tree._tree.Tree",
    "xgboost.core.Booster",
    "xgboost.sklearn.XGBClassifier",
    "xgboost.sklearn.XGBRegressor",
)


# what a forged or damaged file makes skops and the libraries raise
_UNREADABLE = (
    OSError, ValueError, LookupError, TypeError, AttributeError, ImportError, ArithmeticError, MemoryError, RecursionError,
)  # fmt: skip


def write(model: Any, path: Path) -> None:
    """Write a fitted model as a skops file; Invalid if it holds a type that loading would not trust."""
    data = skops_io.dumps(model)
    _refuse_unknown(skops_io.get_untrusted_types(data=data), path)
    path.write_bytes(data)


def read(path: Path) -> Any:
    """The fitted model in a skops file; Invalid for types that are not trusted, Damaged for what cannot be read or leads astray."""
    if not path.exists():
        raise NotFound(f"There is no model file {path}. Check the path.")
    try:
        data = path.read_bytes()
        _refuse_unknown(skops_io.get_untrusted_types(data=data), path)
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            boosters.check(json.loads(archive.read("schema.json")), archive.read)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # another scikit-learn version than the one that wrote the file
            model = skops_io.loads(data, trusted=list(TRUSTED))
            refuse_out_of_bounds(model, path.name)
            return model
    except OutOfBounds as error:
        raise Damaged(f"{path.name} is refused: {error}. Save the model again from where it was trained.") from error
    except (*_UNREADABLE, zipfile.BadZipFile) as error:
        if isinstance(error, (Damaged, Invalid, NotFound)):
            raise
        if isinstance(error, ModuleNotFoundError):
            raise plugins.missing(error, f"the model {path.name}") from error
        raise Damaged(f"{path} cannot be read as a skops model ({type(error).__name__}: {error}).") from error


def _refuse_unknown(types: Sequence[str], path: Path) -> None:
    unknown = sorted(set(types) - set(TRUSTED))
    if unknown:
        raise Invalid(
            f"{path.name} holds types that modelyard does not trust: {', '.join(unknown)}. They could run code when the "
            "model is loaded. Build the model from known parts, or export it to ONNX."
        )
