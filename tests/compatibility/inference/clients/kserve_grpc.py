"""What KServe's InferenceGRPCClient, unmodified, can do with a server of ours."""

from __future__ import annotations

import asyncio

import grpc
import numpy as np
from checking import ADDRESS, failed, run
from kserve import InferenceGRPCClient, InferInput, InferRequest
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub

ROWS = np.array([[1.0, 2.0], [-3.0, 0.5]])
P = 1 / (1 + np.exp(-ROWS.sum(axis=1)))
PIN = (("x-modelyard-arm", "baseline"),)


def asking(binary: bool, name: str = "e", **more: object) -> InferRequest:
    tensor = InferInput(name="x", shape=list(ROWS.shape), datatype="FP64")
    tensor.set_data_from_numpy(ROWS, binary_data=binary)
    return InferRequest(model_name=name, infer_inputs=[tensor], **more)


async def check_health() -> None:
    async with InferenceGRPCClient(ADDRESS["grpc"]) as client:
        assert await client.is_server_live() is True
        assert await client.is_server_ready() is True
        assert await client.is_model_ready("e") is True
        assert await client.is_model_ready("nobody") is False


async def check_infer_with_typed_and_with_raw_contents() -> None:
    async with InferenceGRPCClient(ADDRESS["grpc"]) as client:
        for binary in (True, False):
            result = await client.infer(asking(binary, request_id="q-5"), headers=PIN)
            assert (result.id, result.model_name, result.model_version) == ("q-5", "e", "v1")
            found = {output.name: output.as_numpy() for output in result.outputs}
            assert np.allclose(found["probabilities"][:, 1], P)
            assert found["predictions"].tolist() == [1, 0]


async def check_texts() -> None:
    async with InferenceGRPCClient(ADDRESS["grpc"]) as client:
        for binary in (True, False):
            colour = InferInput(name="colour", shape=[2], datatype="BYTES")
            colour.set_data_from_numpy(np.array([b"red", "grün".encode()], dtype=object), binary_data=binary)
            n = InferInput(name="n", shape=[2], datatype="INT64")
            n.set_data_from_numpy(np.array([1, 2]), binary_data=binary)
            result = await client.infer(InferRequest("texts", [colour, n]))
            found = result.outputs[0].as_numpy().tolist()
            assert [each.decode() if isinstance(each, bytes) else each for each in found] == ["yes", "no"]


async def check_many_at_once() -> None:
    async with InferenceGRPCClient(ADDRESS["grpc"]) as client:
        asked = [client.infer(asking(i % 2 == 0, request_id=f"q{i}")) for i in range(32)]
        assert [result.id for result in await asyncio.gather(*asked)] == [f"q{i}" for i in range(32)]


async def check_what_is_wrong_is_told_with_words() -> None:
    cases = {
        "nobody": (grpc.StatusCode.NOT_FOUND, "no endpoint 'nobody'"),
        "matrix": (grpc.StatusCode.INVALID_ARGUMENT, "2 columns"),
        "slow": (grpc.StatusCode.DEADLINE_EXCEEDED, ""),
    }
    async with InferenceGRPCClient(ADDRESS["grpc"]) as client:
        for name, (code, words) in cases.items():
            call = client.infer(asking(False, name), timeout=0.3 if name == "slow" else 20)
            error = await failed(call, grpc.RpcError)
            assert error.code() == code, error
            assert words in error.details(), error


async def check_the_repository_by_kserves_own_messages() -> None:
    async with grpc.aio.insecure_channel(ADDRESS["grpc"]) as channel:
        stub = GRPCInferenceServiceStub(channel)
        loaded = await stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="spare"))
        assert (loaded.model_name, loaded.isLoaded) == ("spare", True)
        assert (await stub.ModelReady(pb.ModelReadyRequest(name="spare"))).ready
        told = await stub.ModelMetadata(pb.ModelMetadataRequest(name="spare"))
        assert list(told.versions) == ["1.10.0"]
        unloaded = await stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name="spare"))
        assert (unloaded.model_name, unloaded.isUnloaded) == ("spare", True)
        assert not (await stub.ModelReady(pb.ModelReadyRequest(name="spare"))).ready
        assert (await stub.ServerMetadata(pb.ServerMetadataRequest())).name == "modelyard"


if __name__ == "__main__":
    run(globals())
