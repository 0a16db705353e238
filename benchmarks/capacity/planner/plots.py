"""Three pictures of a plan, as SVG: cost against strictness, latency, and use of each stage."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from benchmarks.capacity.outcome import Outcome
from benchmarks.capacity.planner.plan import Plan

_SIZE = (7.0, 3.6)
# Points of a distribution's curve; more would not be seen.
_POINTS = 400


def cost_plot(plan: Plan) -> str | None:
    """Cost of the cheapest cluster over the factor on every latency bound; None without a curve."""
    points = [(one.factor, one.usd_per_hour) for one in plan.cost_against_slo if one.usd_per_hour is not None]
    if len(points) < 2:
        return None
    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = figure.add_subplot()
    factors, costs = zip(*points, strict=True)
    axes.step(factors, costs, where="post", marker="o")
    axes.axvline(1.0, color="grey", linewidth=0.8, linestyle=":")
    axes.set_xlabel("latency bounds, as a multiple of those asked for")
    axes.set_ylabel("$ an hour")
    axes.set_ylim(bottom=0)
    axes.set_title("Cost against strictness")
    return _svg(figure)


def latency_plot(plan: Plan, runs: Sequence[Outcome]) -> str:
    """Share of all requests answered within a time, by the path that answered and for the mixture."""
    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = figure.add_subplot()
    asked = sum(int(run.measured.sum()) for run in runs)
    _curve(axes, np.concatenate([run.latency_s[run.measured & run.ok] for run in runs]), asked, "all", 2.0)
    for path, name in enumerate(runs[0].paths):
        values = np.concatenate([run.latency_s[run.measured & run.ok & (run.path == path)] for run in runs])
        if 0 < len(values) < asked:
            _curve(axes, values, len(values), name, 1.0)
    for objective in plan.objectives:
        if objective.seconds is not None and objective.quantile is not None:
            axes.plot(1e3 * objective.seconds, objective.quantile, "kx")
    axes.set_xscale("log")
    axes.set_xlabel("latency, ms (x: what is asked)")
    axes.set_ylabel("share of requests")
    axes.set_ylim(0, 1.02)
    axes.legend(loc="lower right", fontsize="small")
    axes.set_title("Simulated latency; `all` counts refusals as never answered")
    return _svg(figure)


def _curve(axes: object, seconds: np.ndarray, of: int, name: str, width: float) -> None:
    if not len(seconds):
        return
    ordered = np.sort(seconds)
    picked = np.unique(np.linspace(0, len(ordered) - 1, _POINTS).astype(int))
    axes.plot(1e3 * ordered[picked], (picked + 1) / of, label=name, linewidth=width)  # type: ignore[attr-defined]


def use_plot(plan: Plan) -> str:
    """Use of each stage's capacity, and what one point of escalation more adds to it."""
    figure = Figure(figsize=(_SIZE[0], 1.2 + 0.5 * max(1, len(plan.stages))), layout="constrained")
    axes = figure.add_subplot()
    names = [f"{one.name} ({one.node})" for one in plan.stages]
    axes.barh(names, [one.use for one in plan.stages], label="planned load")
    added = [max(0.0, one.use_per_point) for one in plan.stages]
    axes.barh(names, added, left=[one.use for one in plan.stages], label="one point of escalation more", alpha=0.5)
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_xlabel("use of capacity (rho)")
    axes.set_xlim(0, max(1.1, *(one.use + up for one, up in zip(plan.stages, added, strict=True)), 0))
    axes.legend(fontsize="small")
    axes.set_title("Headroom")
    return _svg(figure)


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    # Without a date and with names by content, a plan made again is the same file.
    import matplotlib as mpl

    with mpl.rc_context({"svg.hashsalt": "argus"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()
