"""Pipelines: training runs recorded in a store, and questions about them."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelyard.core.area import Area
from modelyard.core.errors import Invalid, NotFound, nearest
from modelyard.core.operations import operation
from modelyard.pipeline import store as sql
from modelyard.pipeline.config import LOWER_IS_BETTER, PipelineConfig
from modelyard.pipeline.results import PipelineResult, PipelineStatus, RunRecord

if TYPE_CHECKING:
    from collections.abc import Mapping


class Pipelines(Area):
    """Trains models in a store and remembers every run."""

    def train(self, config: PipelineConfig, *, created_by: str = "system", frame: Any = None) -> PipelineResult:
        """The finished run of a configuration, on its data source or on a frame.

        Files go to runs/RUN_ID in the store's folder unless the configuration names an output_dir.
        """
        from modelyard.pipeline.training import MLPipeline

        return MLPipeline(config, self.store, frame=frame, created_by=created_by).run()

    @operation("POST", "/pipelines/runs", needs="pipeline.write", remote=False)
    def run_file(self, config_path: str | Path, *, created_by: str = "system") -> PipelineResult:
        """The finished run of the configuration in a .json, .toml or .yaml file.

        A relative data_source is looked for beside the file. Not over HTTP, where the paths in the file would be the
        server's; `train_table` takes an upload. Raises Invalid for a wrong field, naming it.

        >>> _ = (folder / "t.csv").write_text("x,y\\n" + "".join(f"{n},{n > 50}\\n" for n in range(100)))
        >>> _ = (folder / "t.toml").write_text(
        ...     'name = "t"\\ndata_source = "t.csv"\\ntarget_column = "y"\\nmodel_class = "DecisionTree"')
        >>> Pipelines(folder).run_file(folder / "t.toml").status.value
        'completed'
        """
        path = Path(config_path)
        values = dict(_mapping(path))
        source = values.get("data_source")
        if isinstance(source, str) and source and not Path(source).is_absolute():
            values["data_source"] = str(path.parent / source)
        return self.train(PipelineConfig.of(values), created_by=created_by)

    @operation("POST", "/pipelines/train", needs="pipeline.write")
    def train_table(
        self,
        name: str,
        data_source: str | Path,
        target_column: str,
        *,
        model_type: str = "lightgbm",
        model_class: str = "",
        tuning_trials: int = 0,
        random_seed: int = 0,
        created_by: str = "system",
    ) -> PipelineResult:
        """The finished run on a table file with everything automatic; more than 0 tuning trials tunes.

        >>> _ = (folder / "t.csv").write_text("x,y\\n" + "".join(f"{n},{n > 50}\\n" for n in range(100)))
        >>> result = Pipelines(folder).train_table("t", folder / "t.csv", "y", model_type="sklearn")
        >>> result.metrics["test_accuracy"] > 0.9
        True
        """
        config = PipelineConfig(
            name=name,
            data_source=str(data_source),
            target_column=target_column,
            model_type=model_type,
            model_class=model_class,
            enable_tuning=tuning_trials > 0,
            tuning_trials=max(1, tuning_trials),
            random_seed=random_seed,
        )
        return self.train(config, created_by=created_by)

    @operation("GET", "/pipelines/runs/{run_id}", needs="pipeline.read")
    def get_run(self, run_id: str) -> RunRecord:
        """What became of a run; NotFound for an unknown one.

        >>> Pipelines(folder).get_run("run_0")
        Traceback (most recent call last):
        modelyard.core.errors.NotFound: There is no run 'run_0'. List them: modelyard pipeline list-runs
        """
        with self.store.reading() as rows:
            found = sql.run_by_id(rows, run_id)
        if found is None:
            raise NotFound(f"There is no run {run_id!r}. List them: modelyard pipeline list-runs")
        return found

    @operation("GET", "/pipelines/runs", needs="pipeline.read")
    def list_runs(self, *, name: str = "", status: PipelineStatus | None = None, limit: int = 100) -> list[RunRecord]:
        """The newest runs first, of one name or status if they are given.

        >>> Pipelines(folder).list_runs(name="churn")
        []
        """
        if not 1 <= limit <= 10_000:
            raise Invalid(f"limit is {limit}. Give a number from 1 to 10,000.")
        with self.store.reading() as rows:
            return sql.runs(rows, name=name, status=status.value if status else "", limit=limit)

    @operation("GET", "/pipelines/{name}/best", needs="pipeline.read")
    def best_run(self, name: str, metric: str = "validation_log_loss") -> RunRecord:
        """The completed run of a name with the best metric: lowest for log_loss, rmse and mae, else highest.

        Choose by a validation_ or cv_ metric: choosing by a test_ metric makes the test part part of training.

        >>> runs = Pipelines(folder)
        >>> table = {"x": list(range(80)), "y": [n > 40 for n in range(80)]}
        >>> for depth in (1, 2):
        ...     config = PipelineConfig(name="t", target_column="y", model_class="DecisionTree",
        ...                             model_params={"max_depth": depth})
        ...     _ = runs.train(config, frame=table)
        >>> runs.best_run("t", "cv_accuracy").status.value
        'completed'
        """
        sign = 1 if metric.removesuffix("_std").endswith(LOWER_IS_BETTER) or metric.endswith("_std") else -1
        with self.store.reading() as rows:
            found = sql.lowest_run(rows, name=name, metric=metric, sign=sign)
            names, metrics = sql.run_names(rows), sql.metric_names(rows, name)
        if found is None and name not in names:
            raise NotFound(f"There is no run of {name!r}. {nearest(name, names)}")
        if found is None:
            raise NotFound(f"No completed run of {name!r} has the metric {metric!r}. {nearest(metric, metrics)}")
        return found


def _mapping(path: Path) -> Mapping[str, Any]:
    """The mapping that a configuration file holds."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise NotFound(f"The configuration {path} cannot be read: {error.strerror}. Check the path.") from error
    except UnicodeDecodeError as error:
        raise Invalid(
            f"The configuration {path} is no UTF-8 text: {error}. Write it as .json, .toml or .yaml."
        ) from error
    suffix = path.suffix.lower()
    try:
        if suffix == ".json":
            found = json.loads(text)
        elif suffix == ".toml":
            found = tomllib.loads(text)
        elif suffix in (".yaml", ".yml"):
            found = _yaml(text)
        else:
            raise Invalid(f"{path} has the unknown ending {suffix!r}. Use .json, .toml or .yaml.")
    except (json.JSONDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise Invalid(f"{path} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise Invalid(f"{path} holds a {type(found).__name__}. Write a mapping of pipeline fields.")
    return found


def _yaml(text: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise Invalid(f"The YAML cannot be read: {error}") from error
