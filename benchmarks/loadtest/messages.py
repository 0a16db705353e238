"""What coordinator and workers say to each other, over Locust's own connection.

coordinator                                       worker
  BEGIN   settings, index, of              ->       builds its user, draws its part of the schedule
                                           <-  READY  how many requests, or an error
  PING                                     ->
                                           <-  PONG   its clock
  GO      start by the worker's clock      ->       runs
                                           <-  PROGRESS  once a second
  CANCEL                                   ->       ends at once
                                           <-  COLUMNS  in pieces
                                           <-  ENDED  examples of errors, processor time
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

BEGIN = "argus_begin"
PING = "argus_ping"
GO = "argus_go"
CANCEL = "argus_cancel"
READY = "argus_ready"
PONG = "argus_pong"
PROGRESS = "argus_progress"
COLUMNS = "argus_columns"
ENDED = "argus_ended"
TO_WORKER = (BEGIN, PING, GO, CANCEL)
TO_COORDINATOR = (READY, PONG, PROGRESS, COLUMNS, ENDED)
# Bytes of a piece of the columns: small enough that heartbeats get through between two of them.
PIECE = 1 << 20


class Message(BaseModel):
    """One of them."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Begin(Message):
    """A run begins.

    Attributes:
        run: names it; messages of an earlier one are dropped.
        settings: JSON of `Settings`.
        index, of: which part of the schedule is the worker's.
    """

    run: str
    settings: str
    index: int
    of: int


class Ready(Message):
    """A worker can start.

    Attributes:
        error: why it cannot; empty when it can.
    """

    run: str
    index: int
    requests: int = 0
    error: str = ""


class Ping(Message):
    """Asks for the clock; `sent` is the coordinator's."""

    sent: float


class Pong(Message):
    """Answers it with the worker's."""

    sent: float
    clock: float


class Go(Message):
    """When the run begins, as seconds since the epoch by the worker's own clock."""

    run: str
    start: float


class Cancel(Message):
    """The run ends now."""

    run: str


class Progress(Message):
    """Where one worker, or all together, are.

    Attributes:
        elapsed_s: since the run began; below 0 before.
        requests: scheduled in all.
    """

    run: str
    index: int
    elapsed_s: float
    requests: int
    sent: int
    done: int
    failed: int
    in_flight: int


class Piece(Message):
    """A piece of a worker's packed columns."""

    run: str
    index: int
    data: bytes


class Ended(Message):
    """A worker's last word.

    Attributes:
        examples: first message of each error.
        cpu_share: of one core that its process used up to the grace period.
        truth: see `OpenLoopUser.truth`.
    """

    run: str
    index: int
    examples: dict[str, str]
    cpu_share: float
    truth: bool = True
