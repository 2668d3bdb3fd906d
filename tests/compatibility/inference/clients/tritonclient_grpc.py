"""What tritonclient.grpc, unmodified, can do with a server of ours: synchronous, with callbacks, and in streams."""

from __future__ import annotations

import queue
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import tritonclient.grpc as triton
from checking import ADDRESS, refusal, refused, run
from tritonclient.utils import InferenceServerException

client = triton.InferenceServerClient(ADDRESS["grpc"])
ROWS = np.array([[1.0, 2.0], [-3.0, 0.5], [0.25, -4.0]])


def given(name: str, array: np.ndarray, datatype: str) -> triton.InferInput:
    tensor = triton.InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(array)
    return tensor


def close(result: triton.InferResult, rows: np.ndarray) -> None:
    """The arm that the answer names has given it."""
    response = result.get_response()
    arm = response.parameters["arm"].string_param
    p = 1 / (1 + np.exp(-(np.nansum(rows.astype(float), axis=1) - {"baseline": 0.0, "canary": 1.0}[arm])))
    assert np.allclose(result.as_numpy("probabilities")[:, 1], p)
    assert (result.as_numpy("predictions") == (p > 0.5)).all()
    assert response.model_version == {"baseline": "v1", "canary": "v2"}[arm]


def status(call: Callable[[], Any], code: str, words: str) -> None:
    """A call is refused with a status and words."""
    error = refusal(call, InferenceServerException)
    assert error.status() == f"StatusCode.{code}", error
    assert words in error.message(), error


def check_health() -> None:
    assert client.is_server_live()
    assert client.is_server_ready(client_timeout=60)
    assert client.is_model_ready("e")
    assert client.is_model_ready("e", "v2")
    assert not client.is_model_ready("nobody")
    assert not client.is_model_ready("e", "v9")


def check_server_metadata() -> None:
    assert client.get_server_metadata().name == "modelyard"
    assert "statistics" in client.get_server_metadata(as_json=True)["extensions"]


def check_model_metadata() -> None:
    told = client.get_model_metadata("e")
    assert list(told.versions) == ["v1", "v2"]
    assert [(one.name, one.datatype, list(one.shape)) for one in told.inputs] == [(n, "FP64", [-1, 1]) for n in "ab"]
    assert list(told.outputs[1].shape) == [-1, 2]
    status(lambda: client.get_model_metadata("x"), "NOT_FOUND", "no endpoint 'x'")


def check_model_config() -> None:
    told = client.get_model_config("texts", as_json=True)["config"]
    assert told["input"] == [
        {"name": "colour", "data_type": "TYPE_STRING", "dims": ["1"]},
        {"name": "n", "data_type": "TYPE_INT64", "dims": ["1"]},
    ]
    assert told["max_batch_size"] > 1


def check_statistics_count_what_was_answered() -> None:
    def seen() -> int:
        (one,) = client.get_inference_statistics("matrix", "matrix").model_stats
        assert one.inference_stats.success.count == one.inference_count
        return int(one.inference_count)

    before = seen()
    client.infer("matrix", [given("input", np.eye(3), "FP64")])
    assert seen() == before + 1
    assert {one.name for one in client.get_inference_statistics().model_stats} >= {"e", "texts", "matrix"}


def check_infer_in_every_numeric_type() -> None:
    types = ["INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64", "FP16", "FP32", "FP64"]
    kinds = ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"]
    for datatype, dtype in zip(types, kinds, strict=True):
        rows = np.array([[1, 2], [3, 0]], dtype=dtype)
        close(client.infer("e", [given("x", rows, datatype)]), rows)
    rows = np.array([[1.5, 2.0], [-3.0, 0.5]], dtype=ml_dtypes.bfloat16)
    close(client.infer("e", [given("x", rows, "BF16")]), rows)


def check_one_tensor_for_each_input() -> None:
    close(client.infer("e", [given("b", ROWS[:, 1:], "FP64"), given("a", ROWS[:, 0].astype("f4"), "FP32")]), ROWS)


def check_texts() -> None:
    colours = np.array(["red", "grün", ""], dtype=object)
    sent = [given("colour", colours, "BYTES"), given("n", np.array([1, 2, 3], dtype=np.int64), "INT64")]
    found = client.infer("texts", sent).as_numpy("predictions")
    assert [one.decode() for one in found] == ["yes", "no", "no"]


def check_a_matrix_that_goes_as_it_is_told() -> None:
    (told,) = client.get_model_metadata("matrix").inputs
    rows = np.eye(3)
    assert client.infer("matrix", [given(told.name, rows, told.datatype)]).as_numpy("predictions").tolist() == [0, 1, 2]


def check_requested_outputs() -> None:
    asked = [triton.InferRequestedOutput("probabilities"), triton.InferRequestedOutput("predictions")]
    result = client.infer("e", [given("x", ROWS, "FP64")], outputs=asked)
    assert [one.name for one in result.get_response().outputs] == ["probabilities", "predictions"]
    close(result, ROWS)
    assert client.infer("e", [given("x", ROWS, "FP64")], outputs=asked[1:]).as_numpy("probabilities") is None


def check_ids_parameters_versions_and_headers() -> None:
    sent = [given("x", ROWS, "FP64")]
    assert client.infer("e", sent, request_id="q-17").get_response().id == "q-17"
    for _ in range(8):
        assert client.infer("e", sent, model_version="v2").get_response().model_version == "v2"
        assert client.infer("e", sent, headers={"x-modelyard-arm": "canary"}).get_response().model_version == "v2"
    for unit in ("u1", "u2", "u3"):
        arms = {client.infer("e", sent, headers={"x-unit-id": unit}).get_response().model_version for _ in range(4)}
        arms |= {client.infer("e", sent, parameters={"unit_id": unit}).get_response().model_version}
        assert len(arms) == 1
    close(client.infer("e", sent, priority=2, timeout=5_000_000, sequence_id="s", parameters={"own": 1.5}), ROWS)


