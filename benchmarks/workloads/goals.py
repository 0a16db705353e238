"""Goals of the demo that follow from a measured knee, and how they get into targets.yaml."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from datetime import date

import yaml

from benchmarks.loadtest.verdict import Figures
from benchmarks.targets import Goal
from serve.errors import ConfigError

HARDWARE = "cpu-demo"
RESERVE = 0.7
# A pace (see benchmarks/capacity/pace.py) that goals are stated for, so that they hold on slow cores as well.
PACE = 2.0
_SLACK = 2.0
_LATENCIES = ("mean_ms", "p50_ms", "p95_ms", "p99_ms")
# Of lines in targets.yaml: 120 characters, of which YAML breaks a line only at the next space after its width.
_INDENT, _WIDTH = " " * 8, 84


def rounded(value: float, up: bool) -> float:
    """To two digits; up or down."""
    if value <= 0:
        return 0.0
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    steps = value / unit
    return round((math.ceil if up else math.floor)(round(steps, 6)) * unit, 6)


def goal_of(name: str, shipped: Goal | None, knee: float, at_goal: Figures, pace: float) -> dict[str, object]:
    """A goal as targets.yaml has it: the shipped one with what was measured; latencies that it leaves out stay out.

    Args:
        knee: requests a second, at `pace`.
        at_goal: at `RESERVE` of it.
        pace: of the cores meanwhile. Those of `PACE` do as much less in a second, and take as much longer.
    """
    slower = PACE / pace
    kept = shipped.model_dump(mode="json", exclude_unset=True) if shipped else dict.fromkeys(_LATENCIES)
    source = (
        f"measured: {RESERVE:.0%} of the knee of {knee:.3g}/s, latencies twice what was measured there, at a "
        f"pace of the cores of {pace:.2f}; stated for one of {PACE:g}; {date.today()}, {os.cpu_count()} cores, "
        f"no accelerator, python -m benchmarks.workloads.knee {name}; check with argus load {name}"
    )
    latencies = {key: rounded(_SLACK * slower * getattr(at_goal, key), up=True) for key in _LATENCIES if key in kept}
    return {**kept, "qps": rounded(RESERVE * knee / slower, up=False), **latencies, "source": source}


def written(text: str, workload: str, goal: Mapping[str, object]) -> str:
    """The text of targets.yaml with this goal in the place of the workload's present one; all else stays as it is.

    Raises:
        ConfigError: the workload has no goal of the demo there.
    """
    inside, deeper = r"(?:(?:   .*)?\n)*?", r"(?:(?:      .*)?\n)*?"
    start = rf"^  {re.escape(workload)}:\n{inside}    goals:\n{deeper}      {HARDWARE}:\n"
    block = yaml.safe_dump(dict(goal), sort_keys=False, width=_WIDTH, allow_unicode=True)
    lines = "".join(f"{_INDENT}{line}\n" for line in block.splitlines())
    changed, count = re.subn(
        rf"({start})(?:{_INDENT}.*(?:\n|\Z))+", lambda found: found[1] + lines, text, count=1, flags=re.MULTILINE
    )
    if not count:
        raise ConfigError(f"workload {workload!r} has no goal for {HARDWARE} in the file", param="targets")
    return changed
