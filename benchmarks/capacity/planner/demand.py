"""How often each stage is asked: the flows' ways through their cascades, and the thresholds that decide them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from benchmarks.capacity.scenario import Flow
from serve.calibration.file import Calibration, CurvePoint, StepCalibration
from serve.config.cascades import Cascade, CascadeStep
from serve.config.cluster import ClusterFile

# An agreement bound that misses its target by less is one that met it and was rounded in the file.
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Visit:
    """One flow at one step.

    Attributes:
        share: of the flow's requests that come here.
        step: of the cascade; None for a flow that enters a model or provider itself.
    """

    flow: Flow
    target: str
    share: float
    step: CascadeStep | None


def visits(cluster: ClusterFile, flows: tuple[Flow, ...]) -> Iterator[Visit]:
    """Every step that a request may come to, in order, when nothing fails."""
    for flow in flows:
        cascade = cluster.cascades.get(flow.entry)
        if cascade is None:
            yield Visit(flow, flow.entry, 1.0, None)
            continue
        share, step = 1.0, cascade.steps[0]
        while True:
            yield Visit(flow, step.use, share, step)
            following = cascade.after(step)
            share *= handed_on(cascade, step, flow)
            if following is None or share <= 0:
                break
            step = following


def handed_on(cascade: Cascade, step: CascadeStep, flow: Flow) -> float:
    """Share of a step's requests that go on: what the flow says, else the calibration's at the step's threshold."""
    if step.name in flow.escalated:
        return flow.escalated[step.name]
    evidence = None if cascade.evidence is None else cascade.evidence.steps.get(step.name)
    if step.accept.rule != "confidence" or evidence is None:
        return 0.0
    return 1.0 - accepted_at(evidence, evidence.threshold)


def accepted_at(calibration: StepCalibration, threshold: float) -> float:
    """Share that a step answers itself at a threshold: the curve, on a line between its points."""
    points = sorted(calibration.curve, key=lambda point: point.threshold)
    if not points:
        return 0.0
    return float(np.interp(threshold, [one.threshold for one in points], [one.accepted for one in points], right=0.0))


def lowest_certified(calibration: StepCalibration, agreement: float) -> CurvePoint | None:
    """The lowest threshold whose accepted answers agree at least so often, with the file's confidence; None for none.

    Thresholds are gone through downwards from the file's own and end at the first whose lower bound is too low: tests
    in a fixed order need no correction for their number, and looking for one that passes would. More agreement than
    holds at the file's threshold is therefore not certified here; calibrate for it.
    """
    falling = sorted(calibration.curve, key=lambda one: -one.threshold)
    found = None
    for point in falling:
        if point.threshold > calibration.threshold + _ROUNDING:
            continue
        if point.lower < agreement - _ROUNDING:
            break
        found = point
    return found


@dataclass(frozen=True, slots=True)
class Threshold:
    """A cascade's threshold as it is planned.

    Attributes:
        agreement: that its accepted answers have at least, with the calibration's confidence.
        before: threshold of the file.
        escalated: share of the step's requests that go on.
    """

    cascade: str
    step: str
    threshold: float
    before: float
    agreement: float
    escalated: float


def with_thresholds(
    cluster: ClusterFile, flows: tuple[Flow, ...], agreement: float | None
) -> tuple[ClusterFile, tuple[Threshold, ...]]:
    """The cluster with each calibrated threshold at the lowest one that its curve certifies: fewest go on.

    Args:
        agreement: to be certified; by default each step's own target. A step without such a threshold keeps its own.
    """
    used = {flow.entry for flow in flows}
    cascades: dict[str, Cascade] = dict(cluster.cascades)
    found: list[Threshold] = []
    for name, cascade in cluster.cascades.items():
        if name not in used or cascade.evidence is None:
            continue
        steps = dict(cascade.evidence.steps)
        for step, calibration in cascade.evidence.steps.items():
            wanted = calibration.target if agreement is None else agreement
            point = lowest_certified(calibration, wanted)
            now = calibration.threshold if point is None else point.threshold
            steps[step] = calibration.model_copy(update={"threshold": now})
            certified = _agreement_at(calibration, now) if point is None else point.lower
            accepted = accepted_at(calibration, now)
            found.append(Threshold(name, step, now, calibration.threshold, certified, 1.0 - accepted))
        evidence = Calibration(version=1, cascade=cascade.evidence.cascade, made=cascade.evidence.made, steps=steps)
        cascades[name] = cascade.model_copy(update={"calibration": evidence})
    return cluster.model_copy(update={"cascades": cascades}), tuple(found)


def _agreement_at(calibration: StepCalibration, threshold: float) -> float:
    """Certified agreement of the nearest threshold of the curve that is not above this one."""
    below = [one for one in calibration.curve if one.threshold <= threshold + _ROUNDING]
    return max(below, key=lambda one: one.threshold).lower if below else 0.0


def with_escalation(flows: tuple[Flow, ...], cluster: ClusterFile, points: float) -> tuple[Flow, ...]:
    """The flows with every first escalation of a cascade moved by `points` (0.01 is one point), within 0 and 1."""
    moved = []
    for flow in flows:
        cascade = cluster.cascades.get(flow.entry)
        if cascade is None or cascade.after(cascade.steps[0]) is None:
            moved.append(flow)
            continue
        first = cascade.steps[0]
        share = min(1.0, max(0.0, handed_on(cascade, first, flow) + points))
        moved.append(flow.model_copy(update={"escalated": {**flow.escalated, first.name: share}}))
    return tuple(moved)


def escalation(cluster: ClusterFile, flow: Flow) -> float:
    """Share of a flow's requests that its cascade's first step hands on; 0 for flows without a cascade."""
    cascade = cluster.cascades.get(flow.entry)
    if cascade is None or cascade.after(cascade.steps[0]) is None:
        return 0.0
    return handed_on(cascade, cascade.steps[0], flow)


@dataclass(frozen=True, slots=True)
class Work:
    """What one stage is asked, over all flows.

    Attributes:
        calls: of it for one request of the whole traffic.
        items: in a call, on average; the same of `prompt` and `output` tokens and `images`.
    """

    target: str
    calls: float
    items: float
    prompt: float
    output: float
    images: float
    visits: tuple[Visit, ...]


def works(cluster: ClusterFile, flows: tuple[Flow, ...]) -> Mapping[str, Work]:
    """By model or provider, in the order in which they are met."""
    grouped: dict[str, list[Visit]] = {}
    for visit in visits(cluster, flows):
        grouped.setdefault(visit.target, []).append(visit)
    return {target: _work(target, tuple(group)) for target, group in grouped.items()}


def _work(target: str, group: tuple[Visit, ...]) -> Work:
    weights = np.array([one.flow.share * one.share for one in group])
    calls = float(weights.sum())

    def mean(values: list[float]) -> float:
        return float((weights * np.array(values)).sum() / calls) if calls else 0.0

    return Work(
        target=target,
        calls=calls,
        items=mean([float(one.flow.items) for one in group]),
        prompt=mean([float(one.flow.prompt_tokens) for one in group]),
        output=mean([float(one.flow.output_tokens) for one in group]),
        images=mean([float(one.flow.images) for one in group]),
        visits=group,
    )
