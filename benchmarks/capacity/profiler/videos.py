"""Classification of a short clip, for the profiler: no workload of the load tests asks a video classifier."""

from __future__ import annotations

import itertools
from typing import Any

from benchmarks.loadtest.user import Answer, Due, OpenLoopUser
from benchmarks.video_classifier import clips

_FILES = 16


class Videos(OpenLoopUser):
    """See the module's text."""

    def prepare(self) -> None:
        """See `OpenLoopUser.prepare`."""
        self._files = itertools.cycle(clips(_FILES))

    def send(self, due: Due) -> Answer:
        """See `OpenLoopUser.send`."""
        headers = {"Content-Type": "video/mp4"}
        video: Any = next(self._files)  # the client takes bytes, whatever its types say
        self.accept(self.http.post("/v1/videos/classify", data=video, headers=headers))
        return Answer("classify", path="video_classifier")
