"""What tritonclient.http, unmodified, can do with a server of ours: JSON and binary, synchronous and in its greenlets."""

from __future__ import annotations

import json

import ml_dtypes
import numpy as np
import tritonclient.http as triton
from checking import ADDRESS, refused, run
from tritonclient.utils import InferenceServerException

HOST = ADDRESS["http"].removeprefix("http://")
client = triton.InferenceServerClient(HOST, concurrency=4, network_timeout=120.0)
ROWS = np.array([[1.0, 2.0], [-3.0, 0.5], [0.25, -4.0]])


def given(name: str, array: np.ndarray, datatype: str, binary: bool = True) -> triton.InferInput:
    tensor = triton.InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(array, binary_data=binary)
    return tensor


def expected(rows: np.ndarray, shift: float) -> np.ndarray:
    return 1 / (1 + np.exp(-(np.nansum(rows.astype(float), axis=1) - shift)))


def close(result: triton.InferResult, rows: np.ndarray) -> None:
    """The arm that the answer names has given it."""
    arm = result.get_response()["parameters"]["arm"]
    p = expected(rows, {"baseline": 0.0, "canary": 1.0}[arm])
    assert np.allclose(result.as_numpy("probabilities")[:, 1], p)
    assert (result.as_numpy("predictions") == (p > 0.5)).all()
    assert result.get_response()["model_version"] == {"baseline": "v1", "canary": "v2"}[arm]


def check_health() -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("e")
    assert client.is_model_ready("e", "v2")
    assert not client.is_model_ready("nobody")
    assert not client.is_model_ready("e", "v9")


def check_server_metadata() -> None:
    told = client.get_server_metadata()
    assert told["name"] == "modelyard"
    assert {"binary_tensor_data", "model_repository", "statistics"} <= set(told["extensions"])


def check_model_metadata() -> None:
    told = client.get_model_metadata("e")
    assert told["versions"] == ["v1", "v2"]
    assert told["inputs"] == [{"name": n, "datatype": "FP64", "shape": [-1, 1]} for n in "ab"]
    assert told["outputs"][1] == {"name": "probabilities", "datatype": "FP64", "shape": [-1, 2]}
    assert client.get_model_metadata("e", "v2")["name"] == "e"
    assert "no endpoint 'x'" in refused(lambda: client.get_model_metadata("x"), InferenceServerException)


def check_metadata_of_one_matrix_can_be_sent_as_it_is_told() -> None:
    (told,) = client.get_model_metadata("matrix")["inputs"]
    assert told["shape"] == [-1, 3]
    rows = np.eye(3)
    result = client.infer("matrix", [given(told["name"], rows, told["datatype"])])
    assert result.as_numpy("predictions").tolist() == [0, 1, 2]


def check_metadata_of_named_inputs_can_be_sent_as_it_is_told() -> None:
    told = client.get_model_metadata("texts")["inputs"]
    assert [(one["name"], one["datatype"]) for one in told] == [("colour", "BYTES"), ("n", "INT64")]


def check_model_config() -> None:
    told = client.get_model_config("e")
    assert told["max_batch_size"] > 1
    assert told["input"][0] == {"name": "a", "data_type": "TYPE_FP64", "dims": [1]}
    assert client.get_model_config("texts", "texts")["input"][0]["data_type"] == "TYPE_STRING"


def check_statistics_count_what_was_answered() -> None:
    before = {one["version"]: one for one in client.get_inference_statistics("matrix")["model_stats"]}
    client.infer("matrix", [given("input", np.eye(3), "FP64")])
    after = {one["version"]: one for one in client.get_inference_statistics("matrix")["model_stats"]}
    assert after["matrix"]["inference_count"] == before["matrix"]["inference_count"] + 1
    assert after["matrix"]["inference_stats"]["success"]["ns"] > before["matrix"]["inference_stats"]["success"]["ns"]
    assert {one["name"] for one in client.get_inference_statistics()["model_stats"]} >= {"e", "texts", "matrix"}


