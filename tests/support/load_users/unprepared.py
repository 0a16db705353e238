"""Cannot start."""

from __future__ import annotations

from benchmarks.loadtest.user import OpenLoopUser


class Unprepared(OpenLoopUser):
    """See the module's text."""

    def prepare(self) -> None:
        raise RuntimeError("the pictures are not there")
