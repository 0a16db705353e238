"""What a model costs on one class of hardware: measured by `argus profile`, or an estimate with its source.

A profile says what the serving path charges for: CPU work of an item, a forward pass by batch size, for generative
models encode, prefill and decode, memory, and how long a replica takes to start. The simulator draws from it, the
planner sizes by it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from serve.config.checkpoints import checkpoint_label
from serve.config.model_base import CheckpointModel, ModelBase
from serve.config.section import Strict
from serve.config.strict_yaml import read_yaml
from serve.errors import ConfigError

HardwareClass = Literal["cpu-demo", "t4", "a10", "a100"]
# The probabilities at which every distribution is tabulated; between them it is interpolated.
PROBABILITIES = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)


# Both are kept with few digits.
_ROUNDING = 1e-3


class Record(Strict):
    """A part of a profile."""


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
        least, most = self.seconds[0], self.seconds[-1]
        if not least * (1 - _ROUNDING) <= self.mean <= most * (1 + _ROUNDING):
            raise ValueError(f"mean is {self.mean:g}; the values go from {least:g} to {most:g}")
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
        prompt_tokens_a_step: most tokens in one step, of prompts and one of each sequence that decodes (chunked
            prefill); vLLM's `max_num_batched_tokens`.
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
        cores: of the node that a forward pass, or an engine's step, keeps busy while it runs; 0 on an accelerator.
        cpu_s: processor time of one request in the replica's processes beyond preprocess and forward pass: its event
            loop reads, batches and answers, one request at a time. It is a part of `overhead`.
        wake_s: processor time of that event loop beyond `cpu_s` each time that it begins after a pause: a request that
            meets nobody wakes it twice, to be read and to be answered.
        router_cpu_s: processor time of one request in the router's process beyond `RouterProfile.cpu`: what a larger
            body, or a streamed answer, costs there.
        imbalance: of the cores that would be empty if each running thread were on one by chance, the share that is
            while this model is asked: 0 where threads always find a free core. Fitted.
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
    cores: float = Field(0, ge=0)
    cpu_s: float = Field(0, ge=0)
    wake_s: float = Field(0, ge=0)
    router_cpu_s: float = Field(0, ge=0)
    imbalance: float = Field(0, ge=0, le=1)
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
        ingress_cpu_s: processor time of one request in HAProxy, on the router's node.
        client_cpu_s: processor time of one request in the load generator, where that shares the node; else 0.
        wake_s: processor time beyond `cpu` each time that the router's event loop begins after a pause: twice for a
            request that meets nobody.
        ingress_wake_s, client_wake_s: the same of HAProxy and load generator, once for such a request.
    """

    latency: Distribution
    cpu: Distribution
    ingress_cpu_s: float = Field(0, ge=0)
    client_cpu_s: float = Field(0, ge=0)
    wake_s: float = Field(0, ge=0)
    ingress_wake_s: float = Field(0, ge=0)
    client_wake_s: float = Field(0, ge=0)
    provenance: Provenance


class ProviderProfile(Record):
    """A model that someone else hosts.

    Attributes:
        latency: of one call.
        failure_share: of calls that fail although within limits.
        requests_per_minute, tokens_per_minute: its rate limits for us; None when there is none.
        usd_per_call: mean price of one call as our workloads make it.
        tokens_per_call: mean of prompt, images and answer of such a call; None when nobody has said.
    """

    latency: Distribution
    failure_share: float = Field(0.0, ge=0, le=1)
    requests_per_minute: float | None = Field(None, gt=0)
    tokens_per_minute: float | None = Field(None, gt=0)
    usd_per_call: float = Field(ge=0)
    tokens_per_call: float | None = Field(None, gt=0)
    provenance: Provenance


class HardwareProfile(Record):
    """A file of `benchmarks/capacity/profiles/`: one class of hardware.

    Durations in it (`preprocess`, `forward`, `overhead`, the router's `latency`, an engine's steps) are those of a node
    with nothing else to do; what a processor does is given at a pace of 1 (see `benchmarks.capacity.pace`).

    Attributes:
        cores: processor cores that router, ingress and replicas of one node share; 0 when they never lack any.
        background_cores: of them that are busy without any request: Ray's own processes, health checks.
        models: by `profile_key`: the checkpoint as the cluster file names it (`demo:clip`,
            `openai/clip-vit-large-patch14`), with `@4bit` or `@8bit` behind it when quantised.
        providers: by the provider's own name of the model (`gpt-4o`), as the cluster file's `model`.
    """

    version: Literal[1] = 1
    hardware: HardwareClass
    cores: float = Field(0, ge=0)
    background_cores: float = Field(0, ge=0)
    router: RouterProfile
    models: dict[str, ModelProfile]
    providers: dict[str, ProviderProfile] = Field({})


