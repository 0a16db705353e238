"""What becomes of a model's profile on cores that are short: the figures that only loaded runs tell."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from benchmarks.capacity.profiler import contention, measured, wakes
from benchmarks.capacity.profiler.served import CLIENT, INGRESS, REPLICA, ROUTER
from benchmarks.capacity.profiler.wakes import Spent, Work
from benchmarks.capacity.profiles import HardwareProfile, at_pace, scaled
from benchmarks.capacity.scenario import Flow, Scenario, scenario
from serve.config.cluster import ClusterFile

# Costs and imbalance depend on each other.
_ROUNDS = 2


Asked = Callable[[HardwareProfile, float], Scenario]
"""What was asked of a model with such a profile, at a pace."""


def asking(cluster: ClusterFile, name: str, flows: tuple[Flow, ...]) -> Asked:
    """The model `name` of a cluster, alone there, as it was asked."""
    only = cluster.model_copy(update={"models": {name: cluster.models[name]}, "cascades": {}, "providers": {}})

    def asked(profile: HardwareProfile, pace: float) -> Scenario:
        return scenario(only, {only.pool_of(name): at_pace(profile, pace)}, flows)

    return asked


def loaded_figures(
    asked: Asked,
    profile: HardwareProfile,
    idle: Spent,
    loaded: Sequence[Spent],
    *,
    known: HardwareProfile | None,
    closed: Callable[[HardwareProfile], HardwareProfile] = lambda profile: profile,
) -> HardwareProfile:
    """A profile with what requests and wake-ups cost, and how well cores are used.

    Args:
        asked: what was, of the only model of `profile`.
        idle, loaded: its runs; those that were not answered, or not alone on the machine, do not count.
        known: what all models share is as it is there; None where it is to be fitted too.
        closed: see `closing`.
    """
    sound = [one for one in loaded if one.run.sound]
    quiet = [one.run for one in sound if one.run.others <= measured.QUIET_CORES]
    waking: Mapping[str, float] = {}
    if known is not None:
        router = known.router
        waking = {ROUTER: router.wake_s, INGRESS: router.ingress_wake_s, CLIENT: router.client_wake_s}

    def costing(works: Mapping[str, Work], pace: float) -> Scenario:
        return asked(with_works(found, works), pace)

    def leaving(share: float, pace: float) -> Scenario:
        return asked(with_imbalance(found, share), pace)

    found = profile
    for _ in range(_ROUNDS):
        found = with_works(found, wakes.works(costing, idle, sound, waking))
        found = closed(with_imbalance(found, contention.imbalance(leaving, quiet)))
    return found


def with_imbalance(profile: HardwareProfile, share: float) -> HardwareProfile:
    """The profile of one model with it."""
    models = {key: model.model_copy(update={"imbalance": share}) for key, model in profile.models.items()}
    return profile.model_copy(update={"models": models})


def with_works(profile: HardwareProfile, works: Mapping[str, Work]) -> HardwareProfile:
    """The profile of one model with these costs."""
    router = profile.router
    factor = works[ROUTER].request_s / router.cpu.mean if router.cpu.mean else 0.0
    changed = router.model_copy(
        update={
            "cpu": scaled(router.cpu, factor),
            "wake_s": works[ROUTER].wake_s,
            "ingress_cpu_s": works[INGRESS].request_s,
            "ingress_wake_s": works[INGRESS].wake_s,
            "client_cpu_s": works[CLIENT].request_s,
            "client_wake_s": works[CLIENT].wake_s,
        }
    )
    own = {"cpu_s": works[REPLICA].request_s, "wake_s": works[REPLICA].wake_s}
    models = {key: model.model_copy(update=own) for key, model in profile.models.items()}
    return profile.model_copy(update={"router": changed, "models": models})
