"""How much of a conversation a message is asked with: pure functions over sizes.

An exchange, a user's message and its answer, is kept or dropped as a whole, so that a history never begins with an
answer. The oldest goes first. The system message is no exchange and always stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True)
class Size:
    """Of one exchange, of several, or a bound on them.

    Attributes:
        turns: exchanges.
        tokens: as the engine counted them; see `own_tokens`. Of a message that has not been asked yet, 0.
        characters: of the texts.
        media_bytes: of images and videos; like `tokens` 0 for a message that has not been asked yet.
    """

    turns: int
    images: int
    videos: int
    tokens: int
    characters: int
    media_bytes: int = 0

    def __add__(self, other: Size) -> Size:
        return Size(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(Size)))

    def within(self, bound: Size) -> bool:
        """Whether no figure is above that of `bound`."""
        return all(getattr(self, f.name) <= getattr(bound, f.name) for f in fields(Size))


def to_drop(history: Sequence[Size], new: Size, bound: Size) -> int:
    """How many of the oldest exchanges must go so that the others and the new message stay within the bound.

    All of them when the new message alone is above it: whether it may be asked is not decided here.

    Args:
        history: sizes of the exchanges, oldest first.
        new: of the new message, its system message included.
    """
    total, keep = new, 0
    for size in reversed(history):
        total += size
        if not total.within(bound):
            break
        keep += 1
    return len(history) - keep


def own_tokens(prompt_tokens: int, completion_tokens: int, history: Sequence[int]) -> int:
    """What an exchange adds to a conversation, in tokens.

    Engines count whole prompts. What the exchanges before do not account for belongs to the new one; so the sum over
    the exchanges is always what was counted last, although the first one then holds the system message and the
    template's frame, and hands them to its successor when it is dropped.

    Args:
        prompt_tokens: of the whole prompt, as the engine counted it.
        history: this function's results for the exchanges that were in the prompt.
    """
    return max(0, prompt_tokens + completion_tokens - sum(history))
