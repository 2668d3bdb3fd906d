"""Versions are registered once, found by index, and remembered after they are gone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from modelyard.core.errors import Conflict, Forbidden, Invalid, NotFound
from modelyard.core.events import EventType
from modelyard.core.instants import FixedClock
from modelyard.core.models import FeatureSpec, PackageManifest, Signature
from modelyard.core.packages import manifest_text
from modelyard.registry import ModelRegistry, ModelStage
from modelyard.registry.checks import canonical_version, sort_key

ANA, MAX = "ana@example.com", "max@example.com"


@pytest.fixture
def registry(yard: Path, clock: FixedClock) -> ModelRegistry:
    return ModelRegistry(yard, clock=clock)


@pytest.fixture
def add(registry: ModelRegistry, small_model: Path):
    def register(version: str, name: str = "fraud", **more):
        return registry.register_model(name, version, small_model, "lightgbm", ANA, **more)

    return register


def test_everything_given_is_read_back(registry: ModelRegistry, add, small_model: Path) -> None:
    signature = {"inputs": [{"name": "age", "kind": "float"}], "task": "binary", "classes": [0, 1]}
    add("v0.9.0")
    made = add(
        "v1.0.0",
        metrics={"auc": 0.9},
        tags=["b", "a", "a"],
        description="Größer",
        parameters={"depth": 3, "names": ["x"]},
        trained_by=MAX,
        training_data="sha256:abc",
        code_version="4f1d09c",
        parent="v0.9.0",
        signature=signature,
        metadata={"team": {"name": "risk"}},
    )
    assert registry.get_model("fraud", "1.0.0") == made
    assert (made.tags, made.parent, made.size) == (("a", "b"), "fraud:v0.9.0", small_model.stat().st_size)
    assert made.signature == Signature(inputs=(FeatureSpec(name="age"),), task="binary", classes=(0, 1))
    assert registry.path("fraud", "v1.0.0").read_bytes() == small_model.read_bytes()


def test_a_version_exists_once_with_or_without_its_v(add) -> None:
    add("v1.0.0")
    for again in ("v1.0.0", "1.0.0"):
        with pytest.raises(Conflict, match=r"v1\.0\.0 exists already, registered by ana"):
            add(again)
    add("1.0.0+build.2")


def test_a_refused_file_registers_nothing(registry: ModelRegistry, tmp_path: Path) -> None:
    (tmp_path / "m.pkl").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(Invalid, match=r"imports os\.system"):
        registry.register_model("fraud", "v1.0.0", tmp_path / "m.pkl", "sklearn", ANA)
    with pytest.raises(NotFound):
        registry.get_model("fraud", "v1.0.0")


def test_a_package_brings_its_signature_metrics_and_parameters(
    registry: ModelRegistry, small_model: Path, tmp_path: Path
) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "model.txt").write_bytes(small_model.read_bytes())
    signature = Signature(inputs=(FeatureSpec(name="a"),), task="regression")
    manifest = PackageManifest(
        name="m", framework="lightgbm", primary="lightgbm", files={"lightgbm": "model.txt"}, signature=signature,
        metrics={"rmse": 1.5}, parameters={"depth": 3},
    )  # fmt: skip
    (package / "modelyard.json").write_text(manifest_text(manifest))
    made = registry.register_model("m", "1.0.0", package, "lightgbm", ANA, metrics={"rmse": 2.0})
    assert (made.signature, made.metrics, made.parameters) == (signature, {"rmse": 2.0}, {"depth": 3})
    assert {path.name for path in registry.path("m", "1.0.0").iterdir()} == {"model.txt", "modelyard.json"}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("metrics", {"auc": float("nan")}),
        ("metrics", [1]),
        ("tags", "fraud"),
        ("tags", ["a\0b"]),
        ("description", "a\0b"),
        ("description", "\ud800"),
        ("description", "x" * 10_001),
        ("parameters", {"f": object()}),
        ("signature", {"inputs": []}),
        ("parent", "v0.0.1"),
    ],
)
def test_wrong_input_is_refused_before_anything_is_written(registry: ModelRegistry, add, field: str, value) -> None:
    with pytest.raises((Invalid, NotFound)):
        add("v1.0.0", **{field: value})
    assert registry.list_models() == []


@pytest.mark.parametrize("name", ["it's", 'say "x"', "a' OR '1'='1", "x; DROP TABLE model_versions", "%", ":name"])
def test_names_that_look_like_sql_are_only_names(registry: ModelRegistry, add, name: str) -> None:
    add("v1.0.0", tags=[name], description=name)
    assert [model.description for model in registry.list_models(tag=name)] == [name]
    assert registry.list_models(name=name) == []
    with pytest.raises(NotFound):
        registry.get_model(name, "v1.0.0")
    with pytest.raises(NotFound):
        registry.get_by_alias("fraud", name)


def test_errors_name_the_nearest_that_exists(registry: ModelRegistry, add) -> None:
    add("v1.0.0")
    with pytest.raises(NotFound, match=r"Did you mean fraud\?"):
        registry.get_model("frand", "v1.0.0")
    with pytest.raises(NotFound, match=r"no version v2\.0\.0\. Its newest: v1\.0\.0"):
        registry.get_model("fraud", "v2.0.0")
    with pytest.raises(Invalid, match=r"Did you mean staging\?"):
        registry.list_models(stage="stagin")  # type: ignore[arg-type]
    with pytest.raises(NotFound, match="no alias 'champion'"):
        registry.champion("fraud")


def test_lists_are_in_order_filtered_and_paged(registry: ModelRegistry, add) -> None:
    for version in ("v1.10.0", "v1.9.0", "v1.9.0-rc.1", "v2.0.0-rc.1"):
        add(version, tags=["even"] if version.endswith("0") else [])
    add("v1.0.0", name="churn")
    everything = registry.list_models()
    assert [f"{model.name}:{model.version}" for model in everything] == [
        "churn:v1.0.0", "fraud:v1.9.0-rc.1", "fraud:v1.9.0", "fraud:v1.10.0", "fraud:v2.0.0-rc.1",
    ]  # fmt: skip
    paged, after = [], ""
    while page := registry.list_models(after=after, limit=2):
        paged += page
        after = f"{page[-1].name}:{page[-1].version}"
    assert paged == everything
    assert [model.version for model in registry.list_models("fraud", tag="even")] == ["v1.9.0", "v1.10.0"]
    assert registry.list_models(stage=ModelStage.PRODUCTION) == []
    registry.archive("fraud", "v1.10.0", ANA)
    assert registry.latest("fraud").version == "v1.9.0"


def test_aliases_move_and_references_resolve(registry: ModelRegistry, add) -> None:
    add("v1.0.0")
    add("v2.0.0")
    registry.set_alias("fraud", "challenger", "v1.0.0", user=ANA)
    registry.set_alias("fraud", "challenger", "v2.0.0", user=ANA)
    assert registry.resolve("fraud@challenger").version == "v2.0.0"
    assert registry.resolve("fraud:1.0.0").aliases == ()
    for bad in ("latest", "v1", "1.0.0", "a@b", "", "a/b"):
        with pytest.raises(Invalid, match="alias"):
            registry.set_alias("fraud", bad, "v1.0.0", user=ANA)


def test_the_champion_is_in_production_or_not_at_all(registry: ModelRegistry, add) -> None:
    add("v1.0.0")
    with pytest.raises(Forbidden, match="only a production version"):
        registry.set_alias("fraud", "champion", "v1.0.0", user=MAX)
    assert registry.history("fraud", "v1.0.0")[-1].event_type is EventType.SECURITY_VIOLATION
    for version in ("v1.0.0", "v2.0.0"):
        if version == "v2.0.0":
            add(version)
        registry.request_promotion("fraud", version, ModelStage.PRODUCTION, ANA)
        registry.approve_promotion("fraud", version, MAX)
    assert registry.champion("fraud").version == "v1.0.0", "the first stays until a rollout completes"
    assert len(registry.list_models(stage=ModelStage.PRODUCTION)) == 2
    registry.promote_champion("fraud", "v2.0.0", MAX)
    assert registry.resolve("fraud").version == "v2.0.0"
    registry.archive("fraud", "v2.0.0", ANA)
    with pytest.raises(NotFound):
        registry.champion("fraud")


def test_deleting_is_refused_in_production_or_under_an_alias_and_keeps_the_history(
    registry: ModelRegistry, add, clock: FixedClock
) -> None:
    made = add("v1.0.0")
    registry.request_promotion("fraud", "v1.0.0", ModelStage.PRODUCTION, ANA)
    registry.approve_promotion("fraud", "v1.0.0", MAX)
    with pytest.raises(Conflict, match="in production"):
        registry.delete("fraud", "v1.0.0", ANA)
    registry.archive("fraud", "v1.0.0", ANA)
    registry.set_alias("fraud", "old", "v1.0.0", user=ANA)
    with pytest.raises(Conflict, match="alias old"):
        registry.delete("fraud", "v1.0.0", ANA)
    add("v2.0.0")
    registry.set_alias("fraud", "old", "v2.0.0", user=ANA)
    registry.delete("fraud", "v1.0.0", ANA)
    assert registry.history("fraud", "v1.0.0")[-1].event_type is EventType.MODEL_DELETED
    with pytest.raises(NotFound):
        registry.history("fraud", "v9.0.0")
    clock.advance(10_000_000)
    assert registry.store.artifacts.verify(made.digest).digest == made.digest, "v2.0.0 holds the same bytes"


def test_bytes_of_a_registered_version_are_never_collected(registry: ModelRegistry, add, clock: FixedClock) -> None:
    from modelyard.artifacts import ArtifactStore

    artifacts = ArtifactStore(registry.store)
    made = add("v1.0.0")
    clock.advance(10_000_000)
    assert artifacts.collect(grace_hours=0).artifacts == ()
    registry.delete("fraud", "v1.0.0", ANA)
    assert artifacts.collect(grace_hours=0).artifacts == (made.digest,)


def test_an_update_tells_what_changed(registry: ModelRegistry, add) -> None:
    add("v1.0.0", metrics={"auc": 0.8}, tags=["a"], metadata={"k": 1})
    new = registry.update("fraud", "v1.0.0", ANA, tags=["b"], metrics={"f1": 0.7}, metadata={"l": 2})
    assert (new.tags, new.metrics, new.metadata) == (("b",), {"auc": 0.8, "f1": 0.7}, {"k": 1, "l": 2})
    told = registry.history("fraud", "v1.0.0")[-1]
    assert (told.event_type, sorted(told.details["changes"])) == (
        EventType.MODEL_UPDATED,
        ["metadata", "metrics", "tags"],
    )


def test_every_change_and_refusal_is_one_event_in_order(registry: ModelRegistry, add) -> None:
    add("v1.0.0")
    registry.request_promotion("fraud", "v1.0.0", ModelStage.STAGING, ANA)
    with pytest.raises(Forbidden):
        registry.approve_promotion("fraud", "v1.0.0", ANA)
    registry.approve_promotion("fraud", "v1.0.0", MAX)
    registry.archive("fraud", "v1.0.0", ANA)
    registry.restore("fraud", "v1.0.0", ANA)
    told = [(event.event_type.value, event.actor) for event in registry.history("fraud", "v1.0.0")]
    assert told == [
        ("model_registered", ANA), ("promotion_requested", ANA), ("security_violation", ANA), ("approval_granted", MAX),
        ("stage_changed", MAX), ("stage_changed", ANA), ("stage_changed", ANA),
    ]  # fmt: skip


RACE = """
import sys
from modelyard.core.errors import Conflict
from modelyard.registry import ModelRegistry
folder, model, number = sys.argv[1:]
registry = ModelRegistry(folder)
sys.stdin.readline()
won = []
for version in ("v1.0.0", f"v2.{number}.0", "v3.0.0"):
    try:
        registry.register_model("fraud", version, model, "lightgbm", f"person{number}@example.com")
        won.append(version)
    except Conflict:
        pass
