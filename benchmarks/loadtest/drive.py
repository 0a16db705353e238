"""The open loop: each request is sent at its intended time, whatever became of the earlier ones.

A closed loop waits for an answer before it sends again, so that a server that stalls is spared the requests it would
have had, and the stall is measured once instead of as often as users would have felt it: "coordinated omission" (Gil
Tene, https://github.com/giltene/wrk2; closed against open: Schroeder, Wierman and Harchol-Balter, NSDI 2006).
"""

from __future__ import annotations

import logging
import os
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from gevent import Timeout
from gevent.event import Event
from gevent.pool import Pool

from benchmarks.loadtest.columns import GENERATOR_FULL, GENERATOR_LATE, UNANSWERED, Recorder
from benchmarks.loadtest.request import Answer, Due, Failed
from benchmarks.loadtest.schedule import Schedule
from benchmarks.loadtest.user import UNKNOWN, OpenLoopUser

_log = logging.getLogger(__name__)
# Of the thread that sends. It stands for clients elsewhere, which wait for no core of the server's.
_NICENESS = -10

Booked = Callable[[str, float, Exception | None], None]
"""Is told of each ended request: kind, latency in seconds, and its error if it failed."""


@dataclass(slots=True)
class Driver:
    """One worker's part of a run.

    Attributes:
        booked: see `Booked`.
        cpu_share: of one core, that this process used up to the grace period.
        done, failed: requests that have ended so far.
    """

    user: OpenLoopUser
    part: Schedule
    grace_s: float
    booked: Booked
    done: int = 0
    failed: int = 0
    cpu_share: float = 0.0
    recorder: Recorder = field(init=False)
    _pool: Pool = field(init=False)
    _began: float = field(init=False, default=0.0)
    _cancelled: Event = field(init=False, default_factory=Event)

    def __post_init__(self) -> None:
        self.recorder = Recorder(self.part)
        self._pool = Pool(self.user.max_in_flight)

    @property
    def in_flight(self) -> int:
        """Requests in progress."""
        return len(self._pool)

    def cancel(self) -> None:
        """Ends the run now: nothing more is sent, and what is in progress is given up."""
        self._cancelled.set()

    def run(self, began: float, end_s: float) -> None:
        """Sends everything and waits for the answers.

        Args:
            began: when the run begins, by `time.monotonic()`; may lie ahead.
            end_s: when the grace period begins, in seconds since then.
        """
        with _first_in_line():
            self._run(began, end_s)

    def _run(self, began: float, end_s: float) -> None:
        self._began = began
        before = _cpu_s()
        # Plain lists: reading one number out of an array costs more than the rest of a turn of this loop.
        due_s, last = self.part.due_s.tolist(), end_s + self.grace_s
        for row, due in enumerate(due_s):
            if not self._wait_until(due):
                break
            self.recorder.rows = row + 1
            if self._now() > last:
                self._fail(row, GENERATOR_LATE, f"was due {self._now() - due:.1f} s ago")
            elif self._pool.full():
                self._fail(row, GENERATOR_FULL, f"{len(self._pool)} requests are in progress; see --max-in-flight")
            else:
                self._pool.spawn(self._send, row)
        self._wait_until(end_s)
        # Before the grace period, in which next to nothing is done: it would make a busy generator look idle.
        used, ran = _cpu_s() - before, self._now()
        self.cpu_share = used / ran if ran > 0 else 0.0
        self._finish(last)

    def _now(self) -> float:
        return time.monotonic() - self._began

    def _wait_until(self, moment: float) -> bool:
        """Sleeps; False when the run was cancelled. Lets others run at least once, also when it is late."""
        while True:
            ahead = moment - self._now()
            if self._cancelled.wait(max(0.0, ahead)):
                return False
            if ahead <= 0:
                return True

    def _finish(self, last: float) -> None:
        """Waits for what is in progress until the moment `last`, and gives up the rest."""
        while self._pool and not self._cancelled.is_set() and (left := last - self._now()) > 0:
            self._pool.join(timeout=min(left, 0.1))
        self._pool.kill(block=True, timeout=5)
        for row in range(self.recorder.rows):
            if self.recorder.pending(row):
                self._fail(row, UNANSWERED, f"no answer in {self._now() - self.part.due_s[row]:.1f} s")

    def _send(self, row: int) -> None:
        due = self._due(row)
        self.recorder.sent(row, self._now())
        try:
            answer = self.user.send(due)
            now = self._now()
            if not isinstance(answer, Answer):
                raise Failed("no_answer", f"send returned {answer!r}, which is no Answer")
            self.recorder.answered(row, now, answer)
        except Failed as failure:
            self._fail(row, failure.code, str(failure))
        except (Exception, Timeout) as error:  # gevent's Timeout is no Exception
            self._fail(row, type(error).__name__, str(error))
        else:
            self.done += 1
            self.booked(answer.kind, now - due.intended_s, None)

    def _fail(self, row: int, code: str, message: str) -> None:
        due, now = self._due(row), self._now()
        kind = self._kind(due)
        self.recorder.failed(row, now, kind, code, message)
        self.failed += 1
        self.booked(kind, now - due.intended_s, Failed(code, message))

    def _kind(self, due: Due) -> str:
        """What the user says; one that cannot say it costs a run its measurements of nothing else."""
        try:
            return str(self.user.kind(due))
        except Exception as error:
            _log.error("kind(%s): %r", due, error)
            return UNKNOWN

    def _due(self, row: int) -> Due:
        part = self.part
        return Due(
            int(part.number[row]),
            float(part.due_s[row]),
            int(part.prompt_tokens[row]) or None,
            int(part.output_tokens[row]) or None,
        )


@contextmanager
def _first_in_line() -> Iterator[None]:
    """This thread goes before others on this machine, where that is allowed: it takes CAP_SYS_NICE."""
    usual = os.getpriority(os.PRIO_PROCESS, 0)
    with suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, min(usual, _NICENESS))
    try:
        yield
    finally:
        os.setpriority(os.PRIO_PROCESS, 0, usual)


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
