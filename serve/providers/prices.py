"""What providers charge: the shipped table (prices.yaml), a cluster file's own prices, and the cost of a call."""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml
from pydantic import Field, TypeAdapter

from serve.config.model_base import Section
from serve.config.providers import Kind, Provider

_TABLE = Path(__file__).with_name("prices.yaml")
_PRICED = ("openai", "gemini", "anthropic")
_SNAPSHOT = re.compile(r"-(\d{4}-\d\d-\d\d|\d{8}|latest)$")
_MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Rates:
    """US dollars for a million tokens.

    Attributes:
        cached: of the part of a prompt that the provider's cache held.
    """

    input: float
    output: float
    cached: float


@dataclass(frozen=True, slots=True)
class Price:
    """What a model's tokens cost.

    Attributes:
        above_tokens: prompts of more tokens than this are billed at `above`, all of them; None where all cost the same.
        date: when the source stated it; None for prices of the cluster file.
    """

    base: Rates
    above_tokens: int | None = None
    above: Rates | None = None
    date: datetime.date | None = None


FREE = Price(Rates(0.0, 0.0, 0.0))


def cost(price: Price, prompt_tokens: int, completion_tokens: int, cached_tokens: int = 0) -> float:
    """US dollars of one call.

    Args:
        prompt_tokens: cached ones included.
        completion_tokens: reasoning included.
        cached_tokens: of the prompt.
    """
    rates = price.base
    if price.above is not None and price.above_tokens is not None and prompt_tokens > price.above_tokens:
        rates = price.above
    cached = min(cached_tokens, prompt_tokens)
    spent = (prompt_tokens - cached) * rates.input + cached * rates.cached + completion_tokens * rates.output
    return spent / _MILLION


def price_of(settings: Provider) -> Price | None:
    """A provider's price: the cluster file's, else the table's; None when neither knows the model.

    Servers of the Open Inference Protocol charge nothing unless the file says so: they are somebody's own.
    """
    own = settings.prices
    if own is not None:
        cached = own.input_usd_per_mtok if own.cached_usd_per_mtok is None else own.cached_usd_per_mtok
        return Price(Rates(own.input_usd_per_mtok, own.output_usd_per_mtok, cached))
    if settings.kind == "oip":
        return FREE
    return table()[settings.kind].get(_without_snapshot(settings.model))


def known_models(kind: Kind) -> tuple[str, ...]:
    """The models of a kind that the table has."""
    return tuple(table().get(kind, {}))


@cache
def table() -> dict[str, dict[str, Price]]:
    """The shipped table: prices by kind of provider and model name."""
    data = yaml.safe_load(_TABLE.read_text(encoding="utf-8"))
    rows = TypeAdapter(dict[str, dict[str, _Row]]).validate_python({kind: data[kind] for kind in _PRICED})
    return {kind: {name: row.price() for name, row in models.items()} for kind, models in rows.items()}


def _without_snapshot(model: str) -> str:
    return _SNAPSHOT.sub("", model.removeprefix("models/"))


class _Rates(Section):
    input: float = Field(ge=0)
    output: float = Field(ge=0)
    cached: float | None = Field(None, ge=0)

    def rates(self) -> Rates:
        return Rates(self.input, self.output, self.input if self.cached is None else self.cached)


class _Row(_Rates):
    date: datetime.date
    above_tokens: int | None = Field(None, ge=1)
    above: _Rates | None = None

    def price(self) -> Price:
        return Price(self.rates(), self.above_tokens, None if self.above is None else self.above.rates(), self.date)
