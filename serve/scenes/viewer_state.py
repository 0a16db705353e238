"""What a live view draws next: a pure decision from its state and the time.

The latest camera wins: one that came while another was being drawn replaces whichever was waiting. The next picture is
begun when the one in work has presumably been drawn, so that its request travels while that one's picture does, and the
renderer of a lone viewer does not wait for either. A radiance field is first drawn coarsely, then better for as long as
the camera rests.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Generic, Literal, TypeVar

W = TypeVar("W")

# Of a radiance field whose camera rests, one after the other.
RISING: Final = (0.1, 0.4, 1.0)
FULL: Final = (1.0,)
# Pictures in work at once: one that travels back and one that is drawn.
_AT_ONCE: Final = 2
# Of the time that the last picture took at its renderer: a little less, since what comes early waits there, and what
# comes late has made it wait.
_DRAWN: Final = 0.9


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
class Picture:
    """One in work.

    Attributes:
        number: among all of the view, from 1.
        began: when.
        refining: it is one of its wish after the first.
    """

    number: int
    began: float
    effort: float
    refining: bool


@dataclass(frozen=True, slots=True)
class Watching(Generic[W]):
    """A view; times are seconds on one clock.

    Attributes:
        wish: what the viewer wants to see; None before its first camera.
        efforts: at which the wish is drawn, one after the other.
        stage: of `efforts`: the next to be drawn; all are when it is their number.
        work: pictures in work, the oldest first.
        begun: pictures so far.
        pace: effort of the last picture that came, and the seconds that it took at its renderer.
        earliest: when the next picture may begin.
        sent, seen: pictures; `seen` is None for a viewer that does not say.
        shown: number of the last picture sent.
        heard: the last message came then.
        second, messages: messages that came in the present second.
    """

    heard: float
    wish: W | None = None
    efforts: Sequence[float] = FULL
    stage: int = 0
    work: tuple[Picture, ...] = ()
    begun: int = 0
    pace: tuple[float, float] | None = None
    earliest: float = 0.0
    sent: int = 0
    seen: int | None = None
    shown: int = 0
    second: float = 0.0
    messages: int = 0

    def told(self, now: float) -> Watching[W]:
        """A message came."""
        if now - self.second >= 1:
            return replace(self, heard=now, second=now, messages=1)
        return replace(self, heard=now, messages=self.messages + 1)

    def wished(self, wish: W, efforts: Sequence[float]) -> Watching[W]:
        """The viewer wants to see something else, or the same again."""
        return replace(self, wish=wish, efforts=efforts, stage=0)

    def acknowledged(self, seen: int) -> Watching[W]:
        """The viewer has seen so many pictures in all."""
        return replace(self, seen=min(max(seen, self.seen or 0), self.sent))

    def began(self, now: float, rules: Rules) -> Watching[W]:
        """A picture of the wish is being drawn: number `begun`."""
        picture = Picture(self.begun + 1, now, self.efforts[self.stage], refining=self.stage > 0)
        return replace(
            self,
            stage=self.stage + 1,
            work=(*self.work, picture),
            begun=picture.number,
            earliest=now + rules.gap_s,
        )

    def showed(self, number: int, took_s: float) -> Watching[W]:
        """A picture was drawn and sent.

        Args:
            took_s: at its renderer, waiting included.
        """
        (effort,) = (picture.effort for picture in self.work if picture.number == number)
        return replace(self.dropped(number), pace=(effort, took_s), sent=self.sent + 1, shown=number)

    def dropped(self, number: int) -> Watching[W]:
        """A picture was not sent: it failed, or was given up."""
        return replace(self, work=tuple(picture for picture in self.work if picture.number != number))

    def postponed(self, number: int, until: float) -> Watching[W]:
        """A picture could not be drawn now, and is to be tried again."""
        return replace(self.dropped(number), stage=max(0, self.stage - 1), earliest=max(self.earliest, until))

    def overtaken(self, number: int) -> bool:
        """Whether the viewer has a newer picture than that."""
        return self.shown > number


def outdated(state: Watching[W]) -> frozenset[int]:
    """The pictures in work that need not be finished once a wish came: nobody waits for a better picture of what has
    passed. A first picture is finished, else a camera that never rests would show nothing."""
    return frozenset(picture.number for picture in state.work if picture.refining and state.stage == 0)


def next_step(state: Watching[W], rules: Rules, now: float) -> Step[W]:
    """See the module's text."""
    if state.messages > rules.messages_per_s:
        return End("too_many_messages")
    ends = state.heard + rules.idle_s
    if now >= ends:
        return End("idle")
    full = state.seen is not None and state.sent + len(state.work) - state.seen >= rules.window
    if state.wish is None or state.stage >= len(state.efforts) or full:
        return Wait(ends)
    begins = max(state.earliest, _free_at(state))
    if now < begins:
        return Wait(min(begins, ends))
    return Draw(state.wish, state.efforts[state.stage])


def _free_at(state: Watching[W]) -> float:
    """When the renderer has presumably drawn what is in work; never, as long as nobody knows how long that takes."""
    if not state.work:
        return -math.inf
    newest = state.work[-1]
    if len(state.work) >= _AT_ONCE or state.pace is None or state.pace[0] != newest.effort:
        return math.inf
    return newest.began + _DRAWN * state.pace[1]
