"""Searches against a plain reading of the same rules, over random runs."""

import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelyard.core.errors import Invalid
from modelyard.tracking import (
    Dataset,
    DatasetFilter,
    DatasetInput,
    ModelMetric,
    ModelOrder,
    View,
)

VALUES = st.sampled_from([-math.inf, -1.5, 0.0, 0.5, 0.5, 2.0, math.inf, math.nan])
TEXTS = st.sampled_from(["", "a", "A", "b%", "b_c", "ünïcode", "a'b", "10", "9"])
RUNS = st.lists(
    st.fixed_dictionaries(
        {
            "name": TEXTS.filter(bool),
            "start": st.integers(0, 3),
            "end": st.none() | st.integers(0, 3),
            "status": st.sampled_from(["RUNNING", "FINISHED", "FAILED"]),
            "metrics": st.dictionaries(st.sampled_from(["auc", "val loss"]), VALUES),
            "params": st.dictionaries(st.sampled_from(["lr", "depth"]), TEXTS),
            "tags": st.dictionaries(st.sampled_from(["team", "x.y"]), TEXTS),
        }
    ),
    max_size=8,
)
COMPARE = {
    "=": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}
FILTERS = [
    *[
        (f"metrics.auc {sign} {number}", "metrics", "auc", sign, number)
        for sign in COMPARE
        for number in (-1.5, 0.0, 0.5)
    ],
    *[(f'metrics."val loss" {sign} 0.5', "metrics", "val loss", sign, 0.5) for sign in COMPARE],
    *[(f"params.lr {sign} 'a'", "params", "lr", sign, "a") for sign in ("=", "!=")],
    *[(f"tags.`x.y` {sign} 'A'", "tags", "x.y", sign, "A") for sign in ("=", "!=")],
    *[(f"attributes.start_time {sign} 1", "start", "", sign, 1) for sign in COMPARE],
    *[(f"end_time {sign} 2", "end", "", sign, 2) for sign in COMPARE],
    *[(f"status {sign} 'FAILED'", "status", "", sign, "FAILED") for sign in ("=", "!=")],
]


def logged(tracker, runs):
    """A fresh experiment with the runs; what was logged by run id."""
    experiment = tracker.create_experiment(f"e{len(tracker.search_experiments(view='all', limit=50_000).items)}")
    made = {}
    for told in runs:
        run = tracker.create_run(
            experiment.experiment_id, name=told["name"], start_time=told["start"], tags=told["tags"]
        )
        metrics = [(key, value, 5, 1) for key, value in told["metrics"].items()]
        tracker.log_batch(run.run_id, metrics=metrics, params=told["params"])
        tracker.update_run(run.run_id, status=told["status"], end_time=told["end"])
        made[run.run_id] = told
    return experiment.experiment_id, made


def value_of(told, kind, key):
    found = told[kind]
    return found.get(key) if key else found


def passes(told, kind, key, sign, wanted):
    value = value_of(told, kind, key)
    return value is not None and COMPARE[sign](value, wanted)


def all_pages(search, limit):
    items, token, pages = [], "", 0
    while True:
        page = search(limit, token)
        assert len(page.items) <= limit
        items += page.items
        token, pages = page.next_page_token, pages + 1
        if not token:
            return items
        assert len(page.items) == limit


ORDERS = [
    ("metrics.auc", "metrics", "auc"),
    ("params.lr", "params", "lr"),
    ("tags.team", "tags", "team"),
    ("end_time", "end", ""),
    ("start_time", "start", ""),
    ("status", "status", ""),
]


def rank(value, descending):
    """Numbers and texts, then what is not a number, then nothing, whichever way it goes."""
    if value is None:
        return (2, 0)
    if isinstance(value, float) and math.isnan(value):
        return (1, 0)
    if isinstance(value, str):
        units = [ord(c) for c in value]
        return (0, [-u for u in units] + [1] if descending else units)
    return (0, -value if descending else value)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    runs=RUNS,
    chosen=st.lists(st.sampled_from(FILTERS), max_size=3),
    joined=st.sampled_from([" and ", " or "]),
    negated=st.booleans(),
    orders=st.lists(st.tuples(st.sampled_from(ORDERS), st.booleans()), max_size=3, unique_by=lambda one: one[0]),
    limit=st.integers(1, 4),
)
def test_a_search_finds_orders_and_pages_as_a_plain_reading_does(shared, runs, chosen, joined, negated, orders, limit):
    experiment, made = logged(shared, runs)
    text = joined.join(one[0] for one in chosen)
    if chosen and negated:
        text = f"not ({text})"
    order_by = [f"{told} {'DESC' if down else 'ASC'}" for (told, *_), down in orders]
    found = all_pages(
        lambda most, token: shared.search_runs(
            [experiment], filter=text, order_by=order_by, limit=most, page_token=token
        ),
        limit,
    )
    some = any if joined == " or " else all

    def wanted(told):
        holds = some(passes(told, *one[1:]) for one in chosen) if chosen else True
        return not holds if chosen and negated else holds

    keys = [(kind, key, down) for (_, kind, key), down in orders]
    if not any(kind == "start" for kind, *_ in keys):
        keys.append(("start", "", True))
    expected = sorted(
        (run_id for run_id, told in made.items() if wanted(told)),
        key=lambda run_id: [*(rank(value_of(made[run_id], kind, key), down) for kind, key, down in keys), run_id],
    )
    if negated and any(one[1] == "end" for one in chosen):  # NULL is neither here nor there, as in SQL
        assert len(found) <= len(made)
        return
    assert [run.run_id for run in found] == expected


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(runs=RUNS)
def test_a_run_comes_back_as_it_was_logged(shared, runs):
    _, made = logged(shared, runs)
    for run_id, told in made.items():
        run = shared.get_run(run_id)
        assert run.params == told["params"]
        assert {key: run.tags[key] for key in told["tags"]} == told["tags"]
        assert run.metrics.keys() == told["metrics"].keys()
        for key, value in told["metrics"].items():
            assert run.metrics[key] == value or (math.isnan(value) and math.isnan(run.metrics[key]))


