"""What a router counts for the autoscaler, under the names by which it hands the counts to Ray.

Each router replica tells totals since it started, so that what is lost on the way or comes late costs nothing but time.
Ray Serve (2.60) collects them by `record_autoscaling_stats` and gives them to the policy among its `raw_metrics`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

# In no name of a cluster file.
_MARK = "|"
_PREFIX = "argus"
Totals = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Told:
    """What one router replica said last.

    Attributes:
        at: when, in seconds on the policy's clock.
        totals: by name, since the router started.
    """

    at: float
    totals: Totals


def step(cascade: str, name: str) -> str:
    """Requests that entered a step of a cascade.

    Each counts as many times as requests of its kind came for each that was admitted: what is shed is demand, too.
    """
    return _MARK.join((_PREFIX, "step", cascade, name))


def plain(cascade: str, name: str) -> str:
    """Requests that entered a step in the normal gear, each once: in others less is escalated, for want of replicas."""
    return _MARK.join((_PREFIX, "plain", cascade, name))


def came(model: str) -> str:
    """Calls that a model's replicas would have had to answer, those that were refused included; weighted like steps."""
    return _MARK.join((_PREFIX, "came", model))


def done(model: str) -> str:
    """Calls that were answered."""
    return _MARK.join((_PREFIX, "done", model))


def busy(model: str) -> str:
    """Seconds from the sending of these calls to their answers, summed."""
    return _MARK.join((_PREFIX, "busy", model))


def waited(model: str) -> str:
    """Seconds that calls waited in the router for a place before, summed."""
    return _MARK.join((_PREFIX, "waited", model))


def asked(model: str) -> str:
    """Calls for which the cache was asked."""
    return _MARK.join((_PREFIX, "asked", model))


def missed(model: str) -> str:
    """Those of them that it did not have."""
    return _MARK.join((_PREFIX, "missed", model))


def share(name: str) -> str | None:
    """Which share a total is a part of: a cascade's steps in their normal gear, a model's calls at the cache."""
    parts = name.split(_MARK)
    return f"{_SHARES[parts[1]]}{_MARK}{parts[2]}" if len(parts) > 2 and parts[1] in _SHARES else None


_SHARES = {"plain": "steps", "asked": "cache", "missed": "cache"}


def ours(name: str) -> bool:
    """Whether a name is one of these; Ray has some of its own beside them."""
    return name.startswith(_PREFIX + _MARK)
