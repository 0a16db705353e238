"""One model's profile: measured alone, then served, then put together."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.capacity.pace import pacing
from benchmarks.capacity.profiler import busy, closing, engines, measured, passes, served, wakes
from benchmarks.capacity.profiler.engines import Batched, Stepped
from benchmarks.capacity.profiler.instance import Instance, serving
from benchmarks.capacity.profiler.passes import Alone
from benchmarks.capacity.profiler.served import ENGINE, REPLICA, Loads, Served
from benchmarks.capacity.profiler.timing import Effort
from benchmarks.capacity.profiler.wakes import Spent
from benchmarks.capacity.profiles import (
    Generation,
    HardwareClass,
    HardwareProfile,
    ModelProfile,
    Provenance,
    RouterProfile,
    merged,
    profile_key,
)
from benchmarks.capacity.scenario import Flow
from benchmarks.loadtest.settings import Settings
from benchmarks.report import this_command, this_machine
from benchmarks.targets import load_targets
from benchmarks.traffic.arrivals import parse_arrivals
from deployments.generation.engine import Engine
from deployments.generation.engines import choose_engine
from deployments.generation.published import config_of
from deployments.generation.sizing import kv_per_token, plan
from deployments.generation.vllm_settings import CPU_KV_CACHE_GB
from deployments.gpu import CONTEXT_GB
from serve.config.cluster import ClusterFile
from serve.config.models import GenerativeModel, Model, VideoClassifierModel
from serve.config.scene_models import RendererModel
from serve.errors import ConfigError, Unavailable

# Who asks a kind of model, and the name under which that workload knows it.
WORKLOADS: Mapping[str, tuple[str, str]] = {
    "clip": ("classification", "clip"),
    "llava": ("llava_chat", "llava"),
    "blip2": ("blip2_vqa", "blip2"),
    "florence2": ("florence2", "florence2"),
    "splat": ("splat", "splat"),
    "video_classifier": ("videos", "video_classifier"),
}
# The kind that also measures what all others share: the router, and what work becomes on busy cores.
SHARED_KIND = "clip"
# Shares of what the cores could do at the cost of requests that do not meet, up to where work waits most of the time.
LOADS = (0.25, 0.4, 0.55, 0.65)
# Bound on the tokens of a step where the cluster file names none; see `vllm_settings`.
STEP_TOKENS = 2048
_REST_S = 10.0
# Of the time between two requests of the idle run, how much one may take.
_IDLE_SHARE = 0.2
_FASTEST_IDLE_PER_S = 8.0
# Requests of the idle run of which a distribution can be told, unless that takes too long.
_IDLE_REQUESTS = 40
_LONGEST_IDLE_S = 60.0
_WARM_UP_S = 3.0
# Share of right answers below which nothing was measured.
_BROKEN = 0.5


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be profiled.

    Attributes:
        seconds: about how long each part lasts: alone, idle, and each loaded run.
        tell: is told what is being done.
    """

    cluster: ClusterFile
    hardware: HardwareClass
    seconds: float = 20.0
    tell: Callable[[str], None] = lambda text: None
    machine: Mapping[str, Any] = field(default_factory=this_machine)


def profilable(cluster: ClusterFile) -> tuple[str, ...]:
    """The models of a file that can be profiled; what all share comes first."""
    names = [name for name, model in cluster.models.items() if model.kind in WORKLOADS]
    return tuple(sorted(names, key=lambda name: cluster.models[name].kind != SHARED_KIND))


def profile(wish: Wish, name: str, known: HardwareProfile | None = None) -> HardwareProfile:
    """Measures one model.

    Args:
        known: what is known of this hardware; what all models share is not measured anew, but for `SHARED_KIND`.

    Raises:
        ConfigError: there is no such model, or its kind cannot be profiled.
        ArgusError: it does not start, or fails.
    """
    model = _model(wish.cluster, name)
    wish.tell(f"{name}: alone")
    alone = _alone(wish, model)
    wish.tell(f"{name}: served")
    runs = _served(wish, model, alone)
    found = _profile(wish, model, alone, runs)
    spent = partial(_spent, rest=runs.rest, alone=alone, known=found.models[profile_key(model)])
    if not found.cores:
        return busy.with_works(found, wakes.steady(spent(runs.reference)))
    asked = busy.asking(wish.cluster, name, _flows(WORKLOADS[model.kind][0], name, wish.hardware))
    loaded = [spent(run) for run in runs.loaded]
    shared = None if model.kind == SHARED_KIND else known
    closed = partial(closing.closed, asked, idle=runs.idle)
    return busy.loaded_figures(asked, found, spent(runs.idle), loaded, known=shared, closed=closed)


