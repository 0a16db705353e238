"""`argus bench cascade`: moderation by CLIP alone, by LLaVA alone, and by the calibrated cascade of both, served.

The threshold is certified on scenes of the split "val"; the three are then asked the same scenes of the split "test"
through /v1/cascades of one running cluster. Without caches, so that no arm profits from the one before.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from rich.console import Console

from benchmarks.calibration_scenes import asked_for, mixture, write
from benchmarks.report import Column, Report, this_command
from benchmarks.servers import argus, cache_dir
from demo.scenes import Split
from serve.calibration import job
from serve.calibration.bounds import Promise
from serve.calibration.file import Calibration
from serve.calibration.fit import Calibrated, why_nothing
from serve.calibration.samples import Sample, read_samples
from serve.config.cascades import Cascade
from serve.config.cluster import ClusterFile
from serve.config.load import load_profile
from serve.errors import Unavailable

GOAL = (
    "the cascade saves >= 50% of the LLaVA calls and loses <= 1 point of accuracy against LLaVA alone, with a "
    "certified threshold"
)
_SAVED, _LOST = 0.5, 0.01
_SMALL, _LARGE, _BOTH = "small-alone", "large-alone", "calibrated"
_WARM_UP = 16
_COLUMNS = (
    Column("arm", "who answers"),
    Column("accuracy", "right", ".2%"),
    Column("interval", "95% interval"),
    Column("escalated", "escalated", ".1%"),
    Column("large_calls", "LLaVA calls", "d"),
    Column("saved", "calls saved", ".1%"),
    Column("mean_ms", "mean ms", ".1f"),
    Column("p95_ms", "P95 ms", ".1f"),
    Column("failed", "failed", "d"),
)


@dataclass(frozen=True, slots=True)
class Asked:
    """One answer.

    Attributes:
        answer: the label; None when the request failed.
        steps: names of the steps that were called.
        seconds: as the client saw it.
    """

    answer: str | None
    steps: tuple[str, ...]
    seconds: float


def run(
    *,
    name: str,
    scenes: int,
    calibrate_on: int,
    target: float,
    confidence: float,
    concurrency: int,
    progress: Console,
) -> Report:
    """Calibrates, serves, asks all three."""
    profile = load_profile("demo", calibrations=False)
    cascade = job.cascade_of(profile, name)
    report = Report(
        this_command(),
        f"Cascade {name!r} on {scenes} held-out scenes (60% easy, 25% medium, 15% hard)",
        GOAL,
        _COLUMNS,
        {"scenes": scenes, "calibrate_on": calibrate_on, "target": target, "confidence": confidence}
        | {"concurrency": concurrency, "labels": list(cascade.labels), "cache": False},
    )
    progress.print(f"  calibrating on {calibrate_on} scenes", highlight=False)
    found = _calibrated(profile, cascade, _samples("val", calibrate_on, cascade), Promise(target, confidence))
    path = cache_dir() / f"cascade-{name}.json"
    job.write(path, Calibration(version=1, cascade=_BOTH, made=date.today(), steps={cascade.steps[0].name: found.step}))
    test = _samples("test", scenes, cascade)
    with argus("bench-cascade", _cluster(cascade, path)) as (http, _):
        # The cascade before LLaVA alone: what the engine keeps of a prompt can then help the latter only.
        arms = {}
        for arm in (_SMALL, _BOTH, _LARGE):
            progress.print(f"  {arm}: {scenes} scenes", highlight=False)
            arms[arm] = _ask_all(http, arm, test, concurrency)
    _fill(report, cascade, test, arms, found)
    return report


def _samples(split: Split, count: int, cascade: Cascade) -> list[Sample]:
    """Kept in the cache folder, since drawing them takes a while."""
    attribute = asked_for(cascade.labels)
    folder = cache_dir() / f"scenes-{split}-{attribute}-{count}"
    if not (folder / "labels.csv").is_file():
        write(folder, mixture(split, count), attribute)
    return read_samples(folder)


def _calibrated(cluster: ClusterFile, cascade: Cascade, samples: list[Sample], promise: Promise) -> Calibrated:
    first = cascade.steps[0]
    wish = job.Wish(cluster, cascade, first, cascade.after(first), samples, promise, False, False, 0, 0)
    return job.run(wish, None, {}, _silent, _silent).found


def _silent() -> None:
    """Nobody is told of each answer."""


def _cluster(cascade: Cascade, calibration: Path) -> dict[str, Any]:
    """The cascade with its threshold, and each of its first two steps by itself, over the demo's models."""
    whole = cascade.model_dump(mode="json", exclude_unset=True) | {"calibration": str(calibration)}
    for extra in ("shadow", "gears"):
        whole.pop(extra, None)
    first, second = whole["steps"][:2]
    whole["deadline_s"] = 60
    always = {"accept": {"rule": "always"}}
    bare = {key: value for key, value in whole.items() if key != "calibration"}
    clip = {"kind": "clip", "checkpoint": "demo:clip", "placement": {"num_cpus": 0.3}}
    llava = {"kind": "llava", "checkpoint": "demo:llava", "placement": {"num_cpus": 0.3}}
    return {
        "node_pools": {"local": {"cpus": 2}},
        "models": {first["use"]: clip, second["use"]: llava},
        "cascades": {
            _BOTH: whole,
            _SMALL: bare | {"steps": [_without_share(first) | always]},
            _LARGE: bare | {"steps": [_without_share(second) | always]},
        },
        "router": {"num_cpus": 0.3},
        "resilience": {"cache": {"enabled": False}},
        "limits": {"default_timeout_s": 60},
    }


