"""Real models, fitted and saved by the libraries themselves: what admission must let in. Also run by benchmarks/artifacts.py."""

from __future__ import annotations

import base64
import io
import json
import pickle
import tempfile
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joblib
import lightgbm
import numpy as np
import skops.io
import xgboost
from skl2onnx import to_onnx
from sklearn import (
    calibration,
    cluster,
    compose,
    decomposition,
    ensemble,
    feature_selection,
    gaussian_process,
    isotonic,
    linear_model,
    mixture,
    naive_bayes,
    neighbors,
    neural_network,
    pipeline,
    preprocessing,
    svm,
    tree,
)  # fmt: skip

X = np.abs(np.random.default_rng(0).normal(size=(60, 4))).astype(np.float32)
Y = (X[:, 0] > 0.6).astype(int)


def estimators() -> dict[str, Any]:
    """One unfitted estimator of each kind that is used in practice."""
    one_hot = compose.ColumnTransformer(
        [
            ("n", preprocessing.StandardScaler(), [0, 1]),
            ("c", preprocessing.OneHotEncoder(handle_unknown="ignore"), [2]),
        ]
    )
    found = [
        linear_model.LogisticRegression(), linear_model.LinearRegression(), linear_model.Ridge(), linear_model.Lasso(),
        linear_model.ElasticNet(), linear_model.SGDClassifier(), linear_model.RidgeClassifier(),
        linear_model.HuberRegressor(), linear_model.BayesianRidge(), linear_model.PoissonRegressor(),
        tree.DecisionTreeClassifier(max_depth=3), tree.DecisionTreeRegressor(max_depth=3),
        ensemble.RandomForestClassifier(4), ensemble.RandomForestRegressor(4), ensemble.ExtraTreesClassifier(4),
        ensemble.GradientBoostingClassifier(n_estimators=4), ensemble.GradientBoostingRegressor(n_estimators=4),
        ensemble.HistGradientBoostingClassifier(max_iter=4), ensemble.HistGradientBoostingRegressor(max_iter=4),
        ensemble.AdaBoostClassifier(n_estimators=3), ensemble.BaggingClassifier(n_estimators=3),
        ensemble.IsolationForest(n_estimators=4),
        ensemble.VotingClassifier([("a", linear_model.LogisticRegression()), ("b", tree.DecisionTreeClassifier())]),
        ensemble.StackingClassifier([("a", tree.DecisionTreeClassifier())], linear_model.LogisticRegression()),
        svm.SVC(probability=False), svm.LinearSVC(), svm.SVR(), neighbors.KNeighborsClassifier(algorithm="kd_tree"),
        neighbors.KNeighborsRegressor(algorithm="ball_tree"), naive_bayes.GaussianNB(), naive_bayes.MultinomialNB(),
        neural_network.MLPClassifier((4,), max_iter=5), cluster.KMeans(2, n_init=1), mixture.GaussianMixture(2),
        decomposition.PCA(2), decomposition.TruncatedSVD(2), isotonic.IsotonicRegression(),
        gaussian_process.GaussianProcessRegressor(), calibration.CalibratedClassifierCV(naive_bayes.GaussianNB(), cv=2),
        pipeline.make_pipeline(one_hot, linear_model.LogisticRegression()),
        pipeline.make_pipeline(preprocessing.FunctionTransformer(np.log1p), linear_model.LogisticRegression()),
        pipeline.make_pipeline(preprocessing.PolynomialFeatures(2), preprocessing.RobustScaler(), linear_model.Ridge()),
        pipeline.make_pipeline(feature_selection.SelectKBest(k=2), ensemble.RandomForestClassifier(3)),
        lightgbm.LGBMClassifier(n_estimators=3, n_jobs=1, verbose=-1),
        lightgbm.LGBMRegressor(n_estimators=3, n_jobs=1, verbose=-1),
        xgboost.XGBClassifier(n_estimators=3, n_jobs=1), xgboost.XGBRegressor(n_estimators=3, n_jobs=1),
    ]  # fmt: skip
    names = (f"{type(one).__name__} {number}" for number, one in enumerate(found))
    return dict(zip(names, found, strict=True))


def files() -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of each model in each form that its library saves it in."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, estimator in estimators().items():
            fitted = estimator.fit(X[:, 0] if "Isotonic" in name else X, Y)
            yield from _forms(name, fitted)
    text = Path(__file__).with_name("network_samples.json").read_text()
    for name, packed in json.loads(text).items():
        if name.startswith("honest"):
            yield name, zlib.decompress(base64.b85decode(packed))


def _forms(name: str, fitted: Any) -> Iterator[tuple[str, bytes]]:
    yield f"{name}, pickle", pickle.dumps(fitted)
    yield f"{name}, skops", skops.io.dumps(fitted)
    for how, compress in (("joblib", 0), ("compressed joblib", 3)):
        raw = io.BytesIO()
        joblib.dump(fitted, raw, compress=compress)
        yield f"{name}, {how}", raw.getvalue()
    if name.startswith(("Logistic", "LinearReg", "Decision", "RandomForest", "Gradient", "SVC", "MLP", "KMeans")):
        yield f"{name}, ONNX", to_onnx(fitted, X[:1]).SerializeToString()
    if name.startswith("LGBM"):
        yield f"{name}, text", fitted.booster_.model_to_string().encode()
    if name.startswith("XGB"):
        for ending in ("json", "ubj"):
            with tempfile.TemporaryDirectory() as place:
                fitted.save_model(f"{place}/m.{ending}")
                yield f"{name}, {ending}", Path(f"{place}/m.{ending}").read_bytes()
