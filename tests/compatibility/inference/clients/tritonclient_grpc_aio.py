"""What tritonclient.grpc.aio, unmodified, can do with a server of ours."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import tritonclient.grpc.aio as triton
from checking import ADDRESS, run

ROWS = np.array([[1.0, 2.0], [-3.0, 0.5]])
P = 1 / (1 + np.exp(-ROWS.sum(axis=1)))


def given() -> triton.InferInput:
    tensor = triton.InferInput("x", list(ROWS.shape), "FP64")
    tensor.set_data_from_numpy(ROWS)
    return tensor


async def check_health_and_metadata() -> None:
    async with triton.InferenceServerClient(ADDRESS["grpc"]) as client:
        assert await client.is_server_live()
        assert await client.is_server_ready()
        assert await client.is_model_ready("e", "v1")
        assert (await client.get_server_metadata()).name == "modelyard"
        assert list((await client.get_model_metadata("e")).versions) == ["v1", "v2"]
        assert (await client.get_model_config("e")).config.name == "e"
        assert (await client.get_inference_statistics("e")).model_stats
        assert (await client.get_model_repository_index()).models


async def check_many_calls_at_once() -> None:
    async with triton.InferenceServerClient(ADDRESS["grpc"]) as client:
        asked = [client.infer("e", [given()], request_id=f"q{i}", model_version="v1") for i in range(64)]
        for place, result in enumerate(await asyncio.gather(*asked)):
            assert result.get_response().id == f"q{place}"
            assert np.allclose(result.as_numpy("probabilities")[:, 1], P)


async def check_a_stream() -> None:
    async def asking() -> AsyncIterator[dict[str, Any]]:
        for place in range(10):
            name = "nobody" if place == 4 else "e"
            yield {"model_name": name, "inputs": [given()], "request_id": f"s{place}", "model_version": "v1"}

    async with triton.InferenceServerClient(ADDRESS["grpc"]) as client:
        place = 0
        async for result, error in client.stream_infer(asking()):
            if place == 4:
                assert "nobody" in str(error)
            else:
                assert error is None
                assert result.get_response().id == f"s{place}"
                assert np.allclose(result.as_numpy("probabilities")[:, 1], P)
            place += 1
        assert place == 10


if __name__ == "__main__":
    run(globals())
