"""One graph holds what went into what; other areas' events are part of it."""

import asyncio
import itertools
import json
import random

import pytest
from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, Run, RunEvent, RunState

from modelyard.core.canonical import dumps
from modelyard.core.events import EventType
from modelyard.governance import GovernanceManager, store
from modelyard.governance.values import Edge


def ids(branches):
    return {branch.node.id for branch in branches} | {i for branch in branches for i in ids(branch.branches)}


def test_a_model_of_the_registry_is_the_same_node(known, emit):
    emit(
        EventType.MODEL_REGISTERED,
        "model",
        "fraud:v1.0.0",
        {"digest": "ab" * 32, "framework": "sklearn", "metrics": {"f1": 0.9}},
    )
    tree = known.get_full_lineage_tree("fraud")
    assert ids(tree.upstream) == {"dataset:train_001", f"artifact:{'ab' * 32}"}
    assert tree.model.details["framework"] == "sklearn"
    assert tree.model.details["training_algorithm"] == "RandomForest"


def test_a_model_that_only_the_registry_knows_has_a_lineage(gov, emit):
    emit(EventType.MODEL_REGISTERED, "model", "churn:v1.0.0", {"training_data": "train_7", "digest": "cd" * 32})
    emit(EventType.MODEL_REGISTERED, "model", "churn:v2.0.0", {"parent": "v1.0.0"})
    emit(EventType.DEPLOYMENT_STARTED, "deployment", "dep_1", {"model": "churn:v2.0.0"})
    emit(EventType.ENDPOINT_CREATED, "endpoint", "end_1", {"model": "churn", "version": "v2.0.0"})
    tree = gov.get_full_lineage_tree("churn")
    assert tree.model.version == "v2.0.0"
    assert {"model:churn:v1.0.0", "dataset:train_7"} <= ids(tree.upstream)
    assert ids(tree.downstream) == {"deployment:dep_1", "endpoint:end_1"}
    assert [model.id for model in gov.models_that_saw("train_7")] == ["model:churn:v1.0.0", "model:churn:v2.0.0"]


def test_a_training_run_stands_between_its_data_and_its_model(gov, emit):
    emit(EventType.TRAINING_STARTED, "pipeline_run", "run_1", {"data_source": "/data/churn.csv", "name": "churn"})
    emit(EventType.TRAINING_COMPLETED, "pipeline_run", "run_1", {"metrics": {"auc": 0.9}})
    gov.register_model("churn", "v1.0.0")
    gov.record_lineage("pipeline_run:run_1", "model:churn:v1.0.0", "produced")
    tree = gov.get_full_lineage_tree("churn")
    assert [(b.node.id, b.branches[0].node.id) for b in tree.upstream] == [
        ("pipeline_run:run_1", "dataset:/data/churn.csv")
    ]
    assert tree.upstream[0].node.details["metrics"] == {"auc": 0.9}


def test_reading_events_twice_changes_nothing(gov, emit):
    emit(EventType.MODEL_REGISTERED, "model", "churn:v1.0.0", {"training_data": "train_7"})
    before = gov.get_full_lineage_tree("churn")
    with gov.store.work() as work:
        work.rows.run("UPDATE event_cursors SET position = 0")
    emit(EventType.DATA_ACCESSED, "dataset", "x")
    assert gov.get_full_lineage_tree("churn") == before


def test_which_models_saw_a_dataset_equals_a_walk_over_the_edges(gov):
    """Against plain breadth-first search on random graphs without cycles."""
    pick = random.Random(4)
    names = [f"dataset:d{n}" for n in range(12)] + [f"model:m{n}:v1" for n in range(12)]
    edges = {tuple(sorted(pick.sample(range(24), 2))) for _ in range(60)}
    for source, target in edges:
        gov.record_lineage(names[source], names[target])
    for start in range(12):
        seen, todo = set(), [start]
        while todo:
            here = todo.pop()
            new = {target for source, target in edges if source == here} - seen
            seen |= new
            todo += new
        expected = {names[n] for n in seen if names[n].startswith("model")}
        if any(start in edge for edge in edges):
            assert {model.id for model in gov.models_that_saw(f"d{start}")} == expected


def test_a_lattice_of_many_paths_is_unfolded_once(gov):
    """2 to the power of 15 paths lead through it."""
    layers = [[f"dataset:{layer}-{side}" for side in "ab"] for layer in range(15)] + [["model:m:v1"]]
    for upper, lower in itertools.pairwise(layers):
        for source in upper:
            for target in lower:
                gov.record_lineage(source, target)
    tree = gov.get_full_lineage_tree("m")
    assert len(ids(tree.upstream)) == 30
    assert len(str(tree)) < 100_000


def test_nothing_is_made_from_itself(gov):
    gov.record_lineage("dataset:a", "dataset:b")
    gov.record_lineage("dataset:b", "dataset:c")
    for source, target in (("dataset:c", "dataset:a"), ("dataset:a", "dataset:a")):
        with pytest.raises(ValueError, match="itself made from"):
            gov.record_lineage(source, target)


@pytest.mark.parametrize(
    "text", ["", "dataset", "dataset:", ":x", "model:m", "model:m:v1:x", "dataset:../etc", "x\n:y"]
)
def test_what_names_no_node_is_refused(gov, text):
    with pytest.raises(ValueError, match=r"names no node|is no node name"):
        gov.record_lineage(text, "model:m:v1")


