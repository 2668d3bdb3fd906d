"""Writes by the MLflow client pass the policies and the admission that every other way in passes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from modelyard import Yard

pytestmark = pytest.mark.slow

REGISTERED = """
import json, mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
client = MlflowClient()
run = client.create_run("0", run_name="r").info

def version(name, files):
    for path, text in files.items():
        client.log_text(run.run_id, text, f"{name}/{path}")
    try:
        client.create_registered_model(name)
    except MlflowException:
        pass
    return client.create_model_version(name, f"{run.artifact_uri}/{name}", run.run_id, await_creation_for=0)

def refused(call, *arguments, **options):
    try:
        return {"answered": str(call(*arguments, **options))}
    except MlflowException as error:
        return {"code": error.error_code, "message": str(error)}
"""


def asked(mlflow_peer: Any, uri: str, code: str) -> Any:
    return mlflow_peer.run(REGISTERED + code, uri)


def test_a_protected_stage_and_the_champion_are_refused_with_the_way_to_ask(mlflow_peer: Any, guarded: str) -> None:
    told = asked(
        mlflow_peer,
        guarded,
        """
made = version("protected", {"w.yaml": "a: 1"})
print(json.dumps({
    "production": refused(client.transition_model_version_stage, "protected", made.version, "Production"),
    "staging": refused(client.transition_model_version_stage, "protected", made.version, "Staging"),
    "champion": refused(client.set_registered_model_alias, "protected", "champion", made.version),
    "challenger": refused(client.set_registered_model_alias, "protected", "challenger", made.version),
    "archived": client.transition_model_version_stage("protected", made.version, "Archived").current_stage,
    "back up": refused(client.transition_model_version_stage, "protected", made.version, "Production"),
    "stage": client.get_model_version("protected", made.version).current_stage,
}))
""",
    )
    for what in ("production", "staging", "champion", "back up"):
        assert told[what]["code"] == "PERMISSION_DENIED"
        assert "modelyard registry request-promotion protected 1.0.0" in told[what]["message"]
    assert told["challenger"] == {"answered": "None"}
    assert (told["archived"], told["stage"]) == ("Archived", "Archived")


def test_a_hostile_pickle_is_a_file_of_its_run_and_in_quarantine_as_a_model(mlflow_peer: Any, guarded: str) -> None:
    told = asked(
        mlflow_peer,
        guarded,
        """
import os, pickle, pathlib, tempfile
class Evil:
    def __reduce__(self):
        return (os.system, ("touch /tmp/modelyard-was-here",))
folder = pathlib.Path(tempfile.mkdtemp())
(folder / "model.pkl").write_bytes(pickle.dumps(Evil()))
client.log_artifact(run.run_id, str(folder / "model.pkl"), "evil")
made = version("evil", {"MLmodel": "artifact_path: evil\\nflavors:\\n  sklearn:\\n    pickled_model: model.pkl\\n"})
print(json.dumps({
    "status": made.status,
    "message": made.status_message,
    "tags": made.tags,
    "uri": refused(client.get_model_version_download_uri, "evil", made.version),
    "load": refused(mlflow.artifacts.download_artifacts, "models:/evil/1"),
    "file": os.path.getsize(client.download_artifacts(run.run_id, "evil/model.pkl", tempfile.mkdtemp())) > 10,
    "production": refused(client.transition_model_version_stage, "evil", made.version, "Production"),
    "waiting": refused(client.create_model_version, "evil", f"{run.artifact_uri}/evil", run.run_id),
}))
""",
    )
    assert told["status"] == "FAILED_REGISTRATION"
    assert "posix.system" in told["message"]
    assert told["tags"] == {"modelyard.admission": "quarantined"}
    assert told["uri"]["code"] == told["load"]["code"] == told["production"]["code"] == "PERMISSION_DENIED"
    assert told["file"]
    assert "FAILED" in str(told["waiting"])


def test_what_runs_log_later_does_not_change_a_version(mlflow_peer: Any, guarded: str) -> None:
    told = asked(
        mlflow_peer,
        guarded,
        """
