"""Hostile or odd gRPC messages: shapes, names and RPCs that no array, header or server has."""

from __future__ import annotations

import importlib
from typing import Any
from unittest.mock import Mock

import grpc.aio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from serve.config.cluster import Limits
from serve.errors import ArgusError
from serve.loopback import refuse_taken
from serve.protocol.grpc_server import bound_messages
from serve.protocol.oip_messages import from_message
from serve.protocol.tensors import array_from_bytes
from serve.runtime.ingress import free_ports
from tests.unit.fakes import Site
from tests.unit.test_oip_grpc import PNG, Context, failed, inference, skin_of

LIMITS = Limits()


async def test_a_port_of_another_cluster_is_not_shared_with_it() -> None:
    """gRPC sets SO_REUSEPORT, so that binding alone would succeed and each cluster answer for the other."""
    other, second = grpc.aio.server(), grpc.aio.server()
    port = other.add_insecure_port("127.0.0.1:0")
    await other.start()
    try:
        assert second.add_insecure_port(f"127.0.0.1:{port}") == port, "the trap"
        with pytest.raises(RuntimeError, match="is taken"):
            refuse_taken(f"127.0.0.1:{port}")
    finally:
        await other.stop(None)
    refuse_taken(f"127.0.0.1:{free_ports(1)[0]}")


async def test_a_message_that_is_too_large_is_refused_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """By Ray Serve's own server, whose bound is 2 GiB otherwise."""
    grpc_util: Any = importlib.import_module("ray.serve._private.grpc_util")
    monkeypatch.setattr(grpc_util, "DEFAULT_GRPC_SERVER_OPTIONS", list(grpc_util.DEFAULT_GRPC_SERVER_OPTIONS))
    bound_messages(1000)
    read: list[int] = []

    def factory(**_: Any) -> Any:
        async def answer(request: Any, context: Any) -> bytes:
            read.append(request.ByteSize())
            return b""

        return answer

    server = grpc_util.gRPCGenericServer(factory)
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Mock(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call: Any = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
            await call(pb.ModelInferRequest(raw_input_contents=[bytes(1100)]).SerializeToString())
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(pb.ModelInferRequest(raw_input_contents=[bytes(2000)]).SerializeToString())
    finally:
        await server.stop(None)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert len(read) == 1, "the first is ours to refuse"


@given(st.lists(st.integers(-2, 2**63 - 1) | st.just(0), max_size=70))
def test_a_shape_of_anything(shape: list[int]) -> None:
    try:
        assert array_from_bytes("X", "FP32", shape, b"").shape == tuple(shape)
    except ArgusError as error:
        assert error.status == 400


@pytest.mark.parametrize("shape", [[1] * 65, [0, 2**62, 2**62]])
def test_a_shape_that_no_array_can_have(shape: list[int]) -> None:
    message = pb.ModelInferRequest(raw_input_contents=[b"" if 0 in shape else b"\0\0\0\0"])
    message.inputs.add(name="A", datatype="FP32", shape=shape)
    with pytest.raises(ArgusError):
        from_message(message, LIMITS)


@pytest.mark.parametrize("name", ["IMA\nGE", "IMA\x00GE", "a" * 20_000])
async def test_trailers_stay_within_what_grpc_sends(name: str) -> None:
    """A newline makes the metadata illegal, and 20 000 characters exceed the 8 KiB of headers that clients accept."""
    skin = skin_of(Site())
    message = pb.ModelInferRequest(model_name="clip.classify", raw_input_contents=[b"x"])
    message.inputs.add(name=name, datatype="BF16", shape=[1])
    context = await failed(skin, message)  # `Context` checks that values are printable
    assert sum(len(key) + len(value) for key, value in context.trailers.items()) < 2000
    assert len(context.details or "") < 2000


async def test_long_details_are_cut() -> None:
    skin = skin_of(Site())
    message = inference(IMAGE=[PNG], LABELS=[b"a"])
    message.inputs[1].shape[:] = [1] * 5000 + [2]
    context = await failed(skin, message)
    assert len(context.details or "") < 2000


@pytest.mark.parametrize("rpc", ["ModelConfig", "RepositoryIndex", "SystemSharedMemoryRegister", "TraceSetting"])
async def test_an_rpc_not_offered_still_answers_a_message(rpc: str) -> None:
    """Ray Serve's replica calls SerializeToString on whatever an RPC returns."""
    reply: Any = await getattr(skin_of(Site()), rpc)(None, Context())
    assert reply.SerializeToString() == b""
