"""The search for runs: the filter language, orderings and pages."""

from __future__ import annotations

import math

import mlflow
from mlflow.entities import Dataset, DatasetInput, InputTag, ViewType
from mlflow.exceptions import MlflowException


def _field(scene):
    client, number = scene.client, scene.experiment()
    for place, (name, loss, depth, team) in enumerate(
        (
            ("ant", 0.5, "3", "x"),
            ("Bee", 0.25, "5", "y"),
            ("cat", 0.75, "3", "x"),
            ("dog", None, None, None),
            ("eel", math.nan, "10", "z"),
        )
    ):
        run = client.create_run(number, start_time=1_700_000_000_000 + place, run_name=name).info.run_id
        if loss is not None:
            client.log_metric(run, "loss", loss, timestamp=1, step=0)
            client.log_metric(run, "val loss", loss, timestamp=1, step=0)
        if depth is not None:
            client.log_param(run, "depth", depth)
        if team is not None:
            client.set_tag(run, "team", team)
        if name in ("ant", "cat"):
            client.set_terminated(run, end_time=1_700_000_001_000 + place)
    return number


def filters(scene):
    number = _field(scene)
    for text in (
        "",
        "metrics.loss < 0.6",
        "metrics.loss >= 0.5 and metrics.loss <= 0.75",
        "metrics.loss != 0.5",
        "metric.loss = 0.25",
        "metrics.`val loss` > 0.3",
        'metrics."val loss" > 0.3',
        "metrics.loss > -1e3",
        "params.depth = '3'",
        "params.depth != '3'",
        'param.depth = "5"',
        "params.depth LIKE '1%'",
        "parameters.depth ILIKE '%'",
        "tags.team = 'x' AND params.depth = '3' and metrics.loss > 0.6",
        "tags.team != 'x'",
        "tag.team LIKE '%x%'",
        "tags.mlflow.runName = 'cat'",
        "tags.`mlflow.runName` LIKE 'c_t'",
        "tags.team IS NULL",
        "tags.team IS NOT NULL",
        "params.depth IS NULL",
        "params.depth IS NOT NULL AND tags.team = 'z'",
        "attributes.run_name = 'Bee'",
        "run_name ILIKE 'b%'",
        "run_name LIKE 'b%'",
        "attribute.status = 'FINISHED'",
        "status != 'FINISHED'",
        "attributes.start_time > 1700000000001",
        "start_time <= 1700000000001",
        "end_time >= 1700000001002",
        "attributes.`run name` = 'ant'",
        "attributes.Created > 1700000000003",
        "attributes.artifact_uri LIKE '%/artifacts'",
        "attributes.user_id != 'nobody'",
        "metrics.nothing > 0",
        "params.nothing != 'x'",
        "tags.team = 'it''s'",
    ):
        try:
            found = scene.client.search_runs([number], text, order_by=["start_time ASC"])
            scene.tell(text, [run.info.run_name for run in found])
        except MlflowException as error:
            scene.tell(text, error.error_code)


def by_id(scene):
    number = _field(scene)
    first, second = scene.client.search_runs([number], order_by=["start_time ASC"], max_results=2)
    ids = f"('{first.info.run_id}', '{second.info.run_id}')"
    for label, text in {
        "equal": f"attributes.run_id = '{first.info.run_id}'",
        "in": f"attributes.run_id IN {ids}",
        "not in": f"run_id NOT IN {ids}",
        "in and more": f"run_id IN {ids} AND metrics.loss > 0.3",
    }.items():
        scene.tell(
            label, [run.info.run_name for run in scene.client.search_runs([number], text, order_by=["start_time ASC"])]
        )


def orders(scene):
    number = _field(scene)
    for keys in (
        [],
        ["metrics.loss"],
        ["metrics.loss DESC"],
        ["metrics.`val loss` ASC"],
        ["params.depth DESC", "start_time ASC"],
        ["tags.team", "metrics.loss DESC"],
        ["attributes.start_time DESC"],
        ["end_time ASC"],
        ["run_name ASC"],
        ["status", "start_time"],
        ["attributes.Created DESC"],
        ["params.nothing"],
    ):
        scene.tell(str(keys), [run.info.run_name for run in scene.client.search_runs([number], order_by=keys)])


