"""What the search has yet to try, in the order of a lower bound of its cost."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Mapping, Sequence, Set

from benchmarks.capacity.planner.candidate import node_usd_per_hour, rented
from benchmarks.capacity.planner.layout import least_nodes
from benchmarks.capacity.planner.options import Called, Hosted, Need, Option
from benchmarks.capacity.planner.problem import Problem

Assignment = tuple[Option, ...]
# Where much is missing, this part of a kind's nodes is added at once.
STRIDE = 4
# Share of the expected calls that surely fall into the runs, whatever the draw.
_CERTAIN = 0.97


class Frontier:
    """What is still to be tried: assignments with nodes for them, by a lower bound of their cost.

    Args:
        refuse: is told what is left out, and why.
    """

    def __init__(
        self,
        problem: Problem,
        needs: Mapping[str, Need],
        assignments: Sequence[Assignment],
        refuse: Callable[[str, str], None],
    ) -> None:
        self._problem, self._needs, self._refuse = problem, needs, refuse
        self._order = itertools.count()
        self._entries: list[tuple[float, float, int, Assignment, tuple[tuple[str, int], ...]]] = []
        self._seen: set[tuple[Assignment, tuple[tuple[str, int], ...]]] = set()
        for assignment in assignments:
            self._push(assignment, self.least(assignment))

    def pop(self) -> tuple[float, Assignment, dict[str, int]] | None:
        """The cheapest; None when all were taken."""
        if not self._entries:
            return None
        bound, _, _, assignment, nodes = heapq.heappop(self._entries)
        return bound, assignment, dict(nodes)

    def grow(self, assignment: Assignment, nodes: Mapping[str, int], kinds: Set[str], far: bool) -> bool:
        """Adds the same with one node more, of each of these kinds; with several of all of them, where much is missing.

        Returns:
            Whether anything between was left out.
        """
        strides = {node: self._stride(node, nodes[node]) for node in sorted(kinds & nodes.keys())} if far else {}
        if any(stride > 1 for stride in strides.values()):
            self._push(assignment, {node: count + strides.get(node, 0) for node, count in nodes.items()})
            return True
        for node in sorted(kinds & nodes.keys()):
            self._push(assignment, {**nodes, node: nodes[node] + 1})
        return False

    def more(self, nodes: Mapping[str, int], kinds: Set[str]) -> dict[str, int] | None:
        """With a part more of each of these kinds, at least one, as far as the catalogue has them; None when there are
        none."""
        wanted = {node: max(1, nodes[node] // STRIDE) for node in kinds & nodes.keys()}
        more = {node: count + self._room(node, count, wanted.get(node, 0)) for node, count in nodes.items()}
        return None if more == dict(nodes) else more

    def _stride(self, node: str, count: int) -> int:
        """Nodes that are added at once."""
        return self._room(node, count, count // STRIDE)

    def _room(self, node: str, count: int, wanted: int) -> int:
        """Nodes that can be added to so many: as many as are wanted, or as the catalogue has with their spares."""
        most = self._problem.catalogue.nodes[node].max_nodes
        return next((more for more in range(wanted, 0, -1) if rented(self._problem, node, count + more) <= most), 0)

    def least(self, assignment: Assignment) -> dict[str, int]:
        """Nodes of which fewer could not do the average load."""
        grouped = group(assignment, self._needs)
        if not grouped:
            return {_bare_node(self._problem): 1}
        kinds = self._problem.catalogue.nodes
        return {
            node: least_nodes(kinds[node], stages, self._problem.wishes.most_use) for node, stages in grouped.items()
        }

    def _push(self, assignment: Assignment, nodes: Mapping[str, int]) -> None:
        for node, count in nodes.items():
            most = self._problem.catalogue.nodes[node].max_nodes
            wanted = rented(self._problem, node, count)
            if wanted > most:
                stages = ", ".join(o.stage for o in assignment if isinstance(o, Hosted) and o.node == node)
                spare = f" ({wanted - count} of them spare)" if wanted > count else ""
                self._refuse(stages or "router", f"would take {wanted} {node} nodes{spare}; the catalogue has {most}")
                return
        key = (assignment, tuple(sorted(nodes.items())))
        if key in self._seen:
            return
        self._seen.add(key)
        bound = self.least_usd(assignment, nodes)
        # Of equal cost the one of most capacity comes first.
        capacity = sum(o.capacity_per_s for o in assignment if isinstance(o, Hosted))
        heapq.heappush(self._entries, (bound, -capacity, next(self._order), *key))

    def least_usd(self, assignment: Assignment, nodes: Mapping[str, int]) -> float:
        """Lower bound of what it costs an hour: these nodes, and the calls that they surely leave to providers."""
        return node_usd_per_hour(self._problem, nodes) + self._calls_usd(assignment, nodes)

    def _calls_usd(self, assignment: Assignment, nodes: Mapping[str, int]) -> float:
        """Least that providers cost in an hour."""
        total = fixed_calls_usd(self._problem)
        for option in assignment:
            calls = self._needs[option.stage].calls_per_s
            if isinstance(option, Called):
                total += 3600.0 * calls * option.usd_per_call
            elif option.overflow is not None:
                kind = self._problem.catalogue.nodes[option.node]
                most = option.capacity_per_s * nodes[option.node] * max(1, kind.gpus)
                profile = self._problem.provider(option.overflow)
                usd = 0.0 if profile is None else profile.usd_per_call
                total += 3600.0 * max(0.0, calls - most) * usd
        return total * _CERTAIN


def fixed_calls_usd(problem: Problem) -> float:
    """What the steps that are providers in the file cost in an hour, when nothing fails."""
    total = 0.0
    for target, work in problem.works.items():
        if target in problem.cluster.providers and (profile := problem.provider(target)) is not None:
            total += 3600.0 * problem.rate_per_s * work.calls * profile.usd_per_call
    return total


def group(assignment: Assignment, needs: Mapping[str, Need]) -> dict[str, list[tuple[Hosted, Need]]]:
    """Hosted stages by the kind of node."""
    grouped: dict[str, list[tuple[Hosted, Need]]] = {}
    for option in assignment:
        if isinstance(option, Hosted):
            grouped.setdefault(option.node, []).append((option, needs[option.stage]))
    return grouped


def _bare_node(problem: Problem) -> str:
    """The cheapest node, for a cluster that hosts no model."""
    prices = problem.catalogue.priced(problem.wishes.price)
    return min(prices, key=lambda name: prices[name].usd_per_hour)
