"""One answer from those about the chunks: pure functions of what was written, in the order of the video."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

_SENTENCE = re.compile(r"(?<=[.!?。！？])\s+|\n+")
_NOT_WORDS = re.compile(r"[\W_]+")
# How models say that they do not see the answer; such an answer has no vote while there is another.
_NOT_SEEN = re.compile(
    r"(i|we) (do not|don t|dont|cannot|can t|cant|am not|m not)\b|un(known|clear|certain)"
    r"|not (shown|visible|clear|sure)|it is (not|impossible|unclear)\b|there is no (information|way)|no answer"
)


@dataclass(frozen=True, slots=True)
class Vote:
    """What was answered about one chunk, and how sure the model was of its words, from 0 to 1."""

    answer: str
    weight: float = 1.0


def without_repeats(texts: Sequence[str]) -> str:
    """The sentences of the texts in order, each said once; one without an end gets a full stop."""
    said: set[str] = set()
    kept = []
    for text in texts:
        for sentence in _SENTENCE.split(text.strip()):
            words = _plain(sentence)
            if words and words not in said:
                said.add(words)
                kept.append(_ended(sentence.strip()))
    return " ".join(kept)


def decide(votes: Sequence[Vote]) -> tuple[str, float, tuple[int, ...]]:
    """The answer with the most weight, its share of the weight, and the places of those who gave it.

    Answers are the same when their letters and digits are. Answers of the same weight: the one given first. A chunk
    that does not show what was asked about should not outvote one that does, so answers that say as much are not
    counted unless all do.
    """
    seeing = [place for place, vote in enumerate(votes) if not _NOT_SEEN.match(_plain(vote.answer))]
    counted = seeing or list(range(len(votes)))
    groups: defaultdict[str, list[int]] = defaultdict(list)
    for place in counted:
        groups[_plain(votes[place].answer)].append(place)
    weights = {words: sum(votes[place].weight for place in places) for words, places in groups.items()}
    best = max(weights, key=lambda words: weights[words])
    total = sum(weights.values())
    first = max(groups[best], key=lambda place: votes[place].weight)
    return votes[first].answer, weights[best] / total if total else 0.0, tuple(groups[best])


def _ended(sentence: str) -> str:
    return sentence if sentence[-1] in ".!?:;。！？" else f"{sentence}."


def _plain(text: str) -> str:
    return _NOT_WORDS.sub(" ", text).strip().casefold()
