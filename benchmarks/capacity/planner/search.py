"""The search: every way to host or call each stage, on ever more nodes, cheapest first, until one holds.

A cluster's cost is known before it is simulated, up to what overflows to an API, for which there is a lower bound. So
candidates are taken in the order of that bound, and the first that holds, once nothing cheaper is left, is the cheapest
there is among them. Bounds keep out what cannot hold: too little capacity for the average load, or for the bursts.

On many nodes that would take hundreds of simulations. Where much is missing, several nodes are added at once, of every
kind that is short; a plan that was found so is then made leaner, and is not called proven. And where much was tried in
vain, the candidates that missed least are given ever more nodes until they hold: what comes of it bounds the rest.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from benchmarks.capacity.planner.candidate import Candidate, assemble
from benchmarks.capacity.planner.catalogue import NodeType
from benchmarks.capacity.planner.frontier import Assignment, Frontier, fixed_calls_usd, group
from benchmarks.capacity.planner.idle import Idle, Lone
from benchmarks.capacity.planner.judge import Judge, Verdict, over_budget, over_limit
from benchmarks.capacity.planner.large import Held, Place, Tried, enlarged, keep_nearest, leaner, miss_of
from benchmarks.capacity.planner.layout import Pool, layouts
from benchmarks.capacity.planner.options import Called, Hosted, Need, Option, called, hosted, need
from benchmarks.capacity.planner.problem import Problem
from serve.errors import ConfigError

# Layouts of one set of nodes that are simulated, the least used first.
_LAYOUTS = 2
# A stage whose calls wait less than this, in batches below that size, serves them as if each were alone.
_NO_WAIT_S = 1e-4
_ALONE = 1.02
# Ways to give each stage its place that are gone through, and reasons that are kept for what was left out.
_MOST_ASSIGNMENTS = 50_000
_MOST_REFUSALS = 1_000
# Bounds on batches that are tried for a model on one kind of node: all that add capacity, fewer where stages are many.
_SIZES = (16, 3, 2, 1)
# Candidates after which, with none that holds, the nearest are enlarged until one does; then after twice as many.
_PATIENCE = 40
# A plan that costs this multiple of what is being tried has too many between them to go through.
_TOO_MANY = 2.0
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why something was left out: the stage or objective, and the bound that it breaks."""

    what: str
    why: str


@dataclass(slots=True)
class Found:
    """What a search came to.

    Attributes:
        candidate, verdict: the cheapest that holds; None when there is none.
        nearest: the candidate that missed least, and its verdict; None when none was simulated.
        proven: nothing cheaper was left untried.
        tried: candidates that were simulated.
        refusals: what the bounds kept out, each reason once, in the order of their finding.
        needs: of each stage.
    """

    candidate: Candidate | None = None
    verdict: Verdict | None = None
    nearest: tuple[Candidate, Verdict] | None = None
    proven: bool = True
    tried: int = 0
    refusals: dict[Refusal, None] = field(default_factory=dict)
    needs: Mapping[str, Need] = field(default_factory=dict)

    def refuse(self, what: str, why: str) -> None:
        """Notes a reason."""
        if len(self.refusals) < _MOST_REFUSALS:
            self.refusals[Refusal(what, why)] = None

    def missed(self, candidate: Candidate, verdict: Verdict) -> None:
        """Notes a candidate that does not hold."""
        if not verdict.findings:
            return
        old = self.nearest
        if old is None or miss_of(verdict) < miss_of(old[1]):
            self.nearest = (candidate, verdict)