def test_unknown_things_are_answered_with_the_nearest(known):
    with pytest.raises(LookupError, match="Did you mean train_001"):
        known.register_model("fraud", "v2.0.0", "train_01")
    with pytest.raises(LookupError, match="Did you mean train_001"):
        known.models_that_saw("train_01")
    with pytest.raises(LookupError, match="Did you mean fraud"):
        known.get_full_lineage_tree("frod")
    assert known.get_full_lineage_tree("fraud").model.version == "v1.0.0"  # the refused version left nothing


def test_the_openlineage_file_is_read_by_openlineages_own_classes(known, tmp_path):
    known.record_lineage("feature:card:amount", "model:fraud:v1.0.0", "input")
    known.record_lineage("model:fraud:v1.0.0", "deployment:dep_1", "deployed")
    path = known.export_lineage("fraud", tmp_path / "lineage.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "lineage.jsonl").read_text().splitlines()]
    events = [
        RunEvent(
            eventType=RunState(line["eventType"]),
            eventTime=line["eventTime"],
            run=Run(runId=line["run"]["runId"]),
            job=Job(namespace=line["job"]["namespace"], name=line["job"]["name"]),
            inputs=[InputDataset(namespace=d["namespace"], name=d["name"]) for d in line["inputs"]],
            outputs=[OutputDataset(namespace=d["namespace"], name=d["name"]) for d in line["outputs"]],
            producer=line["producer"],
        )
        for line in lines
    ]
    made = {event.outputs[0].name: {d.name for d in event.inputs} for event in events}
    assert made == {
        "registry/fraud": {"dataset/train_001", "feature/card:amount"},
        "deployment/dep_1": {"registry/fraud"},
    }
    assert {line["schemaURL"] for line in lines} == {events[0].schemaURL}
    assert path == str(tmp_path / "lineage.jsonl")


def test_the_prov_file_names_every_edge(known, tmp_path):
    known.export_lineage("fraud", tmp_path / "prov.json", standard="prov")
    found = json.loads((tmp_path / "prov.json").read_text())
    derived = list(found["wasDerivedFrom"].values())
    assert [(d["prov:generatedEntity"], d["prov:usedEntity"]) for d in derived] == [
        ("my:model:fraud:v1.0.0", "my:dataset:train_001")
    ]
    assert set(found["entity"]) == {"my:model:fraud:v1.0.0", "my:dataset:train_001"}
    with pytest.raises(ValueError, match="Did you mean prov"):
        known.export_lineage("fraud", tmp_path / "x", standard="prv")


def test_a_second_manager_on_the_folder_sees_the_same_graph(known, tmp_path, clock):
    other = GovernanceManager(tmp_path / "yard", clock=clock)
    assert other.get_full_lineage_tree("fraud") == known.get_full_lineage_tree("fraud")


def chained(gov, names):
    """Each thing made from the one before it."""
    with gov.store.work("ann") as work:
        for source, target in itertools.pairwise(names):
            store.put_edge(work.rows, Edge(source=source, target=target, relation="derived"), work.now)


@pytest.fixture
def dynasty(gov):
    """A model that was made from the version before it every day for three years."""
    gov.register_model("daily", "v1200")
    chained(gov, [f"model:daily:v{number}" for number in range(1, 1202)])
    return gov


def test_a_lineage_of_years_is_told_and_exported(dynasty, tmp_path):
    tree = dynasty.get_full_lineage_tree("daily:v1200")
    json.loads(dumps(tree))
    assert len(tree.edges) == 1200
    steps, branches = [], tree.upstream
    while branches:
        [branch] = branches
        steps.append(branch)
        branches = branch.branches
    assert [branch.node.version for branch in steps] == [f"v{number}" for number in range(1199, 1099, -1)]
    assert [branch.cut for branch in steps] == [False] * 99 + [True]
    asyncio.run(dynasty.export_governance_report("daily:v1200", tmp_path / "report.html"))
    dynasty.export_lineage("daily:v1200", tmp_path / "lineage.json", standard="prov")
    assert len(json.loads((tmp_path / "lineage.json").read_text())["wasDerivedFrom"]) == 1200


def test_an_exported_thing_comes_after_what_it_was_made_from(dynasty, tmp_path):
    dynasty.export_lineage("daily:v1200", tmp_path / "lineage.jsonl")
    events = [json.loads(line) for line in (tmp_path / "lineage.jsonl").read_text().splitlines()]
    assert [event["job"]["name"] for event in events] == [f"make model:daily:v{number}" for number in range(2, 1202)]


def test_the_end_of_a_lineage_is_not_cut(gov):
    gov.register_dataset("d99"), gov.register_dataset("d100")
    chained(gov, [f"dataset:d{number}" for number in range(101)])
    gov.register_model("m", "v1", "d100")
    text = dumps(gov.get_full_lineage_tree("m"))
    assert text.count('"cut":true') == 1
    gov.register_model("n", "v1", "d99")
    assert '"cut":true' not in dumps(gov.get_full_lineage_tree("n"))


def test_a_circle_that_other_areas_told_of_is_exported_too(gov, tmp_path):
    gov.register_model("m", "v1")
    chained(gov, ["model:m:v1", "run:r1", "model:m:v1"])
    gov.export_lineage("m", tmp_path / "lineage.jsonl")
    assert (tmp_path / "lineage.jsonl").read_text().count("COMPLETE") == 2