def check_compressed_requests_are_taken() -> None:
    for algorithm in ("gzip", "deflate"):
        close(client.infer("e", [given("x", ROWS, "FP64")], compression_algorithm=algorithm), ROWS)


def check_timeouts() -> None:
    sent = [given("x", ROWS, "FP64")]
    status(lambda: client.infer("slow", sent, client_timeout=0.2), "DEADLINE_EXCEEDED", "")
    status(
        lambda: client.infer("slow", sent, timeout=50_000), "DEADLINE_EXCEEDED", "did not answer within 0.05 seconds"
    )


def check_what_is_wrong_is_told_with_words() -> None:
    ints = np.array([1, 2], dtype=np.int64)
    sent = [given("x", ROWS, "FP64")]
    status(lambda: client.infer("nobody", sent), "NOT_FOUND", "no endpoint 'nobody'")
    status(lambda: client.infer("e", sent, model_version="v9"), "NOT_FOUND", "no arm 'v9'")
    status(lambda: client.infer("e", [given("x", np.eye(3), "FP64")]), "INVALID_ARGUMENT", "3 columns")
    status(lambda: client.infer("e", [given("a", ROWS[:, 0], "FP64")]), "INVALID_ARGUMENT", "'b' is missing")
    status(lambda: client.infer("e", [given("x", np.empty((0, 2)), "FP64")]), "INVALID_ARGUMENT", "0 rows")
    asked = [triton.InferRequestedOutput("probabilities", class_count=2)]
    status(lambda: client.infer("e", sent, outputs=asked), "INVALID_ARGUMENT", "classification")
    asked = [triton.InferRequestedOutput("what")]
    status(lambda: client.infer("e", sent, outputs=asked), "INVALID_ARGUMENT", "no output 'what'")
    numbers = [given("colour", ints, "INT64"), given("n", ints, "INT64")]
    status(lambda: client.infer("texts", numbers), "INVALID_ARGUMENT", "'colour' takes BYTES")
    status(lambda: client.infer("bad", [given("x", np.array([[1.5, 0.0]]), "FP64")]), "INTERNAL", "FloatingPointError")


def check_async_infer_with_a_callback() -> None:
    done: queue.Queue[tuple[object, object]] = queue.Queue()
    for place in range(16):
        client.async_infer(
            "e", [given("x", ROWS, "FP64")], lambda result, error: done.put((result, error)), request_id=f"a{place}"
        )
    ids = set()
    for _ in range(16):
        result, error = done.get(timeout=120)
        assert error is None
        close(result, ROWS)
        ids.add(result.get_response().id)
    assert ids == {f"a{place}" for place in range(16)}


def check_a_call_that_is_cancelled_harms_no_other() -> None:
    done: queue.Queue[tuple[object, object]] = queue.Queue()
    call = client.async_infer("slow", [given("x", ROWS, "FP64")], lambda result, error: done.put((result, error)))
    call.cancel()
    result, error = done.get(timeout=120)
    assert result is None
    assert "CANCELLED" in str(error)
    close(client.infer("e", [given("x", ROWS, "FP64")]), ROWS)


def check_a_stream_answers_in_order_and_goes_on_after_errors() -> None:
    done: queue.Queue[tuple[object, object]] = queue.Queue()
    with triton.InferenceServerClient(ADDRESS["grpc"]) as streaming:
        streaming.start_stream(lambda result, error: done.put((result, error)))
        for place in range(20):
            name = "nobody" if place == 7 else "e"
            streaming.async_stream_infer(
                name, [given("x", ROWS, "FP64")], request_id=f"s{place}", enable_empty_final_response=place % 2 == 0
            )
        for place in range(20):
            result, error = done.get(timeout=120)
            if place == 7:
                assert "no endpoint 'nobody'" in str(error)
                continue
            assert error is None, error
            assert result.get_response().id == f"s{place}"
            assert (result.get_response().parameters["triton_final_response"].bool_param) == (place % 2 == 0)
            close(result, ROWS)
        streaming.stop_stream()


def check_the_repository() -> None:
    told = {(one.name, one.version): one.state for one in client.get_model_repository_index().models}
    assert told["e", "v1"] == "READY"
    client.load_model("spare")
    for _ in range(4):
        with triton.InferenceServerClient(ADDRESS["grpc"]) as other:  # whichever process answers
            response = other.infer("spare", [given("x", ROWS, "FP64")]).get_response()
            assert response.model_version == "1.10.0"
    client.unload_model("spare")
    assert not client.is_model_ready("spare")
    status(lambda: client.unload_model("e"), "FAILED_PRECONDITION", "endpoint")
    status(lambda: client.load_model("nobody"), "NOT_FOUND", "'nobody'")
    status(lambda: client.load_model("broken"), "INVALID_ARGUMENT", "the disk is gone")
    closed = triton.InferenceServerClient(ADDRESS["closed_grpc"])
    status(lambda: closed.load_model("spare"), "PERMISSION_DENIED", "--model-control")


def check_what_is_not_here_is_told_as_unimplemented() -> None:
    words = refused(client.get_system_shared_memory_status, InferenceServerException)
    assert "UNIMPLEMENTED" in words
    assert "UNIMPLEMENTED" in refused(client.get_trace_settings, InferenceServerException)


if __name__ == "__main__":
    run(globals())