def _flows(workload: str, name: str, hardware: HardwareClass) -> tuple[Flow, ...]:
    """What a workload asks of a model by this name; what is not declared for the hardware is one plain request."""
    known = load_targets().workloads.get(workload)
    if known is None or hardware not in known.places:
        return (Flow(name="asked", entry=name),)
    return tuple(flow.model_copy(update={"entry": name}) for flow in known.flows(hardware))


def _model(cluster: ClusterFile, name: str) -> Model:
    if name not in cluster.models:
        raise ConfigError(
            f"there is no model {name!r}; the cluster file has {', '.join(cluster.models)}", param="model"
        )
    model = cluster.models[name]
    if model.kind not in WORKLOADS:
        raise ConfigError(
            f"model {name!r} is of kind {model.kind}, which cannot be profiled; those that can: {', '.join(WORKLOADS)}",
            param="model",
        )
    return model


def _alone(wish: Wish, model: Model) -> Alone | Batched | Stepped:
    """At a pace of 1. How fast the cores were while the model loaded does not count."""
    with pacing() as pace:
        found = _timed(wish, model)
        ended = time.monotonic()
    return found.at_pace(1 / pace.between(found.began, ended)) if not model.gpu_memory_gb else found


def _timed(wish: Wish, model: Model) -> Alone | Batched | Stepped:
    effort = Effort(wish.seconds, least=max(3, min(20, int(wish.seconds))))
    if not isinstance(model, GenerativeModel):
        return passes.measure(passes.subject_of(wish.cluster, model), effort)
    few = Effort(wish.seconds, warm_up=1, least=engines.LEAST_PASSES, most=200)
    return asyncio.run(_generating(model, few))


async def _generating(model: GenerativeModel, effort: Effort) -> Batched | Stepped:
    asker, most = engines.asker_of(model), model.batching.max_items
    engine: Engine
    if choose_engine(model) == "vllm":
        from deployments.generation.vllm_engine import VllmEngine

        engine = VllmEngine(model)
        try:
            return await engines.steps(engine, asker, engines.concurrencies(most), effort)
        finally:
            await engine.close()
    from deployments.generation.transformers_engine import TransformersEngine

    seen = engines.Passes()
    engine = TransformersEngine(model, seen)
    try:
        return await engines.batches(engine, seen, asker, most, effort)
    finally:
        await engine.close()


def _served(wish: Wish, model: Model, alone: Alone | Batched | Stepped) -> Loads:
    workload, name = WORKLOADS[model.kind]
    with _instance(wish.cluster, model, name) as instance:

        def run(arrivals: str, seconds: float) -> Served:
            settings = Settings(
                workload=workload,
                host=instance.http,
                grpc=instance.grpc,
                arrivals=parse_arrivals(arrivals),
                seconds=seconds,
                warm_up_s=_WARM_UP_S,
            )
            return served.load(instance, settings)

        rest = served.rest(instance, min(_REST_S, wish.seconds))
        first = run("constant:1", min(4.0, wish.seconds))
        # The first answer of a process takes longest, and is no measure of the others.
        took = max(float(np.median(first.requests.latency_s)), 1e-3) if len(first.requests) else 1.0
        per_s = min(_FASTEST_IDLE_PER_S, _IDLE_SHARE / took)
        idle = run(f"constant:{per_s:.3f}", max(wish.seconds, min(_LONGEST_IDLE_S, _IDLE_REQUESTS / per_s)))
        _check(idle, workload)
        most = _most_per_s(model, alone, idle, rest)

        def at(share: float) -> Served:
            wish.tell(f"{name}: served, {share:.0%} of what cores and model can do")
            return run(f"poisson:{max(0.2, share * most):.3f}", wish.seconds)

        loaded = served.rising(at, LOADS)
        if not any(one.sound for one in loaded):
            wish.tell(f"{name}: too much was refused under every load; a request is said to cost what it does alone")
        return Loads(instance.ready_s[name], rest, idle, loaded)


