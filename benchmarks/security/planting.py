"""A cluster that was given secrets, and servers that try to get them told: a collector of traces, and a provider that
refuses every call in words that hold the key."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from benchmarks.security.sink import Answer, Reached, Sink
from benchmarks.security.site import Planted

PROVIDER: Final = "telltale"
_PROVIDER_KEY: Final = "ARGUS_DRILL_PROVIDER"
_COLLECTOR_KEY: Final = "ARGUS_DRILL_COLLECTOR"
_REDIS_PASSWORD: Final = "ARGUS_DRILL_REDIS"
# Nobody listens there: the cluster goes on without Redis, and says so in its log.
_NO_REDIS: Final = "redis://127.0.0.1:1/0"


def refuse(request: Reached) -> Answer:
    """As a provider does that repeats what it was sent."""
    words = f"Incorrect API key provided: {request.headers.get('authorization')}. Headers: {request.headers}"
    status = 500 if b"fail" in request.body else 401
    body = {"error": {"message": words, "type": "invalid_request_error", "code": "invalid_api_key"}}
    return status, {"content-type": "application/json", "x-request-id": words[:200]}, json.dumps(body).encode()


@contextmanager
def planted(keys: Mapping[str, str]) -> Iterator[Planted]:
    """Secrets in this process's environment, which a cluster that is started now inherits.

    Args:
        keys: of the cluster's clients, by what they are.
    """
    made = {name: f"planted-{secrets.token_hex(16)}" for name in (_PROVIDER_KEY, _COLLECTOR_KEY, _REDIS_PASSWORD)}
    with Sink() as collector, Sink(refuse) as provider:
        os.environ.update(made)
        try:
            told = {
                "provider's key": _PROVIDER_KEY,
                "collector's key": _COLLECTOR_KEY,
                "Redis' password": _REDIS_PASSWORD,
            }
            yield Planted({**keys, **{what: made[name] for what, name in told.items()}}, collector, provider, PROVIDER)
        finally:
            for name in made:
                os.environ.pop(name, None)


def sections(servers: Planted) -> dict[str, Any]:
    """What the cluster file needs for it."""
    return {
        "providers": {
            PROVIDER: {
                "kind": "openai",
                "model": "gpt-4o",
                "base_url": f"{servers.provider.url}/v1",
                "api_key_env": _PROVIDER_KEY,
                "prices": {"input_usd_per_mtok": 1, "output_usd_per_mtok": 1},
            }
        },
        "tracing": {
            "endpoint": servers.collector.url,
            "sample_ratio": 1.0,
            "export_every_s": 0.5,
            "headers_env": {"authorization": _COLLECTOR_KEY},
        },
        "resilience": {"cache": {"enabled": False}, "redis": {"url": _NO_REDIS, "password_env": _REDIS_PASSWORD}},
    }