def search(problem: Problem, judge: Judge, progress: Progress | None = None) -> Found:
    """The cheapest candidate that holds.

    Raises:
        ConfigError: a stage has neither a profile on any node nor a provider to stand in, or there are too many ways to
            place them.
    """
    found = Found()
    times = judge.arrivals(problem.wishes.first_seed)
    needs = {
        stage: need(problem, work, times, problem.wishes.first_seed)
        for stage, work in problem.works.items()
        if stage in problem.cluster.models
    }
    found.needs = needs
    if not _affordable(problem, found):
        return found
    idle = Idle(problem)
    # The fastest first: where an idle cluster is too slow, the first reason that is given is that of the best.
    products = sorted(itertools.product(*_choices(problem, needs, found)), key=_idle_s)
    assignments = [one for one in products if _possible(idle, one, found)]
    frontier = Frontier(problem, needs, assignments, found.refuse)

    def attempt(assignment: Assignment, nodes: Mapping[str, int]) -> Tried:
        return _attempt(problem, judge, assignment, nodes, found, progress)

    best: Held | None = None
    lean: Held | None = None
    nearest: dict[Place, Tried] = {}
    patience = _PATIENCE
    while (entry := frontier.pop()) is not None:
        bound, assignment, nodes = entry
        if best is not None and bound >= best.usd_per_hour:
            break
        if found.tried >= problem.wishes.most_tries:
            found.proven = False
            break
        tried = attempt(assignment, nodes)
        if tried.held is not None and (best is None or tried.held.usd_per_hour < best.usd_per_hour):
            best = tried.held
        keep_nearest(nearest, tried)
        if frontier.grow(assignment, nodes, tried.short, tried.far):
            found.proven = False
        if best is None and found.tried >= patience:
            best = lean = enlarged(problem, frontier, assignments, nearest, attempt)
            patience = 2 * found.tried
            if best is not None and best.usd_per_hour > _TOO_MANY * bound:
                found.proven = False
                break
    if best is not None and best is not lean and not found.proven:
        best = leaner(problem, best, attempt)
    if best is not None:
        found.candidate, found.verdict = best.candidate, best.verdict
    return found


def _attempt(
    problem: Problem,
    judge: Judge,
    assignment: Assignment,
    nodes: Mapping[str, int],
    found: Found,
    progress: Progress | None,
) -> Tried:
    """Simulates an assignment on these nodes."""
    short: set[str] = set()
    miss = math.inf
    candidates = list(itertools.islice(_candidates(problem, found, assignment, nodes), _LAYOUTS))
    for candidate in candidates:
        found.tried += 1
        verdict = judge.holds(candidate)
        if progress is not None:
            progress(_said(candidate, verdict))
        if verdict.held:
            held = Held(assignment, candidate, verdict)
            return Tried(assignment, nodes, held, set(nodes) if _pays(assignment) else set())
        found.missed(candidate, verdict)
        miss = min(miss, miss_of(verdict))
        short |= _short(candidate, verdict)
        if verdict.over is not None and _pays(assignment):
            short |= set(nodes)
    return Tried(assignment, nodes, None, short if candidates else set(nodes), miss)


def _short(candidate: Candidate, verdict: Verdict) -> set[str]:
    """Kinds of nodes of which more could help: those with a stage where calls waited, or shared a pass.

    Where they did neither, a call already takes what it takes on an idle cluster.
    """
    if not verdict.runs:
        return set(candidate.nodes)
    uses = verdict.runs[0].stages
    return {
        node
        for stage, (node, _) in candidate.placed.items()
        if stage not in uses or uses[stage].queue_wait_s > _NO_WAIT_S or uses[stage].mean_batch > _ALONE
    }


def _pays(assignment: Assignment) -> bool:
    """Whether more nodes can make it cheaper: where they take calls from a provider."""
    return any(isinstance(option, Hosted) and option.overflow is not None for option in assignment)


def _said(candidate: Candidate, verdict: Verdict) -> str:
    nodes = " + ".join(f"{count} {node}" for node, count in candidate.nodes.items())
    apis = "".join(f" + {one.provider}" for one in candidate.called)
    worst = verdict.worst() if verdict.findings else None
    shown = "" if worst is None or verdict.held else f", {worst.objective} missed"
    return f"{nodes}{apis}: {verdict.usd_per_hour:.2f} $/h{shown}"


def _choices(problem: Problem, needs: Mapping[str, Need], found: Found) -> list[list[Option]]:
    """Options of each stage: with fewer bounds on batches where all of them would be too many together."""
    for sizes in _SIZES:
        choices = list(_options(problem, needs, found, sizes))
        count = math.prod(len(options) for options in choices)
        if count <= _MOST_ASSIGNMENTS:
            found.proven = sizes == _SIZES[0]
            return choices
    raise ConfigError(
        f"{len(choices)} models can be placed in {count:,} ways; at most {_MOST_ASSIGNMENTS:,} are gone through. Name "
        "fewer kinds of nodes (--node), or plan the flows apart",
        param="node",
    )