def test_like_minds_the_case_and_ilike_does_not(shared):
    experiment, _ = logged(shared, [])
    for name in ("Fraud-1", "fraud-2", "50%"):
        shared.create_run(experiment, name=name, start_time=1)

    def names(text):
        return {run.name for run in shared.search_runs([experiment], filter=text).items}

    assert names("run_name LIKE 'fraud%'") == {"fraud-2"}
    assert names("run_name ILIKE 'fraud%'") == {"Fraud-1", "fraud-2"}
    assert names("tags.mlflow.runName = '50%'") == {"50%"}
    assert names("run_name IN ('50%', 'fraud-2')") == {"50%", "fraud-2"}
    assert names("run_name NOT IN ('50%', 'fraud-2')") == {"Fraud-1"}
    assert names("params.lr IS NULL") == {"Fraud-1", "fraud-2", "50%"}


def test_runs_are_found_by_the_datasets_they_used(shared):
    experiment, _ = logged(shared, [])
    census = Dataset(name="census", digest="d1", source_type="local", source="x")
    for context in ("training", "eval"):
        run = shared.create_run(experiment, name=context)
        shared.log_inputs(run.run_id, datasets=[DatasetInput(dataset=census, tags={"mlflow.data.context": context})])
    shared.create_run(experiment, name="none")

    def names(text):
        return sorted(run.name for run in shared.search_runs([experiment], filter=text).items)

    assert names("datasets.name = 'census'") == ["eval", "training"]
    assert names("dataset.digest = 'd1' and dataset.context LIKE 'train%'") == ["training"]
    assert names("datasets.name != 'census'") == []
    assert names("not datasets.name = 'census'") == ["none"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("metrics.auc > 'high'", "holds numbers"),
        ("params.lr = 0.1", "Write it in quotes"),
        ("params.lr > '0.1'", "cannot be compared by >"),
        ("metrics.auc LIKE 'x'", "cannot be compared by LIKE"),
        ("colour = 'red'", "no attribute"),
        ("metrix.auc > 1", "no kind of field"),
        ("datasets.colour = 'red'", "no field of datasets"),
        ("metrics.auc > 1; DROP TABLE runs", "cannot be read"),
    ],
)
def test_a_filter_that_makes_no_sense_is_told_so(shared, text, says):
    with pytest.raises(Invalid, match=says):
        shared.search_runs(["0"], filter=text)


def test_a_search_of_any_length_is_answered_or_refused(shared):
    assert shared.search_runs(["0"] * 10_000, filter=" and ".join(["metrics.a != 1"] * 50)).items == ()
    for wrong in (
        {"filter": " and ".join(["end_time>1"] * 51)},
        {"filter": "(" * 60 + "end_time > 1" + ")" * 60},
        {"order_by": [f"metrics.m{i}" for i in range(11)]},
        {"filter": "status = '" + "x" * 20_000},
    ):
        with pytest.raises(Invalid):
            shared.search_runs(["0"], **wrong)
    deep = "not (start_time < 0 or " * 9 + "metrics.a > 1" + ")" * 9
    for nested in ("not " * 20 + "datasets.name = 'a'", "(end_time > 1 or " * 20 + "params.a = 'x'" + ")" * 20):
        assert shared.search_runs(["0"], filter=nested)
    for _ in range(3):
        shared.create_run("0")
    orders = [f"{kind}.m{i} DESC" for kind in ("metrics", "params") for i in range(5)]
    page = shared.search_runs(["0"], order_by=orders, filter=deep, limit=1)
    assert shared.search_runs(["0"], order_by=orders, filter=deep, limit=1, page_token=page.next_page_token).items
    for wrong in (["0"] * 10_001, "0", ["x"]):
        with pytest.raises(Invalid):
            shared.search_runs(wrong)


