"""Citations in an answer: `[n]` stands for the n-th excerpt that the model was offered."""

from __future__ import annotations

import re

# Also `[1, 3]` and `[2][3]`. Larger numbers than these are no citations of ours.
_CITATION = re.compile(r"[ \t]*\[(\d{1,3}(?:\s*,\s*\d{1,3})*)\]")


def resolve(answer: str, offered: int) -> tuple[str, tuple[int, ...]]:
    """The answer without citations of excerpts that there are not, and the excerpts that it cites.

    Args:
        offered: how many excerpts there were, numbered from 1.

    Returns:
        The text, and the numbers in the order in which they are first cited.
    """
    cited: dict[int, None] = {}

    def kept(match: re.Match[str]) -> str:
        numbers = [int(number) for number in match[1].split(",")]
        real = [number for number in numbers if 1 <= number <= offered]
        cited.update(dict.fromkeys(real))
        if len(real) == len(numbers):
            return match[0]
        space = match[0][: match[0].index("[")]
        return f"{space}[{', '.join(map(str, real))}]" if real else ""

    return _CITATION.sub(kept, answer), tuple(cited)
