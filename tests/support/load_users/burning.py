"""Costs the generator more processor time than there is."""

from __future__ import annotations

import time

from benchmarks.loadtest.user import Answer, Due, OpenLoopUser


class Burning(OpenLoopUser):
    """Twenty milliseconds a request."""

    def send(self, due: Due) -> Answer:
        ends = time.process_time() + 0.02
        while time.process_time() < ends:
            pass
        return Answer("burn")
