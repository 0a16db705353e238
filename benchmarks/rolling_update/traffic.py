"""Requests that come whether or not earlier ones were answered, over HTTP and gRPC, until an update is through."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final

import httpx
import numpy as np
from PIL import Image
from tritonclient.grpc.aio import InferenceServerClient, InferInput

from benchmarks.load import quantile
from benchmarks.rolling_update.model import LABELS
from benchmarks.traffic.arrivals import Poisson

LONG_S: Final = 5.0
"""Seconds that the long requests take: they are in progress when a replica is told to stop."""

DEADLINE_S: Final = 30.0
_LONG_EVERY: Final = 20
_GRPC_EVERY: Final = 5
_HORIZON_S: Final = 900.0


@dataclass(slots=True)
class Sample:
    """One request; times in seconds since the traffic began.

    Attributes:
        error: what went wrong, None for nothing.
        told: what the model said of itself, by `LABELS`.
    """

    kind: str
    due: float
    ended: float | None = None
    error: str | None = None
    told: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class Traffic:
    """Everything that was sent."""

    samples: list[Sample] = field(default_factory=list)

    def failed(self) -> list[Sample]:
        """Those without a good answer."""
        return [one for one in self.samples if one.error is not None or one.ended is None]

    def stall_s(self) -> float:
        """Longest time without any answer, of the requests that are short."""
        ends = sorted(one.ended for one in self.samples if one.ended is not None and one.kind != "long")
        return max((later - earlier for earlier, later in pairwise(ends)), default=0.0)

    def latencies(self) -> list[float]:
        """Seconds from when each short request was due, sorted."""
        return sorted(one.ended - one.due for one in self.samples if one.ended is not None and one.kind != "long")

    def p99_s(self) -> float:
        """Of `latencies`."""
        return quantile(self.latencies(), 0.99)


class Sender:
    """Sends request number n of a fixed mixture.

    Args:
        clip: the cluster has a CLIP, which is asked as often as the other model.
    """

    def __init__(self, http: httpx.AsyncClient, grpc: InferenceServerClient, *, clip: bool) -> None:
        self._http, self._grpc, self._clip = http, grpc, clip
        self._png = picture()

    def kind(self, number: int) -> str:
        """Of that request."""
        if number % _LONG_EVERY == 7:
            return "long"
        if number % _GRPC_EVERY == 3:
            return "grpc"
        return "clip" if self._clip and number % 2 else "http"

    async def send(self, kind: str) -> dict[str, int]:
        """Sends it; what the model told.

        Raises:
            RuntimeError: the answer is an error.
            httpx.HTTPError, InferenceServerException: there was none.
        """
        if kind == "grpc":
            answer = await self._grpc.infer("telling.classify", self._tensors(), client_timeout=DEADLINE_S)
            values = answer.as_numpy("PROBABILITIES")[0]
            return {label: int(value) for label, value in zip(LABELS, values, strict=True)}
        model = "clip" if kind == "clip" else "telling"
        labels = {"clip": "red,blue", "long": f"{LONG_S:g} s,{','.join(LABELS[1:])}"}.get(kind, ",".join(LABELS))
        reply = await self._http.post(
            "/v1/classify",
            params={"model": model, "labels": labels},
            content=self._png,
            headers={"content-type": "image/png"},
        )
        if not reply.is_success:
            raise RuntimeError(f"{reply.status_code} {reply.text[:200]}")
        if kind != "http":
            return {}
        scores = reply.json()["results"][0]["scores"]
        return {score["label"]: int(score["probability"]) for score in scores}

    def _tensors(self) -> list[InferInput]:
        return [_bytes("IMAGE", [self._png]), _bytes("LABELS", [label.encode() for label in LABELS])]


def picture() -> bytes:
    """A small image file."""
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(buffer, "PNG")
    return buffer.getvalue()


def _bytes(name: str, values: Sequence[bytes]) -> InferInput:
    tensor = InferInput(name, [len(values)], "BYTES")
    array: Any = np.array([*values, None], dtype=object)[:-1]
    tensor.set_data_from_numpy(array)
    return tensor


async def drive(
    http: str, grpc: str, *, clip: bool, rate_per_s: float, seed: int, enough: Callable[[int], bool]
) -> Traffic:
    """Poisson arrivals until `enough`, which is told how many were sent; then waits for what is in progress."""
    times = Poisson(rate_per_s=rate_per_s).times(_HORIZON_S, seed).tolist()
    traffic, tasks, began = Traffic(), set[asyncio.Task[None]](), time.monotonic()
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
    async with (
        httpx.AsyncClient(base_url=http, timeout=DEADLINE_S + 5, limits=limits, trust_env=False) as client,
        InferenceServerClient(grpc) as channel,
    ):
        sender = Sender(client, channel, clip=clip)
        for number, due in enumerate(times):
            if (ahead := began + due - time.monotonic()) > 0:
                await asyncio.sleep(ahead)
            if enough(number):
                break
            sample = Sample(sender.kind(number), due)
            traffic.samples.append(sample)
            task = asyncio.create_task(_one(sender, sample, began))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        if tasks:
            await asyncio.wait(set(tasks), timeout=DEADLINE_S + 10)
    return traffic


async def _one(sender: Sender, sample: Sample, began: float) -> None:
    try:
        sample.told = await sender.send(sample.kind)
    except Exception as error:  # whatever a client may meet is a failed request
        sample.error = f"{type(error).__name__}: {error}"
    sample.ended = time.monotonic() - began
