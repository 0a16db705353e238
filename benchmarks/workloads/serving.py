"""A workload's cluster on this machine, with stand-ins for what others host."""

from __future__ import annotations

import base64
import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np

from benchmarks.capacity.profiles import PROBABILITIES, Distribution, shipped_profiles
from benchmarks.fake_providers.openai import FakeOpenAI
from benchmarks.fake_providers.server import KEY, Fault, in_thread
from benchmarks.servers import argus, cache_dir
from benchmarks.targets import Place
from benchmarks.workloads.pictures import note_in
from serve.errors import ConfigError


@contextmanager
def serving(name: str, place: Place) -> Iterator[tuple[str, str]]:
    """Serves what a place declares for the time of the block; gives the HTTP address and the gRPC target.

    Args:
        name: of the cluster; also of its log in the benchmarks' cache folder.

    Raises:
        Unavailable: it did not start.
        ConfigErrors: the place is not right.
    """
    place.cluster()
    content = place.content()
    with ExitStack() as stack:
        for provider in place.stand_ins:
            content["providers"][provider] |= stack.enter_context(stand_in(content["providers"][provider]["model"]))
        yield stack.enter_context(argus(name, content))


@contextmanager
def stand_in(model: str, seed: int = 0) -> Iterator[dict[str, Any]]:
    """A hosted chat model on this machine; gives the keys by which a cluster file names it.

    It takes as long as `model` does by the shipped profiles, so that what is simulated is what is measured.

    Raises:
        ConfigError: no profile knows the model.
    """
    key = cache_dir() / "stand-in-key"
    key.write_text(KEY, encoding="utf-8")
    seconds, draw = latency_of(model).seconds, random.Random(seed)

    def takes(_call: int) -> Fault:
        return Fault("slow", delay_s=float(np.interp(draw.random(), PROBABILITIES, seconds)))

    server = FakeOpenAI(label_of)
    server.always = takes
    with in_thread(server):
        yield {"base_url": server.base_url, "api_key_file": str(key)}


def latency_of(model: str) -> Distribution:
    """How long one call of a hosted model takes.

    Raises:
        ConfigError: no shipped profile knows it.
    """
    known = {name: one for hardware in shipped_profiles().values() for name, one in hardware.providers.items()}
    if model not in known:
        raise ConfigError(f"No profile knows the hosted model {model!r}; they know {', '.join(known)}", param="model")
    return known[model].latency


def label_of(body: Any) -> str:
    """What a stand-in says about a request's last picture: it sees no pixels and reads what the file says of itself."""
    parts = [
        part for message in body["messages"] if isinstance(message["content"], list) for part in message["content"]
    ]
    url: str = next(part["image_url"]["url"] for part in reversed(parts) if part["type"] == "image_url")
    return note_in(base64.b64decode(url.partition(",")[2]))
