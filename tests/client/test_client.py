"""`modelyard.Client` against a real server: the same calls, values and errors as on an embedded yard."""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import modelyard
from modelyard import Client, Yard
from modelyard.core import plugins
from modelyard.core.errors import Conflict, Forbidden, Invalid, NotFound, Unavailable
from modelyard.core.models import ModelStage, ModelVersion
from modelyard.core.operations import Operation, operations
from modelyard.features import FeatureType
from modelyard.governance import ComplianceFramework
from modelyard.testing.servers import free_port
from modelyard.testing.serving import YardServer

Connect = Callable[[str], Client]
REMOTE = [entry for entry in operations() if entry.remote]


def test_the_client_is_a_name_of_the_package() -> None:
    assert modelyard.Client is Client


def test_every_area_can_be_read(connect: Connect, embedded: Yard) -> None:
    client = connect("vic")
    asked: dict[str, Any] = {
        "registry": client.registry.list_models(),
        "artifacts": client.artifacts.list_artifacts(),
        "access": connect("root").access.list_users(),
        "audit": client.audit.query_events(limit=3),
        "features": client.features.list_features(),
        "pipeline": client.pipeline.list_runs(),
        "serving": client.serving.endpoints(),
        "deployment": client.deployment.list_deployments(),
        "ab_testing": client.ab_testing.list_tests(),
        "monitoring": client.monitoring.list_monitors(),
        "governance": client.governance.bias_reports,
        "ci_templates": client.ci_templates.generate("github", "fraud"),
    }
    assert set(asked) <= set(plugins.AREAS)
    for area in set(asked) - {"governance", "ci_templates"}:
        assert isinstance(asked[area], list), area
    assert asked["ci_templates"] == embedded.ci_templates.generate("github", "fraud")
    with pytest.raises(NotFound, match="fraud"):
        client.governance.bias_reports("fraud")


def test_areas_have_the_names_that_a_yard_has(connect: Connect) -> None:
    client = connect("vic")
    assert client.deployments.list_deployments() == client.deployment.list_deployments()
    assert client.pipelines.list_runs() == client.pipeline.list_runs()
    assert client.ab_tests.list_tests() == client.ab_testing.list_tests()
    with pytest.raises(AttributeError, match="Did you mean registry"):
        _ = client.registri
    with pytest.raises(AttributeError, match="Did you mean list_models"):
        _ = client.registry.list_model
    assert "get_model" in dir(client.registry)
    assert "registry" in dir(client)


def test_a_file_is_registered_by_upload_and_approved_by_another_person(
    connect: Connect, embedded: Yard, small_model: Path
) -> None:
    ana, ben = connect("ana"), connect("ben")
    made = ana.registry.register_model(
        "file_model", "v1.0.0", small_model, "lightgbm", metrics={"auc": 0.9}, tags=["t"], created_by="mallory"
    )
    assert isinstance(made, ModelVersion)
    assert made.created_by == "ana@example.com", "the token's owner, not what was claimed"
    assert made == embedded.registry.get_model("file_model", "v1.0.0") == ana.registry.get_model("file_model", "v1.0.0")
    asked = ana.registry.request_promotion("file_model", "v1.0.0", ModelStage.PRODUCTION, justification="good")
    assert asked.requested_by == "ana@example.com"
    with pytest.raises(Forbidden, match="contributor"):
        ana.registry.approve_promotion("file_model", "v1.0.0")
    approved = ben.registry.approve_promotion("file_model", "v1.0.0", comment="fine")
    assert approved == embedded.registry.list_requests("file_model")[0]
    assert ana.registry.get_model("file_model", "v1.0.0").stage is ModelStage.PRODUCTION
    assert ana.registry.list_models("file_model") == embedded.registry.list_models("file_model")
    assert ana.registry.history("file_model", "v1.0.0") == embedded.registry.history("file_model", "v1.0.0")


def test_a_folder_package_is_registered_by_upload(
    connect: Connect, embedded: Yard, small_model: Path, tmp_path: Path
) -> None:
    package = tmp_path / "package"
    (package / "notes").mkdir(parents=True)
    (package / "model.txt").write_bytes(small_model.read_bytes())
    (package / "notes" / "readme.txt").write_text("three trees")
    made = connect("ana").registry.register_model("folder_model", "v1.0.0", package, "lightgbm")
    stored = embedded.registry.path("folder_model", "v1.0.0")
    assert (stored / "notes" / "readme.txt").read_text() == "three trees"
    assert made.digest == embedded.artifacts.add(package, user="x").digest, "as if it had been added here"


