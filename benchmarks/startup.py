"""`argus bench startup`: from nothing to the first answer of a generating model on a CPU, stage by stage.

Each start is a replica's class in a process of its own, without a cluster around it. Beside it stands vLLM's own
`AsyncLLM` with the same engine arguments: what it takes more is what Argus does to shorten the start
(docs/architecture.md, "The vLLM engine").
"""

from __future__ import annotations

import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from benchmarks.report import Column, Report, this_command
from benchmarks.servers import ROOT, cache_dir, stop
from serve.errors import Unavailable

KINDS = ("llava", "blip2", "video_llava")
SYSTEMS = ("vllm", "transformers", "plain vllm")
GOAL = "on vLLM, every model gives its first answer sooner after its start than vLLM's own AsyncLLM does"
_STAGES = ("python", "imports", "process", "weights", "warm_up")
_TITLES = {"vllm": "Argus, vLLM", "transformers": "Argus, transformers", "plain vllm": "AsyncLLM as it comes"}
_LONGEST_S = 600.0
_COLUMNS = (
    Column("model", "model"),
    Column("title", "system"),
    Column("python", "Python s", ".1f"),
    Column("imports", "imports s", ".1f"),
    Column("process", "engine process s", ".1f"),
    Column("weights", "weights s", ".1f"),
    Column("warm_up", "warm-up s", ".1f"),
    Column("ready", "ready s", ".1f"),
    Column("first_answer", "first answer s", ".2f"),
    Column("answered", "answered s", ".1f"),
)


def run(*, kinds: Sequence[str], systems: Sequence[str], rounds: int, progress: Console) -> Report:
    """Starts each system `rounds` times, one at a time, in a shuffled order."""
    report = Report(
        this_command(),
        f"Start of the demo's generating models, medians of {rounds}",
        GOAL,
        _COLUMNS,
        {"rounds": rounds, "threads": 1},
    )
    pairs = [(kind, system) for kind in kinds for system in systems]
    starts: dict[tuple[str, str], list[dict[str, float]]] = {pair: [] for pair in pairs}
    for number in range(rounds):
        order = random.Random(number).sample(pairs, len(pairs))
        for kind, system in order:
            progress.print(f"  round {number + 1} of {rounds}: {kind}, {_TITLES[system]}", highlight=False)
            starts[kind, system].append(_start(kind, system))
    report.rows = [row(kind, system, starts[kind, system]) for kind, system in pairs]
    report.misses = misses(report.rows)
    report.notes = [
        "From spawning a Python process; files are in the page cache. Imports hold torch, transformers and, where it "
        "runs the model, vLLM. AsyncLLM loads the weights in its engine process and says no stages of it; it warms "
        "nothing up, so its first answer is a longer one. An answer is about a picture of 224 pixels, up to 8 tokens.",
    ]
    return report


def row(kind: str, system: str, starts: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """One line of the table: medians over the starts, of each stage and of their sums."""
    medians: dict[str, Any] = {
        name: statistics.median(start[name] for start in starts) if name in starts[0] else None
        for name in (*_STAGES, "first_answer")
    }
    ready = [sum(start.get(name, 0.0) for name in _STAGES) for start in starts]
    answered = [until + start["first_answer"] for until, start in zip(ready, starts, strict=True)]
    return {
        "model": kind,
        "system": system,
        "title": _TITLES[system],
        **medians,
        "ready": statistics.median(ready),
        "answered": statistics.median(answered),
        "rounds_answered": answered,
    }


def misses(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Models whose start on vLLM takes as long as vLLM's own."""
    answered = {(row["model"], row["system"]): row["answered"] for row in rows}
    return [
        f"{kind}: the first answer came after {ours:.1f} s, after {answered[kind, 'plain vllm']:.1f} s from AsyncLLM"
        for (kind, system), ours in answered.items()
        if system == "vllm" and ours >= answered.get((kind, "plain vllm"), float("inf"))
    ]


def _start(kind: str, system: str) -> dict[str, float]:
    """Seconds by stage of one start.

    Raises:
        Unavailable: it failed; the message has the end of its log.
    """
    log = cache_dir() / "startup.log"
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.startup_process", kind, system, str(time.time())],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        )
        try:
            said, _ = process.communicate(timeout=_LONGEST_S)
        except subprocess.TimeoutExpired:
            said = ""
        finally:
            stop(process)
    if process.returncode != 0 or not said.strip():
        end = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-20:])
        raise Unavailable(f"{kind} on {system} did not start; the end of {log}:\n{end}")
    # vLLM may have printed before.
    stages: dict[str, float] = json.loads(said.strip().splitlines()[-1])
    return stages