made = version("bound", {"w.yaml": "a: 1"})
client.log_text(run.run_id, "a: 2", "bound/w.yaml")
place = mlflow.artifacts.download_artifacts("models:/bound/1")
print(json.dumps({"version": open(place + "/w.yaml").read(), "run": mlflow.artifacts.load_text(f"runs:/{run.run_id}/bound/w.yaml")}))
""",
    )
    assert told == {"version": "a: 1", "run": "a: 2"}


def test_trusted_pickles_and_code_beside_them_are_told_apart(mlflow_peer: Any, guarded: str) -> None:
    told = asked(
        mlflow_peer,
        guarded,
        """
import logging, warnings
import numpy as np
from sklearn.linear_model import LogisticRegression
logging.disable(logging.WARNING); warnings.simplefilter("ignore")
x = np.random.default_rng(0).normal(size=(40, 2)); y = (x[:, 0] > 0).astype(int)
model = LogisticRegression().fit(x, y)
found = {}
plain = {"pip_requirements": ["scikit-learn"], "await_registration_for": 0}
for form in ("skops", "pickle", "cloudpickle"):
    with mlflow.start_run():
        mlflow.sklearn.log_model(model, name="m", serialization_format=form, registered_model_name=form, **plain)
    found[form] = client.get_model_version(form, "1").status
class Doubler(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input):
        return model_input
with mlflow.start_run():
    mlflow.pyfunc.log_model(name="p", python_model=Doubler(), registered_model_name="pyfunc", **plain)
found["pyfunc"] = client.get_model_version("pyfunc", "1").status
print(json.dumps(found))
""",
    )
    assert told == {"skops": "READY", "pickle": "READY", "cloudpickle": "READY", "pyfunc": "FAILED_REGISTRATION"}


def test_a_large_file_goes_through_the_proxy_in_parts(mlflow_peer: Any, guarded: str) -> None:
    code = """
import hashlib, os, tempfile
path = tempfile.mkdtemp() + "/large.bin"
open(path, "wb").write(os.urandom(12_000_000))
client.log_artifact(run.run_id, path, "deep")
back = client.download_artifacts(run.run_id, "deep/large.bin", tempfile.mkdtemp())
print(json.dumps(hashlib.sha256(open(path, "rb").read()).digest() == hashlib.sha256(open(back, "rb").read()).digest()))
"""
    parts = {
        "MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD": "true",
        "MLFLOW_MULTIPART_UPLOAD_MINIMUM_FILE_SIZE": "1000000",
        "MLFLOW_MULTIPART_UPLOAD_CHUNK_SIZE": "5000000",
    }
    assert mlflow_peer.run(REGISTERED + code, guarded, **parts) is True
    assert asked(mlflow_peer, guarded, code) is True


def test_the_client_signs_in_with_a_token_and_does_what_its_role_lets_it(
    mlflow_peer: Any, start: Any, tmp_path: Path
) -> None:
    with Yard(tmp_path / "yard") as yard:
        tokens = {}
        for subject, role in (("ana@example.com", "contributor"), ("vic@example.com", "viewer")):
            tokens[subject] = yard.access.create_token(subject, role=role, created_by="root").secret
    code = REGISTERED.replace('run = client.create_run("0", run_name="r").info', "") + (
        'print(json.dumps([refused(client.search_experiments), refused(client.create_experiment, "e")]))'
    )
    with start(tmp_path) as uri:
        stranger = mlflow_peer.run(code, uri)
        viewer = mlflow_peer.run(code, uri, MLFLOW_TRACKING_TOKEN=tokens["vic@example.com"])
        contributor = mlflow_peer.run(code, uri, MLFLOW_TRACKING_TOKEN=tokens["ana@example.com"])
    assert [one["code"] for one in stranger] == ["UNAUTHENTICATED", "UNAUTHENTICATED"]
    assert "answered" in viewer[0]
    assert viewer[1]["code"] == "PERMISSION_DENIED"
    assert ["answered" in one for one in contributor] == [True, True]
