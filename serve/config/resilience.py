"""The `resilience` section of a cluster file: caches, budgets and limits of the calls that the router makes.

What suits a model of ours does not suit one that others host. Settings that differ are left open here (`None`) and
closed by `serve.resilience.settings`.
"""

from __future__ import annotations

from pydantic import Field, model_validator

from serve.config.model_base import Name, Section

MIB = 1024 * 1024


class Cache(Section):
    """Answers kept for the same question; only what was decoded greedily (temperature 0) is kept."""

    enabled: bool = Field(True, description="Whether answers are kept at all.")
    max_bytes: int = Field(64 * MIB, ge=0, description="Most bytes of answers in memory, in each router replica.")
    ttl_s: float = Field(300, gt=0, description="Seconds for which an answer is kept.")
    error_ttl_s: float = Field(
        10, ge=0, description="Seconds for which a refusal or a prompt that is too long is remembered; 0 for never."
    )


class Redis(Section):
    """A Redis server that router replicas share; when it fails or is slow, each replica goes on by itself."""

    url: str = Field(
        pattern=r"^(redis|rediss|unix)://[^@]+$",
        description="redis://HOST:PORT/DB, rediss:// or unix://, without a password.",
    )
    password_env: str | None = Field(
        None, pattern=r"^[A-Z_][A-Z0-9_]*$", description="Environment variable that holds the password."
    )
    timeout_ms: float = Field(25, gt=0, le=1000, description="Longest that a request waits for Redis, in milliseconds.")


class Breaker(Section):
    """When a model or provider that keeps failing is left alone for a while."""

    enabled: bool = Field(True, description="Whether there is a breaker.")
    window_s: float = Field(30, gt=0, description="Seconds of calls that are judged.")
    min_calls: int = Field(10, ge=1, description="Fewest calls in the window before it can open.")
    failure_rate: float = Field(0.5, gt=0, le=1, description="Share of failed calls at which it opens.")
    failures_in_a_row: int = Field(5, ge=1, description="Failures without a success between them at which it opens.")
    slow_call_s: float | None = Field(None, gt=0, description="Seconds from which a call is slow; none: never.")
    slow_rate: float = Field(0.8, gt=0, le=1, description="Share of slow calls at which it opens.")
    open_s: float = Field(10, gt=0, description="Seconds that it stays open before calls probe the target again.")
    probes: int = Field(2, ge=1, description="Calls that probe at a time; as many successes close it.")
    max_cool_down_s: float = Field(
        60, ge=0, description="Longest rest after a 429, whose Retry-After is kept up to this; 0 for no rest."
    )
    only_with_fallback: bool | None = Field(
        None, description="An open breaker lets calls pass that have no other way to go. Default: for models of ours."
    )


class Hedge(Section):
    """A second call beside one that is late; only where two calls do no harm."""

    enabled: bool | None = Field(None, description="Whether late calls are hedged. Default: for providers.")
    quantile: float = Field(0.95, gt=0.5, lt=1, description="Quantile of measured times after which a call is late.")
    max_extra: float = Field(0.05, gt=0, le=0.5, description="Most hedges as a share of calls.")
    min_samples: int = Field(30, ge=10, description="Times measured before the first hedge.")


class Retries(Section):
    """Further attempts after a failure, with full jitter, kept from making an overload worse."""

    attempts: int = Field(4, ge=1, le=10, description="Most attempts of one call.")
    first_pause_s: float = Field(0.1, ge=0, description="Longest pause before the second attempt; doubles with each.")
    max_pause_s: float = Field(2, ge=0, description="Longest pause, above what the target asked for.")
    budget: float = Field(0.2, ge=0, le=1, description="Most retries as a share of calls.")
    floor_per_s: float | None = Field(
        None, ge=0, description="Retries a second that are always allowed. Default: 1 for providers, 20 for models."
    )


class Concurrency(Section):
    """How many calls a router replica has in progress at once: found by their times (Netflix's Gradient2)."""

    enabled: bool = Field(True, description="Whether calls are limited.")
    min_limit: int | None = Field(
        None,
        ge=1,
        description="Least limit. Default: 2 for providers; for models two batches for each of their fewest replicas.",
    )
    initial_limit: int | None = Field(
        None, ge=1, description="First limit. Default: 20 for providers; for models their least limit."
    )
    max_limit: int | None = Field(
        None,
        ge=1,
        description="Greatest limit. Default: 256 for providers; for models two batches for each replica there may be.",
    )
    max_waiting: int = Field(256, ge=0, description="Most calls that wait for a place; the least important is refused.")

    @model_validator(mode="after")
    def _ordered(self) -> Concurrency:
        given = [limit for limit in (self.min_limit, self.initial_limit, self.max_limit) if limit is not None]
        if given != sorted(given):
            raise ValueError(f"got limits {given}; they must not fall from min_limit over initial_limit to max_limit")
        return self


class Target(Section):
    """How one model or provider is called. What is left out has its default."""

    attempt_timeout_s: float = Field(60, gt=0, description="Longest that one attempt may last.")
    patience: float = Field(
        2.0,
        ge=1,
        description="With a fallback, an attempt may last this many times the measured P95 (of 30 calls or more).",
    )
    requests_per_minute: int | None = Field(None, ge=1, description="Most calls a minute; unlimited when left out.")
    tokens_per_minute: int | None = Field(
        None, ge=1, description="Most tokens a minute, prompts and answers together; unlimited when left out."
    )
    cache: bool | None = Field(
        None,
        description="Whether its answers are kept. Default: where text is written; an encoder's pass costs little more "
        "than the digest of its image.",
    )
    breaker: Breaker = Field(Breaker(), description="When it is left alone.")
    hedge: Hedge = Field(Hedge(), description="Second calls beside late ones.")
    retries: Retries = Field(Retries(), description="Further attempts.")
    concurrency: Concurrency = Field(Concurrency(), description="Calls in progress.")


class Resilience(Section):
    """How calls to models and providers are kept within bounds."""

    cache: Cache = Field(Cache(), description="Answers kept for the same question.")
    redis: Redis | None = Field(None, description="Shares cache, budgets and rates between router replicas.")
    usd_per_day: float | None = Field(
        None, gt=0, description="Most money for providers a day (UTC) by all together, in US dollars."
    )
    targets: dict[Name, Target] = Field({}, description="Settings of a model or provider, by its name.")