def test_a_page_token_serves_its_own_query_only(shared):
    experiment, _ = logged(shared, [])
    for _ in range(3):
        shared.create_run(experiment)
    token = shared.search_runs([experiment], limit=1).next_page_token
    with pytest.raises(Invalid, match="page token"):
        shared.search_runs([experiment], limit=1, filter="status = 'RUNNING'", page_token=token)
    with pytest.raises(Invalid, match="page token"):
        shared.search_runs([experiment], limit=1, page_token="nonsense")
    for limit in (0, -1, 50_001, True):
        with pytest.raises(Invalid, match="limit"):
            shared.search_runs([experiment], limit=limit)
    with pytest.raises(Invalid, match="twice"):
        shared.search_runs([experiment], order_by=["metrics.a", "metric.a DESC"])


def test_views_show_active_deleted_or_all_runs_of_several_experiments(shared):
    (one, _), (two, _) = logged(shared, []), logged(shared, [])
    kept, gone = shared.create_run(one).run_id, shared.create_run(two).run_id
    shared.delete_run(gone)

    def ids(view):
        return {run.run_id for run in shared.search_runs([one, two], view=view).items}

    assert (ids(View.ACTIVE), ids(View.DELETED), ids("all")) == ({kept}, {gone}, {kept, gone})
    assert shared.search_runs([]).items == ()


def test_experiments_are_found_by_name_tag_id_and_time(tracker):
    for name, team in (("fraud", "risk"), ("Fraud", "core"), ("churn", "risk")):
        tracker.create_experiment(name, tags={"team": team})

    def names(text, **more):
        return [one.name for one in tracker.search_experiments(filter=text, order_by=["name ASC"], **more).items]

    assert names("") == ["Default", "Fraud", "churn", "fraud"]
    assert names("tags.team = 'risk'") == ["churn", "fraud"]
    assert names("name ILIKE 'FRAUD' and tag.team != 'risk'") == ["Fraud"]
    assert names("tags.team IS NULL") == ["Default"]
    assert names("experiment_id IN ('0', '2')") == ["Default", "Fraud"]
    assert names("attribute.experiment_id = 1") == ["fraud"]
    assert names("creation_time > 0 and last_update_time < 1") == []
    tracker.delete_experiment("1")
    assert names("", view="deleted") == ["fraud"]
    assert names("", view="all") == ["Default", "Fraud", "churn", "fraud"]
    page = tracker.search_experiments(limit=2, order_by=["experiment_id DESC"])
    rest = tracker.search_experiments(limit=2, order_by=["experiment_id DESC"], page_token=page.next_page_token)
    assert [one.experiment_id for one in (*page.items, *rest.items)] == ["3", "2", "0"]
    with pytest.raises(Invalid, match="experiment_id"):
        names("experiment_id > 1")


def test_logged_models_are_found_and_ordered_by_metrics_on_datasets(tracker):
    run = tracker.create_run("0")
    models = [tracker.create_logged_model("0", name=f"m{i}", params={"i": str(i)}).model_id for i in range(4)]

    def measure(index, value, dataset, timestamp=1):
        tracker.log_batch(
            run.run_id,
            model_metrics=[
                ModelMetric(
                    model_id=models[index],
                    key="auc",
                    value=value,
                    timestamp=timestamp,
                    step=0,
                    dataset_name=dataset,
                    dataset_digest="d",
                )
            ],
        )

    measure(0, 0.9, "train")
    measure(0, 0.5, "test", 2)
    measure(1, 0.8, "train")
    measure(2, math.nan, "train")

    def found(**how):
        return [model.name for model in tracker.search_logged_models(["0"], **how).items]

    on_train = DatasetFilter(name="train")
    assert sorted(found(filter="metrics.auc > 0.4")) == ["m0", "m1"]
    assert found(filter="metrics.auc < 0.6", datasets=[on_train]) == []
    assert found(datasets=[DatasetFilter(name="test", digest="d")]) == ["m0"]
    assert found(order_by=[ModelOrder(field="metrics.auc", descending=True)]) == ["m1", "m0", "m2", "m3"]
    assert found(order_by=[ModelOrder(field="metrics.auc", descending=True, dataset=on_train)])[:2] == ["m0", "m1"]
    assert found(filter="params.i IN ('1', '3')", order_by=[ModelOrder(field="name")]) == ["m1", "m3"]
    ordered = [ModelOrder(field="metrics.auc"), ModelOrder(field="name", descending=True)]
    assert [
        model.name
        for model in all_pages(
            lambda most, token: tracker.search_logged_models(["0"], order_by=ordered, limit=most, page_token=token), 1
        )
    ] == found(order_by=ordered)
    tracker.delete_logged_model(models[3])
    assert "m3" not in found()
