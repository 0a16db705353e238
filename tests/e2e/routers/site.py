"""A cluster of two routers, with what its tests ask of them: providers, a collector of traces, sessions, support chat.

It stands behind the tests of router replicas, of sessions and of traces, whose settings the main cluster has not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.fake_providers import KEY as PROVIDER_KEY
from benchmarks.fake_providers import FakeOpenAI, in_thread
from benchmarks.redis_server import NotInstalled, redis_server
from tests.e2e import cluster as clusters
from tests.e2e.cluster import Cluster
from tests.support import tiny_models
from tests.support.collector import Collector

NAME = "routers"
# Each answer of the provider that costs something has four tokens, as many as it may have: a dollar buys twenty.
ANSWER, TOKENS, USD_A_TOKEN, USD = "yes it is a cat", 4, 0.0125, 1.0
# Of the models that talk. One token a byte, so that a conversation of a few sentences fills it.
CONTEXT = 1024
COLLECTOR_KEY = "collector-key-77aa"
LABELS = ("red", "blue")
_VARIABLES = {"ARGUS_E2E_COLLECTOR": COLLECTOR_KEY, "ARGUS_E2E_PROVIDER": PROVIDER_KEY}


@dataclass(frozen=True)
class Routers:
    """The cluster and what it talks to.

    Attributes:
        collector: gets the spans of clients that ask for it; who does not is not sampled.
        free, paid: what answers as the providers `gpt`, which costs nothing, and `hosted`.
        shared: there is a Redis.
    """

    cluster: Cluster
    collector: Collector
    free: FakeOpenAI
    paid: FakeOpenAI
    shared: bool


def content(folder: Path, collector: Collector, free: str, paid: str, redis_url: str | None) -> dict[str, Any]:
    """Its cluster file.

    Args:
        free, paid: addresses of the providers.
    """
    llava = {"kind": "llava", "engine": "transformers"}
    provider = {"kind": "openai", "model": "gpt-4o", "api_key_env": "ARGUS_E2E_PROVIDER"}
    resilience: dict[str, Any] = {"usd_per_day": USD}
    if redis_url is not None:
        # Late is a miss by default, which no test here is about.
        resilience["redis"] = {"url": redis_url, "timeout_ms": 1000}
    return {
        "node_pools": {"local": {"cpus": 2}},
        "router": {"replicas": 2, "num_cpus": 0.2},
        "limits": {"default_timeout_s": 60},
        "resilience": resilience,
        "tracing": {
            "endpoint": collector.endpoint,
            "sample_ratio": 0.0,
            "export_every_s": 0.2,
            "headers_env": {"authorization": "ARGUS_E2E_COLLECTOR"},
            "propagate_to": ["gpt"],
        },
        "support": {
            "knowledge": "docs",
            "chat_model": "llava",
            "escalation_model": "stronger",
            "embedding_model": "clip",
            "chunks": 2,
            "max_tokens": 16,
            # Random weights are sure of nothing, and take every message for some intent and sentiment.
            "min_confidence": 0.0,
        },
        "models": {
            "llava": {
                **llava,
                "checkpoint": str(tiny_models.llava(folder / "llava", context=CONTEXT)),
                "placement": {"num_cpus": 0.4},
            },
            "stronger": {
                **llava,
                "checkpoint": str(tiny_models.llava(folder / "stronger", seed=1, context=CONTEXT)),
                "placement": {"num_cpus": 0.3},
            },
            "clip": {"kind": "clip", "checkpoint": "demo:clip", "placement": {"num_cpus": 0.3}},
            "index": {"kind": "vector_index", "path": str(folder / "index"), "placement": {"num_cpus": 0.1}},
            "docs": {
                "kind": "knowledge_store",
                "path": str(folder / "docs"),
                "chunk_chars": 50,
                "chunk_overlap": 0,
                "placement": {"num_cpus": 0.1},
            },
            "sessions": {
                "kind": "session_store",
                "path": str(folder / "sessions"),
                "placement": {"num_cpus": 0.1},
            },
        },
        "providers": {
            "gpt": {**provider, "base_url": free, "prices": {"input_usd_per_mtok": 0, "output_usd_per_mtok": 0}},
            "hosted": {
                **provider,
                "base_url": paid,
                "prices": {"input_usd_per_mtok": 0, "output_usd_per_mtok": 1e6 * USD_A_TOKEN},
            },
        },
        "cascades": {
            "colour": {
                "answer": "label",
                "labels": list(LABELS),
                "steps": [
                    {
                        "name": "screen",
                        "use": "clip",
                        "task": "classify",
                        "accept": {"rule": "confidence", "at_least": 1.0},
                    },
                    {"name": "analyse", "use": "gpt", "task": "choose"},
                ],
            }
        },
    }


@contextmanager
def running(folder: Path) -> Iterator[Routers]:
    """The cluster for the time of the block; without Redis where none is installed."""
    with ExitStack() as stack:
        collector = stack.enter_context(Collector())
        free, paid = FakeOpenAI(answer="blue"), FakeOpenAI(ANSWER)
        stack.enter_context(in_thread(free))
        stack.enter_context(in_thread(paid))
        try:
            redis_url = stack.enter_context(redis_server(folder)).url
        except NotInstalled:
            redis_url = None
        for name, value in _VARIABLES.items():
            os.environ[name] = value
            stack.callback(os.environ.pop, name)
        made = content(folder, collector, free.base_url, paid.base_url, redis_url)
        cluster = clusters.start(NAME, made, folder)
        stack.callback(clusters.stop, cluster)
        yield Routers(cluster, collector, free, paid, redis_url is not None)
