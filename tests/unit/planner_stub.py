"""A simulator that is arithmetic: for tests of what the planner does with runs, which need no run to be true."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from benchmarks.capacity.outcome import Outcome, StageUse
from benchmarks.capacity.scenario import Scenario


@dataclass
class Stub:
    """Requests take as long as it says; the ones for which a stage has no replicas enough are refused.

    Attributes:
        calls_per_s: of one replica, by stage; others do all they are asked.
        latency_s: of what is answered.
        usd: paid for each request.
        seen: every scenario that was simulated.
    """

    calls_per_s: Mapping[str, float] = field(default_factory=dict)
    latency_s: float = 0.01
    usd: float = 0.0
    seen: list[Scenario] = field(default_factory=list)

    def __call__(
        self,
        scenario: Scenario,
        arrivals: npt.NDArray[np.float64],
        *,
        seed: int,
        start_s: float = 0.0,
        end_s: float | None = None,
    ) -> Outcome:
        self.seen.append(scenario)
        until = float(arrivals[-1]) if end_s is None else end_s
        rate = len(arrivals) / until
        served = [
            min(1.0, self.calls_per_s[name] * stage.replicas / rate)
            for name, stage in scenario.stages.items()
            if name in self.calls_per_s
        ]
        draw = np.random.default_rng(seed)
        count = len(arrivals)
        return Outcome(
            arrived_s=arrivals,
            latency_s=np.full(count, self.latency_s),
            ok=draw.random(count) < min(served, default=1.0),
            path=np.zeros(count, np.int16),
            paths=("only",),
            usd=np.full(count, self.usd),
            flow=np.zeros(count, np.int16),
            flows=tuple(flow.name for flow in scenario.flows),
            start_s=start_s,
            end_s=until,
            stages={name: StageUse(0.5, 2.0, 0.01, stage.replicas) for name, stage in scenario.stages.items()},
        )
