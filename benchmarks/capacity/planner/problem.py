"""What is planned: the cluster file, the traffic, what must hold, and what can be rented."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from benchmarks.capacity.planner.catalogue import Catalogue, NodeType
from benchmarks.capacity.planner.demand import Work, works
from benchmarks.capacity.planner.objectives import Objective
from benchmarks.capacity.profiles import HardwareClass, HardwareProfile, ModelProfile, ProviderProfile, profile_key
from benchmarks.capacity.scenario import Flow, check_flows, rates
from benchmarks.traffic.arrivals import Arrivals
from serve.config.cluster import ClusterFile
from serve.errors import ConfigError
from serve.resilience.settings import settings_of

# A run should have this many requests, so that the tail's bound is tight, within these lengths in seconds.
_REQUESTS_A_RUN = 30_000
_SHORTEST_S, _LONGEST_S = 240.0, 3600.0
# Share of a run that is warm-up, and the most seconds of it.
_WARM_UP, _LONGEST_WARM_UP_S = 0.1, 60.0


@dataclass(frozen=True, slots=True)
class Wishes:
    """How sure and how cautious a plan is to be.

    Attributes:
        price: way of renting: on_demand, reserved or spot.
        most_use: greatest share of its capacity that a stage may be asked on average (rho).
        confidence: of the statement that an objective holds.
        seeds: runs of each candidate, with seeds `first_seed` and following.
        seconds: length of a run; None for one that suits the rate.
        survive_node_loss: the objectives hold while any one node is lost (N+1).
        availability: wanted probability that as many nodes are up as the plan needs; None rents what it needs.
        apis: whether hosted models may stand in for ours, or take what ours cannot.
        most_tries: candidates simulated before the search gives up.
    """

    price: str = "on_demand"
    most_use: float = 0.85
    confidence: float = 0.95
    seeds: int = 5
    first_seed: int = 1
    seconds: float | None = None
    survive_node_loss: bool = False
    availability: float | None = None
    apis: bool = True
    most_tries: int = 150


@dataclass(frozen=True, slots=True)
class Problem:
    """One question to the planner.

    Attributes:
        cluster: the base file, with its calibrations read.
        arrivals: of all flows together, at the rate that is planned for.
        profiles: by class of hardware.
    """

    cluster: ClusterFile
    flows: tuple[Flow, ...]
    arrivals: Arrivals
    objectives: tuple[Objective, ...]
    catalogue: Catalogue
    profiles: Mapping[HardwareClass, HardwareProfile]
    wishes: Wishes = field(default_factory=Wishes)

    def __post_init__(self) -> None:
        check_flows(self.cluster, self.flows)
        names = {flow.name for flow in self.flows}
        for objective in self.objectives:
            if objective.flow is not None and objective.flow not in names:
                raise ConfigError(
                    f"objective {objective.label!r}: there is no flow {objective.flow!r}; there are {', '.join(names)}",
                    param="slo",
                )
        if not self.objectives:
            raise ConfigError("nothing is asked of the plan; give an objective, such as p99=500ms", param="slo")

    @property
    def rate_per_s(self) -> float:
        """Requests a second of all flows together, over a long time."""
        return self.arrivals.long_rate(self.seconds)

    @property
    def seconds(self) -> float:
        """Length of a run."""
        if self.wishes.seconds is not None:
            return self.wishes.seconds
        return min(_LONGEST_S, max(_SHORTEST_S, _REQUESTS_A_RUN / self.arrivals.long_rate(_LONGEST_S)))

    @property
    def warm_up_s(self) -> float:
        """What arrives before is not measured."""
        return min(_LONGEST_WARM_UP_S, _WARM_UP * self.seconds)

    @property
    def works(self) -> Mapping[str, Work]:
        """What each stage is asked."""
        return works(self.cluster, self.flows)

    def profile(self, stage: str, node: NodeType) -> ModelProfile | None:
        """A model's profile on a kind of node; None where nobody has one."""
        hardware = None if node.hardware is None else self.profiles.get(node.hardware)
        return None if hardware is None else hardware.models.get(profile_key(self.cluster.models[stage]))

    def provider(self, name: str) -> ProviderProfile | None:
        """A hosted model's profile, with the catalogue's price and limit; None where nobody has one."""
        for hardware in self.profiles.values():
            for key in (self.cluster.providers[name].model, name):
                if key in hardware.providers:
                    return self._priced(name, hardware.providers[key])
        return None

    def _priced(self, name: str, profile: ProviderProfile) -> ProviderProfile:
        api = self.catalogue.apis.get(name)
        if api is None:
            return profile
        limit = profile.requests_per_minute if api.requests_per_minute is None else api.requests_per_minute
        tokens = profile.tokens_per_minute if api.tokens_per_minute is None else api.tokens_per_minute
        usd = profile.usd_per_call if api.usd_per_call is None else api.usd_per_call
        return profile.model_copy(
            update={"requests_per_minute": limit, "tokens_per_minute": tokens, "usd_per_call": usd}
        )

    def calls_per_minute(self, name: str) -> float | None:
        """Most calls of a hosted model that every limit lets pass, of the file as of the catalogue; None for no limit.

        Raises:
            ConfigError: its tokens are limited, and nothing says how many a call takes.
        """
        profile = self.provider(name)
        if profile is None:
            return None
        return rates(name, profile, settings_of(self.cluster.resilience, name, ours=False)).calls_per_minute

    def at_rate(self, factor: float) -> Problem:
        """The same at another load."""
        return replace(self, arrivals=self.arrivals.scaled(self.rate_per_s * factor))

    def relaxed(self, factor: float) -> Problem:
        """The same with every latency bound multiplied."""
        return replace(self, objectives=tuple(one.relaxed(factor) for one in self.objectives))