def test_a_file_with_an_experiment_is_applied_from_afar(connect: Connect, embedded: Yard, tmp_path: Path) -> None:
    ana, file = connect("ana"), tmp_path / "experiment.yaml"
    file.write_text("name: afar\ncontrol: m:v1.0.0\nvariants: [v2.0.0]\n")
    assert ana.ab_testing.diff(file).verdict == "start"
    made = ana.ab_testing.apply(file)
    assert (made, made.created_by) == (embedded.ab_tests.get_test(made.test_id), "ana@example.com")
    assert ana.ab_testing.look(made.test_id).analysis == embedded.ab_tests.look(made.test_id).analysis
    file.write_text("name: afar\ncontrol: m:v1.0.0\nvariants: [v3.0.0]\n")
    with pytest.raises(Conflict, match=r"experiment\.yaml line 3, variants\.treatment\.model"):
        ana.ab_testing.apply(file)
    file.write_text("nam: afar\n")
    with pytest.raises(Invalid, match="line 1, nam: unknown key"):
        ana.ab_testing.diff(file)


def test_typed_values_come_back_as_on_an_embedded_yard(connect: Connect, embedded: Yard) -> None:
    ana = connect("ana")
    feature = ana.features.define_feature("amount", "card", FeatureType.FLOAT, ttl=60.0, tags={"pii": "no"})
    assert feature == embedded.features.get_feature("amount")
    rows = [{"card": "c1", "event_timestamp": "2026-01-01T00:00:00Z", "amount": 1.5}]
    assert ana.features.write_rows("card", rows).rows == 1
    there = ana.features.get_online_features(["c1"], ["amount"])
    assert there.to_dict() == embedded.features.get_online_features(["c1"], ["amount"]).to_dict()
    test = ana.ab_testing.create_test("t", control_variant="m:v1.0.0", treatment_variant="m:v2.0.0")
    assert ana.ab_testing.start_test(test.test_id) == embedded.ab_tests.get_test(test.test_id)
    ana.governance.register_dataset("cards", contains_pii=False)
    ana.governance.register_model("governed", "v1.0.0", "cards")
    assert ana.governance.get_full_lineage_tree("governed") == embedded.governance.get_full_lineage_tree("governed")
    assert ana.governance.controls("governed", ComplianceFramework.GDPR) == embedded.governance.controls(
        "governed", ComplianceFramework.GDPR
    )
    events = embedded.audit.query_events(limit=50)
    assert ana.audit.query_events(limit=50) == events
    assert ana.audit.verify().ok
    assert ana.audit.prove(events[0].event_id).startswith("c2sp.org/tlog-proof@v1")


def test_a_deployment_is_the_same_there_and_here(connect: Connect, embedded: Yard, small_model: Path) -> None:
    ana, ben = connect("ana"), connect("ben")
    ana.registry.register_model("rolled", "v1.0.0", small_model, "lightgbm")
    with pytest.raises(Forbidden, match="development"):
        ana.deployment.start("rolled", "v1.0.0", strategy="direct")
    ana.registry.request_promotion("rolled", "v1.0.0", "production", justification="x")
    ben.registry.approve_promotion("rolled", "v1.0.0")
    started = ana.deployment.start("rolled", "v1.0.0", strategy="direct")
    assert started == embedded.deployments.get_deployment(started.deployment_id)
    assert started.created_by == "ana@example.com"
    assert ana.deployment.history(started.deployment_id) == embedded.deployments.history(started.deployment_id)
    assert ana.serving.traffic("rolled") == embedded.serving.traffic("rolled")


