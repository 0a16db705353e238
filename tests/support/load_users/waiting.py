"""Each answer takes two seconds."""

from __future__ import annotations

from benchmarks.loadtest.user import Answer, Due, OpenLoopUser


class Waiting(OpenLoopUser):
    """See the module's text."""

    def send(self, due: Due) -> Answer:
        self.accept(self.http.get(f"/ask?number={due.number}&after=2"))
        return Answer("ask")