def _most_per_s(model: Model, alone: Alone | Batched | Stepped, idle: Served, rest: Mapping[str, float]) -> float:
    """Requests a second that this machine's cores, and this model's replicas, can do at most."""
    by_cores = served.cores() / max(1e-6, measured.request_cpu_s(idle, rest))
    answered = idle.requests.tokens[idle.requests.ok]
    tokens = float(answered.mean()) if len(answered) else 1.0
    one = measured.capacity_per_s(alone, model.batching.max_items, tokens)
    return min(by_cores, max(1, model.autoscaling.min_replicas) * one)


def _check(run: Served, workload: str) -> None:
    """Whether requests that do not meet are answered; what refuses most of them cannot be measured.

    Raises:
        Unavailable: with the refusals' codes.
    """
    if len(run.requests) and (answered := run.answered_share) < _BROKEN:
        codes = ", ".join(run.requests.errors)
        raise Unavailable(f"Of the requests of {workload!r} {answered:.0%} were answered: {codes}.")


@contextmanager
def _instance(cluster: ClusterFile, model: Model, name: str) -> Iterator[Instance]:
    """The model served alone, with what it cannot be without. Its folder's path is short: sockets lie below it."""
    with TemporaryDirectory(prefix="ap-", ignore_cleanup_errors=True) as folder:
        models = {name: _dumped(model)}
        if isinstance(model, RendererModel):
            store = {**_dumped(cluster.models[model.scenes]), "path": str(Path(folder) / "scenes")}
            models[model.scenes] = store
        content: dict[str, Any] = {
            "node_pools": {pool: _dumped(section) for pool, section in cluster.node_pools.items()},
            "router": _dumped(cluster.router),
            "models": models,
        }
        with serving(content, Path(folder)) as instance:
            yield instance


def _dumped(section: Any) -> dict[str, Any]:
    dumped: dict[str, Any] = section.model_dump(mode="json", exclude_unset=True)
    return dumped


def _profile(wish: Wish, model: Model, alone: Alone | Batched | Stepped, runs: Loads) -> HardwareProfile:
    """All but what a request costs router, replica, ingress and load generator in processor time."""
    provenance = Provenance(
        kind="measured",
        date=datetime.now(UTC).date(),
        machine=f"{wish.machine['cpu']}, {wish.machine['cores']} cores; others used {runs.idle.others:.2f} of them; "
        f"pace {runs.idle.pace:.2f} idle, {runs.reference.pace:.2f} loaded",
        command=this_command(),
    )
    on_cpu = not model.gpu_memory_gb
    parts, inside = _figures(model, alone, runs)
    around = measured.hop(runs.idle, inside)
    # Its processor time is spread as its latency is; how much it is comes last, with that of all others.
    router = RouterProfile(latency=around.latency, cpu=around.latency, provenance=provenance)
    known = ModelProfile(
        model=profile_key(model),
        kind=model.kind,
        dtype=str(getattr(model, "dtype", "float32")) if not on_cpu else "float32",
        quantization=_quantization(model),
        overhead=around.overhead,
        memory_gb=_memory_gb(model, alone, runs.idle),
        start_s=runs.ready_s,
        cores=float(model.placement.threads) if on_cpu else 0.0,
        provenance=provenance,
        **parts,
    )
    return HardwareProfile(
        hardware=wish.hardware,
        cores=float(served.cores()) if on_cpu else 0.0,
        background_cores=sum(runs.rest.values()) / runs.idle.pace,
        router=router,
        models={known.model: known},
    )


