"""What Locust's web interface shows as users: the schedule's rate."""

from __future__ import annotations

import math
import time

import gevent
import numpy as np

from benchmarks.loadtest.coordinator import Coordinator
from benchmarks.loadtest.locust_api import LoadTestShape, MasterRunner

# Spawning a user costs the generator about as much as sending a request, so they are few.
_MOST_USERS = 100
_IDLE_USERS = 1


class ScheduledShape(LoadTestShape):
    """Follows any process of arrivals: constant, ramp, step, spike, diurnal, a trace.

    One user stands for one scheduled request a second, or for a hundredth of the peak rate where that is more. Users
    send nothing: requests come from the schedule, exactly. With workers there is one user each throughout, because
    a change of their number keeps each of Locust's workers (2.47) busy for about a tenth of a second.
    """

    abstract = True  # Not to be picked up from a locustfile that imports it: it needs its coordinator.

    def __init__(self, coordinator: Coordinator) -> None:
        super().__init__()
        self._coordinator = coordinator

    def reset_time(self) -> None:
        """Is called when a run is started, before the first `tick`; the one before has set `finished`."""
        super().reset_time()
        # Locust's master calls it a second time, out of the shape's own loop, when the run has begun.
        if self.runner is None or self.runner.shape_greenlet is not gevent.getcurrent():
            self._coordinator.finished.clear()

    def tick(self) -> tuple[int, float] | None:
        """Users and how many of them come or go a second; None when the run has ended."""
        if self._coordinator.finished.is_set():
            return None
        # The rate is always the same: Locust spawns anew whenever either number changes.
        return self._users(), _MOST_USERS

    def _users(self) -> int:
        if isinstance(self.runner, MasterRunner):
            return max(1, self.runner.worker_count)
        settings, began = self._coordinator.settings, self._coordinator.began
        if settings is None or began is None:
            return _IDLE_USERS
        since = min(max(time.time() - began - settings.warm_up_s, 0.0), settings.seconds)
        rate = float(settings.arrivals.rate_at(np.array([since]), settings.seconds)[0])
        a_user = max(1.0, settings.arrivals.peak_rate(settings.seconds) / _MOST_USERS)
        return max(1, min(_MOST_USERS, math.ceil(rate / a_user)))
