"""What a model costs on one class of hardware: measured by `argus profile`, or an estimate with its source.

A profile says what the serving path charges for: CPU work of an item, a forward pass by batch size, for generative
models encode, prefill and decode, memory, and how long a replica takes to start. The simulator draws from it, the
planner sizes by it.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from serve.errors import ConfigError

HardwareClass = Literal["cpu-demo", "t4", "a10", "a100"]
# The probabilities at which every distribution is tabulated; between them it is interpolated.
PROBABILITIES = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)


class Record(BaseModel):
    """A part of a profile: unknown keys are refused, and so are infinities."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Distribution(Record):
    """A duration's inverse cumulative distribution.

    Attributes:
        seconds: at `PROBABILITIES`, rising.
        mean: of the samples themselves, in seconds.
        samples: how many were measured; 0 for an estimate.
    """

    seconds: tuple[float, ...]
    mean: float = Field(ge=0)
    samples: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _rising(self) -> Distribution:
        if len(self.seconds) != len(PROBABILITIES):
            raise ValueError(f"has {len(self.seconds)} values; it must have {len(PROBABILITIES)}")
        if any(low > high for low, high in zip(self.seconds, self.seconds[1:], strict=False)) or self.seconds[0] < 0:
            raise ValueError("must rise, from 0 or more")
        return self


class ForwardPass(Record):
    """One batch size.

    Attributes:
        items: in the batch.
        cost: their summed cost in the adapter's unit (`Adapter.cost`); equals `items` where each costs 1.
    """

    items: int = Field(ge=1)
    cost: float = Field(gt=0)
    seconds: Distribution


class Generation(Record):
    """Coefficients of an engine with continuous batching.

    One engine step with `n` sequences decoding and `t` prompt tokens prefilling takes
    `step_s + sequence_s * n + prompt_token_s * t`; each image adds `encode_s` once, before its prompt.

    Attributes:
        max_sequences: that run at a time.
        kv_tokens: tokens for which the cache has room.
        prompt_tokens_a_step: most prompt tokens in one step (chunked prefill).
        image_tokens: prompt tokens that one image becomes.
        residual: of a step's seconds around that formula, as a factor (mean 1).
    """

    encode_s: float = Field(ge=0)
    step_s: float = Field(gt=0)
    sequence_s: float = Field(ge=0)
    prompt_token_s: float = Field(ge=0)
    max_sequences: int = Field(ge=1)
    kv_tokens: int = Field(ge=1)
    prompt_tokens_a_step: int = Field(ge=1)
    image_tokens: int = Field(ge=0)
    residual: Distribution | None = None


class Provenance(Record):
    """Where figures come from.

    Attributes:
        kind: `measured` by us on that hardware, or `estimate` from published figures.
        sources: for an estimate: publication, figure used and how it was turned into ours.
        machine: for a measurement: processor, cores, accelerator.
        command: for a measurement: what was run.
    """

    kind: Literal["measured", "estimate"]
    date: date
    sources: tuple[str, ...] = ()
    machine: str = ""
    command: str = ""

    @model_validator(mode="after")
    def _evidenced(self) -> Provenance:
        if self.kind == "estimate" and not self.sources:
            raise ValueError("an estimate names its sources")
        if self.kind == "measured" and not self.command:
            raise ValueError("a measurement names its command")
        return self


class ModelProfile(Record):
    """One model on one class of hardware.

    Attributes:
        model: the published or demo checkpoint, with what changes its cost: `openai/clip-vit-large-patch14`.
        kind: as in the cluster file.
        preprocess: CPU time of one item in a worker of the replica's pool.
        overhead: from the router's call to the replica's answer, beyond preprocess, wait and forward pass.
        forward: by rising batch size; empty for an engine.
        generation: for an engine with continuous batching; None for others.
        memory_gb: of the replica, on the accelerator where there is one, in GB (1e9 bytes).
        start_s: from the decision for one more replica to its first answer, on a node that is up.
    """

    model: str
    kind: str
    dtype: str
    quantization: str | None = None
    preprocess: Distribution
    overhead: Distribution
    forward: tuple[ForwardPass, ...] = ()
    generation: Generation | None = None
    memory_gb: float = Field(ge=0)
    start_s: float = Field(ge=0)
    provenance: Provenance

    @model_validator(mode="after")
    def _one_of_two(self) -> ModelProfile:
        if bool(self.forward) == (self.generation is not None):
            raise ValueError("has either forward or generation, and not both")
        sizes = [one.items for one in self.forward]
        if sizes != sorted(set(sizes)):
            raise ValueError(f"forward has batch sizes {sizes}; they must rise")
        return self


class RouterProfile(Record):
    """The router and its ingress.

    Attributes:
        latency: what a request spends there when nothing else is going on, both ways.
        cpu: processor time of one request in the router's process: one replica does at most 1/mean a second.
    """

    latency: Distribution
    cpu: Distribution
    provenance: Provenance


class ProviderProfile(Record):
    """A model that someone else hosts.

    Attributes:
        latency: of one call.
        failure_share: of calls that fail although within limits.
        requests_per_minute: its rate limit for us; None when there is none.
        usd_per_call: mean price of one call as our workloads make it.
    """

    latency: Distribution
    failure_share: float = Field(0.0, ge=0, le=1)
    requests_per_minute: float | None = Field(None, gt=0)
    usd_per_call: float = Field(ge=0)
    provenance: Provenance


class HardwareProfile(Record):
    """A file of `benchmarks/capacity/profiles/`: one class of hardware.

    Attributes:
        cores: processor cores that router, ingress and replicas of one node share; 0 when they never lack any.
        models: by the checkpoint as the cluster file names it (`demo:clip`, `openai/clip-vit-large-patch14`), with
            `@4bit` or `@8bit` behind it when quantised.
    """

    version: Literal[1] = 1
    hardware: HardwareClass
    cores: float = Field(0, ge=0)
    router: RouterProfile
    models: dict[str, ModelProfile]
    providers: dict[str, ProviderProfile] = {}


SHIPPED = Path(__file__).parent / "profiles"


def load_profile(path: Path) -> HardwareProfile:
    """Reads a file.

    Raises:
        ConfigError: it cannot be read, or is no profile; names the key and the value.
    """
    try:
        return HardwareProfile.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}", param="profile") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: is not YAML: {error}", param="profile") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "file"
        raise ConfigError(f"{path}: {where}: {first['msg']}, got {first['input']!r:.80}", param="profile") from None


def shipped_profiles() -> Mapping[HardwareClass, HardwareProfile]:
    """Those that come with Argus, by class of hardware."""
    found = (load_profile(path) for path in sorted(SHIPPED.glob("*.yaml")))
    return {profile.hardware: profile for profile in found}
