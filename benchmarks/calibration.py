"""`argus bench calibration`: how often a certified threshold breaks its promise, and what it costs in labels.

Each population is a large set of scored answers, of which it is known whether they are right. A seed draws records from
it, independently, and every method finds a threshold on these; what the threshold is worth is then read off the whole
population. The demo CLIP's population is its answers on held-out scenes; the others are made to mislead.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console

from benchmarks import calibration_populations as populations
from benchmarks.calibration_populations import Population
from benchmarks.peers.bargain_setup import bargain_python
from benchmarks.peers.setup import PeerUnavailable
from benchmarks.report import Column, Report, this_command
from benchmarks.servers import ROOT
from serve.calibration.bounds import Promise
from serve.calibration.certify import NEVER, candidates, certify

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

GOAL = (
    "over all seeds and on every population, the share of seeds whose certified threshold has less than the target's "
    "agreement on the population is at most 1 - confidence"
)
RECORDS = 2000
_GRID_SHARE = 0.1
_PEER_TIMEOUT_S = 3600
_COLUMNS = (
    Column("population", "population"),
    Column("method", "method"),
    Column("seeds", "seeds", "d"),
    Column("violations", "target missed", ".1%"),
    Column("own_violations", "own promise broken", ".1%"),
    Column("agreement", "mean agreement", ".2%"),
    Column("accepted", "accepted", ".1%"),
    Column("best", "best possible", ".1%"),
    Column("labels", "labels used", ".0f"),
)


@dataclass(frozen=True, slots=True)
class Draw:
    """One seed's records.

    Attributes:
        scores: (records,).
        right: (records,), what labels would say.
    """

    seed: int
    scores: Floats
    right: Bools


@dataclass(frozen=True, slots=True)
class Found:
    """What a method made of a draw.

    Attributes:
        threshold: least score accepted from now on.
        labels: distinct records whose label it used.
        own: whether its own promise, if it is another than ours, was kept; None when it is ours.
    """

    threshold: float
    labels: int
    own: bool | None = None


def draw(population: Population, seed: int, records: int) -> Draw:
    """Independent draws from a population."""
    rng = np.random.default_rng([seed, 7])
    chosen = rng.integers(len(population.scores), size=records)
    return Draw(seed, population.scores[chosen], population.right[chosen])


def ours(drawn: Draw, promise: Promise, *, saving: bool) -> Found:
    """Thresholds from a tenth of the records, without labels; certified on the others."""
    size = int(_GRID_SHARE * len(drawn.scores))
    scores, right = drawn.scores[size:], drawn.right[size:]
    grid = candidates(drawn.scores[:size], len(scores), promise)
    found = certify(scores, lambda numbers: right[numbers], grid, promise, saving=saving)
    return Found(found.threshold, found.labels_used)


def naive(drawn: Draw, promise: Promise) -> Found:
    """The lowest threshold above which enough of the sample is right, without any bound."""
    order = np.argsort(-drawn.scores, kind="stable")
    scores, agreement = drawn.scores[order], np.cumsum(drawn.right[order]) / np.arange(1, len(order) + 1)
    last_of_tie = np.append(scores[1:] < scores[:-1], True)
    good = np.flatnonzero((agreement >= promise.target) & last_of_tie)
    return Found(float(scores[good[-1]]) if len(good) else NEVER, len(order))


def peer(draws: list[Draw], promise: Promise, method: str, budgets: list[int] | None = None) -> list[Found]:
    """BARGAIN on the same records; `A` promises the agreement of all its output, `P` that of accepted records alone.

    Raises:
        PeerUnavailable: it is not installed, or failed.
    """
    jobs = [
        {
            "scores": one.scores.tolist(),
            "right": one.right.tolist(),
            "target": promise.target,
            "delta": promise.delta,
            "seed": one.seed,
            "method": method,
            "budget": budgets[number] if budgets else None,
        }
        for number, one in enumerate(draws)
    ]
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(jobs, file)
        file.flush()
        command = [str(bargain_python()), "-m", "benchmarks.peers.bargain_runs", file.name]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=_PEER_TIMEOUT_S)
    if done.returncode:
        raise PeerUnavailable(f"bargain failed: {done.stderr[-500:]}")
    outcomes = json.loads(done.stdout)
    return [_of_peer(one, outcome, promise, method) for one, outcome in zip(draws, outcomes, strict=True)]


def _of_peer(drawn: Draw, outcome: dict[str, Any], promise: Promise, method: str) -> Found:
    """Its threshold is the lowest score that it accepted unseen; its own promise is about these very records."""
    kept = np.zeros(len(drawn.scores), np.bool_)
    kept[outcome["kept"]] = True
    if method == "A":
        wrong = (kept & ~drawn.right).sum() / len(kept)
        threshold = float(drawn.scores[kept].min()) if kept.any() else NEVER
        return Found(threshold, outcome["labels"], bool(1 - wrong >= promise.target))
    # P also returns records that its labels showed to be right; the threshold is where the unbroken run of kept ends.
    order = np.argsort(-drawn.scores, kind="stable")
    missing = np.flatnonzero(~kept[order])
    end = int(missing[0]) if len(missing) else len(order)
    threshold = float(drawn.scores[order[end - 1]]) if end else NEVER
    own = bool(drawn.right[kept].mean() >= promise.target) if kept.any() else True
    return Found(threshold, outcome["labels"], own)


def run(
    *, seeds: int, peer_seeds: int, records: int, target: float, confidence: float, scenes: int, progress: Console
) -> Report:
    """Every population, every method; the peer on the first `peer_seeds` seeds, since it is slow."""
    promise = Promise(target, confidence)
    report = Report(
        this_command(),
        f"Thresholds for an agreement of {target:g} with confidence {confidence:g}, {records} records a seed",
        GOAL,
        _COLUMNS,
        {"seeds": seeds, "peer_seeds": peer_seeds, "records": records, "target": target, "confidence": confidence}
        | {"scenes": scenes, "peer": "bargain 0.1.3, M=20"},
    )
    for population in populations.all_of(promise, scenes, progress):
        progress.print(f"  {population.name}", highlight=False)
        draws = [draw(population, seed, records) for seed in range(seeds)]
        _measure(report, population, promise, draws, peer_seeds)
    report.notes += [
        "target missed: the threshold's agreement on the population, that is on future requests, is below the target.",
        "own promise broken: bargain-A promises the agreement of all records' output, oracle answers included, "
        "bargain-P that of the records it returns; both on the records given, not on future ones.",
        "bargain-P has the labels that ours with early looks used, seed by seed.",
    ]
    return report


def _measure(report: Report, population: Population, promise: Promise, draws: list[Draw], peer_seeds: int) -> None:
    methods: dict[str, Callable[[Draw], Found]] = {
        "argus, all labels": lambda one: ours(one, promise, saving=False),
        "argus, early looks": lambda one: ours(one, promise, saving=True),
        "empirical rule": lambda one: naive(one, promise),
    }
    found = {name: [method(one) for one in draws] for name, method in methods.items()}
    some = draws[:peer_seeds]
    try:
        if some:
            found["bargain-A"] = peer(some, promise, "A")
            budgets = [max(1, one.labels) for one in found["argus, early looks"][:peer_seeds]]
            found["bargain-P, same labels"] = peer(some, promise, "P", budgets)
    except PeerUnavailable as problem:
        report.notes.append(f"{population.name}: bargain: {problem}")
    for name, all_found in found.items():
        row = summary(population, promise, all_found)
        report.rows.append({"population": population.name, "method": name, **row})
        if name.startswith("argus") and row["violations"] > promise.delta:
            report.misses.append(f"{population.name}, {name}: {row['violations']:.1%} of seeds miss the target")


def summary(population: Population, promise: Promise, found: list[Found]) -> dict[str, Any]:
    """One row of the table."""
    truths = [population.above(one.threshold) for one in found]
    own = [one.own for one in found if one.own is not None]
    certified = [agreement for share, agreement in truths if share > 0]
    return {
        "seeds": len(found),
        "violations": float(np.mean([share > 0 and agreement < promise.target for share, agreement in truths])),
        "own_violations": 1.0 - float(np.mean(own)) if own else None,
        "agreement": float(np.mean(certified)) if certified else None,
        "accepted": float(np.mean([share for share, _ in truths])),
        "best": population.best(promise.target),
        "labels": float(np.mean([one.labels for one in found])),
    }
