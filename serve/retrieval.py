"""Several rankings made into one."""

from __future__ import annotations

from collections.abc import Sequence

# Cormack, Clarke and Buettcher 2009, "Reciprocal Rank Fusion outperforms Condorcet and individual rank learning
# methods", found 60 good and the choice uncritical.
RRF_K = 60


def fuse(rankings: Sequence[Sequence[str]], k: int = RRF_K) -> list[str]:
    """Reciprocal rank fusion: each ranking gives its entry at rank r (from 1) a score of 1 / (k + r).

    Ranks only, so that scores of different kinds need no common scale. Ties keep the order of the first ranking.

    Args:
        rankings: ids, best first, none twice in one ranking.

    Returns:
        Every id once, best first.
    """
    scores: dict[str, float] = {}
    for ranking in rankings:
        for rank, name in enumerate(ranking, 1):
            scores[name] = scores.get(name, 0.0) + 1 / (k + rank)
    return sorted(scores, key=lambda name: -scores[name])
