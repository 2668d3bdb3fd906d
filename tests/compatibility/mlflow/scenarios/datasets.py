"""Datasets and models as a run's inputs and outputs."""

from __future__ import annotations

import mlflow
import pandas
from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelInput, LoggedModelOutput


def inputs(scene):
    client = scene.client
    run = client.create_run(scene.experiment(), run_name="r").info.run_id
    one = Dataset(name="cards", digest="d1", source_type="local", source='{"uri": "x"}', schema="s", profile="p")
    two = Dataset(name="loans", digest="d2", source_type="http", source="there")
    client.log_inputs(
        run,
        [DatasetInput(one, [InputTag("mlflow.data.context", "training"), InputTag("k", "v")]), DatasetInput(two, [])],
    )
    client.log_inputs(run, [DatasetInput(one, [InputTag("mlflow.data.context", "training")])])
    scene.tell("inputs", sorted(client.get_run(run).inputs.to_dictionary()["dataset_inputs"], key=str))
    found = client.search_runs([client.get_run(run).info.experiment_id])
    scene.tell("in a search", len(found[0].inputs.dataset_inputs))


def of_a_table(scene):
    mlflow.set_experiment(scene.unique("tables"))
    table = pandas.DataFrame({"a": [1.0, 2.0, 3.0], "b": ["x", "y", "z"]})
    dataset = mlflow.data.from_pandas(table, source="https://example.org/t.csv", name="t", targets="b")
    with mlflow.start_run(run_name="r") as run:
        mlflow.log_input(dataset, context="training", tags={"k": "v"})
        mlflow.log_inputs([dataset], contexts=["testing"], tags_list=[None])
    read = scene.client.get_run(run.info.run_id).inputs.to_dictionary()
    scene.tell("inputs", read["dataset_inputs"])


def refused(scene):
    client = scene.client
    run = client.create_run(scene.experiment(), run_name="r").info.run_id

    def log(**values):
        client.log_inputs(
            run, [DatasetInput(Dataset(**{"name": "n", "digest": "d", "source_type": "t", "source": "s"} | values), [])]
        )

    scene.fails("long name", log, name="n" * 501)
    scene.fails("long digest", log, digest="d" * 37)
    scene.fails("long source", log, source="s" * 65_536)
    scene.fails("long schema", log, schema="s" * 1_048_576)
    scene.fails("unknown run", client.log_inputs, "0" * 32, [DatasetInput(Dataset("n", "d", "t", "s"), [])])
    scene.tell("nothing", client.get_run(run).inputs.dataset_inputs)


def models_of_runs(scene):
    client, number = scene.client, scene.experiment()
    run = client.create_run(number, run_name="r").info.run_id
    model = client.create_logged_model(number, name="m", source_run_id=run)
    client.log_outputs(run, [LoggedModelOutput(model.model_id, step=3)])
    client.log_inputs(run, models=[LoggedModelInput(model.model_id)])
    read = client.get_run(run)
    scene.tell("outputs", [[one.model_id == model.model_id, one.step] for one in read.outputs.model_outputs])
    scene.tell("inputs", [one.model_id == model.model_id for one in read.inputs.model_inputs])
