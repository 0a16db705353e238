"""What is wrong with the `providers` of a cluster file that its types cannot say, and what is worth a note."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from difflib import get_close_matches

from serve.config.cluster import ClusterFile
from serve.providers.prices import known_models, price_of


def provider_problems(cluster: ClusterFile) -> Iterator[str]:
    """A model whose price nobody knows would be outside every budget."""
    for name, provider in cluster.providers.items():
        if price_of(provider) is None:
            close = get_close_matches(provider.model, known_models(provider.kind), n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            yield (
                f"providers.{name}.prices: is missing; the price table does not know {provider.model!r}{hint}: state "
                "input_usd_per_mtok and output_usd_per_mtok, 0 where nothing is charged"
            )


def provider_notes(cluster: ClusterFile, environment: Mapping[str, str] = os.environ) -> Iterator[str]:
    """Keys that are not there on this machine; they may well be where the router runs."""
    for name, provider in cluster.providers.items():
        if provider.api_key_env is not None and not environment.get(provider.api_key_env):
            yield f"providers.{name}.api_key_env: {provider.api_key_env} is not set here; the router needs it"
        elif provider.api_key_env is None and provider.api_key_file is None and provider.base_url is None:
            yield f"providers.{name}: has neither api_key_env nor api_key_file; the provider will refuse its calls"