_ROUTER_WORK = ("ingress_cpu_s", "client_cpu_s", "wake_s", "ingress_wake_s", "client_wake_s")
SHIPPED = Path(__file__).parent / "profiles"


def load_profile(path: Path) -> HardwareProfile:
    """Reads a file.

    Raises:
        ConfigError: it cannot be read, or is no profile; names the key and the value.
    """
    try:
        return HardwareProfile.model_validate(read_yaml(path, "profile"))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "file"
        raise ConfigError(f"{path}: {where}: {first['msg']}, got {first['input']!r:.80}", param="profile") from None


def shipped_profiles() -> Mapping[HardwareClass, HardwareProfile]:
    """Those that come with Argus, by class of hardware."""
    found = (load_profile(path) for path in sorted(SHIPPED.glob("*.yaml")))
    return {profile.hardware: profile for profile in found}


def profile_key(model: ModelBase) -> str:
    """What a model of a cluster file is called in a profile; a kind without weights goes by its kind (`splat`)."""
    if not isinstance(model, CheckpointModel):
        kind: str = getattr(model, "kind")  # noqa: B009  # every model has one, its base class has not
        return kind
    suffix = {"none": "", "int8": "@8bit", "4bit": "@4bit"}[model.quantization]
    return checkpoint_label(model.checkpoint) + suffix


def merged(old: HardwareProfile | None, new: HardwareProfile) -> HardwareProfile:
    """`new` over `old`: entries that `new` lacks are kept.

    Raises:
        ConfigError: they are of different hardware.
    """
    if old is None:
        return new
    if old.hardware != new.hardware:
        raise ConfigError(f"hardware: the file is of {old.hardware!r}, the measurement of {new.hardware!r}")
    return new.model_copy(
        update={
            "models": {**old.models, **new.models},
            "providers": {**old.providers, **new.providers},
        }
    )


def at_pace(profile: HardwareProfile, pace: float) -> HardwareProfile:
    """A profile on processors on which the same work takes `pace` times as long; accelerators stay as they are."""
    if not profile.cores:
        return profile
    router = profile.router
    return profile.model_copy(
        update={
            "background_cores": profile.background_cores * pace,
            "router": router.model_copy(
                update={
                    "latency": scaled(router.latency, pace),
                    "cpu": scaled(router.cpu, pace),
                    **{name: getattr(router, name) * pace for name in _ROUTER_WORK},
                }
            ),
            "models": {key: _model_at_pace(model, pace) for key, model in profile.models.items()},
        }
    )


def _model_at_pace(model: ModelProfile, pace: float) -> ModelProfile:
    changed: dict[str, Any] = {
        "preprocess": scaled(model.preprocess, pace),
        "overhead": scaled(model.overhead, pace),
        **{name: getattr(model, name) * pace for name in ("cpu_s", "wake_s", "router_cpu_s")},
    }
    if model.cores:
        changed["forward"] = scaled_passes(model.forward, pace)
    if model.cores and model.generation is not None:
        made = model.generation
        steps = ("encode_s", "step_s", "sequence_s", "prompt_token_s")
        changed["generation"] = made.model_copy(update={name: getattr(made, name) * pace for name in steps})
    return model.model_copy(update=changed)


def scaled_passes(passes: Sequence[ForwardPass], factor: float) -> tuple[ForwardPass, ...]:
    """All sizes, each times `factor`."""
    return tuple(one.model_copy(update={"seconds": scaled(one.seconds, factor)}) for one in passes)


def scaled(one: Distribution, factor: float) -> Distribution:
    """Every duration times `factor`."""
    return one.model_copy(update={"seconds": tuple(value * factor for value in one.seconds), "mean": one.mean * factor})


def rounded(profile: HardwareProfile) -> HardwareProfile:
    """With every figure at five significant digits, as files have it."""
    return HardwareProfile.model_validate(_rounded(profile.model_dump(mode="json")))


def save_profile(path: Path, profile: HardwareProfile, comment: str = "") -> None:
    """Writes a file in one step, rounded; `comment` becomes its first lines."""
    content = _rounded(profile.model_dump(mode="json", exclude_defaults=True)) | {"version": 1}
    lines = "".join(f"# {line}\n" for line in comment.splitlines())
    text = yaml.safe_dump(content, sort_keys=False, width=120, allow_unicode=True, default_flow_style=None)
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(lines + text, encoding="utf-8")
    fresh.replace(path)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return value
