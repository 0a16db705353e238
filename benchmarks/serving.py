"""`argus bench serving`: image embedding with one CLIP in several servers, on the same machine in one run.

Every system serves the same adapter, gets the same JPEG files, one a request, keeps the same number of requests in
progress, has one model process with one OpenMP thread and the same bounds of its batcher, and runs alone.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks import material
from benchmarks.peers.encoder import MAX_BATCH, WAIT_S
from benchmarks.report import Column, Report, this_command
from benchmarks.systems import SYSTEMS, Job, forward_rate
from serve.errors import ArgusError, Unavailable

LEAST_OF_RAW = 0.90
GOAL = (
    f"Argus serves >= {LEAST_OF_RAW:.0%} of the images a second of the raw forward pass, over HTTP and gRPC, and more "
    "than every peer under the same load generator"
)
MODELS = ("vit-b32", "demo")
_FILES, _FILE_BYTES = 48, 100_000
_COLUMNS = (
    Column("model", "model"),
    Column("title", "system"),
    Column("generator", "generator"),
    Column("per_s", "images/s", ".1f"),
    Column("of_raw", "of raw", ".0%"),
    Column("p50_ms", "p50 ms", ".0f"),
    Column("p99_ms", "p99 ms", ".0f"),
    Column("failed", "failed", "d"),
    Column("reason", "remark"),
)


def checkpoint(model: str) -> Path:
    """Folder of a model of `MODELS`.

    Raises:
        Unavailable: the demo checkpoint is not there.
    """
    if model == "vit-b32":
        return material.random_vit_b32()
    if not (material.DEMO_CLIP / "model.safetensors").is_file():
        raise Unavailable(f"{material.DEMO_CLIP} does not exist; demo/train_clip.py makes it")
    return material.DEMO_CLIP


def run(
    *, models: Sequence[str], only: Sequence[str], connections: int, seconds: float, decode: str, progress: Console
) -> Report:
    """Measures each system of `only` with each model."""
    files = tuple(material.jpegs(_FILES, _FILE_BYTES))
    report = Report(
        this_command(),
        f"Serving one CLIP: {_FILE_BYTES // 1000} KB JPEG, one a request, {connections} in progress, {decode} decoding",
        GOAL,
        _COLUMNS,
        {
            "connections": connections,
            "seconds": seconds,
            "decode": decode,
            "files": len(files),
            "mean_file_bytes": material.mean_bytes(files),
            "max_batch": MAX_BATCH,
            "peer_wait_s": WAIT_S,
            "model_threads": 1,
        },
    )
    for model in models:
        try:
            job = Job(checkpoint(model), decode, files, connections, seconds, warm_up_s=max(3.0, seconds / 5))
        except Unavailable as missing:
            report.rows.append({"model": model, "title": "-", "reason": missing.message})
            continue
        now = None
        for name in only:
            progress.print(f"  {model}: {SYSTEMS[name].title}", highlight=False)
            before, figures = now, row(name, job)
            if "raw" in only:
                now = figures["per_s"] if name == "raw" and "per_s" in figures else forward_rate(job)
                figures["raw_per_s"] = now if before is None else (before + now) / 2
            report.rows.append({"model": model, **figures})
    report.misses = judge(report.rows)
    report.notes = notes(report.rows)
    return report


def row(name: str, job: Job) -> dict[str, Any]:
    """One system's figures, or why there are none."""
    system = SYSTEMS[name]
    head = {"system": name, "title": system.title, "kind": system.kind, "generator": system.generator}
    try:
        figures = system.measure(job)
    except ArgusError as error:
        return {**head, "reason": error.message.splitlines()[0]}
    milliseconds = {f"{q}_ms": 1e3 * figures.pop(f"{q}_s") for q in ("p50", "p99") if f"{q}_s" in figures}
    return {**head, **figures, **milliseconds}


def judge(rows: list[dict[str, Any]]) -> list[str]:
    """Fills in each row's share of the raw rate; where the goal is missed."""
    found = []
    for model in dict.fromkeys(row["model"] for row in rows):
        mine = [row for row in rows if row["model"] == model and "per_s" in row]
        found += [f"{model}: {row['title']} answered nothing" for row in mine if not row["per_s"]]
        for row in mine:
            row["of_raw"] = row["per_s"] / row["raw_per_s"] if "raw_per_s" in row else None
        if not any(row["kind"] == "argus" for row in mine):
            found.append(f"{model}: Argus was not measured")
        for ours in (row for row in mine if row["kind"] == "argus"):
            if ours["of_raw"] is not None and ours["of_raw"] < LEAST_OF_RAW:
                found.append(f"{model}: {ours['title']} serves {ours['of_raw']:.0%} of the raw forward pass")
            found += [
                f"{model}: {ours['title']} serves {_figure(ours)}, {peer['title']} {_figure(peer)}"
                for peer in mine
                if peer["kind"] == "peer" and peer["generator"] == ours["generator"] and _ahead(peer, ours)
            ]
            if ours["failed"]:
                found.append(f"{model}: {ours['failed']} requests to {ours['title']} failed")
    return found


def _ahead(peer: dict[str, Any], ours: dict[str, Any]) -> bool:
    """Whether a peer is not behind; by share of the raw rate, since the machine's speed drifts within a run."""
    key = "per_s" if peer["of_raw"] is None or ours["of_raw"] is None else "of_raw"
    return bool(peer[key] >= ours[key])


def _figure(row: dict[str, Any]) -> str:
    return f"{row['per_s']:.1f} images/s" + ("" if row["of_raw"] is None else f" ({row['of_raw']:.0%} of raw)")


def notes(rows: list[dict[str, Any]]) -> list[str]:
    """How to read the table, with the bound that the machine's cores set."""
    lines = [
        "One model process with one OpenMP thread in every system, the same adapter and decoder; systems one after "
        "another, each alone. Rates are slopes of answers over time after a warm-up. `of raw`: of the mean of the raw "
        "forward pass measured just before and just after, because a virtual machine's speed drifts.",
    ]
    for model in dict.fromkeys(row["model"] for row in rows if "raw_per_s" in row):
        speeds = [row["raw_per_s"] for row in rows if row["model"] == model and "raw_per_s" in row]
        lines.append(
            f"{model}: the raw forward pass alone went from {min(speeds):.1f} to {max(speeds):.1f} images/s within "
            "this run; systems that differ by less than that are level, whatever the verdict says."
        )
    cores = os.cpu_count() or 1
    for raw in (row for row in rows if row.get("kind") == "limit" and "per_s" in row):
        decode, forward = 1 / raw["decode_per_s"], 1 / raw["forward_per_s"]
        lines.append(
            f"{raw['model']}: an image takes {1e3 * decode:.1f} ms to decode and {1e3 * forward:.1f} ms in the forward "
            f"pass, so {cores} cores bear at most {cores / (decode + forward):.0f} images/s with nothing else to do; "
            f"decode thread and model in one process, no serving: {raw['pipeline_per_s']:.1f} images/s."
        )
    return lines