print(",".join(won))
"""


def test_of_eight_processes_that_register_one_version_exactly_one_wins(yard: Path, small_model: Path) -> None:
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", RACE, yard, small_model, str(number)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for number in range(8)
    ]  # fmt: skip
    for run in runs:
        run.stdin.write("\n")
        run.stdin.flush()
    results = [run.communicate() for run in runs]
    assert [run.returncode for run in runs] == [0] * 8, results
    won = sorted(version for out, _ in results for version in out.strip().split(","))
    assert won == sorted(["v1.0.0", "v3.0.0", *(f"v2.{number}.0" for number in range(8))])
    registry = ModelRegistry(yard)
    assert len(registry.list_models()) == 10
    with registry.store.reading() as rows:
        told = rows.all("SELECT event_type, COUNT(*) AS n FROM events GROUP BY event_type ORDER BY event_type")
    assert {row["event_type"]: row["n"] for row in told} == {
        "artifact_stored": 1,
        "model_registered": 10,
        "registered_model_created": 1,
    }


def test_questions_about_one_version_read_few_rows_however_many_there_are(registry: ModelRegistry, add) -> None:
    """SQLite counts its virtual machine's steps: at 5,000 versions they may not grow with the number of versions."""
    add("v0.0.1")

    def steps() -> int:
        counted = 0

        def count() -> int:
            nonlocal counted
            counted += 1
            return 0

        raw = registry.store.database._idle[-1]
        raw.set_progress_handler(count, 10)
        registry.get_model("fraud", "v0.0.1")
        registry.latest("fraud")
        registry.list_models("fraud", limit=2)
        registry.list_models(stage=ModelStage.PRODUCTION, limit=2)
        registry.set_alias("fraud", "challenger", "v0.0.1", user=ANA)
        registry.get_by_alias("fraud", "challenger")
        registry.update("fraud", "v0.0.1", ANA, tags=["a"])
        registry.set_tag("fraud", "v0.0.1", "team", ANA, value="risk")
        registry.delete_tag("fraud", "v0.0.1", "team", ANA)
        registry.get_registered_model("fraud")
        registry.update_model("fraud", ANA, licence="MIT")
        registry.version_by_number("fraud", 1)
        registry.search_versions("name = 'fraud'", limit=2)
        registry.search_versions("tags.team = 'risk'", limit=2)
        registry.search_models("name = 'fraud'", limit=2)
        with pytest.raises(NotFound):
            registry.get_model("frau", "v0.0.1")
        raw.set_progress_handler(None, 0)
        return counted

    before = steps()
    with registry.store.work() as work:
        row = dict(work.rows.one("SELECT * FROM model_versions"))
        sql = f"INSERT INTO model_versions ({', '.join(row)}) VALUES ({', '.join(':' + key for key in row)})"
        work.rows.many(
            sql,
            [
                row | {"version": v, "canonical": canonical_version(v), "sort_key": sort_key(v), "number": number + 2}
                for number, v in enumerate(f"v1.{number}.0" for number in range(5_000))
            ],
        )
    assert steps() <= 1.5 * before + 20


def test_details_of_events_are_json_that_anyone_can_read(registry: ModelRegistry, add) -> None:
    add("v1.0.0", metrics={"auc": 0.9})
    with registry.store.reading() as rows:
        row = rows.one("SELECT details FROM events WHERE event_type = 'model_registered'")
    details = json.loads(row["details"])
    assert (details["metrics"], details["framework"], len(details["digest"])) == ({"auc": 0.9}, "lightgbm", 64)
