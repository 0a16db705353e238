"""What the router sends to a generating model and what comes back; imports neither torch nor an engine."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from deployments.messages import Image

Role = Literal["system", "user", "assistant"]
Detail = Literal["low", "high", "auto"]
# `cut` is ours: the deadline passed after text had been streamed. The others are OpenAI's.
FinishReason = Literal["stop", "length", "cut"]


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of text in a message."""

    text: str


@dataclass(frozen=True, slots=True)
class ImagePart:
    """An image in a message.

    Attributes:
        detail: of what size the model's preprocessing gets it; see `deployments.generation.media`.
    """

    image: Image
    detail: Detail = "auto"


@dataclass(frozen=True, slots=True)
class VideoPart:
    """A video file in a message, its container already checked at the edge; the model samples its frames."""

    data: bytes


Part = Text | ImagePart | VideoPart


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Role
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Constraint:
    """What the answer must be: any JSON object, or JSON that fits a schema.

    Attributes:
        json_schema: the schema as JSON text; None allows any JSON object.
    """

    json_schema: str | None = None


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen.

    Attributes:
        max_tokens: most tokens of an answer; None for what the context window leaves.
        temperature: 0 is greedy.
        top_p: nucleus sampling (Holtzman et al. 2020), in (0, 1].
        seed: makes the answer repeatable.
        stop: texts before which an answer ends; they are not part of it.
        n: answers wanted.
        logprobs: alternatives reported for each token, 0 for the chosen token alone; None for no logprobs.
        room: tokens that a prompt must leave to the answer, but no more than a quarter of the window; one that leaves
            fewer is `prompt_too_long`. 0 for a prompt that may fill the window to its last token.
    """

    max_tokens: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    n: int = 1
    logprobs: int | None = None
    constraint: Constraint | None = None
    room: int = 0


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A conversation that wants its next assistant turn."""

    messages: tuple[Message, ...]
    sampling: Sampling = Sampling()


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One token and its natural-log probability.

    Attributes:
        token: as text; bytes in it that are no whole character are written out (`\\xe2\\x80`), as OpenAI does.
        top: the alternatives, likeliest first; they have none of their own.
        data: the token's own bytes: those of all tokens of an answer, put together, are its text in UTF-8. None of a
            special token, which is no part of the text, and where a provider does not tell.
    """

    token: str
    logprob: float
    top: tuple[TokenLogprob, ...] = ()
    data: bytes | None = None


@dataclass(frozen=True, slots=True)
class ChatEvent:
    """What one answer gained since its last event. The last one of each answer has a `finish_reason`.

    Attributes:
        index: which of the `n` answers.
        text: new text; may be empty while bytes of a character or a stop text are still open.
        token_ids: new tokens.
        prompt_tokens: tokens of the prompt, media included; the same in every event.
        cached_tokens: those of them that a prefix cache held.
        written: tokens of all answers together, on the last event of a provider's, whose tokens we do not see.
    """

    index: int
    text: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    written: int | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """One finished answer."""

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...]
    finish_reason: FinishReason


@dataclass(frozen=True, slots=True)
class ChatResult:
    """All answers to a request that was not streamed.

    Attributes:
        written: see `ChatEvent`.
    """

    answers: tuple[Answer, ...]
    prompt_tokens: int
    cached_tokens: int
    written: int | None = None

    @property
    def completion_tokens(self) -> int:
        """Tokens of all answers together."""
        return sum(len(answer.token_ids) for answer in self.answers) if self.written is None else self.written


@dataclass(slots=True)
class Gathering:
    """Collects the events of a stream into answers."""

    _parts: dict[int, list[ChatEvent]] = field(default_factory=dict)

    def add(self, event: ChatEvent) -> None:
        """Takes the next event."""
        self._parts.setdefault(event.index, []).append(event)

    def result(self) -> ChatResult:
        """The answers, once every one has finished."""
        answers = []
        for _, events in sorted(self._parts.items()):
            reason = events[-1].finish_reason
            assert reason is not None, "an answer is gathered after its last event"
            answers.append(
                Answer(
                    "".join(event.text for event in events),
                    tuple(token for event in events for token in event.token_ids),
                    tuple(logprob for event in events for logprob in event.logprobs),
                    reason,
                )
            )
        last = self._parts[max(self._parts)][-1]
        return ChatResult(tuple(answers), last.prompt_tokens, last.cached_tokens, last.written)
