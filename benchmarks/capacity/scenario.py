"""What is simulated: a cluster file's deployments with their profiles, and the traffic that meets them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from pydantic import Field

from benchmarks.capacity.profiles import (
    HardwareProfile,
    ModelProfile,
    ProviderProfile,
    Record,
    RouterProfile,
    profile_key,
)
from deployments.batching import BatchLimits
from deployments.gpu import Claim, pack
from serve.autoscaling.plan import Plan, in_use, plan
from serve.config.cascades import Cascade, CascadeStep
from serve.config.cluster import ClusterFile
from serve.config.models import GenerativeModel, Model
from serve.config.overload import Overload
from serve.config.scene_models import RendererModel
from serve.errors import ConfigError
from serve.resilience.settings import Settings, all_settings

# Ray Serve's `AutoscalingConfig.look_back_period_s`, which the cluster file leaves at its default.
LOOK_BACK_S = 30.0
# From the wish for a node to its joining, where a pool may grow: clouds take two to six minutes for one with a GPU.
NODE_START_S = 240.0


class Flow(Record):
    """One kind of request.

    Attributes:
        entry: name of a model, a provider or a cascade of the cluster file.
        share: of all requests; shares of a traffic add up to 1.
        items: images or texts in one request; 1 of a cascade, which answers about each by itself.
        cost: of an item in its model's unit (`Adapter.cost`).
        lane: items of different lanes never share a batch (`Adapter.lane`): image and text, two resolutions.
        prompt_tokens, output_tokens: for generative models, without the images' tokens; a trace's own take their place.
        images: in one request, for generative models.
        streamed: each token of its answer is passed on as it comes.
        deadline_s: after which it is refused, in seconds.
        escalated: share that each step of the cascade hands on, by the step's name; by default what the cascade's
            calibration says at its threshold.
    """

    name: str
    entry: str
    share: float = Field(1.0, gt=0, le=1)
    items: int = Field(1, ge=1)
    cost: float = Field(1.0, gt=0)
    lane: str = ""
    images: int = Field(1, ge=0)
    streamed: bool = False
    prompt_tokens: int = Field(0, ge=0)
    output_tokens: int = Field(0, ge=0)
    deadline_s: float = Field(30.0, gt=0)
    escalated: Mapping[str, float] = {}


@dataclass(frozen=True, slots=True)
class Scaling:
    """How replicas of a deployment come and go; see Ray Serve's autoscaling configuration.

    Attributes:
        target_ongoing: requests in progress a replica that are aimed at.
        look_back_s, upscale_delay_s, downscale_delay_s: of the policy.
        start_s: of a replica on a node that is up.
        node_s: for a node that is not up yet; 0 when there is always room.
        room: replicas for which the nodes that are up have room; those beyond wait `node_s` as well.
    """

    min_replicas: int
    max_replicas: int
    target_ongoing: float
    look_back_s: float
    upscale_delay_s: float
    downscale_delay_s: float
    start_s: float
    node_s: float
    room: int = 0


@dataclass(frozen=True, slots=True)
class Stage:
    """One deployment.

    Attributes:
        replicas: at the start.
        slowdown: factor on its forward passes, for what shares its accelerator; 1 alone.
        pool: where it runs.
        scaling: None when the number of replicas is fixed.
        affinity: requests go by consistent hashing (serve/affinity.py) and not by power of two choices.
    """

    name: str
    profile: ModelProfile
    limits: BatchLimits
    replicas: int
    preprocess_workers: int
    pool: str
    slowdown: float = 1.0
    scaling: Scaling | None = None
    affinity: bool = False


@dataclass(frozen=True, slots=True)
class Scenario:
    """A cluster and the kinds of requests it meets; when they arrive is given to the simulation.

    Attributes:
        cores: that everything shares, on the one node that has no accelerator; 0 when they never lack any.
        background_cores: see `HardwareProfile`.
        calls: how the router calls each model and provider; without an entry nothing limits its calls.
        router_places: requests in progress a router replica; more are refused.
        overload: when requests are shed; None for never.
        plan: what the autoscaler for cascades knows; None where Ray Serve's own rule decides.
        usd_per_day: most that all providers together are paid on one day; None for no bound.
    """

    stages: Mapping[str, Stage]
    providers: Mapping[str, ProviderProfile]
    cascades: Mapping[str, Cascade]
    flows: tuple[Flow, ...]
    router: RouterProfile
    router_replicas: int
    cores: float
    background_cores: float = 0.0
    calls: Mapping[str, Settings] = field(default_factory=dict)
    router_places: int = 256
    overload: Overload | None = None
    plan: Plan | None = None
    usd_per_day: float | None = None


@dataclass(frozen=True, slots=True)
class Rates:
    """What a provider lets us do in a minute: the strictest of its profile and the cluster file, None for no limit.

    Attributes:
        tokens_per_call: 0 where no limit counts them.
    """

    calls: float | None
    tokens: float | None
    tokens_per_call: float

    @property
    def calls_per_minute(self) -> float | None:
        """Most calls that both limits let pass; None when there is none."""
        by_tokens = None if self.tokens is None else self.tokens / self.tokens_per_call
        return _strictest(self.calls, by_tokens)


def rates(name: str, profile: ProviderProfile, settings: Settings | None) -> Rates:
    """The limits of a provider.

    Raises:
        ConfigError: its tokens are limited, and nothing says how many a call takes.
    """
    of_calls, of_tokens = (None, None) if settings is None else settings.per_minute
    tokens = _strictest(profile.tokens_per_minute, of_tokens)
    if tokens is None:
        return Rates(_strictest(profile.requests_per_minute, of_calls), None, 0.0)
    if profile.tokens_per_call is None:
        raise ConfigError(
            f"provider {name!r} has a limit of {tokens:g} tokens a minute, and its profile does not say how many a "
            "call takes; add tokens_per_call",
            param="tokens_per_minute",
        )
    return Rates(_strictest(profile.requests_per_minute, of_calls), tokens, profile.tokens_per_call)


def _strictest(*limits: float | None) -> float | None:
    return min((limit for limit in limits if limit is not None), default=None)


def scenario(
    cluster: ClusterFile, profiles: Mapping[str, HardwareProfile], flows: tuple[Flow, ...], *, autoscale: bool = False
) -> Scenario:
    """What `flows` would meet on `cluster`.

    Args:
        profiles: by the name of the node pool.
        autoscale: replicas follow the load as the cluster file says; otherwise each deployment has its minimum.

    Raises:
        ConfigError: a flow names what the file does not have, or a model has no profile on its pool.
    """
    check_flows(cluster, flows)
    targets = sorted({target for flow in flows for target in targets_of(cluster, flow.entry)})
    home = _home(cluster, profiles)
    settings = all_settings(cluster)
    return Scenario(
        stages={name: _stage(cluster, profiles, name, autoscale) for name in targets if name in cluster.models},
        providers={name: _provider(cluster, profiles, name) for name in targets if name in cluster.providers},
        cascades={flow.entry: cluster.cascades[flow.entry] for flow in flows if flow.entry in cluster.cascades},
        flows=flows,
        router=home.router,
        router_replicas=cluster.router.replicas,
        cores=home.cores,
        background_cores=home.background_cores,
        calls={name: settings[name] for name in targets},
        router_places=cluster.router.max_ongoing_requests,
        overload=cluster.overload,
        plan=plan(cluster) if autoscale and in_use(cluster) else None,
        usd_per_day=cluster.resilience.usd_per_day,
    )


def targets_of(cluster: ClusterFile, entry: str) -> Iterator[str]:
    """Every model and provider that a request of `entry` may be asked of, fallbacks included."""
    if entry not in cluster.cascades:
        yield entry
        return
    for step in cluster.cascades[entry].steps:
        yield step.use
        yield from (option.use for option in step.fallback)


def check_flows(cluster: ClusterFile, flows: tuple[Flow, ...]) -> None:
    """Whether the flows fit the file.

    Raises:
        ConfigError: names the flow, the key and the value.
    """
    if not flows:
        raise ConfigError("there are no flows; give at least one", param="flows")
    names = [flow.name for flow in flows]
    if len(set(names)) < len(names):
        raise ConfigError(f"flows are named {names}; names must be distinct", param="flows")
    if abs(sum(flow.share for flow in flows) - 1) > 1e-6:
        raise ConfigError(f"the flows' shares add up to {sum(flow.share for flow in flows):g}, not 1", param="share")
    for flow in flows:
        _check_flow(cluster, flow)


def _check_flow(cluster: ClusterFile, flow: Flow) -> None:
    known = [*cluster.models, *cluster.providers, *cluster.cascades]
    if flow.entry not in known:
        raise ConfigError(
            f"flow {flow.name!r} has entry {flow.entry!r}; it must be one of {', '.join(known)}", param="entry"
        )
    cascade = cluster.cascades.get(flow.entry)
    if cascade is not None and flow.items > 1:
        raise ConfigError(
            f"flow {flow.name!r} has {flow.items} items; {flow.entry!r} is a cascade, which answers about each by "
            "itself, step for step: state items=1, and a rate that counts images",
            param="items",
        )
    steps = [] if cascade is None else [step.name for step in cascade.steps]
    for step, share in flow.escalated.items():
        if step not in steps:
            raise ConfigError(
                f"flow {flow.name!r} says what step {step!r} hands on; {flow.entry!r} has "
                f"{', '.join(steps) or 'no steps'}",
                param="escalated",
            )
        if not 0 <= share <= 1:
            raise ConfigError(f"flow {flow.name!r}: escalated.{step} is {share:g}; it must be from 0 to 1")
    for one in cascade.steps if cascade is not None else ():
        if cascade is not None and cascade.after(one) is not None and not told(cascade, one, flow):
            raise ConfigError(
                f"flow {flow.name!r}: nothing says how much step {one.name!r} of {flow.entry!r} hands on: it has no "
                f"calibration; state escalated: {{{one.name}: SHARE}}",
                param="escalated",
            )


def told(cascade: Cascade, step: CascadeStep, flow: Flow) -> bool:
    """Whether it is known how much a step hands on: always nothing, as the flow says, or by its calibration."""
    calibrated = step.accept.rule == "confidence" and cascade.evidence is not None
    return (
        step.accept.rule == "always"
        or step.name in flow.escalated
        or (calibrated and cascade.evidence is not None and step.name in cascade.evidence.steps)
    )


def _home(cluster: ClusterFile, profiles: Mapping[str, HardwareProfile]) -> HardwareProfile:
    """What the routers run under, and whose cores are shared: the first pool's of which there is a profile.

    Nodes that host no model need none.
    """
    pool = next((name for name in cluster.node_pools if name in profiles), next(iter(cluster.node_pools)))
    return _hardware(profiles, pool)


def _hardware(profiles: Mapping[str, HardwareProfile], pool: str) -> HardwareProfile:
    if pool not in profiles:
        raise ConfigError(
            f"node pool {pool!r} has no hardware profile; those that have one: {', '.join(profiles) or 'none'} "
            f"(argus simulate --hardware {pool}=CLASS states it)",
            param="hardware",
        )
    return profiles[pool]


def _stage(cluster: ClusterFile, profiles: Mapping[str, HardwareProfile], name: str, autoscale: bool) -> Stage:
    model = cluster.models[name]
    pool = cluster.pool_of(name)
    profile = _model_profile(_hardware(profiles, pool), pool, name, model)
    scaling = _scaling(cluster, name, model, profile) if autoscale else None
    batching = model.batching
    return Stage(
        name=name,
        profile=profile,
        limits=BatchLimits(
            max_items=batching.max_items,
            max_cost=math.inf if batching.max_cost is None else batching.max_cost,
            max_wait_s=batching.max_wait_ms / 1e3,
            max_queue=batching.max_queue,
        ),
        replicas=model.autoscaling.min_replicas if scaling else max(1, model.autoscaling.min_replicas),
        preprocess_workers=model.placement.preprocess_workers,
        pool=pool,
        scaling=scaling,
        affinity=isinstance(model, GenerativeModel | RendererModel) and model.autoscaling.max_replicas > 1,
    )


def _model_profile(hardware: HardwareProfile, pool: str, name: str, model: Model) -> ModelProfile:
    key = profile_key(model)
    if key not in hardware.models:
        raise ConfigError(
            f"model {name!r} is {key!r}, of which the {hardware.hardware} profile of pool {pool!r} knows nothing; it "
            f"has {', '.join(hardware.models) or 'no models'} (argus profile {name} measures it)",
            param=name,
        )
    return hardware.models[key]


def _provider(cluster: ClusterFile, profiles: Mapping[str, HardwareProfile], name: str) -> ProviderProfile:
    wanted = cluster.providers[name].model
    for hardware in profiles.values():
        for key in (wanted, name):
            if key in hardware.providers:
                return hardware.providers[key]
    known = sorted({key for hardware in profiles.values() for key in hardware.providers})
    raise ConfigError(
        f"provider {name!r} is {wanted!r}, of which no profile knows latency and price; they have "
        f"{', '.join(known) or 'no providers'}",
        param=name,
    )


def _scaling(cluster: ClusterFile, name: str, model: Model, profile: ModelProfile) -> Scaling | None:
    rule = model.autoscaling
    if rule.min_replicas == rule.max_replicas:
        return None
    pool = cluster.node_pools[cluster.pool_of(name)]
    return Scaling(
        min_replicas=rule.min_replicas,
        max_replicas=rule.max_replicas,
        target_ongoing=rule.target_ongoing_requests,
        look_back_s=LOOK_BACK_S,
        upscale_delay_s=rule.upscale_delay_s,
        downscale_delay_s=rule.downscale_delay_s,
        start_s=profile.start_s,
        node_s=NODE_START_S if pool.max_nodes > pool.min_nodes else 0.0,
        room=_room(cluster, name),
    )


def _room(cluster: ClusterFile, name: str) -> int:
    """Replicas of `name` that the pool's fewest nodes hold beside the fewest replicas of the others."""
    pool_name = cluster.pool_of(name)
    pool, model = cluster.node_pools[pool_name], cluster.models[name]
    others = {
        other: one for other, one in cluster.models.items() if other != name and cluster.pool_of(other) == pool_name
    }
    most = model.autoscaling.max_replicas
    cores = pool.cpus * pool.min_nodes - sum(
        one.placement.num_cpus * max(1, one.autoscaling.min_replicas) for one in others.values()
    )
    if model.placement.num_cpus > 0:
        most = min(most, max(0, math.floor(cores / model.placement.num_cpus + 1e-9)))
    if not model.gpu_memory_gb:
        return most
    claims = [
        Claim(other, one.gpu_memory_gb, max(1, one.autoscaling.min_replicas))
        for other, one in others.items()
        if one.gpu_memory_gb
    ]
    while (
        most
        and pack(
            [*claims, Claim(name, model.gpu_memory_gb, most)], pool.gpus, pool.gpu_memory_gb, nodes=pool.min_nodes
        ).homeless
    ):
        most -= 1
    return most