def _without_share(step: dict[str, Any]) -> dict[str, Any]:
    """Of the deadline: a step that is alone has all of it."""
    return {key: value for key, value in step.items() if key not in ("deadline_share", "next")}


def _ask_all(http: str, name: str, samples: Sequence[Sample], concurrency: int) -> list[Asked]:
    with httpx.Client(base_url=http, timeout=90, trust_env=False) as client:

        def ask(sample: Sample) -> Asked:
            image = sample.read()
            started = time.perf_counter()
            response = client.post(f"/v1/cascades/{name}", files={"image": ("scene.png", image, "image/png")})
            seconds = time.perf_counter() - started
            if not response.is_success:
                return Asked(None, (), seconds)
            result = response.json()["results"][0]
            steps = tuple(entry["step"] for entry in result["trace"] if entry["result"] != "skipped")
            return Asked(str(result["answer"]), steps, seconds)

        with ThreadPoolExecutor(concurrency) as pool:
            warm = list(pool.map(ask, samples[:_WARM_UP]))
            if all(one.answer is None for one in warm):
                raise Unavailable(f"Cascade {name} answers nothing")
            return list(pool.map(ask, samples))


def _fill(
    report: Report, cascade: Cascade, test: Sequence[Sample], arms: dict[str, list[Asked]], found: Calibrated
) -> None:
    first, second = cascade.steps[:2]
    calls = {arm: sum(second.name in one.steps for one in asked) for arm, asked in arms.items()}
    right = {
        arm: np.array([one.answer == sample.label for one, sample in zip(asked, test, strict=True)])
        for arm, asked in arms.items()
    }
    names = {_SMALL: f"{first.use} alone", _LARGE: f"{second.use} alone", _BOTH: "calibrated cascade"}
    for arm in (_SMALL, _LARGE, _BOTH):
        seconds = np.array([one.seconds for one in arms[arm] if one.answer is not None])
        report.rows.append(
            {
                "arm": names[arm],
                "accuracy": float(right[arm].mean()),
                "interval": _interval(right[arm]),
                "escalated": calls[arm] / len(test) if arm == _BOTH else None,
                "large_calls": calls[arm],
                "saved": 1 - calls[arm] / calls[_LARGE],
                "mean_ms": 1e3 * float(seconds.mean()),
                "p95_ms": 1e3 * float(np.quantile(seconds, 0.95)),
                "failed": sum(one.answer is None for one in arms[arm]),
            }
        )
    _judge(report, right, calls, found)


def _interval(right: np.ndarray[Any, np.dtype[np.bool_]]) -> str:
    """Wilson's 95 % interval."""
    from scipy.stats import binomtest

    found = binomtest(int(right.sum()), len(right)).proportion_ci(0.95, "wilson")
    return f"{found.low:.1%} to {found.high:.1%}"


def _judge(report: Report, right: dict[str, Any], calls: dict[str, int], found: Calibrated) -> None:
    step = found.step
    promise = Promise(step.target, step.confidence)
    gain = right[_LARGE].astype(float) - right[_BOTH].astype(float)
    lost, error = float(gain.mean()), 1.96 * float(gain.std()) / math.sqrt(len(gain))
    saved = 1 - calls[_BOTH] / calls[_LARGE]
    report.notes += [
        f"threshold {step.threshold:.6f}, temperature {step.temperature:.4f}, {step.labels_used} labels; certified: "
        f"agreement >= {step.target:g} with confidence {step.confidence:g}, so accepting costs at most "
        f"{found.accepted * (1 - step.target):.2%} of accuracy",
        f"ECE {step.ece_before:.4f} before, {step.ece_after:.4f} after",
        f"accuracy lost against LLaVA alone: {100 * lost:.2f} points, +- {100 * error:.2f} (paired, 95%)",
        f"expected escalation {1 - found.accepted:.1%}",
    ]
    if problem := why_nothing(found, promise):
        report.misses.append(f"no threshold is certified: {problem}")
    if found.accepted * (1 - step.target) > _LOST:
        report.misses.append(f"only a loss of {found.accepted * (1 - step.target):.2%} is certified, not {_LOST:.0%}")
    if saved < _SAVED:
        report.misses.append(f"{saved:.1%} of the LLaVA calls are saved; {_SAVED:.0%} are wanted")
    if lost > _LOST:
        report.misses.append(f"{100 * lost:.2f} points of accuracy are lost; at most {100 * _LOST:.0f} may be")
