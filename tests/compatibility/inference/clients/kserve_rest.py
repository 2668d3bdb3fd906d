"""What KServe's InferenceRESTClient, unmodified, can do with a server of ours."""

from __future__ import annotations

import asyncio

import httpx
import numpy as np
from checking import ADDRESS, failed, run
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.protocol.infer_type import RequestedOutput

URL = ADDRESS["http"]
ROWS = np.array([[1.0, 2.0], [-3.0, 0.5]])
P = 1 / (1 + np.exp(-ROWS.sum(axis=1)))


def asking(binary: bool, name: str = "e", outputs: list[RequestedOutput] | None = None, **more: object) -> InferRequest:
    tensor = InferInput(name="x", shape=list(ROWS.shape), datatype="FP64")
    tensor.set_data_from_numpy(ROWS, binary_data=binary)
    return InferRequest(model_name=name, infer_inputs=[tensor], request_outputs=outputs, **more)


def client() -> InferenceRESTClient:
    return InferenceRESTClient(RESTConfig(protocol="v2", retries=0, timeout=120))


PIN = {"x-modelyard-arm": "baseline"}


async def check_health() -> None:
    async with client() as one:
        assert await one.is_server_live(URL) is True
        assert await one.is_server_ready(URL) is True
        assert await one.is_model_ready(URL, "e") is True
        assert await one.is_model_ready(URL, "nobody") is False


async def check_infer_in_json_and_binary() -> None:
    async with client() as one:
        for binary in (True, False):
            told: dict[str, str] = {}
            sent = asking(binary, request_id="q-5")
            result = await one.infer(URL, sent, model_name="e", headers=dict(PIN), response_headers=told)
            assert (result.id, result.model_name) == ("q-5", "e")  # it reads no version
            found = {output.name: output for output in result.outputs}
            assert np.allclose(found["probabilities"].as_numpy()[:, 1], P)
            assert found["predictions"].as_numpy().tolist() == [1, 0]
            assert told["x-modelyard-arm"] == "baseline"


async def check_outputs_in_the_form_asked_for() -> None:
    async with client() as one:
        for binary in (True, False):
            wanted = [RequestedOutput("probabilities", {"binary_data": binary})]
            result = await one.infer(URL, asking(True, outputs=wanted), model_name="e", headers=dict(PIN))
            (only,) = result.outputs
            assert np.allclose(only.as_numpy()[:, 1], P)


async def check_a_plain_mapping() -> None:
    async with client() as one:
        data = {"inputs": [{"name": "x", "shape": [2, 2], "datatype": "FP64", "data": ROWS.tolist()}]}
        result = await one.infer(URL, data, model_name="e", headers=dict(PIN))
        assert np.allclose(result.outputs[1].as_numpy()[:, 1], P)


async def check_texts() -> None:
    async with client() as one:
        for binary in (True, False):
            colour = InferInput(name="colour", shape=[2], datatype="BYTES")
            colour.set_data_from_numpy(np.array(["red", "grün"], dtype=object), binary_data=binary)
            n = InferInput(name="n", shape=[2], datatype="INT64")
            n.set_data_from_numpy(np.array([1, 2]), binary_data=binary)
            result = await one.infer(URL, InferRequest("texts", [colour, n]), model_name="texts")
            found = result.outputs[0].as_numpy().tolist()
            assert [each.decode() if isinstance(each, bytes) else each for each in found] == ["yes", "no"]


async def check_many_at_once() -> None:
    async with client() as one:
        asked = [one.infer(URL, asking(i % 2 == 0, request_id=f"q{i}"), model_name="e") for i in range(32)]
        assert [result.id for result in await asyncio.gather(*asked)] == [f"q{i}" for i in range(32)]


async def check_what_is_wrong_is_told_with_words() -> None:
    async with client() as one:
        for name, words in (("nobody", "no endpoint 'nobody'"), ("matrix", "2 columns")):
            error = await failed(one.infer(URL, asking(False, name), model_name=name), httpx.HTTPStatusError)
            assert words in str(error), error


if __name__ == "__main__":
    run(globals())
