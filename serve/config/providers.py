"""The `providers` section of a cluster file: models that others host, and what is known of their prices.

How a provider is called (timeouts, rates, concurrency, breaker) stands in `resilience.targets`, as for our own models.
"""

from __future__ import annotations

import re
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from serve.config.model_base import Section

Kind = Literal["openai", "gemini", "anthropic", "oip"]

# Of OpenAI and Anthropic: the models that reason take no temperature (they answer 400). Others take one.
_FIXED_SAMPLING = re.compile(
    r"o\d|gpt-([5-9]|\d\d)|claude-(opus-4-[7-9]|(opus|sonnet|haiku|fable|mythos)-([5-9]|\d\d)|mythos)"
)


class ImagePreparation(Section):
    """What is done to images before they are sent, since every pixel is paid for."""

    max_side: int = Field(2048, ge=64, le=16_384, description="Longest side sent, in pixels; larger ones are shrunk.")
    low_max_side: int = Field(512, ge=64, le=2048, description="The same for images of `detail: low`.")
    jpeg_quality: int = Field(85, ge=30, le=100, description="Quality of what is encoded again.")
    detail: Literal["low", "high", "auto"] = Field(
        "auto", description="Detail of images whose request says `auto`; `low` is the cheapest way to ask first."
    )


class Prices(Section):
    """Prices in US dollars for a million tokens, in place of those of the shipped table."""

    input_usd_per_mtok: float = Field(ge=0, description="Of prompts.")
    output_usd_per_mtok: float = Field(ge=0, description="Of answers, reasoning included.")
    cached_usd_per_mtok: float | None = Field(
        None, ge=0, description="Of the part of a prompt that its cache held; as `input_usd_per_mtok` when left out."
    )


class Gemini(Section):
    """What only Gemini has."""

    files_above_bytes: int = Field(
        8_000_000, ge=0, le=15_000_000, description="Larger images and videos go through the File API."
    )
    file_poll_s: float = Field(1.0, gt=0, le=60, description="Seconds between two looks at a file being processed.")
    video_fps: float | None = Field(None, gt=0, le=24, description="Frames a second of a video; 1 when left out.")


class Oip(Section):
    """Tensors of a model behind an Open Inference Protocol v2 server (Triton, KServe, Argus)."""

    protocol: Literal["http", "grpc"] = Field("http", description="How the server is spoken to.")
    task: Literal["chat", "classify"] = Field(
        "chat", description="`chat` answers a prompt about images, `classify` gives a probability of each label."
    )
    version: str = Field("", description="Version of the model; the server's choice when empty.")
    image_input: str = Field("IMAGE", min_length=1, description="BYTES input of encoded images, shape [count].")
    prompt_input: str = Field("TEXT", min_length=1, description="BYTES input of the prompt, shape [1]. Of `chat`.")
    output: str = Field("TEXT", min_length=1, description="BYTES text, shape [1], or FP32 [count, labels].")
    labels: tuple[str, ...] = Field((), description="What the columns of the output stand for. Of `classify`.")
    batch_dimension: bool = Field(False, description="Shapes have a leading 1: [1, count], [1, 1].")

    @model_validator(mode="after")
    def _consistent(self) -> Oip:
        if self.task == "classify" and len(set(self.labels)) < 2:
            raise ValueError("task is 'classify', so labels must hold at least two distinct ones")
        if len(set(self.labels)) != len(self.labels):
            raise ValueError(f"labels are {list(self.labels)}; they must be distinct")
        return self


class Provider(Section):
    """A model that someone else hosts."""

    kind: Kind = Field(description="API that it speaks.")
    model: str = Field(min_length=1, description="Model name at the provider.")
    base_url: str | None = Field(
        None, description="Address, for compatible servers; the provider's own by default. `oip` needs it."
    )
    api_key_env: str | None = Field(
        None, pattern=r"^[A-Z_][A-Z0-9_]*$", description="Environment variable that holds the key; never the key."
    )
    api_key_file: str | None = Field(
        None, min_length=1, description="File that holds the key, such as a mounted secret; in place of `api_key_env`."
    )
    max_tokens: int = Field(1024, ge=1, description="Most tokens of an answer whose request states none.")
    context_tokens: int | None = Field(
        None, ge=1, description="Most tokens of prompt and answer; longer ones are refused before they are sent."
    )
    sampling: Literal["auto", "send", "omit"] = Field(
        "auto",
        description="Whether temperature and top_p are sent: models that reason refuse them. `auto` goes by the name.",
    )
    json_output: Literal["schema", "tool", "prompt"] = Field(
        "schema",
        description="How JSON is asked for: the API's own schemas, a tool that must be called (anthropic), or an "
        "instruction. The answer is checked in each case.",
    )
    token_parameter: Literal["auto", "max_tokens", "max_completion_tokens"] = Field(
        "auto", description="Of kind openai: name of the limit; `auto` is the older name where there is a `base_url`."
    )
    images: ImagePreparation = Field(ImagePreparation(), description="What is done to images.")
    prices: Prices | None = Field(None, description="Its prices; those of the shipped table when left out.")
    gemini: Gemini = Field(Gemini(), description="Of kind gemini.")
    oip: Oip = Field(Oip(), description="Of kind oip.")

    @field_validator("base_url")
    @classmethod
    def _is_address(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("it must be an address such as https://host/v1")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError("it must hold neither credentials nor a query: keys belong in api_key_env")
        return value.rstrip("/")

    @model_validator(mode="after")
    def _consistent(self) -> Provider:
        if self.api_key_env and self.api_key_file:
            raise ValueError("api_key_env and api_key_file are both given; the key has one place")
        if self.kind == "oip" and self.base_url is None:
            raise ValueError("kind is 'oip', which needs base_url: the address of the server")
        for section in ("gemini", "oip"):
            if section in self.model_fields_set and self.kind != section:
                raise ValueError(f"{section} is given, but kind is {self.kind!r}")
        if self.json_output == "tool" and self.kind != "anthropic":
            raise ValueError(f"json_output is 'tool', which is for kind anthropic; kind is {self.kind!r}")
        if self.token_parameter != "auto" and self.kind != "openai":
            raise ValueError(f"token_parameter is for kind openai; kind is {self.kind!r}")
        return self

    @property
    def sends_sampling(self) -> bool:
        """Whether temperature and top_p are sent."""
        if self.sampling != "auto":
            return self.sampling == "send"
        return self.kind not in ("openai", "anthropic") or _FIXED_SAMPLING.match(self.model) is None

    @property
    def gives_logprobs(self) -> bool:
        """Whether log probabilities can be asked for; OpenAI's models that reason refuse them with the temperature."""
        return self.kind == "gemini" or (self.kind == "openai" and self.sends_sampling)

    @property
    def limit_name(self) -> Literal["max_tokens", "max_completion_tokens"]:
        """OpenAI's name of the most tokens of an answer, which servers that copy its API have under the older one."""
        if self.token_parameter != "auto":
            return self.token_parameter
        return "max_completion_tokens" if self.base_url is None else "max_tokens"
