"""What training libraries log by themselves is what they report themselves."""

from concurrent.futures import ThreadPoolExecutor

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


def test_steps_may_be_called_anything(tracker):
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import StandardScaler

    with tracker.run("a") as run:
        autolog.fit(run, Pipeline([("scale (std), é!", StandardScaler()), ("model#1", LogisticRegression())]), X, Y)
    found = tracker.get_run(run.run_id)
    assert (found.status.value, found.params["model_1__C"]) == ("FINISHED", "1.0")


@pytest.mark.parametrize("refit", [False, "roc_auc"])
def test_a_search_within_a_search_and_by_two_scores_is_logged_with_both(tracker, refit):
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV

    inner = GridSearchCV(LogisticRegression(), {"C": [0.1, 1.0]}, cv=2)
    search = GridSearchCV(inner, {"cv": [2, 3]}, cv=2, scoring=["accuracy", "roc_auc"], refit=refit)
    with tracker.run("a") as run:
        model = autolog.fit(run, search, X, Y)
    for name in ("mean_test_accuracy", "mean_test_roc_auc", "std_test_roc_auc"):
        assert [value for _, value in curve(tracker, run, name)] == list(model.cv_results_[name])
    found = tracker.get_run(run.run_id)
    assert found.params["estimator__estimator__C"] == "1.0"
    assert ("best score" in found.metrics) is ("training score" in found.metrics) is bool(refit)


@pytest.mark.parametrize("booster", ["gbtree", "dart", "gblinear"])
def test_every_booster_of_xgboost_says_what_it_was_set_to(tracker, booster):
    import xgboost

    with tracker.run("a") as run:
        xgboost.train(
            {"booster": booster, "nthread": 1, "eta": 0.25}, xgboost.DMatrix(X, Y), 2, callbacks=[autolog.xgboost(run)]
        )
    assert tracker.get_run(run.run_id).params["eta"] == "0.25"


def test_a_search_may_copy_an_estimator_that_logs(tracker):
    import xgboost
    from sklearn.model_selection import GridSearchCV

    with tracker.run("a") as run:
        estimator = xgboost.XGBClassifier(n_estimators=2, n_jobs=1, callbacks=[autolog.xgboost(run)])
        search = GridSearchCV(estimator, {"max_depth": [1, 2]}, cv=2)
        assert autolog.fit(run, search, X, Y).best_score_ > 0.8
    found = tracker.get_run(run.run_id)
    assert (found.status.value, "best score" in found.metrics) == ("FINISHED", True)


def test_a_fit_that_fails_ends_its_run_as_failed_and_says_of_what(tracker):
    import lightgbm
    from sklearn.linear_model import LogisticRegression

    def bad_trees(run):
        data = lightgbm.Dataset(X, Y)
        settings = {"objective": "binary", "verbose": -1, "num_threads": 1}

        def stop(_):
            raise OSError("the disk is full")

        stop.order = 30  # behind the one that logs
        lightgbm.train(settings, data, 3, valid_sets=[data], callbacks=[autolog.lightgbm(run), stop])

    for expected, fit in (
        (ValueError, lambda run: autolog.fit(run, LogisticRegression(), X * np.nan, Y)),
        (OSError, bad_trees),
    ):
        with pytest.raises(expected), tracker.run("a") as run:
            fit(run)
        found = tracker.get_run(run.run_id)
        assert (found.status.value, found.tags["error.type"]) == ("FAILED", expected.__name__)
        assert found.params
        assert found.end_time is not None
    assert found.metrics  # what was measured before it failed


def test_trainings_in_threads_log_each_into_its_own_run(tracker):
    import lightgbm

    def train(seed):
        with parent.nested(f"seed {seed}") as run:
            data = lightgbm.Dataset(X, Y)
            settings = {"objective": "binary", "verbose": -1, "num_threads": 1, "seed": seed, "max_depth": seed + 1}
            lightgbm.train(settings, data, 5, valid_sets=[data], callbacks=[autolog.lightgbm(run)])
            return run.run_id

    with tracker.run("a") as parent, ThreadPoolExecutor(4) as pool:
        runs = list(pool.map(train, range(4)))
    for seed, run_id in enumerate(runs):
        found = tracker.get_run(run_id)
        assert (found.params["seed"], found.params["max_depth"]) == (str(seed), str(seed + 1))
        assert len(tracker.metric_history(run_id, "training-binary_logloss").items) == 5
        assert found.parent_run_id == parent.run_id
