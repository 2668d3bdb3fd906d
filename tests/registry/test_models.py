"""What holds for a model beside its versions: numbers, tags, names, and that nothing of it is left behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from modelyard.core.errors import Conflict, Forbidden, Invalid, NotFound
from modelyard.core.instants import FixedClock
from modelyard.core.models import ModelVersion, References
from modelyard.core.work import Store
from modelyard.registry import ModelRegistry, ModelStage

ANA, MAX = "ana@example.com", "max@example.com"
RACE = """
import sys
from pathlib import Path
from modelyard.core.work import Store
from modelyard.registry import ModelRegistry
place, files, model = sys.argv[1:]
registry = ModelRegistry(Store.at(place, files=files or None))
sys.stdin.readline()
for _ in range(5):
    print(registry.register_model("fraud", "next", model, "lightgbm", "ana@example.com").number)
"""


@pytest.fixture
def registry(yard: Path, clock: FixedClock) -> ModelRegistry:
    return ModelRegistry(yard, clock=clock)


@pytest.fixture
def add(registry: ModelRegistry, small_model: Path):
    def register(version: str, name: str = "fraud", **more):
        return registry.register_model(name, version, small_model, "lightgbm", ANA, **more)

    return register


def test_numbers_follow_registration_and_are_never_used_again(registry: ModelRegistry, add) -> None:
    assert [add(version).number for version in ("v2.0.0", "v1.0.0", "v3.0.0-rc.1")] == [1, 2, 3]
    registry.delete("fraud", "v3.0.0-rc.1", ANA)
    assert add("v3.0.0-rc.1").number == 4
    assert registry.version_by_number("fraud", 2).version == "v1.0.0"
    for number in (3, 0, -1, 5):
        with pytest.raises(NotFound, match=f"no version with the number {number}"):
            registry.version_by_number("fraud", number)
    assert add("v1.0.0", name="churn").number == 1


def test_a_refused_registration_takes_no_number(registry: ModelRegistry, add) -> None:
    add("v1.0.0")
    with pytest.raises(Conflict):
        add("v1.0.0")
    with pytest.raises(NotFound):
        add("v2.0.0", parent="v9.0.0")
    assert add("v2.0.0").number == 2


def test_next_is_the_number_as_a_version_that_is_free(add) -> None:
    assert add("next").version == "1.0.0"
    add("v3.0.0")
    assert [add("next").version for _ in range(2)] == ["3.1.0", "4.0.0"]


def test_two_processes_get_different_numbers(yard: Path, small_model: Path) -> None:
    _race(str(yard), "", small_model)
    assert ModelRegistry(yard).version_by_number("fraud", 20).version == "20.0.0"


@pytest.mark.postgres
def test_two_processes_get_different_numbers_on_postgres(postgres_url: str, tmp_path: Path, small_model: Path) -> None:
    _race(postgres_url, str(tmp_path / "files"), small_model)
    registry = ModelRegistry(Store.at(postgres_url, files=tmp_path / "files"))
    assert registry.version_by_number("fraud", 20).version == "20.0.0"


def _race(place: str, files: str, model: Path) -> None:
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", RACE, place, files, model],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for _ in range(4)
    ]  # fmt: skip
    for run in runs:
        run.stdin.write("\n")
        run.stdin.flush()
    results = [run.communicate() for run in runs]
    assert [run.returncode for run in runs] == [0] * 4, results
    assert sorted(int(number) for out, _ in results for number in out.split()) == list(range(1, 21))


def test_a_version_without_bytes_is_found_and_never_promoted(registry: ModelRegistry, clock: FixedClock) -> None:
    draft = ModelVersion(
        name="fraud", version="next", framework="mlflow", stage=ModelStage.PRODUCTION, digest="", created_by=ANA,
        created_at=clock.now(), updated_at=clock.now(), source="s3://elsewhere/model", run_id="run_1",
    )  # fmt: skip
    made = registry.register_version(draft)
    assert (made.stage, made.number, made.version) == (ModelStage.DEVELOPMENT, 1, "1.0.0")
    assert [one.source for one in registry.search_versions("run_id = 'run_1'").items] == ["s3://elsewhere/model"]
    with pytest.raises(Conflict, match="bytes are not stored here"):
        registry.request_promotion("fraud", "1.0.0", ModelStage.PRODUCTION, ANA)
    with pytest.raises(Conflict, match="bytes are not stored here"):
        registry.break_glass("fraud", "1.0.0", ModelStage.PRODUCTION, ANA, reason="now", incident="INC-1")
    with pytest.raises(NotFound, match="no artifact"):
        registry.register_version(
            ModelVersion(
                name="fraud", version="next", framework="x", stage=ModelStage.DEVELOPMENT, digest="0" * 64,
                created_by=ANA, created_at=clock.now(), updated_at=clock.now(),
            )
        )  # fmt: skip


def test_references_example_and_environment_are_read_back_and_found(registry: ModelRegistry, add) -> None:
    references = {
        "repository": "git@example.com:fraud",
        "commit": "4f1d09c",
        "dirty": True,
        "data_digest": "d",
        "lock_digest": "l",
    }
    example = {"inputs": [{"a": 1.0}], "outputs": [0.5]}
    made = add(
        "v1.0.0",
        references=references,
        example=example,
        environment={"python": "3.11"},
        changelog="first",
        source="run:/1",
    )
    assert registry.get_model("fraud", "v1.0.0") == made
    assert (made.code_version, made.training_data) == ("4f1d09c-dirty", "d")
    assert made.references == References(**references)
    assert (
        len(registry.search_versions("commit = '4f1d09c' and lock_digest = 'l' and changelog LIKE 'fir%'").items) == 1
    )
    for bad in ({"comit": "x"}, {"dirty": "yes"}, {"commit": 3}):
        with pytest.raises(Invalid, match="references"):
            add("v2.0.0", references=bad)


def test_tags_are_labels_or_values_by_key(registry: ModelRegistry, add) -> None:
    add("v1.0.0", tags=["risk", "team=fraud"])
    long = "ß" * 100_000
    assert registry.set_tag("fraud", "1.0.0", "note", ANA, value=long).tags == (f"note={long}", "risk", "team=fraud")
    assert registry.set_tag("fraud", "1.0.0", "team", ANA, value="a=b").tags[-1] == "team=a=b"
    assert registry.set_tag("fraud", "1.0.0", "team", ANA).tags[-1] == "team"
    assert registry.set_tag("fraud", "1.0.0", "risk", ANA, value="").tags[1] == "risk="
    assert registry.get_model("fraud", "1.0.0").tags == (f"note={long}", "risk=", "team")
    assert [one.version for one in registry.search_versions(f"tags.note = '{long[:5000]}'").items] == []
    assert len(registry.search_versions("tags.note LIKE 'ßß%' and tag = 'risk=' and tag = 'team'").items) == 1
    assert registry.delete_tag("fraud", "1.0.0", "note", ANA).tags == ("risk=", "team")
    with pytest.raises(NotFound, match="no tag 'note'"):
        registry.delete_tag("fraud", "1.0.0", "note", ANA)


@pytest.mark.parametrize("key", ["", " ", "a=b", "x" * 251, "a\n", "a\0", "\ud800"])
def test_malformed_keys_are_refused(registry: ModelRegistry, add, key: str) -> None:
    add("v1.0.0")
    for call in (registry.set_model_tag, lambda n, k, u, **v: registry.set_tag(n, "v1.0.0", k, u, **v)):
        with pytest.raises(Invalid, match="tag's key"):
            call("fraud", key, ANA, value="x")


@pytest.mark.parametrize("value", ["x" * 100_001, "a\0b", "\ud800", 3])
def test_malformed_values_are_refused(registry: ModelRegistry, add, value: str) -> None:
    add("v1.0.0")
    with pytest.raises(Invalid, match="value of the tag team"):
        registry.set_tag("fraud", "v1.0.0", "team", ANA, value=value)


def test_one_key_has_one_value(add) -> None:
    with pytest.raises(Invalid, match="team is given twice"):
        add("v1.0.0", tags=["team=a", "team=b"])
    assert add("v1.0.0", tags=["team=a", "team=a"]).tags == ("team=a",)


def test_a_renamed_model_takes_everything_with_it(registry: ModelRegistry, add, small_model: Path) -> None:
    add("v1.0.0", name="fruad", tags=["risk"], metrics={"auc": 0.9}, parameters={"depth": 3}, description="cards")
    add("v2.0.0", name="fruad", parent="v1.0.0")
    add("v1.0.0", name="child", parent="fruad:v2.0.0")
    add("v1.0.0", name="fruad2")
    registry.set_alias("fruad", "challenger", "v2.0.0", user=ANA)
    registry.set_model_tag("fruad", "team", ANA, value="risk")
    registry.request_promotion("fruad", "v1.0.0", ModelStage.STAGING, ANA)
    renamed = registry.rename_model("fruad", "fraud", ANA)
    assert (renamed.name, renamed.tags, dict(renamed.aliases)) == ("fraud", ("team=risk",), {"challenger": "v2.0.0"})
    assert [one.version for one in registry.list_models("fraud", tag="risk")] == ["v1.0.0"]
    query = "name = 'fraud' and metrics.auc > 0.8 and params.depth = 3"
    assert len(registry.search_versions(query, text="cards").items) == 1
    assert [one.name for one in registry.search_models(text="fraud").items] == ["fraud"]
    assert registry.get_model("fraud", "v2.0.0").parent == "fraud:v1.0.0"
    assert registry.get_model("child", "v1.0.0").parent == "fraud:v2.0.0"
    assert registry.approve_promotion("fraud", "v1.0.0", MAX).status.value == "approved"
    assert [event.event_type.value for event in registry.history("fraud", "v1.0.0")] == [
        "model_registered",
        "promotion_requested",
        "approval_granted",
        "stage_changed",
    ]
    with registry.store.reading() as rows:
        assert [row["holder"] for row in rows.all("SELECT holder FROM artifact_holds ORDER BY holder")] == [
            "model child:1.0.0",
            "model fraud:1.0.0",
            "model fraud:2.0.0",
            "model fruad2:1.0.0",
        ]
    with pytest.raises(NotFound, match="Known: child, fraud"):
        registry.get_model("fruad", "v1.0.0")
    add("v1.0.0", name="fruad")
    assert len(registry.history("fraud", "v1.0.0")) == 4, "what happens under the old name later is another model's"


def test_a_model_in_production_keeps_its_name_and_stays(registry: ModelRegistry, add) -> None:
    add("v1.0.0")
    registry.request_promotion("fraud", "v1.0.0", ModelStage.PRODUCTION, ANA)
    registry.approve_promotion("fraud", "v1.0.0", MAX)
    with pytest.raises(Conflict, match="in production"):
        registry.rename_model("fraud", "fruad", ANA)
    with pytest.raises(Conflict, match="in production"):
        registry.delete_model("fraud", ANA)
    registry.archive("fraud", "v1.0.0", ANA)
    registry.set_alias("fraud", "old", "v1.0.0", user=ANA)
    with pytest.raises(Conflict, match="alias old"):
        registry.delete_model("fraud", ANA)
    registry.delete_alias("fraud", "old", user=ANA)
    with pytest.raises(NotFound, match="no alias"):
        registry.delete_alias("fraud", "old", user=ANA)
    registry.delete_model("fraud", ANA)
    assert registry.search_versions().items == ()
    with registry.store.reading() as rows:
        for table in ("model_tags", "model_metrics", "model_words", "artifact_holds", "model_aliases"):
            assert rows.all(f"SELECT * FROM {table}") == []


def test_a_name_that_is_taken_is_not_given_again(registry: ModelRegistry, add) -> None:
    add("v1.0.0")
    registry.create_model("churn", ANA)
    with pytest.raises(Conflict, match="model churn already"):
        registry.rename_model("fraud", "churn", ANA)
    with pytest.raises(Conflict, match="model churn already"):
        registry.create_model("churn", MAX)
    made = registry.propose_policy("loans", ModelStage.STAGING, ANA)
    registry.approve_policy(made.policy_id, MAX)
    with pytest.raises(Conflict, match="approved for the name loans"):
        registry.rename_model("fraud", "loans", ANA)


def test_a_handler_of_the_deletion_may_refuse_it(registry: ModelRegistry, add) -> None:
    def held(work, event) -> None:
        if event.details["version"] == "v2.0.0":
            raise Forbidden(f"{event.details['name']} {event.details['version']} is on legal hold.")

    from modelyard.core.events import EventType

    registry.store.wires.inside[EventType.MODEL_DELETED] = [held]
    for version in ("v1.0.0", "v2.0.0"):
        add(version)
    with pytest.raises(Forbidden, match="legal hold"):
        registry.delete_model("fraud", ANA)
    assert len(registry.list_models("fraud")) == 2, "all or nothing"
    registry.delete("fraud", "v1.0.0", ANA)
    assert len(registry.list_models("fraud")) == 1


@pytest.mark.parametrize("name", ["fraud@x", "", "../x", "a\0", "x" * 129, "a:b"])
def test_malformed_names_are_refused_everywhere(registry: ModelRegistry, add, name: str) -> None:
    add("v1.0.0")
    with pytest.raises(Invalid, match="name"):
        registry.create_model(name, ANA)
    with pytest.raises(Invalid, match="name"):
        registry.rename_model("fraud", name, ANA)
    with pytest.raises(Invalid, match="name"):
        registry.create_model("other", ANA, project=name.replace("@", "/") or "")
