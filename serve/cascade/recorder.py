"""What cascades report, for metrics; pure code needs no metrics library for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from serve.cascade.types import TraceEntry
from serve.errors import Fault

ShadowResult = Literal["agreed", "disagreed", "failed", "dropped"]


@dataclass(frozen=True, slots=True)
class Ran:
    """A cascade that ended.

    Attributes:
        result: `ok`, `unsure` (no step accepted), `degraded`, or the error's code.
        outcome: of the policy; `none` without one.
        escalated: more than the first step was called.
        fault: whose it is that there is no answer; `none` when there is one.
        path: the step whose answer it is; `none` without one. It tells how long the way was.
        saved_usd: what asking the last step would usually have cost, for an answer that was accepted before it.
    """

    cascade: str
    result: str
    outcome: str
    escalated: bool
    seconds: float
    trace: tuple[TraceEntry, ...]
    fault: Fault = "none"
    path: str = "none"
    saved_usd: float = 0.0


class CascadeRecorder(Protocol):
    """Takes what cascades report."""

    def ran(self, ran: Ran) -> None:
        """One request ended."""
        ...

    def shadowed(self, cascade: str, step: str, result: ShadowResult) -> None:
        """An accepted answer of `step` was checked by the next one, or should have been."""
        ...

    def drifting(self, cascade: str, step: str, alarm: bool, evidence: float) -> None:
        """Whether the drift alarm of a step is raised, and how many times more its checks speak for a drift."""
        ...

    def calibrated(self, cascade: str, calibrated: bool) -> None:
        """Whether a cascade's thresholds are certified; said once, at the start."""
        ...

    def geared(self, cascade: str, level: int) -> None:
        """The gear changed; 0 is the normal one."""
        ...


class Silent:
    """A recorder that forgets."""

    def ran(self, ran: Ran) -> None:
        """See `CascadeRecorder`."""

    def shadowed(self, cascade: str, step: str, result: ShadowResult) -> None:
        """See `CascadeRecorder`."""

    def drifting(self, cascade: str, step: str, alarm: bool, evidence: float) -> None:
        """See `CascadeRecorder`."""

    def calibrated(self, cascade: str, calibrated: bool) -> None:
        """See `CascadeRecorder`."""

    def geared(self, cascade: str, level: int) -> None:
        """See `CascadeRecorder`."""
