"""What the server says of itself, and how it answers plain HTTP."""

from __future__ import annotations

import requests


def health(scene):
    for path in ("/health", "/version"):
        answer = requests.get(scene.uri + path, timeout=120)
        scene.tell(path, [answer.status_code, answer.text])


def information(scene):
    for prefix in ("api", "ajax-api"):
        scene.tell(prefix, requests.get(f"{scene.uri}/{prefix}/3.0/mlflow/server-info", timeout=120).json())


def spellings(scene):
    """Bodies that older and other clients send."""
    post = lambda path, **options: requests.post(f"{scene.uri}/api/2.0/mlflow/{path}", timeout=120, **options)  # noqa: E731
    get = lambda path, **options: requests.get(f"{scene.uri}/{path}", timeout=120, **options)  # noqa: E731
    number = scene.known(
        "experiment", post("experiments/create", json={"name": scene.unique("e"), "unknown": 1}).json()["experiment_id"]
    )
    run = post("runs/create", json={"experimentId": number, "start_time": "1700000000000", "run_name": "r"}).json()
    scene.tell("camel case and a number as text", run)
    run_id = run["run"]["info"]["run_id"]
    scene.tell(
        "old id", post("runs/log-metric", json={"run_uuid": run_id, "key": "a", "value": 1, "timestamp": 1}).json()
    )
    scene.tell(
        "value as text",
        post(
            "runs/log-metric", json={"run_id": run_id, "key": "b", "value": "NaN", "timestamp": "2", "step": "3"}
        ).json(),
    )
    scene.tell("get by old id", get("api/2.0/mlflow/runs/get", params={"run_uuid": run_id}).json())
    scene.tell("ajax", get("ajax-api/2.0/mlflow/runs/get", params={"run_id": run_id}).json()["run"]["info"]["run_name"])
    scene.tell("bare search", sorted(get("api/2.0/mlflow/experiments/search", params={"max_results": 1}).json()))
    scene.tell(
        "history", get("api/2.0/mlflow/metrics/get-history", params={"run_id": run_id, "metric_key": "b"}).json()
    )
    many = get(
        "api/2.0/mlflow/metrics/get-history-bulk-interval",
        params={"run_ids": [run_id], "metric_key": "a", "max_results": 5},
    )
    scene.tell("several histories", many.json())


def missing_fields(scene):
    post = lambda path, body: requests.post(f"{scene.uri}/api/2.0/mlflow/{path}", json=body, timeout=120)  # noqa: E731
    for path, body in (
        ("experiments/create", {}),
        ("experiments/create", {"name": 3}),
        ("experiments/create", {"name": "x", "tags": "t"}),
        ("runs/create", {"experiment_id": 3, "start_time": "soon"}),
        ("runs/log-metric", {"key": "a", "value": 1, "timestamp": 1}),
        ("runs/log-metric", {"run_id": "a", "key": "", "value": 1, "timestamp": 1}),
        ("runs/log-metric", {"run_id": "a", "key": "k", "value": 1}),
        ("runs/log-parameter", {"run_id": "a"}),
        ("runs/log-batch", {"run_id": "a", "metrics": [{"key": "k", "value": 1}]}),
        ("runs/log-batch", {"run_id": "a", "metrics": [{"value": 1, "timestamp": 1}]}),
        ("runs/log-batch", {"metrics": []}),
        ("runs/search", {"max_results": 50_001}),
        ("runs/search", {"experiment_ids": "0"}),
        ("runs/set-tag", {"run_id": "a", "value": "v"}),
        ("registered-models/create", {}),
        ("registered-models/create", {"name": ["x"]}),
        ("model-versions/create", {"name": "x"}),
        ("registered-models/alias", {"name": "x", "alias": "y"}),
        ("logged-models", {"name": "x"}),
        ("logged-models/search", {}),
    ):
        answer = post(path, body)
        told = answer.json()
        scene.tell(f"{path} {body}", [answer.status_code, told.get("error_code"), told.get("message")])


def presigned(scene):
    post = lambda path, body: requests.post(f"{scene.uri}/api/2.0/mlflow/{path}", json=body, timeout=120)  # noqa: E731
    run = scene.client.create_run(scene.experiment(), run_name="r").info.run_id
    for path in ("artifacts/presigned-upload-url", "artifacts/presigned-download-url"):
        for body in (
            {"run_id": run, "path": "a.txt"},
            {"path": "a.txt"},
            {"run_id": run, "path": "../a"},
            {"run_id": run},
        ):
            answer = post(path, body)
            scene.tell(f"{path} {sorted(body)}", [answer.status_code, answer.json().get("error_code")])
    for verb in ("create", "complete", "abort"):
        answer = requests.post(
            f"{scene.uri}/api/2.0/mlflow-artifacts/mpu/{verb}/a",
            json={"path": "a.txt", "upload_id": "u", "parts": [{"part_number": 1, "etag": "e"}]},
            timeout=120,
        )
        scene.tell(f"parts {verb}", answer.status_code)
    answer = requests.get(f"{scene.uri}/api/2.0/mlflow-artifacts/presigned/a.txt", timeout=120)
    scene.tell("presigned", answer.status_code)


def unknown_route(scene):
    for method, path in (
        ("GET", "api/2.0/mlflow/nothing"),
        ("GET", "api/2.0/mlflow/runs/create"),
        ("DELETE", "api/2.0/mlflow/runs/get"),
    ):
        scene.tell(f"{method} {path}", requests.request(method, f"{scene.uri}/{path}", timeout=120).status_code)


def downloads(scene):
    run = scene.client.create_run(scene.experiment(), run_name="r").info
    scene.client.log_text(run.run_id, "<script>alert(1)</script>", "page.html")
    path = run.artifact_uri.removeprefix("mlflow-artifacts:/")
    answer = requests.get(f"{scene.uri}/api/2.0/mlflow-artifacts/artifacts/{path}/page.html", timeout=120)
    scene.tell(
        "safe",
        [
            answer.status_code,
            answer.headers.get("X-Content-Type-Options"),
            "attachment" in answer.headers.get("Content-Disposition", ""),
            answer.text,
        ],
    )
    answer = requests.get(f"{scene.uri}/api/2.0/mlflow-artifacts/artifacts/{path}/none.html", timeout=120)
    scene.tell("missing", [answer.status_code, answer.json().get("error_code")])
    answer = requests.get(f"{scene.uri}/api/2.0/mlflow-artifacts/artifacts", params={"path": path}, timeout=120)
    scene.tell("listed", answer.json())
