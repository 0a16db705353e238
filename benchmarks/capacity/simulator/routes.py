"""What a request asks, one after another: cascades unrolled into nodes, one for each way of asking a step.

A node is a call of one model or provider. From it a request goes on to the node of a fallback when the call fails, to
the first node of the step after when the answer is not accepted, and to its end otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from benchmarks.capacity.profiles import ModelProfile
from benchmarks.capacity.scenario import Flow, Scenario, told
from serve.cascade import gears, rules
from serve.config.cascades import Cascade, CascadeStep, Fallback, Gear
from serve.errors import ConfigError
from serve.resilience.failures import FailureClass

END: Final = -1
# The failures of a simulated call, as cascades know them, in the order of `records.REFUSED` and so on.
FAILURES: Final[tuple[FailureClass, ...]] = ("rate_limited", "timeout", "unavailable", "over_budget")
_ANY_TOKENS = 2**30


@dataclass(slots=True)
class Node:
    """A call.

    Attributes:
        target: name of the model or provider.
        step: number of the step, the same for all ways of asking it.
        share: of the time left that the call may take.
        path: name of what answers.
        fallback: there is another way to go when it fails.
        after: by gear, the first node of the step after.
        failed: by failure, the node of a fallback.
        accept: by gear, share of the answers that end the request.
        most_tokens: by gear, of an answer.
    """

    flow: int
    target: str
    step: int
    share: float
    path: str
    fallback: bool
    after: list[int] = field(default_factory=list)
    failed: list[int] = field(default_factory=list)
    accept: list[float] = field(default_factory=list)
    most_tokens: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Routes:
    """Every node, and where each flow begins by gear."""

    nodes: list[Node]
    starts: list[list[int]]


def imbalance(scenario: Scenario, way: Routes) -> float:
    """`ModelProfile.imbalance` of all models together, each by the work that it has, when nothing fails."""
    works = dict.fromkeys(scenario.stages, 0.0)
    for number, flow in enumerate(scenario.flows):
        place, reach = way.starts[number][0], flow.share
        while place != END:
            node = way.nodes[place]
            if node.target in works:
                works[node.target] += reach * _work_s(scenario.stages[node.target].profile, flow)
            place, reach = node.after[0], reach * (1.0 - node.accept[0])
    total = sum(works.values())
    each = (work * scenario.stages[name].profile.imbalance for name, work in works.items())
    return sum(each) / total if total else 0.0


def _work_s(profile: ModelProfile, flow: Flow) -> float:
    """Of one call that meets no other."""
    made = profile.generation
    if made is None:
        return flow.items * profile.preprocess.mean + profile.forward[0].seconds.mean
    return profile.preprocess.mean + flow.images * made.encode_s + flow.output_tokens * (made.step_s + made.sequence_s)


def routes(scenario: Scenario) -> Routes:
    """The nodes of all flows.

    Raises:
        ConfigError: nothing says how much a step hands on.
    """
    most = max((len(cascade.gears) for cascade in scenario.cascades.values()), default=0)
    found = Routes([], [])
    for number, flow in enumerate(scenario.flows):
        cascade = scenario.cascades.get(flow.entry)
        if cascade is None:
            found.starts.append([len(found.nodes)] * (most + 1))
            found.nodes.append(_plain(number, flow, most, step=len(found.nodes)))
        else:
            found.starts.append(_Unrolling(scenario, found.nodes, number, cascade, most).starts())
    return found


def _plain(number: int, flow: Flow, most: int, step: int) -> Node:
    every = most + 1
    return Node(
        number,
        flow.entry,
        step,
        1.0,
        flow.entry,
        False,
        [END] * every,
        [END] * len(FAILURES),
        [1.0] * every,
        [_ANY_TOKENS] * every,
    )


class _Unrolling:
    """One flow's cascade; `nodes` is added to."""

    def __init__(self, scenario: Scenario, nodes: list[Node], number: int, cascade: Cascade, most: int) -> None:
        self._providers = frozenset(scenario.providers)
        self._nodes = nodes
        self._number = number
        self._flow = scenario.flows[number]
        self._cascade = cascade
        # A cascade with fewer gears than another one stays in its highest.
        own: list[Gear | None] = [None, *cascade.gears]
        self._gears = [own[min(level, len(own) - 1)] for level in range(most + 1)]
        self._first_step = len(nodes)
        self._known: dict[tuple[str, str, tuple[str, ...]], int] = {}

    def starts(self) -> list[int]:
        return self._step(self._cascade.steps[0])

    def _step(self, step: CascadeStep) -> list[int]:
        """The first node of a step, by gear."""
        return [self._node(step, *_order(step, gear, self._providers)) for gear in self._gears]

    def _node(self, step: CascadeStep, use: str, options: Sequence[Fallback]) -> int:
        key = (step.name, use, tuple(f"{option.use}:{','.join(option.on)}" for option in options))
        if key in self._known:
            return self._known[key]
        place = self._known[key] = len(self._nodes)
        following = self._cascade.after(step)
        node = Node(
            self._number,
            use,
            self._first_step + [one.name for one in self._cascade.steps].index(step.name),
            rules.step_seconds(1.0, step.deadline_share, self._steps_from(step)),
            step.name,
            bool(options) or following is not None,
        )
        self._nodes.append(node)
        node.after = [END] * len(self._gears) if following is None else self._step(following)
        node.accept = [accepted(self._cascade, step, self._flow, gear) for gear in self._gears]
        node.most_tokens = [
            min(step.max_tokens, _ANY_TOKENS if gear is None or gear.max_tokens is None else gear.max_tokens)
            for gear in self._gears
        ]
        for failure in FAILURES:
            option = next((one for one in options if failure in one.on), None)
            rest = [one for one in options if option is None or one.use != option.use]
            node.failed.append(END if option is None else self._node(step, option.use, rest))
        return place

    def _steps_from(self, step: CascadeStep) -> int:
        count, at = 1, self._cascade.after(step)
        while at is not None:
            count, at = count + 1, self._cascade.after(at)
        return count