def _figures(model: Model, alone: Alone | Batched | Stepped, runs: Loads) -> tuple[dict[str, Any], list[float]]:
    """What of the profile depends on how the model runs, and the seconds of each idle call that it spent within it."""
    idle = runs.idle
    if isinstance(alone, Alone):
        # This replica decodes before its pipeline, which then has nothing to report.
        unseen = alone.preprocess.mean if isinstance(model, VideoClassifierModel) else None
        inside = measured.inside_calls(idle, unseen)
        return {
            "preprocess": alone.preprocess,
            "forward": measured.in_place(alone.forward, runs, one_thread=passes.one_thread(model)),
        }, inside
    if isinstance(alone, Batched):
        took = idle.pace * (alone.forward[0].seconds.mean + alone.preprocess.mean)
        return {"preprocess": alone.preprocess, "forward": alone.forward}, [took] * len(idle.of("call"))
    assert isinstance(model, GenerativeModel)
    parts = {"preprocess": alone.beside, "generation": _generation(model, alone)}
    return parts, measured.answering_s(idle, alone)


def _generation(model: GenerativeModel, alone: Stepped) -> Generation:
    fit = alone.fit
    return Generation(
        encode_s=fit.encode_s,
        step_s=fit.step_s,
        sequence_s=fit.sequence_s,
        prompt_token_s=fit.prompt_token_s,
        max_sequences=model.batching.max_items,
        kv_tokens=_kv_tokens(model),
        prompt_tokens_a_step=int(model.batching.max_cost or STEP_TOKENS),
        image_tokens=alone.image_tokens,
        residual=fit.residual,
    )


def _kv_tokens(model: GenerativeModel) -> int:
    """Tokens that the cache has room for: of what the cluster file gives it, or leaves it."""
    config = config_of(model.checkpoint)
    assert config is not None, "it was loaded"
    if model.kv_cache_gb is not None or not model.gpu_memory_gb:
        room = (model.kv_cache_gb or CPU_KV_CACHE_GB) * 1e9
        return max(1, int(room // kv_per_token(config, model.dtype if model.gpu_memory_gb else "float32")))
    needs = plan(config, model.dtype, model.quantization, sequences=model.batching.max_items)
    return max(1, needs.tokens_within((model.gpu_memory_gb - CONTEXT_GB) * 1e9))


def combined(old: HardwareProfile | None, new: HardwareProfile) -> HardwareProfile:
    """A measurement put into a file. What all models share is `SHARED_KIND`'s to say, where the file has it.

    Raises:
        ConfigError: they are of different hardware.
    """
    if old is None or any(model.kind == SHARED_KIND for model in new.models.values()):
        return merged(old, new)
    beyond = max(0.0, new.router.cpu.mean - old.router.cpu.mean)
    models = {key: model.model_copy(update={"router_cpu_s": beyond}) for key, model in new.models.items()}
    shared = {name: getattr(old, name) for name in ("router", "cores", "background_cores")}
    return merged(old, new.model_copy(update={**shared, "models": models}))


def _quantization(model: Model) -> str | None:
    given = getattr(model, "quantization", "none")
    return None if given == "none" else str(given)


def _memory_gb(model: Model, alone: Alone | Batched | Stepped, idle: Served) -> float:
    """Of a replica: resident memory, or the accelerator's. An engine fills its budget there: what weights leave is its
    cache.
    """
    if not model.gpu_memory_gb:
        return idle.memory_bytes / 1e9
    if isinstance(alone, Alone) and alone.memory_bytes is not None:
        return alone.memory_bytes / 1e9 + CONTEXT_GB
    return model.gpu_memory_gb


def _spent(run: Served, *, rest: Mapping[str, float], alone: Alone | Batched | Stepped, known: ModelProfile) -> Spent:
    """What a request of a run cost whom; its replica beside preprocessing and pass."""
    mine = measured.each(run, rest, REPLICA) - known.preprocess.mean
    if not isinstance(alone, Stepped):  # an engine that steps is a process of its own
        mine += measured.each(run, rest, ENGINE) - measured.passes_s(known.forward, run)
    return Spent(run, measured.shared_cpu(run, rest) | {REPLICA: max(0.0, mine)})
