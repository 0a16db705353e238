"""What a live view draws next: a pure decision from its state and the time.

The latest camera wins: one that came while another was being drawn replaces whichever was waiting. One picture is drawn
at a time. A radiance field is first drawn coarsely, then better for as long as the camera rests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Generic, Literal, TypeVar

W = TypeVar("W")

# Of a radiance field whose camera rests, one after the other.
RISING: Final = (0.1, 0.4, 1.0)
FULL: Final = (1.0,)


@dataclass(frozen=True, slots=True)
class Rules:
    """Bounds of a view.

    Attributes:
        gap_s: least seconds between the starts of two pictures.
        window: most pictures that the viewer has been sent and has not seen, where it says what it sees.
        idle_s: seconds without a message after which the view ends.
        messages_per_s: most messages in one second.
    """

    gap_s: float = 1 / 30
    window: int = 3
    idle_s: float = 60.0
    messages_per_s: int = 240


@dataclass(frozen=True, slots=True)
class Draw(Generic[W]):
    """Draw a wish now."""

    wish: W
    effort: float


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do before that moment, unless something happens."""

    until: float


@dataclass(frozen=True, slots=True)
class End:
    """The view is over."""

    reason: Literal["idle", "too_many_messages"]


Step = Draw[W] | Wait | End


@dataclass(frozen=True, slots=True)
class Watching(Generic[W]):
    """A view; times are seconds on one clock.

    Attributes:
        wish: what the viewer wants to see; None before its first camera.
        efforts: at which the wish is drawn, one after the other.
        stage: of `efforts`: the next to be drawn; all are when it is their number.
        drawing: a picture is being drawn, of this wish or of an older one.
        refining: it is one of this wish after its first.
        earliest: when the next picture may begin.
        sent, seen: pictures; `seen` is None for a viewer that does not say.
        heard: the last message came then.
        second, messages: messages that came in the present second.
    """

    heard: float
    wish: W | None = None
    efforts: Sequence[float] = FULL
    stage: int = 0
    drawing: bool = False
    refining: bool = False
    earliest: float = 0.0
    sent: int = 0
    seen: int | None = None
    second: float = 0.0
    messages: int = 0

    def told(self, now: float) -> Watching[W]:
        """A message came."""
        if now - self.second >= 1:
            return replace(self, heard=now, second=now, messages=1)
        return replace(self, heard=now, messages=self.messages + 1)

    def wished(self, wish: W, efforts: Sequence[float]) -> Watching[W]:
        """The viewer wants to see something else, or the same again."""
        return replace(self, wish=wish, efforts=efforts, stage=0, refining=False)

    def acknowledged(self, seen: int) -> Watching[W]:
        """The viewer has seen so many pictures in all."""
        return replace(self, seen=min(max(seen, self.seen or 0), self.sent))

    def began(self, now: float, rules: Rules) -> Watching[W]:
        """A picture of the wish is being drawn."""
        refining = self.stage > 0
        return replace(self, stage=self.stage + 1, drawing=True, refining=refining, earliest=now + rules.gap_s)

    def drew(self, *, sent: bool) -> Watching[W]:
        """It is drawn, and was sent unless that failed."""
        return replace(self, drawing=False, refining=False, sent=self.sent + sent)

    def postponed(self, until: float) -> Watching[W]:
        """It could not be drawn now, and is to be tried again."""
        return replace(self, stage=max(0, self.stage - 1), drawing=False, refining=False, earliest=until)


def outdated(before: Watching[W], after: Watching[W]) -> bool:
    """Whether what is being drawn need not be finished: nobody waits for a better picture of what has passed. A first
    picture is finished, else a camera that never rests would show nothing."""
    return before.drawing and before.refining and after.stage == 0


def next_step(state: Watching[W], rules: Rules, now: float) -> Step[W]:
    """See the module's text."""
    if state.messages > rules.messages_per_s:
        return End("too_many_messages")
    ends = state.heard + rules.idle_s
    if now >= ends:
        return End("idle")
    full = state.seen is not None and state.sent - state.seen >= rules.window
    if state.drawing or state.wish is None or state.stage >= len(state.efforts) or full:
        return Wait(ends)
    if now < state.earliest:
        return Wait(min(state.earliest, ends))
    return Draw(state.wish, state.efforts[state.stage])
