"""Metrics of a generating replica: what a reader of a stream feels, and what the engine turned out."""

from __future__ import annotations

import time

from ray.util.metrics import Counter, Histogram

from deployments.gauges import Gauge
from deployments.generation.messages import ChatEvent
from deployments.replica import SECONDS

# Between tokens: 1 ms is a small model on a large GPU, 1 s is a reader who has given up.
_BETWEEN_TOKENS = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0]


class GenerationMetrics:
    """Series of one model, whose name is their only label."""

    def __init__(self, model: str) -> None:
        self.first_token = Histogram(
            "argus_time_to_first_token_seconds",
            "From the engine's taking a request to its first token.",
            boundaries=list(SECONDS),
            tag_keys=("model",),
        )
        self.between_tokens = Histogram(
            "argus_inter_token_seconds",
            "Mean time between the tokens of one answer.",
            boundaries=_BETWEEN_TOKENS,
            tag_keys=("model",),
        )
        self.prompt_tokens = Counter("argus_prompt_tokens_total", "Tokens read, media included.", tag_keys=("model",))
        self.cached_tokens = Counter(
            "argus_cached_prompt_tokens_total", "Prompt tokens that a prefix cache held.", tag_keys=("model",)
        )
        self.generated_tokens = Counter("argus_generated_tokens_total", "Tokens written.", tag_keys=("model",))
        self.running = Gauge("argus_generations_in_flight", "Requests that an engine has taken.", tag_keys=("model",))
        self.deaths = Counter("argus_engine_deaths_total", "Engine processes that died.", tag_keys=("model",))
        self.now_running = 0
        for metric in (
            self.first_token,
            self.between_tokens,
            self.prompt_tokens,
            self.cached_tokens,
            self.generated_tokens,
            self.running,
            self.deaths,
        ):
            metric.set_default_tags({"model": model})

    def engine_died(self) -> None:
        """An engine's process is gone."""
        self.deaths.inc()

    def watch(self) -> Watch:
        """Follows one request from here on."""
        return Watch(self)


class Watch:
    """One request's events, reported when it is over: a call into Ray for every token would cost more than it says."""

    def __init__(self, metrics: GenerationMetrics) -> None:
        self._metrics = metrics
        self._started = time.monotonic()
        self._first: float | None = None
        self._last = self._started
        self._tokens = 0
        self._prompt = 0
        self._cached = 0
        self._reasons: list[str] = []
        metrics.now_running += 1
        metrics.running.set(metrics.now_running)

    def event(self, event: ChatEvent) -> None:
        """Takes in the next event."""
        if event.token_ids:
            self._last = time.monotonic()
            if self._first is None:
                self._first = self._last
        self._tokens += len(event.token_ids)
        self._prompt, self._cached = event.prompt_tokens, event.cached_tokens
        if event.finish_reason is not None:
            self._reasons.append(event.finish_reason)

    def attributes(self) -> dict[str, str | int | float | list[str]]:
        """What a span says of it, in the words of OpenTelemetry's conventions for generative AI."""
        said: dict[str, str | int | float | list[str]] = {
            "gen_ai.operation.name": "chat",
            "gen_ai.usage.input_tokens": self._prompt,
            "gen_ai.usage.cache_read.input_tokens": self._cached,
            "gen_ai.usage.output_tokens": self._tokens,
            "gen_ai.response.finish_reasons": self._reasons,
        }
        if self._first is not None:
            said["gen_ai.response.time_to_first_chunk"] = self._first - self._started
        return said

    def close(self) -> None:
        """The request is over, however it ended."""
        metrics = self._metrics
        metrics.now_running -= 1
        metrics.running.set(metrics.now_running)
        if self._first is None:
            return
        metrics.first_token.observe(self._first - self._started)
        if self._tokens > 1:
            metrics.between_tokens.observe((self._last - self._first) / (self._tokens - 1))
        metrics.generated_tokens.inc(self._tokens)
        for counter, count in ((metrics.prompt_tokens, self._prompt), (metrics.cached_tokens, self._cached)):
            if count:
                counter.inc(count)
