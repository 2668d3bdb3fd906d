"""What tritonclient.http.aio, unmodified, can do with a server of ours."""

from __future__ import annotations

import asyncio

import numpy as np
import tritonclient.http.aio as triton
from checking import ADDRESS, run

HOST = ADDRESS["http"].removeprefix("http://")
ROWS = np.array([[1.0, 2.0], [-3.0, 0.5]])


def given(binary: bool) -> triton.InferInput:
    tensor = triton.InferInput("x", list(ROWS.shape), "FP64")
    tensor.set_data_from_numpy(ROWS, binary_data=binary)
    return tensor


async def check_health_and_metadata() -> None:
    async with triton.InferenceServerClient(HOST) as client:
        assert await client.is_server_live()
        assert await client.is_server_ready()
        assert await client.is_model_ready("e", "v1")
        assert not await client.is_model_ready("nobody")
        assert (await client.get_server_metadata())["name"] == "modelyard"
        assert (await client.get_model_metadata("e"))["versions"] == ["v1", "v2"]
        assert (await client.get_model_config("e"))["name"] == "e"
        assert (await client.get_inference_statistics("e"))["model_stats"]
        assert await client.get_model_repository_index()


async def check_many_requests_at_once() -> None:
    async with triton.InferenceServerClient(HOST) as client:
        asked = [client.infer("e", [given(i % 2 == 0)], request_id=f"q{i}", model_version="v1") for i in range(64)]
        p = 1 / (1 + np.exp(-ROWS.sum(axis=1)))
        for place, result in enumerate(await asyncio.gather(*asked)):
            assert result.get_response()["id"] == f"q{place}"
            assert np.allclose(result.as_numpy("probabilities")[:, 1], p)


async def check_one_that_is_given_up_harms_no_other() -> None:
    async with triton.InferenceServerClient(HOST) as client:
        slow = asyncio.create_task(client.infer("slow", [given(True)]))
        await asyncio.sleep(0.1)
        slow.cancel()
        assert (await client.infer("e", [given(True)])).as_numpy("predictions").shape == (2,)


if __name__ == "__main__":
    run(globals())
