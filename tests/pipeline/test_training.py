"""A run gives the same answer twice, finds planted faults, and is remembered whatever becomes of it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest

from modelyard.core.errors import Invalid, NotFound
from modelyard.core.work import Store
from modelyard.engines.loading import load_model
from modelyard.pipeline import MLPipeline, PipelineConfig, Pipelines, PipelineStatus


def test_the_same_seed_gives_the_same_model_and_another_seed_another(train, people):
    results = [
        train(people(), folder=f"o{i}", model_type="lightgbm", random_seed=seed) for i, seed in enumerate((1, 1, 2))
    ]
    assert results[0].metrics == results[1].metrics != results[2].metrics
    names = load_model(results[0].artifacts["model"]).signature.names
    table = {name: people(seed=3)[name] for name in names}
    answers = [load_model(r.artifacts["model"]).predict_proba(table) for r in results]
    assert np.array_equal(answers[0], answers[1])
    assert not np.array_equal(answers[0], answers[2])


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_study_is_the_same_at_every_run_of_the_same_workers(train, workers, people):
    table = {n: v for n, v in people(300).items() if n != "joined"}
    runs = [
        train(
            table,
            folder=f"o{i}",
            model_type="lightgbm",
            model_params={"n_estimators": 10},
            enable_tuning=True,
            tuning_trials=5,
            tuning_workers=workers,
            random_seed=7,
        )
        for i in range(2)
    ]
    told = [[(t.number, t.params, t.seed, t.value) for t in run.trials] for run in runs]
    assert told[0] == told[1]
    assert [t.number for t in runs[0].trials] == [0, 1, 2, 3, 4]
    assert runs[0].best_params == min(runs[0].trials, key=lambda t: t.value).params
    assert runs[0].metrics == runs[1].metrics


def test_tuning_looks_at_no_row_that_is_held_out(train, people):
    table = people(400)
    first = train(table, folder="a", model_class="DecisionTree", enable_tuning=True, tuning_trials=4)
    held = {name: list(values) for name, values in table.items()}
    for position in _held_out(table):  # the split depends on the target and the seed alone
        held["income"][position] = 1.0
    second = train(held, folder="b", model_class="DecisionTree", enable_tuning=True, tuning_trials=4)
    assert [t.value for t in first.trials] == [t.value for t in second.trials]


def _held_out(table):
    """The positions of the test and validation rows."""
    from modelyard.pipeline import stages

    config = PipelineConfig(name="t", target_column="bought", cross_validation_folds=3)
    run = stages.Run(config=config, folder=Path("unused"), frame=table)
    for stage in (stages.load_data, stages.validate_data, stages.engineer_features, stages.split_data):
        stage(run)
    return [*run.parts["test"].tolist(), *run.parts["validation"].tolist()]


def test_planted_leaks_are_found_and_a_clean_table_has_none(train, people):
    table = people()
    clean = train(table, folder="a", model_class="DecisionTree")
    assert not [f for f in clean.findings if f.kind in ("leakage", "identifier", "shared_rows")]
    rng = np.random.default_rng(0)
    table["refund"] = [v == "yes" if rng.random() > 0.001 else v != "yes" for v in table["bought"]]
    table["code"] = [f"id-{n}" for n in range(600)]
    table["row"] = list(range(600))
    table["same"] = [1] * 600
    doubled = {name: values + values[:100] for name, values in table.items()}
    result = train(doubled, folder="b", model_class="DecisionTree")
    found = {(f.kind, f.column) for f in result.findings}
    assert {("leakage", "refund"), ("constant", "same"), ("duplicates", ""), ("shared_rows", "")} <= found
    once = train(table, folder="c", model_class="DecisionTree")
    found = {(f.kind, f.column) for f in once.findings}
    assert {("identifier", "code"), ("identifier", "row")} <= found
    assert "code" not in load_model(once.artifacts["model"]).signature.names
    report = json.loads(Path(result.artifacts["report"]).read_text())
    assert {"leakage", "constant"} <= {finding["kind"] for finding in report["findings"]}


def test_groups_stay_together_and_time_runs_forward(people):
    from modelyard.pipeline import stages

    table = people()
    table["customer"] = [f"c{n % 60}" for n in range(600)]

    def parts(**fields):
        config = PipelineConfig(name="t", target_column="bought", **fields)
        run = stages.Run(config=config, folder=Path("unused"), frame=table)
        for stage in (stages.load_data, stages.validate_data, stages.engineer_features, stages.split_data):
            stage(run)
        return run

    run = parts(group_column="customer")
    sides = [set(run.columns["customer"][rows]) for rows in run.parts.values()]
    assert not sides[0] & sides[1]
    assert not sides[0] & sides[2]
    assert not sides[1] & sides[2]
    run = parts(time_column="joined")
    times = {name: run.columns["joined"][rows] for name, rows in run.parts.items()}
    assert max(times["train"]) <= min(times["validation"])
    assert max(times["validation"]) <= min(times["test"])
    assert "joined" not in run.signature.names


def test_a_failure_names_its_stage_and_is_kept(tmp_path, people):
    store = Store.at(tmp_path)
    config = PipelineConfig(name="broken", target_column="bougt", model_class="RandomForest")
    with pytest.raises(Invalid, match=r"data_validation.*'bougt'.*Did you mean bought"):
        asyncio.run(MLPipeline(config, store, frame=people()).execute())
    runs = Pipelines(store)
    (record,) = runs.list_runs(status=PipelineStatus.FAILED)
    assert (record.failed_stage, record.name) == ("data_validation", "broken")
    assert "bougt" in runs.get_run(record.run_id).error
    with store.reading() as rows:
        events = [row["event_type"] for row in rows.all("SELECT event_type FROM events ORDER BY position")]
    assert events == ["training_started", "training_failed"]
    assert json.loads((tmp_path / "runs" / record.run_id / "report.json").read_text())["status"] == "failed"


@pytest.mark.parametrize(
    ("fields", "stage", "said"),
    [
        ({"model_params": {"n_estimatrs": 3}}, "feature_engineering", "Did you mean n_estimators"),
        ({"model_params": {"n_estimators": -3}}, "model_training", "n_estimators"),
        ({"model_class": "RandomForset"}, "feature_engineering", "Did you mean RandomForest"),
        ({"model_class": "Ridge"}, "feature_engineering", "classifies"),
        ({"metrics": ["rmse"]}, "data_validation", "rmse"),
        ({"feature_transforms": [{"type": "scale", "columns": ["job"]}]}, "feature_engineering", "job"),
        ({"feature_transforms": [{"type": "scale", "columns": ["agee"]}]}, "feature_engineering", "Did you mean age"),
        ({"group_column": "nobody"}, "data_validation", "nobody"),
        ({"enable_tuning": True, "param_space": {"depth": {"type": "int", "low": 1, "high": 3}}}, "tuning", "depth"),
        ({"enable_tuning": True, "tuning_trials": 2,
          "param_space": {"max_depth": {"type": "int", "low": -9, "high": -3}}}, "tuning", "All 2 trials failed"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_told_by_stage_and_name(train, fields, stage, said, people):
    with pytest.raises(Invalid, match=f"(?s){stage}.*{said}"):
        train(people(200), **fields)


def test_runs_are_remembered_and_the_best_is_found(tmp_path, people):
    runs = Pipelines(tmp_path)
    made = []
    for depth in (1, 6):
        config = PipelineConfig(
            name="t", target_column="bought", model_class="DecisionTree", model_params={"max_depth": depth}
        )
        made.append(runs.train(config, frame=people(), created_by="ann"))
    best = min(made, key=lambda r: r.metrics["cv_log_loss"])
    assert runs.best_run("t", "cv_log_loss").run_id == best.run_id
    assert runs.best_run("t", "cv_accuracy").run_id == max(made, key=lambda r: r.metrics["cv_accuracy"]).run_id
    record = runs.get_run(made[0].run_id)
    assert record.created_by == "ann"
    assert record.metrics == pytest.approx(dict(made[0].metrics))
    assert Path(record.artifacts["model"]).is_relative_to(tmp_path / "runs")
    with pytest.raises(NotFound, match="cv_log_loss"):
        runs.best_run("t", "cv_logloss")
    with pytest.raises(NotFound, match="Did you mean t"):
        runs.best_run("tt")


def test_odd_tables_train_or_are_refused_by_name(train, people):
    base = people(120)
    empty = {**base, "empty": [None] * 120}
    assert "test_accuracy" in train(empty, folder="a", model_class="LogisticRegression").metrics
    mixed = {**base, "mixed": [1 if n % 2 else "one" for n in range(120)]}
    assert (
        load_model(train(mixed, folder="b", model_class="DecisionTree").artifacts["model"]).signature.inputs[-1].kind
        == "string"
    )
    holes = {**base, "bought": [None if n % 7 == 0 else v for n, v in enumerate(base["bought"])]}
    assert "missing_target" in {f.kind for f in train(holes, folder="c", model_class="DecisionTree").findings}
    many = {**{n: v for n, v in base.items() if n != "joined"}, "town": [f"town {n % 50}" for n in range(120)]}
    assert train(many, folder="d", model_class="LogisticRegression").parity.passed
    with pytest.raises(Invalid, match="no rows"):
        train({"bought": []}, folder="e")
    with pytest.raises(Invalid, match=r"3\.4e38"):
        train({**base, "big": [1e300] * 60 + [0.0] * 60}, folder="f")
    with pytest.raises(Invalid, match="no input column"):
        train({"bought": base["bought"]}, folder="g")
    with pytest.raises(Invalid, match=r"split|class|rows"):
        train({name: values[:4] for name, values in base.items()}, folder="h")
