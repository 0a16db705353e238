"""One request makes the server stall for a second."""

from __future__ import annotations

from benchmarks.loadtest.user import Answer, Due, OpenLoopUser

STALLS_AT = 120
STALL_S = 1.0


def path(number: int) -> str:
    """Of a request."""
    return f"/ask?number={number}" + (f"&stall={STALL_S}" if number == STALLS_AT else "")


class Stalling(OpenLoopUser):
    """See the module's text."""

    def send(self, due: Due) -> Answer:
        self.accept(self.http.get(path(due.number)))
        return Answer("ask")
