"""One request of a load test: when it is due, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Due:
    """A request that is due.

    Attributes:
        number: of the whole schedule, over all workers; what is drawn for a request should depend on it alone.
        intended_s: when it should be sent, in seconds since the run began.
        prompt_tokens, output_tokens: of the trace that is replayed, if one is.
    """

    number: int
    intended_s: float
    prompt_tokens: int | None = None
    output_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """A right answer.

    Attributes:
        kind: which of the workload's kinds of request this was.
        path: the cascade's step, or the model, that answered.
        usd: paid to providers for it.
        tokens: generated.
        cached: whether it came out of a cache.
        first_s: seconds from sending to the first token of a stream.
        escalated: whether another step than its cascade's first one answered.
    """

    kind: str
    path: str = ""
    usd: float = 0.0
    tokens: int = 0
    cached: bool = False
    first_s: float | None = None
    escalated: bool = False


class Failed(Exception):
    """A request that was refused, or answered wrongly.

    Args:
        code: short and from a small set; failures are counted by it. `wrong_answer` where the answer is not right.
        message: for a person; the first one of each code is kept.
    """

    def __init__(self, code: str, message: str = "") -> None:
        super().__init__(message or code)
        self.code = code