def _order(step: CascadeStep, gear: Gear | None, providers: frozenset[str]) -> tuple[str, list[Fallback]]:
    """Who is asked first, and who after a failure; in overflow the first provider comes first
    (`serve.cascade.run.Runner`)."""
    provider = next((option for option in step.fallback if option.use in providers), None)
    if gear is None or not gear.api_overflow or step.use in providers or provider is None:
        return step.use, list(step.fallback)
    rest = [option for option in step.fallback if option.use != provider.use]
    return provider.use, [Fallback(on=FAILURES, use=step.use), *rest]


def accepted(cascade: Cascade, step: CascadeStep, flow: Flow, gear: Gear | None) -> float:
    """Share of its answers that a step gives itself, at the threshold that the gear or the calibration says.

    A share that the flow states is that of the normal gear; a gear changes it as the calibration's curve does.

    Raises:
        ConfigError: nothing says it.
    """
    if step.accept.rule == "always" or cascade.after(step) is None:
        return 1.0
    if not told(cascade, step, flow):
        raise ConfigError(
            f"flow {flow.name!r}: nothing says how much step {step.name!r} of {flow.entry!r} hands on",
            param="escalated",
        )
    usual = _by_curve(cascade, step, None)
    shifted = _by_curve(cascade, step, gear)
    if step.name not in flow.escalated:
        assert shifted is not None, "it is calibrated"
        return shifted
    handed_on = flow.escalated[step.name]
    if usual is None or shifted is None or usual >= 1:
        return 1.0 - handed_on
    return 1.0 - min(1.0, handed_on * (1 - shifted) / (1 - usual))


def _by_curve(cascade: Cascade, step: CascadeStep, gear: Gear | None) -> float | None:
    """What the calibration says of the share that is accepted; None where it says nothing."""
    evidence = None if cascade.evidence is None else cascade.evidence.steps.get(step.name)
    if evidence is None or step.accept.rule != "confidence" or not evidence.curve:
        return None
    threshold = rules.threshold_of(step, evidence, gear)
    assert threshold is not None, "its rule has one"
    # `price` reads the curve at a gear's threshold; above 1 nothing is accepted, which no gear may say.
    if threshold > 1:
        return 0.0
    asked = Gear(name="asked", above_requests_per_s=1.0, thresholds={step.name: threshold})
    return gears.price(asked, cascade.evidence).steps[0].accepted
