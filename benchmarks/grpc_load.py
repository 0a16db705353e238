"""Driving the Open Inference Protocol over gRPC with tritonclient, from one asyncio process."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tritonclient.grpc.aio import InferenceServerClient, InferInput

from benchmarks.load import Call, closed_loop, quantile
from benchmarks.wrk import Load


def infer(
    target: str,
    model: str,
    files: Sequence[Path],
    shape: tuple[int, ...],
    *,
    connections: int,
    seconds: float,
    warm_up_s: float,
) -> Load:
    """Sends `files` in turn as IMAGE tensors of one element; `connections` calls in progress over one channel.

    Args:
        shape: of the tensor; Triton's dynamic batcher wants a batch axis in front.
    """
    return asyncio.run(_infer(target, model, files, shape, connections, seconds, warm_up_s))


async def _infer(
    target: str,
    model: str,
    files: Sequence[Path],
    shape: tuple[int, ...],
    connections: int,
    seconds: float,
    warm_up_s: float,
) -> Load:
    inputs = [_image(path.read_bytes(), shape) for path in files]
    async with InferenceServerClient(target) as client:
        call = _call(client, model, inputs)
        run = await closed_loop(call, connections=connections, warm_up_s=warm_up_s, seconds=seconds)
    latencies = run.latencies()
    return Load(
        run.slope_per_s(),
        quantile(latencies, 0.50),
        quantile(latencies, 0.99),
        len(run.samples),
        sum(run.errors().values()),
    )


def _call(client: InferenceServerClient, model: str, inputs: Sequence[InferInput]) -> Call:
    async def call(number: int) -> None:
        await client.infer(model, [inputs[number % len(inputs)]])

    return call


def _image(data: bytes, shape: tuple[int, ...]) -> InferInput:
    tensor = InferInput("IMAGE", list(shape), "BYTES")
    tensor.set_data_from_numpy(np.array([data], dtype=object).reshape(shape))
    return tensor