def test_an_export_is_downloaded(connect: Connect, embedded: Yard, tmp_path: Path) -> None:
    root = connect("root")
    root.governance.register_dataset("d")
    root.governance.register_model("exported", "v1.0.0", "d")
    export = root.audit.export_audit_trail(tmp_path / "trail.csv", "csv")
    assert export.path == str(tmp_path / "trail.csv")
    assert export.sha256 == hashlib.sha256((tmp_path / "trail.csv").read_bytes()).hexdigest()
    assert (tmp_path / "trail.csv").read_text().splitlines()[0].count(",") > 3
    root.governance.export_lineage("exported", tmp_path / "lineage.json", standard="prov")
    assert "entity" in json.loads((tmp_path / "lineage.json").read_text())
    root.governance.export_governance_report("exported", tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text().lstrip().startswith("<!")
    root.governance.export_governance_report("exported", tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text())["model"] == "exported:v1.0.0"
    with pytest.raises(Unavailable, match="cannot be written"):
        root.governance.export_governance_report("exported", tmp_path / "nowhere" / "x" / "\0")
    assert not list((embedded.store.folder / "uploads").rglob("upl_*")), "nothing sent is left behind"


def test_errors_come_back_as_their_own_classes(connect: Connect, small_model: Path, tmp_path: Path) -> None:
    ana, vic = connect("ana"), connect("vic")
    with pytest.raises(NotFound, match="nobody"):
        ana.registry.get_model("nobody", "v1.0.0")
    with pytest.raises(LookupError):
        ana.deployment.get_deployment("dep_none")
    with pytest.raises(Forbidden, match="viewer"):
        vic.governance.register_dataset("d")
    with pytest.raises(Invalid, match="version"):
        ana.registry.register_model("errors", "one", small_model, "lightgbm")
    ana.registry.register_model("errors", "v1.0.0", small_model, "lightgbm")
    with pytest.raises(Conflict, match="errors"):
        ana.registry.register_model("errors", "v1.0.0", small_model, "lightgbm")
    with pytest.raises(Invalid, match="frmework"):
        ana.registry.register_model("errors", "v1.0.1", small_model, frmework="lightgbm")
    with pytest.raises(Invalid, match="framework"):
        ana.registry.register_model("errors", "v1.0.1", small_model)
    with pytest.raises(NotFound, match="no file or folder"):
        ana.registry.register_model("errors", "v1.0.1", tmp_path / "none", "lightgbm")
    with pytest.raises(Invalid, match="limit"):
        ana.registry.list_models(limit="many")


def test_a_missing_argument_is_told_before_anything_is_sent(connect: Connect) -> None:
    with pytest.raises(Invalid, match="version"):
        connect("vic").registry.get_model("fraud")


@pytest.mark.parametrize("token", ["", "myd_wrong"])
def test_a_client_without_a_good_token_is_forbidden(server: YardServer, token: str) -> None:
    with Client(server.url, token=token) as client, pytest.raises(Forbidden, match="token"):
        client.registry.list_models()


def test_a_server_that_is_gone_is_unavailable_and_says_what_to_do() -> None:
    with Client(f"http://127.0.0.1:{free_port()}") as client, pytest.raises(Unavailable, match="modelyard serve"):
        client.registry.list_models()


def test_names_with_any_signs_in_them_reach_their_own_route(connect: Connect) -> None:
    client = connect("vic")
    for name in ("a/b", "..", "a?b=c", "ä#", "%2e%2e", "a b"):
        with pytest.raises((NotFound, Invalid)):
            client.registry.get_model(name, "v1.0.0")


@pytest.mark.parametrize("entry", REMOTE, ids=lambda entry: entry.name)
def test_every_operation_can_be_called_and_has_its_route(
    entry: Operation, server: YardServer, connect: Connect
) -> None:
    function = getattr(getattr(connect("vic"), entry.area), entry.verb)
    own = [p for p in inspect.signature(entry.function).parameters.values() if p.name != "self"]
    shown = inspect.signature(function)
    assert [p.name for p in shown.parameters.values()] == [p.name for p in own]
    needed = {p.name: "x" for p in own if p.default is inspect.Parameter.empty and p.name not in entry.acting}
    shown.bind(**needed)
    assert function.__doc__ == inspect.getdoc(entry.function)
    route = document(server)["paths"]["/api/v1" + entry.path][entry.method.lower()]
    assert route["operationId"] == entry.name
    sent = set(re.findall(r"{(\w+)}", entry.path)) | {p["name"] for p in route.get("parameters", [])}
    body = route.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    sent |= set(
        document(server)["components"]["schemas"].get(body.get("$ref", "").rpartition("/")[2], {}).get("properties", {})
    )
    assert sent - {"suffix"} == {p.name for p in own} - set(entry.acting) - {"output_path"}


_documents: dict[str, Any] = {}


def document(server: YardServer) -> Any:
    if server.url not in _documents:
        _documents[server.url] = server.ask(f"{server.url}/api/v1/openapi.json")[1]
    return _documents[server.url]
