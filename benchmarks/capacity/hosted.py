"""Profiles of hosted models: published latencies, prices from the table that serves, published limits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date

from benchmarks.capacity.profiles import Distribution, Provenance, ProviderProfile
from benchmarks.capacity.rooflines import lognormal
from serve.config.providers import Kind
from serve.errors import ConfigError
from serve.providers.prices import cost, table
from serve.providers.tokens import anthropic_image_tokens, gemini_image_tokens, openai_image_tokens

# One call as our workloads make it: a photo, a short question, a short answer.
_SIDE, _TEXT_TOKENS, _ANSWER_TOKENS = 1024, 120, 24
# Of calls that fail although within limits: an assumption, since published probes saw none in 10,000.
_FAILURES = 0.001


@dataclass(frozen=True, slots=True)
class Hosted:
    """One hosted model.

    Attributes:
        image_tokens: of a photo of so many pixels a side.
        first_s: median time to the first token.
        tokens_s: tokens a second after it.
        tail: 95th percentile over median.
        requests_per_minute: where the provider publishes it; else None: it is the account's.
        sources: of these figures.
    """

    kind: Kind
    model: str
    image_tokens: Callable[[int], int]
    first_s: float
    tokens_s: float
    tail: float
    requests_per_minute: float | None
    sources: tuple[str, ...]

    def latency(self) -> Distribution:
        """Of one call with an answer of the usual length."""
        median = self.first_s + _ANSWER_TOKENS / self.tokens_s
        return lognormal(median, self.tail * median)

    def usd(self) -> float:
        """Of one call.

        Raises:
            ConfigError: the table of prices lacks the model.
        """
        price = table()[self.kind].get(self.model)
        if price is None:
            raise ConfigError(f"serve/providers/prices.yaml: {self.kind} has no {self.model!r}", param="model")
        return cost(price, self.image_tokens(_SIDE) + _TEXT_TOKENS, _ANSWER_TOKENS)


_FIRST_TOKEN = "modelstats.ai, 2026-04-03 (probes every 5 minutes): median time to the first token {} ms"
_TAILS = (
    "jonathanwrede.de, probes of 6 APIs over 7 days (2026): P95 / P50 of the first token {}, of a smaller model of the "
    "same provider"
)
HOSTED = (
    Hosted(
        "openai",
        "gpt-4o",
        lambda side: openai_image_tokens(side, side, "auto", "gpt-4o"),
        0.758,
        74,
        1.7,
        None,
        (
            _FIRST_TOKEN.format(758),
            "coccoc.org, benchmark lab (2026-05): 74 tokens/s",
            _TAILS.format(1.7),
            "OpenAI publishes limits per account: state yours",
        ),
    ),
    Hosted(
        "gemini",
        "gemini-2.5-flash",
        lambda side: gemini_image_tokens(side, side),
        0.492,
        74.73,
        4.2,
        None,
        (
            _FIRST_TOKEN.format(492) + ", 74.73 tokens/s",
            _TAILS.format(4.2),
            "Google publishes limits per account: state yours",
        ),
    ),
    Hosted(
        "anthropic",
        "claude-sonnet-4-6",
        lambda side: anthropic_image_tokens(side, side, "claude-sonnet-4-6"),
        1.293,
        82,
        1.5,
        4000,
        (
            _FIRST_TOKEN.format("1,293"),
            "coccoc.org, benchmark lab (2026-05), Claude Sonnet 4: 82 tokens/s",
            _TAILS.format(1.5),
            "developersdigest.tech, rate limits read 2026-10-17 from platform.claude.com: Scale tier, 4,000 a minute",
        ),
    ),
    Hosted(
        "anthropic",
        "claude-haiku-4-5",
        lambda side: anthropic_image_tokens(side, side, "claude-haiku-4-5"),
        0.597,
        100,
        1.5,
        4000,
        (
            "kunalganglani.com, 5 LLM APIs (2026-03): 597 ms to the first token",
            "100 tokens/s: an assumption",
            _TAILS.format(1.5),
            "developersdigest.tech, rate limits read 2026-10-17 from platform.claude.com: Scale tier, 4,000 a minute",
        ),
    ),
)


def hosted(made: date) -> dict[str, ProviderProfile]:
    """Profiles by the provider's name of the model."""
    price = (
        f"price: serve/providers/prices.yaml, one photo of {_SIDE} x {_SIDE} pixels, {_TEXT_TOKENS} tokens of text, "
        f"{_ANSWER_TOKENS} of answer; latency without the image's upload; {_FAILURES:.1%} of calls fail (an assumption)"
    )
    return {
        one.model: ProviderProfile(
            latency=one.latency(),
            failure_share=_FAILURES,
            requests_per_minute=one.requests_per_minute,
            usd_per_call=one.usd(),
            tokens_per_call=one.image_tokens(_SIDE) + _TEXT_TOKENS + _ANSWER_TOKENS,
            provenance=Provenance(kind="estimate", date=made, sources=(*one.sources, price)),
        )
        for one in HOSTED
    }