def _options(problem: Problem, needs: Mapping[str, Need], found: Found, sizes: int) -> Iterator[list[Option]]:
    for stage, work in problem.works.items():
        if stage not in problem.cluster.models:
            continue
        stands_in = list(called(problem, work))
        options: list[Option] = []
        for name, node in problem.catalogue.nodes.items():
            here = hosted(problem, work, name, node)[:sizes]
            if not here and node.hardware is not None:
                whose = "one of its GPUs has" if node.gpus else "it has"
                found.refuse(stage, f"has no profile on {name}, or needs more memory than {whose}")
            options += [one for one in here if _does_enough(one, needs[stage], node, found)]
            # What a model has no room for goes to the provider that would be asked first in its place.
            options += [replace(one, overflow=api.provider) for one in here[:1] for api in stands_in[:1]]
        options += [api for api in stands_in if _within_limit(problem, api, needs[stage], found)]
        if not options and not any(problem.profile(stage, node) for node in problem.catalogue.nodes.values()):
            raise ConfigError(
                f"model {stage!r} has no profile for any node of the catalogue; measure it (argus profile {stage}) or "
                "add a node on which it has one",
                param=stage,
            )
        yield options


def _does_enough(option: Hosted, wanted: Need, node: NodeType, found: Found) -> bool:
    """Whether all nodes of a kind together could do what the bounds say is needed at least."""
    most = option.capacity_per_s * node.max_nodes * max(1, node.gpus)
    if wanted.least_per_s <= most:
        return True
    nodes = math.ceil(wanted.least_per_s / option.capacity_per_s / max(1, node.gpus))
    found.refuse(option.stage, f"would take {nodes} {option.node} nodes; the catalogue has {node.max_nodes}")
    return False


def _idle_s(assignment: Assignment) -> float:
    return sum(option.idle_s for option in assignment)


def _possible(idle: Idle, assignment: Assignment, found: Found) -> bool:
    """Whether an idle cluster of this kind would hold every objective."""
    reasons = list(idle.impossible({option.stage: Lone(option.idle_s, option.floor_s) for option in assignment}))
    if reasons:
        where = " + ".join(f"{o.stage} on {o.node}" if isinstance(o, Hosted) else o.provider for o in assignment)
        for stages, why in reasons:
            found.refuse(stages, f"{where}: {why}")
    return not reasons


def _within_limit(problem: Problem, api: Called, wanted: Need, found: Found) -> bool:
    why = over_limit(problem, api.provider, wanted.calls_per_s) or over_budget(
        problem, 3600.0 * (wanted.calls_per_s * api.usd_per_call) + fixed_calls_usd(problem)
    )
    if why is not None:
        found.refuse(api.stage, why)
    return why is None


def _affordable(problem: Problem, found: Found) -> bool:
    """Whether the steps that are providers in the file stay within their limits and the day's money."""
    over = [(name, why) for name in _hosted_steps(problem) if (why := over_limit(problem, name, _calls(problem, name)))]
    if (why := over_budget(problem, fixed_calls_usd(problem))) is not None:
        over.append(("providers", why))
    for name, reason in over:
        found.refuse(name, reason)
    return not over


def _hosted_steps(problem: Problem) -> list[str]:
    return [target for target in problem.works if target in problem.cluster.providers]


def _calls(problem: Problem, target: str) -> float:
    return problem.rate_per_s * problem.works[target].calls


def _candidates(
    problem: Problem, found: Found, assignment: Assignment, nodes: Mapping[str, int]
) -> Iterator[Candidate]:
    grouped = group(assignment, found.needs)
    kinds: Mapping[str, NodeType] = problem.catalogue.nodes
    ways: list[list[Pool]] = []
    for node, count in nodes.items():
        stages = grouped.get(node, [])
        here = list(itertools.islice(layouts(problem.cluster, node, kinds[node], count, stages), _LAYOUTS))
        if not here:
            names = ", ".join(option.stage for option, _ in stages)
            found.refuse(names, f"does not pack on {count} {node}: GPU time, memory or cores are too few")
            return
        ways.append(here)
    apis = tuple(option for option in assignment if isinstance(option, Called))
    within = {stage: one.within_s for stage, one in found.needs.items() if math.isfinite(one.within_s)}
    for pools in itertools.product(*ways):
        candidate = assemble(problem, pools, apis, within)
        if candidate is None:
            found.refuse("router", f"its replicas and the stores need more cores than {dict(nodes)} leave")
            continue
        yield candidate
