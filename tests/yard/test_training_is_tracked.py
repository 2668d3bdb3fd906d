"""A pipeline's training is a tracked run, and a version's lineage leads through its run to the data."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from modelyard import Yard, wiring
from modelyard.core.errors import YardError
from modelyard.governance.values import Branch
from modelyard.pipeline import MLPipeline, PipelineConfig
from modelyard.tracking import RunStatus


def table(folder: Path) -> str:
    path = folder / "late.csv"
    path.write_text("x,late\n" + "".join(f"{n},{n > 40}\n" for n in range(80)))
    return str(path)


def ids(branches: tuple[Branch, ...]) -> set[str]:
    return {one.node.id for one in branches} | {inner for one in branches for inner in ids(one.branches)}


def config(source: str, **more: object) -> PipelineConfig:
    told = {"name": "late", "data_source": source, "target_column": "late", "model_class": "DecisionTree"}
    return PipelineConfig(**{**told, **more})  # type: ignore[arg-type]


def test_a_pipeline_in_a_yard_is_a_run_with_all_that_it_knows(tmp_path: Path, small_model: Path) -> None:
    source = table(tmp_path)
    with Yard(tmp_path / "yard") as yard:
        made = asyncio.run(
            MLPipeline(config(source, model_params={"max_depth": 2}), yard.store, created_by="ana").execute()
        )
        run = yard.tracking.get_run(made.run_id)
        assert (run.status, run.user_id) == (RunStatus.FINISHED, "ana")
        assert yard.tracking.get_experiment(run.experiment_id).name == "late"
        assert {**run.metrics, **made.metrics} == run.metrics
        assert {f"seconds {stage.value}" for stage in made.stages_completed} <= run.metrics.keys()
        assert (run.params["model_params.max_depth"], run.params["target_column"]) == ("2", "late")
        assert {file.path for file in yard.tracking.list_artifacts(run.run_id)} == {"model", "report.json"}
        assert [used.dataset.name for used in run.datasets] == [source]
        yard.registry.register_model("late", "v1.0.0", small_model, "lightgbm", "ana", run_id=run.run_id)
        found = ids(yard.governance.get_full_lineage_tree("late").upstream)
        assert {f"run:{run.run_id}", f"pipeline_run:{run.run_id}", f"dataset:{source}"} <= found
        assert [model.id for model in yard.governance.models_that_saw(source)] == ["model:late:v1.0.0"]


def test_a_training_that_fails_is_a_failed_run(tmp_path: Path) -> None:
    with Yard(tmp_path / "yard") as yard:
        pipeline = MLPipeline(config(str(tmp_path / "nowhere.csv")), yard.store)
        with pytest.raises(YardError):
            pipeline.run()
        run = yard.tracking.get_run(pipeline.run_id)
        assert (run.status, run.tags["error.stage"]) == (RunStatus.FAILED, "data_loading")
        assert "nowhere.csv" in run.tags["error.message"]


def test_hearing_twice_or_late_changes_nothing_and_a_deleted_run_stops_nobody(tmp_path: Path) -> None:
    source = table(tmp_path)
    alone = MLPipeline(config(source), tmp_path / "yard")  # without a yard: nobody tracks yet
    alone.run()
    with Yard(tmp_path / "yard") as yard:
        yard.dispatch()
        run = yard.tracking.get_run(alone.run_id)
        digest = yard.tracking.digest_run(run.run_id)
        with yard.store.work() as work:
            work.rows.run("UPDATE event_cursors SET position = 0 WHERE reader = 'wiring.track'")
        yard.dispatch()
        assert yard.tracking.digest_run(run.run_id) == digest
        yard.tracking.delete_run(run.run_id)
        yard.tracking.delete_experiment(run.experiment_id)
        again = MLPipeline(config(source), yard.store)
        again.run()
        with yard.store.reading() as rows:
            (cursor,) = rows.tuples("SELECT position FROM event_cursors WHERE reader = 'wiring.track'")
            kinds = ", ".join(f"'{kind.value}'" for kind in wiring.TRAINED)
            assert rows.tuples(f"SELECT max(position) FROM events WHERE event_type IN ({kinds})") == [cursor]


def test_a_tracked_runs_datasets_are_in_the_lineage_of_its_version(tmp_path: Path, small_model: Path) -> None:
    with Yard(tmp_path / "yard") as yard:
        with yard.tracking.run("fraud") as run:
            run.log_dataset("census", "census.parquet", digest="9f2c")
        yard.governance.register_dataset("census", contains_phi=False)
        yard.registry.register_model("fraud", "v1.0.0", small_model, "lightgbm", "ana", run_id=run.run_id)
        tree = yard.governance.get_full_lineage_tree("fraud")
        made = next(branch for branch in tree.upstream if branch.node.id == f"run:{run.run_id}")
        assert ids(made.branches) == {"dataset_version:census@9f2c", "dataset:census"}
        assert [model.name for model in yard.governance.models_that_saw("census")] == ["fraud"]
