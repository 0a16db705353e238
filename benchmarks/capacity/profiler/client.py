"""The load generator of `argus profile`, in a process of its own.

    python -m benchmarks.capacity.profiler.client SETTINGS FOLDER

It is the one of `argus load`, without Locust's runners and tables, so that a request costs it what it costs there.
SETTINGS is a `benchmarks.loadtest.settings.Settings` as JSON. FOLDER/began has the run's beginning on
`time.monotonic()` once requests are on their way, FOLDER/columns.npz their fates.
"""

from __future__ import annotations

import importlib
import inspect
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.loadtest.user import OpenLoopUser

BEGAN, COLUMNS = "began", "columns.npz"
# Between the last preparation and the first request.
_AHEAD_S = 0.5


def main(settings_json: str, folder: Path) -> None:
    """Runs one load test in this process."""
    from gevent import monkey  # type: ignore[import-untyped]

    monkey.patch_all()
    from locust.env import Environment

    from benchmarks.loadtest.drive import Driver
    from benchmarks.loadtest.schedule import schedule
    from benchmarks.loadtest.settings import Settings

    settings = Settings.model_validate_json(settings_json)
    kind = user_of(settings.workload)
    kind.host, kind.grpc_target = settings.host, settings.grpc
    user = kind(Environment(user_classes=[kind], host=settings.host))
    user.prepare()
    driver = Driver(user, schedule(settings), settings.grace_s, lambda kind, seconds, error: None)
    began = time.monotonic() + _AHEAD_S
    (folder / BEGAN).write_text(repr(began), encoding="ascii")
    driver.run(began, settings.end_s)
    (folder / COLUMNS).write_bytes(driver.recorder.columns().pack())


def user_of(workload: str) -> type[OpenLoopUser]:
    """The user class of a workload: of the load tests, or of `benchmarks.capacity.profiler`."""
    from benchmarks.loadtest.user import OpenLoopUser

    package = "benchmarks.capacity.profiler" if workload == "videos" else "benchmarks.workloads"
    module = importlib.import_module(f"{package}.{workload}")
    return next(
        found
        for _, found in inspect.getmembers(module, inspect.isclass)
        if issubclass(found, OpenLoopUser) and found.__module__ == module.__name__
    )


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
