"""One text from those about the chunks of a video, by a language model, however many there are.

Notes that do not fit one request are merged in groups of neighbours, and what these give in groups again: a tree whose
shape follows from the lengths of the notes alone, and whose order is the video's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from deployments.generation.messages import Text
from serve.calls import Usage
from serve.context import RequestContext
from serve.errors import ArgusError, Cancelled, DeadlineExceeded
from serve.providers.tokens import text_tokens
from serve.videos.backends import Backends

T = TypeVar("T")

Reach = Literal["part", "whole"]
"""Whether a request's notes are of a part of the video or of all of it."""


@dataclass(frozen=True, slots=True)
class Note:
    """What was written about a stretch of a video; `start` and `end` as `serve.videos.types.clock` writes them."""

    start: str
    end: str
    text: str

    @property
    def line(self) -> str:
        """As it is shown to the model."""
        return f"[{self.start} - {self.end}] {self.text}"


@dataclass(frozen=True, slots=True)
class Merged:
    """What came of it.

    Attributes:
        text: None where a request failed: the notes themselves then have to do.
        usage: of all requests, also where one failed.
    """

    text: str | None
    usage: Usage


def grouped(notes: Sequence[T], room: int, tokens: Callable[[T], int]) -> list[Sequence[T]]:
    """Notes in groups of neighbours whose tokens together are at most `room`.

    Two always make a group, whatever their length, so that there are at most half as many groups as notes and a tree
    of groups ends; a model that takes no two notes takes none.
    """
    groups: list[Sequence[T]] = []
    start = taken = 0
    for i, note in enumerate(notes):
        size = tokens(note)
        if i - start >= 2 and taken + size > room:
            groups.append(notes[start:i])
            start, taken = i, 0
        taken += size
    return [*groups, notes[start:]]


class Summariser:
    """See the module's text.

    Args:
        name: of the model.
        room: most tokens of the notes in one request, as `serve.providers.tokens.text_tokens` counts them.
    """

    def __init__(self, name: str, room: int, backends: Backends) -> None:
        self._name = name
        self._room = room
        self._backends = backends

    async def merge(
        self,
        notes: Sequence[Note],
        prompt: Callable[[str, Reach], str],
        max_tokens: int,
        concurrency: int,
        context: RequestContext,
    ) -> Merged:
        """One text from at least two notes.

        Args:
            prompt: what is asked about the lines of some notes.
            max_tokens: of each answer.
            concurrency: groups merged at a time.

        Raises:
            Cancelled, DeadlineExceeded.
        """
        usage = Usage()
        places = asyncio.Semaphore(concurrency)

        async def one(group: Sequence[Note], reach: Reach) -> Note:
            nonlocal usage
            if len(group) == 1:
                return group[0]
            lines = "\n".join(note.line for note in group)
            async with places:
                asked = Text(prompt(lines, reach))
                written = await self._backends.ask([self._name], lambda _: (asked,), max_tokens, context)
            usage += written.usage
            return Note(group[0].start, group[-1].end, written.text)

        while len(notes) > 1:
            groups = grouped(notes, self._room, lambda note: text_tokens(note.line))
            reach: Reach = "whole" if len(groups) == 1 else "part"
            try:
                async with asyncio.TaskGroup() as tasks:
                    made = [tasks.create_task(one(group, reach)) for group in groups]
            except BaseExceptionGroup as errors:
                ends = [error for error in errors.exceptions if not _can_do_without(error)]
                if ends:
                    raise ends[0] from None
                return Merged(None, usage)
            notes = [task.result() for task in made]
        return Merged(notes[0].text, usage)


def _can_do_without(error: BaseException) -> bool:
    return isinstance(error, ArgusError) and not isinstance(error, Cancelled | DeadlineExceeded)