def check_infer_in_every_numeric_type_in_json_and_binary() -> None:
    types = ["INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64", "FP16", "FP32", "FP64"]
    kinds = dict(zip(types, ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"], strict=True))
    for datatype, dtype in kinds.items():
        rows = np.array([[1, 2], [3, 0]], dtype=dtype)
        for binary in (True, False) if datatype != "FP16" else (True,):  # the client sends FP16 as bytes only
            close(client.infer("e", [given("x", rows, datatype, binary)]), rows)


def check_bf16() -> None:
    rows = np.array([[1.5, 2.0], [-3.0, 0.5]], dtype=ml_dtypes.bfloat16)
    tensor = triton.InferInput("x", [2, 2], "BF16")
    tensor.set_data_from_numpy(rows)
    close(client.infer("e", [tensor]), rows)


def check_one_tensor_for_each_input_partly_json_partly_binary() -> None:
    a, b = ROWS[:, :1].astype("f4"), ROWS[:, 1]
    for first, second in ((True, False), (False, True), (True, True), (False, False)):
        close(client.infer("e", [given("a", a, "FP32", first), given("b", b, "FP64", second)]), ROWS)


def check_missing_numbers_go_as_nan() -> None:
    rows = np.array([[1.0, np.nan]])
    close(client.infer("e", [given("x", rows, "FP64")]), rows)


def check_texts_in_json_and_binary() -> None:
    colours = np.array(["red", "grün", ""], dtype=object)
    encoded = np.array([one.encode() for one in colours], dtype=object)
    n = np.array([1, 2, 3], dtype=np.int64)
    for binary, texts in ((True, colours), (True, encoded), (False, colours)):
        for out in (True, False):
            asked = [triton.InferRequestedOutput("predictions", binary_data=out)]
            sent = [given("colour", texts, "BYTES", binary), given("n", n, "INT64", binary)]
            found = client.infer("texts", sent, outputs=asked).as_numpy("predictions")
            assert [one.decode() if isinstance(one, bytes) else one for one in found] == ["yes", "no", "no"]


def check_requested_outputs_in_the_form_and_order_asked_for() -> None:
    asked = [
        triton.InferRequestedOutput("probabilities", binary_data=True),
        triton.InferRequestedOutput("predictions", binary_data=False),
    ]
    result = client.infer("e", [given("x", ROWS, "FP64")], outputs=asked)
    told = result.get_response()["outputs"]
    assert [one["name"] for one in told] == ["probabilities", "predictions"]
    assert "data" not in told[0]
    assert told[1]["data"] == result.as_numpy("predictions").tolist()
    close(result, ROWS)
    only = client.infer("e", [given("x", ROWS, "FP64")], outputs=asked[1:])
    assert only.as_numpy("probabilities") is None


def check_request_ids_come_back() -> None:
    assert client.infer("e", [given("x", ROWS, "FP64")], request_id="q-17").get_response()["id"] == "q-17"
    assert client.infer("e", [given("x", ROWS, "FP64")]).get_response()["id"]


def check_versions_and_headers_choose_the_arm() -> None:
    sent = [given("x", ROWS, "FP64")]
    for _ in range(8):
        assert client.infer("e", sent, model_version="v2").get_response()["model_version"] == "v2"
        header = client.infer("e", sent, headers={"X-Modelyard-Arm": "canary"})
        assert header.get_response()["parameters"] == {"arm": "canary"}
        close(header, ROWS)


def check_a_unit_stays_with_its_arm_by_header_or_parameter() -> None:
    sent = [given("x", ROWS, "FP64")]
    for unit in ("u1", "u2", "u3"):
        arms = {client.infer("e", sent, headers={"X-Unit-Id": unit}).get_response()["model_version"] for _ in range(4)}
        arms |= {client.infer("e", sent, parameters={"unit_id": unit}).get_response()["model_version"]}
        assert len(arms) == 1


def check_parameters_of_other_servers_do_no_harm() -> None:
    close(client.infer("e", [given("x", ROWS, "FP64")], priority=3, timeout=5_000_000, sequence_id=4), ROWS)


def check_a_timeout_of_the_request_is_kept() -> None:
    words = refused(lambda: client.infer("slow", [given("x", ROWS, "FP64")], timeout=50_000), InferenceServerException)
    assert "did not answer within 0.05 seconds" in words


def check_compressed_requests_are_refused_with_words_and_answers_go_uncompressed() -> None:
    for algorithm in ("gzip", "deflate"):
        words = refused(
            lambda algorithm=algorithm: client.infer(
                "e", [given("x", ROWS, "FP64")], request_compression_algorithm=algorithm
            ),
            InferenceServerException,
        )
        assert "compressed" in words
        close(client.infer("e", [given("x", ROWS, "FP64")], response_compression_algorithm=algorithm), ROWS)


def check_what_is_wrong_is_told_with_words() -> None:
    ints = np.array([[1, 2]], dtype=np.int64)
    cases = {
        "no endpoint 'nobody'": lambda: client.infer("nobody", [given("x", ROWS, "FP64")]),
        "no arm 'v9'": lambda: client.infer("e", [given("x", ROWS, "FP64")], model_version="v9"),
        "3 columns": lambda: client.infer("e", [given("x", np.eye(3), "FP64")]),
        "'b' is missing": lambda: client.infer("e", [given("a", ROWS[:, 0], "FP64")]),
        "infinite": lambda: client.infer("e", [given("x", np.array([[np.inf, 0.0]]), "FP64")]),
        "no output 'what'": lambda: client.infer(
            "e", [given("x", ROWS, "FP64")], outputs=[triton.InferRequestedOutput("what")]
        ),
        "classification": lambda: client.infer(
            "e", [given("x", ROWS, "FP64")], outputs=[triton.InferRequestedOutput("probabilities", class_count=2)]
        ),
        "0 rows": lambda: client.infer("e", [given("x", np.empty((0, 2)), "FP64")]),
        "'colour' takes BYTES": lambda: client.infer(
            "texts", [given("colour", ints[0], "INT64"), given("n", ints[0], "INT64")]
        ),
        "FloatingPointError": lambda: client.infer("bad", [given("x", np.array([[1.5, 0.0]]), "FP64")]),
    }
    for words, call in cases.items():
        assert words in (said := refused(call, InferenceServerException)), said


def check_async_infer() -> None:
    waiting = [client.async_infer("e", [given("x", ROWS, "FP64")], request_id=f"a{i}") for i in range(16)]
    for place, one in enumerate(waiting):
        result = one.get_result()
        assert result.get_response()["id"] == f"a{place}"
        close(result, ROWS)


def check_bodies_made_beforehand() -> None:
    body, length = triton.InferenceServerClient.generate_request_body([given("x", ROWS, "FP64")])
    assert json.loads(body[:length])["inputs"][0]["name"] == "x"


def check_the_repository_is_listed() -> None:
    told = {(one["name"], one["version"]): one for one in client.get_model_repository_index()}
    assert told["e", "v1"]["state"] == "READY"
    assert told["spare", "1.9.0"]["state"] == "UNAVAILABLE"


def check_models_are_loaded_and_unloaded() -> None:
    assert not client.is_model_ready("spare")
    client.load_model("spare")  # the newest, by the order of versions and not of letters
    other = triton.InferenceServerClient(HOST, concurrency=1)
    for one in (client, other):  # whichever process answers
        for _ in range(4):
            result = one.infer("spare", [given("x", ROWS, "FP64")])
            assert result.get_response()["model_version"] == "1.10.0"
            assert np.allclose(result.as_numpy("probabilities")[:, 1], expected(ROWS, 1.0))
    client.load_model("spare")
    told = {(one["name"], one["version"]): one["state"] for one in client.get_model_repository_index()}
    assert told["spare", "1.10.0"] == "READY"
    assert told["spare", "1.9.0"] == "UNAVAILABLE"
    client.unload_model("spare")
    assert not client.is_model_ready("spare")
    assert not other.is_model_ready("spare")
    client.unload_model("spare", unload_dependents=True)


def check_what_has_traffic_is_not_unloaded_and_what_is_broken_not_loaded() -> None:
    assert "endpoint" in refused(lambda: client.unload_model("e"), InferenceServerException)
    assert "endpoint" in refused(lambda: client.unload_model("m"), InferenceServerException)
    assert "the disk is gone" in refused(lambda: client.load_model("broken"), InferenceServerException)
    assert "'nobody'" in refused(lambda: client.load_model("nobody"), InferenceServerException)
    assert "'nobody'" in refused(lambda: client.unload_model("nobody"), InferenceServerException)
    assert client.is_model_ready("e")
    assert not client.is_model_ready("broken")


def check_loading_is_off_unless_the_server_was_started_for_it() -> None:
    closed = triton.InferenceServerClient(ADDRESS["closed_http"].removeprefix("http://"))
    assert closed.get_model_repository_index()
    for call in (closed.load_model, closed.unload_model):
        assert "--model-control" in refused(lambda call=call: call("spare"), InferenceServerException)


if __name__ == "__main__":
    run(globals())
