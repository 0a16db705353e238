"""What the policy knows from the cluster file: each model's bounds, and which cascades lead to it.

Plain values that JSON holds, since Ray Serve gives a policy's arguments to its controller as JSON.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from serve.calibration.file import StepCalibration
from serve.config.cascades import Cascade, CascadeStep
from serve.config.cluster import ClusterFile

POLICY = "serve.autoscaling.ray_policy:CascadePolicy"
"""Import path of what Ray Serve's controller calls for an application."""
DEPLOYMENT_POLICY = "serve.autoscaling.deployment_policy:DeploymentPolicy"
"""Of what it calls for one deployment."""


@dataclass(frozen=True, slots=True)
class Scaled:
    """A model whose number of replicas may change; see `serve.config.autoscaling`.

    Attributes:
        max_wait_s: None for as long as a call takes alone.
        calls_per_s: of one replica; None where it is measured.
    """

    min_replicas: int
    max_replicas: int
    target_ongoing: float
    upscale_delay_s: float
    downscale_delay_s: float
    start_s: float
    max_wait_s: float | None = None
    calls_per_s: float | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """A step of a cascade.

    Attributes:
        use: the model or provider that it asks.
        share: of the cascade's requests that reach it, by the calibration; None where there is none.
    """

    cascade: str
    name: str
    use: str
    share: float | None
    first: str


@dataclass(frozen=True, slots=True)
class Plan:
    """See the module's text.

    Attributes:
        models: by name; those whose number is fixed are not here.
        steps: those of all cascades that ask such a model.
        window_s: of arrivals, over which their trend is taken.
    """

    models: Mapping[str, Scaled]
    steps: tuple[Step, ...]
    window_s: float = 60.0

    def arguments(self) -> dict[str, Any]:
        """For `from_arguments`, as JSON holds them."""
        return {
            "models": {name: asdict(model) for name, model in self.models.items()},
            "steps": [asdict(step) for step in self.steps],
            "window_s": self.window_s,
        }


def from_arguments(models: Mapping[str, Any], steps: list[Any], window_s: float) -> Plan:
    """See `Plan.arguments`."""
    return Plan(
        {name: Scaled(**model) for name, model in models.items()}, tuple(Step(**step) for step in steps), window_s
    )


def in_use(cluster: ClusterFile) -> bool:
    """Whether `cascade` decides anything in this cluster."""
    return cluster.autoscaling.policy == "cascade" and any(
        not model.autoscaling.fixed for model in cluster.models.values()
    )


def plan(cluster: ClusterFile) -> Plan:
    """What the policy is to know of a cluster."""
    own = cluster.autoscaling
    models = {
        name: Scaled(
            rule.min_replicas,
            rule.max_replicas,
            rule.target_ongoing_requests,
            rule.upscale_delay_s,
            rule.downscale_delay_s,
            own.start_s if rule.start_s is None else rule.start_s,
            own.max_wait_s if rule.max_wait_s is None else rule.max_wait_s,
            rule.calls_per_s,
        )
        for name, model in cluster.models.items()
        if not (rule := model.autoscaling).fixed
    }
    steps = tuple(
        step for name, cascade in cluster.cascades.items() for step in _steps(name, cascade) if step.use in models
    )
    return Plan(models, steps, own.window_s)


def _steps(name: str, cascade: Cascade) -> Iterator[Step]:
    """In the order in which a request passes them."""
    at: CascadeStep | None = cascade.steps[0]
    share: float | None = 1.0
    while at is not None:
        yield Step(name, at.name, at.use, share, cascade.steps[0].name)
        on = _handed_on(cascade, at)
        share = None if share is None or on is None else share * on
        at = cascade.after(at)


def _handed_on(cascade: Cascade, step: CascadeStep) -> float | None:
    """The share of its requests that a step hands on, by its calibration; None where nothing says."""
    if step.accept.rule == "always":
        return 0.0
    evidence = None if cascade.evidence is None else cascade.evidence.steps.get(step.name)
    if evidence is None or step.accept.rule != "confidence":
        return None
    return 1.0 - _accepted(evidence)


def _accepted(evidence: StepCalibration) -> float:
    """At the threshold: that of the curve's last point that is not below it; the curve falls."""
    at_or_above = [point.accepted for point in evidence.curve if point.threshold >= evidence.threshold - 1e-9]
    return at_or_above[-1] if at_or_above else 0.0
