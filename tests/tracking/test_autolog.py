"""What training libraries log by themselves is what they report themselves."""

import numpy as np
import pytest

from modelyard.core.errors import Conflict, MissingExtra
from modelyard.tracking import ExperimentTracker, autolog

RNG = np.random.default_rng(7)
X = RNG.normal(size=(200, 3))
Y = (X[:, 0] + 0.3 * RNG.normal(size=200) > 0).astype(int)


@pytest.fixture
def tracker(tmp_path):
    return ExperimentTracker(tmp_path)


def curve(tracker, run, key):
    return [(m.step, m.value) for m in sorted(tracker.metric_history(run.run_id, key).items, key=lambda m: m.step)]


def test_lightgbm_rounds_are_those_that_lightgbm_records(tracker):
    import lightgbm

    recorded = {}
    data = lightgbm.Dataset(X, Y)
    settings = {
        "objective": "binary",
        "metric": ["auc", "binary_logloss"],
        "verbose": -1,
        "num_threads": 1,
        "num_leaves": 4,
    }
    with tracker.run("trees") as run:
        lightgbm.train(
            settings,
            data,
            20,
            valid_sets=[data],
            valid_names=["train"],
            callbacks=[
                autolog.lightgbm(run),
                lightgbm.record_evaluation(recorded),
                lightgbm.early_stopping(3, verbose=False),
            ],
        )
    for name in ("auc", "binary_logloss"):
        assert curve(tracker, run, f"train-{name}") == list(enumerate(recorded["train"][name]))
    found = tracker.get_run(run.run_id)
    assert (found.params["objective"], found.params["num_leaves"]) == ("binary", "4")
    with tracker.run("trees") as run:
        told = lightgbm.cv(settings, lightgbm.Dataset(X, Y), 3, nfold=2, callbacks=[autolog.lightgbm(run)])
    assert [value for _, value in curve(tracker, run, "valid-auc")] == told["valid auc-mean"]
    assert [value for _, value in curve(tracker, run, "valid-auc-std")] == told["valid auc-stdv"]


def test_xgboost_rounds_are_those_that_xgboost_records(tracker):
    import xgboost

    recorded = {}
    data = xgboost.DMatrix(X, Y)
    settings = {"objective": "binary:logistic", "max_depth": 2, "nthread": 1, "eval_metric": ["auc", "logloss"]}
    with tracker.run("trees") as run:
        xgboost.train(
            settings,
            data,
            8,
            evals=[(data, "train")],
            evals_result=recorded,
            verbose_eval=False,
            callbacks=[autolog.xgboost(run)],
        )
    for name in ("auc", "logloss"):
        assert curve(tracker, run, f"train-{name}") == list(enumerate(recorded["train"][name]))
    found = tracker.get_run(run.run_id)
    assert (found.params["objective"], found.params["max_depth"]) == ("binary:logistic", "2")
    with tracker.run("trees") as run:
        told = xgboost.cv(settings, data, 3, nfold=2, as_pandas=False, seed=1, callbacks=[autolog.xgboost(run)])
    assert [value for _, value in curve(tracker, run, "test-auc")] == told["test-auc-mean"]
    with tracker.run("trees") as run:
        xgboost.XGBClassifier(n_estimators=3, n_jobs=1, callbacks=[autolog.xgboost(run)]).fit(
            X, Y, eval_set=[(X, Y)], verbose=False
        )
    assert len(curve(tracker, run, "validation_0-logloss")) == 3


def test_any_scikit_learn_estimator_is_logged_by_a_fit_of_our_own(tracker):
    from sklearn.ensemble import GradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    with tracker.run("a") as run:
        model = autolog.fit(run, GradientBoostingClassifier(n_estimators=5, random_state=0), X, Y)
    assert [value for _, value in curve(tracker, run, "train_score")] == list(model.train_score_)
    assert tracker.get_run(run.run_id).metrics["training score"] == model.score(X, Y)
    search = GridSearchCV(
        make_pipeline(StandardScaler(), LogisticRegression()), {"logisticregression__C": [0.1, 1.0]}, cv=2
    )
    with tracker.run("a") as run:
        model = autolog.fit(run, search, X, Y)
    found = tracker.get_run(run.run_id)
    assert found.params["best logisticregression__C"] == str(model.best_params_["logisticregression__C"])
    assert found.metrics["best score"] == model.best_score_
    assert [value for _, value in curve(tracker, run, "mean_test_score")] == list(model.cv_results_["mean_test_score"])


@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_scikit_learns_own_callbacks_log_each_iteration(tracker, jobs):
    pytest.importorskip("sklearn.callback")
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV

    with tracker.run("a") as run:
        model = LogisticRegression(max_iter=50).set_callbacks(autolog.sklearn(run)).fit(X, Y)
    scores = curve(tracker, run, "lbfgs-iter-training score")
    assert [step for step, _ in scores] == list(range(model.n_iter_[0]))
    assert scores[-1][1] == model.score(X, Y)
    assert tracker.get_run(run.run_id).params["estimator"] == "LogisticRegression"
    with tracker.run("a") as run:
        GridSearchCV(LogisticRegression(), {"C": [0.1, 1.0]}, cv=2, n_jobs=jobs).set_callbacks(
            autolog.sklearn(run)
        ).fit(X, Y)
    assert tracker.get_run(run.run_id).metrics["fit seconds"] > 0


def test_a_second_training_in_one_run_is_refused_and_one_in_a_nested_run_is_not(tracker):
    from sklearn.linear_model import Ridge

    with tracker.run("a") as run:
        autolog.fit(run, Ridge(alpha=1.0), X, Y)
        with pytest.raises(Conflict, match="'alpha'"):
            autolog.fit(run, Ridge(alpha=2.0), X, Y)
        with run.nested("other") as other:
            autolog.fit(other, Ridge(alpha=2.0), X, Y)
    assert tracker.get_run(other.run_id).params["alpha"] == "2.0"


def test_a_torch_loop_is_logged_through_its_hooks(tracker):
    try:
        import torch
    except ModuleNotFoundError:
        with pytest.raises(MissingExtra, match="modelyard\\[torch\\]"):
            autolog.torch(None, None, None)
        return
    torch.manual_seed(0)
    model, loss = torch.nn.Linear(3, 1), torch.nn.MSELoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    x, y = torch.tensor(X, dtype=torch.float32), torch.tensor(Y, dtype=torch.float32).reshape(-1, 1)
    seen, norms = [], []
    with tracker.run("net") as run:
        watch = autolog.torch(run, model, optimizer, loss, every=2)
        for _ in range(6):
            optimizer.zero_grad()
            value = loss(model(x), y)
            value.backward()
            norms.append(float(torch.sqrt(sum((p.grad**2).sum() for p in model.parameters()))))
            optimizer.step()
            with torch.no_grad():
                loss(model(x) + 100, y)
            seen.append(float(value.detach()))
        watch.stop()
        optimizer.step()
    assert curve(tracker, run, "loss") == [(step, seen[step]) for step in (0, 2, 4)]
    assert [value for _, value in curve(tracker, run, "gradient norm")] == pytest.approx(norms[::2], rel=1e-5)
    found = tracker.get_run(run.run_id)
    assert (found.params["optimizer"], found.params["momentum"], found.params["parameters"]) == ("SGD", "0.9", "4")
