"""Runs BARGAIN (Zeighami et al. 2025, arXiv 2509.02896) on scored records; executed by the peer's own interpreter.

Reads a JSON list of jobs from a file, writes a JSON list of outcomes to stdout. A job has `scores` and `right` of its
records, `target`, `delta`, `seed`, `method` (A or P) and, for P, `budget` in labels. An outcome has `kept`, the numbers
of the records that the small model answers, `labels`, how many distinct records the oracle saw to choose them, and
`seconds`.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from BARGAIN import BARGAIN_A, BARGAIN_P, Oracle, Proxy


class Scores(Proxy):  # type: ignore[misc]
    """The small model: all answers are known, so no thread pool is needed to ask for them."""

    def __init__(self, scores: np.ndarray) -> None:
        super().__init__(verbose=False)
        self._scores = scores

    def get_preds_and_scores(self, indxs: Any, data_records: Any) -> tuple[np.ndarray, np.ndarray]:
        return np.ones(len(data_records), int), self._scores[np.asarray(data_records, int)]


class Reference(Oracle):  # type: ignore[misc]
    """The reference: 1 where the small model is right, which answers 1 always. Counts the records that it sees."""

    def __init__(self, right: np.ndarray) -> None:
        super().__init__(verbose=False)
        self._right = right
        self.seen: set[int] = set()

    def is_answer_correct(self, data_indxs: Any, data_records: Any, proxy_output_at_indxs: Any) -> np.ndarray:
        return self.get_pred(data_records).astype(bool)

    def get_pred(self, data_records: Any, indxs: Any = None) -> np.ndarray:
        numbers = np.asarray(data_records, int)
        self.seen.update(numbers.tolist())
        return self._right[numbers].astype(int)


class Sampled(Reference):
    """For BARGAIN_A, which in the end asks the oracle for every record below its threshold: that is no label spent on
    choosing the threshold, and is not counted."""

    def get_pred(self, data_records: Any, indxs: Any = None) -> np.ndarray:
        return self._right[np.asarray(data_records, int)].astype(int)

    def is_answer_correct(self, data_indxs: Any, data_records: Any, proxy_output_at_indxs: Any) -> np.ndarray:
        self.seen.update(np.asarray(data_records, int).tolist())
        return self.get_pred(data_records).astype(bool)


def run(job: dict[str, Any]) -> dict[str, Any]:
    """One job's outcome."""
    scores, right = np.array(job["scores"]), np.array(job["right"], bool)
    records = list(range(len(scores)))
    started = time.perf_counter()
    oracle: Reference
    if job["method"] == "A":
        oracle = Sampled(right)
        made = BARGAIN_A(Scores(scores), oracle, job["target"], job["delta"], verbose=False, seed=job["seed"])
        _, by_oracle = made.process(records, return_oracle_usage=True)
        kept = np.flatnonzero(~np.array(by_oracle)).tolist()
        labels = len(oracle.seen)
    else:
        oracle = Reference(right)
        made = BARGAIN_P(
            Scores(scores), oracle, delta=job["delta"], target=job["target"], budget=job["budget"], seed=job["seed"]
        )
        kept = [int(number) for number in made.process(records)]
        labels = len(oracle.seen)
    return {"kept": kept, "labels": labels, "seconds": time.perf_counter() - started}


if __name__ == "__main__":
    print(json.dumps([run(job) for job in json.loads(Path(sys.argv[1]).read_text())]))
