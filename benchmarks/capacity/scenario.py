"""What is simulated: a cluster file's deployments with their profiles, and the traffic that meets them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import Field

from benchmarks.capacity.profiles import HardwareProfile, ModelProfile, ProviderProfile, Record, RouterProfile
from deployments.batching import BatchLimits
from serve.config.cascades import Cascade
from serve.config.cluster import ClusterFile


class Flow(Record):
    """One kind of request.

    Attributes:
        entry: name of a model, a provider or a cascade of the cluster file.
        share: of all requests; shares of a traffic add up to 1.
        items: images or texts in one request.
        prompt_tokens, output_tokens: for generative models, without the images' tokens; a trace's own take their place.
        images: in one request, for generative models.
        deadline_s: after which it is refused, in seconds.
        escalated: share that each step of the cascade hands on, by the step's name; by default what the cascade's
            calibration says at its threshold.
    """

    name: str
    entry: str
    share: float = Field(1.0, gt=0, le=1)
    items: int = Field(1, ge=1)
    images: int = Field(1, ge=0)
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
    """

    min_replicas: int
    max_replicas: int
    target_ongoing: float
    look_back_s: float
    upscale_delay_s: float
    downscale_delay_s: float
    start_s: float
    node_s: float


@dataclass(frozen=True, slots=True)
class Stage:
    """One deployment.

    Attributes:
        replicas: at the start.
        slowdown: factor on its forward passes, for what shares its accelerator; 1 alone.
        pool: where it runs.
        scaling: None when the number of replicas is fixed.
    """

    name: str
    profile: ModelProfile
    limits: BatchLimits
    replicas: int
    preprocess_workers: int
    pool: str
    slowdown: float = 1.0
    scaling: Scaling | None = None


@dataclass(frozen=True, slots=True)
class Scenario:
    """A cluster and the kinds of requests it meets; when they arrive is given to the simulation."""

    stages: Mapping[str, Stage]
    providers: Mapping[str, ProviderProfile]
    cascades: Mapping[str, Cascade]
    flows: tuple[Flow, ...]
    router: RouterProfile
    router_replicas: int
    cores: float


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
    raise NotImplementedError
