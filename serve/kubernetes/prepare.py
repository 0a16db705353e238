"""What a pod does before Ray starts in it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from serve.errors import Unavailable
from serve.runtime import ingress


def write_ingress(folder: Path, stats_port: int) -> Path:
    """Writes HAProxy's wrapper and its error files; the wrapper's path.

    Statistics stay on loopback; metrics do not, since Prometheus reads them from outside (see `network`).

    Raises:
        Unavailable: there is no HAProxy here that runs.
    """
    binary = ingress.haproxy_binary()
    if binary is None:
        raise Unavailable("There is no HAProxy that runs here; set server.tuned_ingress: false, or mend the image.")
    return ingress.write_wrapper(folder, binary, side_ports=[stats_port])


def await_file(
    path: Path,
    seconds: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Returns when the file is there.

    Raises:
        Unavailable: it did not appear in `seconds`.
    """
    deadline = clock() + seconds
    while not path.exists():
        if clock() >= deadline:
            raise Unavailable(f"{path} did not appear in {seconds:g} s; see the job that fetches weights.")
        sleep(min(5.0, max(0.0, deadline - clock())))
