"""Asks the steps of a cascade about samples, exactly as the cascade would, several at a time."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from deployments.generation.messages import ImagePart, Message
from deployments.messages import ClassifyResult, EncodedImage
from serve.calibration.samples import Sample
from serve.calibration.temperature import NO_LABEL, Float64, Int64
from serve.calls import Questions, Usage
from serve.cascade.steps import StepCaller, Taken
from serve.cascade.types import Asked
from serve.config.cascades import Cascade, CascadeStep
from serve.config.cluster import ClusterFile
from serve.context import RequestContext
from serve.errors import ArgusError, ConfigError, InvalidOutput
from serve.services import image_limits

_CONCURRENCY = 16
_TIMEOUT_S = 120.0

T = TypeVar("T")
#: Told of each answer.
Tick = Callable[[], None]


@dataclass(slots=True)
class Spent:
    """What calls have cost so far."""

    calls: int = 0
    seconds: float = 0.0
    usage: Usage = field(default_factory=Usage)

    def add(self, taken: Taken) -> None:
        """One call more."""
        self.calls += 1
        self.seconds += taken.called.seconds
        self.usage += taken.called.usage


class Asker:
    """Asks about samples.

    Args:
        cluster: with paths as `load_file` leaves them.
        cascade: whose labels and templates are asked with.
        samples: numbered by their place.
    """

    def __init__(self, cluster: ClusterFile, cascade: Cascade, calls: Questions, samples: Sequence[Sample]) -> None:
        # A step's own calibration must not colour what the new one is made of; logits are free of it anyway.
        self._caller = StepCaller(
            cluster, cascade.model_copy(update={"calibration": None}), calls, image_limits(cluster)
        )
        self._labels = cascade.labels
        self._samples = samples

    async def logits(self, step: CascadeStep, tick: Tick) -> tuple[Float64, float]:
        """(samples, labels) logits of a classifying step, and the temperature that its model serves with.

        Raises:
            ConfigError: a sample's image is refused; the message names it.
        """
        served = 1.0

        async def one(number: int) -> tuple[float, ...]:
            nonlocal served
            taken = await self._ask(step, number)
            if isinstance(taken.called.value, ClassifyResult):
                served = taken.called.value.temperature
            assert taken.answer.logits is not None
            return taken.answer.logits

        rows = await _spread(one, range(len(self._samples)), tick)
        return np.array(rows, np.float64), served

    async def labels(self, step: CascadeStep, numbers: Sequence[int], spent: Spent, tick: Tick) -> Int64:
        """The label's number that a step answers for each sample; `NO_LABEL` for an answer that is none of them.

        Raises:
            ConfigError: see `logits`.
        """

        async def one(number: int) -> int:
            try:
                taken = await self._ask(step, number)
            except InvalidOutput:
                return NO_LABEL
            spent.add(taken)
            return self._labels.index(taken.answer.value)

        return np.array(await _spread(one, numbers, tick), np.int64)

    async def _ask(self, step: CascadeStep, number: int) -> Taken:
        sample = self._samples[number]
        asked = Asked((Message("user", (ImagePart(EncodedImage(sample.read())),)),))
        context = RequestContext(secrets.token_hex(16), "calibration", time.monotonic() + _TIMEOUT_S)
        try:
            return await self._caller.ask(step, step.use, asked, context, None, fallback=False)
        except InvalidOutput:
            raise
        except ArgusError as error:
            raise ConfigError(f"{sample.where}: {error.message}", param="data") from None


def given_labels(samples: Sequence[Sample], labels: Sequence[str]) -> Int64:
    """The number of each sample's own label.

    Raises:
        ConfigError: a sample has none, or one that is none of the cascade's.
    """
    numbers = {label: number for number, label in enumerate(labels)}
    for sample in samples:
        if sample.label not in numbers:
            said = "has no label" if sample.label is None else f"has the label {sample.label!r}"
            raise ConfigError(f"{sample.where}: {said}; it must be one of {', '.join(labels)}", param="data")
    return np.array([numbers[sample.label or ""] for sample in samples], np.int64)


async def _spread(one: Callable[[int], Awaitable[T]], numbers: Sequence[int], tick: Tick) -> list[T]:
    """`one` of every number, in their order, so many at a time; the first error ends all."""
    places = asyncio.Semaphore(_CONCURRENCY)

    async def bounded(number: int) -> T:
        async with places:
            found = await one(int(number))
        tick()
        return found

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(bounded(number)) for number in numbers]
    return [task.result() for task in tasks]
