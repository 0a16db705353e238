"""The end of a worker's pod: its replicas move to other nodes and finish what they have begun, then Ray may stop."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

# Time for kube-proxy and gateways to send nothing more to this pod's ingress, and for Ray Serve to start moving.
SETTLE_S = 15.0
_POLL_S = 1.0
# Ray names the process of an actor so; Ray Serve's replicas are actors of this class.
_REPLICA = "ray::ServeReplica:"


def drain(
    seconds: float,
    *,
    announce: Callable[[float], bool] | None = None,
    busy: Callable[[], int] | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Tells Ray that this node goes, and waits until no replica is left on it, at most `seconds`.

    Ray Serve starts replicas elsewhere before it stops those on a node that drains, and Ray places nothing new here.

    Args:
        announce: tells Ray; False if it was refused.
        busy: counts replicas on this node.

    Returns:
        Replicas that are left; 0 unless time was short.
    """
    announce = announce or announce_to_ray
    busy = busy or replicas
    started = clock()
    announce(seconds)
    left = busy()
    while clock() - started < min(SETTLE_S, seconds) or (left and clock() - started < seconds):
        sleep(_POLL_S)
        left = busy()
    return left


def announce_to_ray(seconds: float) -> bool:
    """`ray drain-node` of this node: what Ray's autoscaler does, as a command (2.60; hidden from its help)."""
    command = [
        str(Path(sys.executable).with_name("ray")),
        "drain-node",
        "--reason=DRAIN_NODE_REASON_PREEMPTION",
        "--reason-message=the pod is being deleted",
        f"--deadline-remaining-seconds={int(seconds)}",
    ]
    try:
        return subprocess.run(command, timeout=min(60, seconds), check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def replicas() -> int:
    """Processes in this pod that are replicas of Ray Serve."""
    titles = ((process.info["cmdline"] or [""])[0] for process in psutil.process_iter(["cmdline"]))
    return sum(title.startswith(_REPLICA) for title in titles)