def refused(scene):
    number = scene.experiment()
    for text in (
        "metrics.loss > '0.5'",
        "params.depth > 3",
        "params.depth = 3",
        "tags.team < 'x'",
        "nonsense",
        "nonsense.key = 'x'",
        "attributes.size = 'x'",
        "metrics.loss > 0.5 OR metrics.loss < 0.1",
        "metrics.loss LIKE 'x'",
        "status IN ('FINISHED')",
        "run_id IN ()",
        "metrics.loss = 1; DROP TABLE runs",
        "metrics.loss",
        "= 3",
        "start_time > 'x'",
        "tags.team = \"x'",
    ):
        scene.fails_by_code(text, scene.client.search_runs, [number], text)
    for keys in (["nonsense"], ["metrics.loss UP"], ["metrics.loss DESC DESC"], ["attributes.size"], [""]):
        scene.fails_by_code(f"order {keys}", scene.client.search_runs, [number], order_by=keys)
    scene.fails("too many", scene.client.search_runs, [number], max_results=50_001)
    scene.fails("bad token", scene.client.search_runs, [number], page_token="bogus")
    scene.fails("bad experiment", scene.client.search_runs, ["not-a-number"])
    scene.tell("unknown experiment", scene.client.search_runs(["31415926"]))
    scene.tell("no experiment", scene.client.search_runs([]))


def messages(scene):
    number = scene.experiment()
    for text in (
        "metrics.loss > 'x'",
        "params.depth = 3",
        "nonsense.key = 'x'",
        "metrics.loss > 1 OR metrics.loss < 0",
        "metrics.loss LIKE 'x'",
    ):
        scene.fails(text, scene.client.search_runs, [number], text)


def pages(scene):
    client, number = scene.client, scene.experiment()
    for place in range(7):
        client.create_run(number, start_time=1_000 + place, run_name=f"r{place}")
    token, pages = None, []
    while True:
        page = client.search_runs([number], max_results=3, page_token=token)
        pages.append([run.info.run_name for run in page])
        token = page.token
        if not token:
            break
    scene.tell("pages", pages)
    scene.tell("exactly full", bool(client.search_runs([number], max_results=7).token))


def views(scene):
    client, number = scene.client, _field(scene)
    gone = client.search_runs([number], "run_name = 'cat'")[0].info.run_id
    client.delete_run(gone)
    for view in (ViewType.ACTIVE_ONLY, ViewType.DELETED_ONLY, ViewType.ALL):
        scene.tell(
            ViewType.to_string(view), [run.info.run_name for run in client.search_runs([number], run_view_type=view)]
        )


def several_experiments(scene):
    one, two = scene.experiment("one"), scene.experiment("two")
    scene.client.create_run(one, run_name="a", start_time=1)
    scene.client.create_run(two, run_name="b", start_time=2)
    scene.tell("both", [run.info.run_name for run in scene.client.search_runs([one, two])])


def by_dataset(scene):
    client, number = scene.client, scene.experiment()
    for name, digest, context in (
        ("cards", "d1", "training"),
        ("cards", "d2", "validation"),
        ("loans", "d3", "training"),
    ):
        run = client.create_run(number, run_name=f"{name}-{digest}", start_time=1).info.run_id
        dataset = Dataset(name=name, digest=digest, source_type="local", source="here")
        client.log_inputs(run, [DatasetInput(dataset, [InputTag("mlflow.data.context", context)])])
    for text in (
        "dataset.name = 'cards'",
        "datasets.name LIKE 'l%'",
        "dataset.digest IN ('d1', 'd3')",
        "dataset.context = 'training'",
        "dataset.name = 'cards' AND dataset.context = 'training'",
        "dataset.name != 'cards'",
    ):
        scene.tell(text, sorted(run.info.run_name for run in client.search_runs([number], text)))


def as_a_table(scene):
    number = _field(scene)
    table = mlflow.search_runs([number], "metrics.loss > 0.3", order_by=["metrics.loss ASC"])
    scene.tell("columns", sorted(table.columns))
    scene.tell("losses", table["metrics.loss"].tolist())
    scene.tell("empty", len(mlflow.search_runs([number], "metrics.loss > 30")))
