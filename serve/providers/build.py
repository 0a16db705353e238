"""The providers of a cluster file, each loaded with its SDK only if it is declared. Called in the router."""

from __future__ import annotations

import importlib
from collections.abc import Collection, Mapping

from serve.config.providers import Kind
from serve.config.providers import Provider as Settings
from serve.errors import ConfigError
from serve.providers.base import Provider
from serve.providers.prices import price_of

_CLASSES: Mapping[Kind, tuple[str, str]] = {
    "openai": ("serve.providers.openai", "OpenAIProvider"),
    "gemini": ("serve.providers.gemini", "GeminiProvider"),
    "anthropic": ("serve.providers.anthropic", "AnthropicProvider"),
    "oip": ("serve.providers.oip", "OipProvider"),
}


def build_providers(providers: Mapping[str, Settings], propagate_to: Collection[str] = ()) -> dict[str, Provider]:
    """A provider for each entry, by name. Keys are read, and connections made, at the first call.

    Args:
        propagate_to: names of those that are told of our traces.

    Raises:
        ConfigError: a model without a price, which `serve.config.load` refuses as well.
    """
    return {name: _build(name, settings, name in propagate_to) for name, settings in providers.items()}


def _build(name: str, settings: Settings, propagates: bool) -> Provider:
    price = price_of(settings)
    if price is None:
        raise ConfigError(f"providers.{name}.prices: is missing; {settings.model!r} is not in the price table")
    module, kind = _CLASSES[settings.kind]
    provider = getattr(importlib.import_module(module), kind)(name, settings, price)
    provider.propagates = propagates
    found: Provider = provider
    return found
