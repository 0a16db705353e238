"""One run of `argus calibrate`: asks a step about samples, calibrates it, writes the file."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np

from serve.calibration.asking import Asker, Spent, Tick, given_labels
from serve.calibration.bounds import Promise
from serve.calibration.file import Calibration, StepCalibration, load_calibration
from serve.calibration.fit import Calibrated, calibrate_step
from serve.calibration.http_calls import HttpCalls
from serve.calibration.offline import OfflineCalls
from serve.calibration.samples import Sample, read_samples
from serve.calibration.temperature import Int64, confidences
from serve.calls import Questions
from serve.config.cascades import Cascade, CascadeStep
from serve.config.checkpoints import checkpoint_mark
from serve.config.cluster import ClusterFile
from serve.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Wish:
    """What a run is to do, once the options have been checked.

    Attributes:
        next: the step that answers what this one leaves open, if any.
        by_model: that step's answers are the reference, instead of the labels of the data.
    """

    cluster: ClusterFile
    cascade: Cascade
    step: CascadeStep
    next: CascadeStep | None
    samples: list[Sample]
    promise: Promise
    by_model: bool
    saving: bool
    check_next: int
    seed: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run found.

    Attributes:
        next_right: share of checked escalated samples that the next step has right; None when none was checked.
        spent: on the next step.
    """

    found: Calibrated
    next_right: float | None
    spent: Spent


def cascade_of(cluster: ClusterFile, name: str) -> Cascade:
    """A cascade by its name.

    Raises:
        ConfigError: there is none.
    """
    if name not in cluster.cascades:
        known = ", ".join(cluster.cascades) or "none"
        raise ConfigError(f"Cascade {name!r} does not exist; the cluster file has {known}", param="cascade")
    return cluster.cascades[name]


def wish_of(
    cluster: ClusterFile,
    cascade: Cascade,
    name: str | None,
    data: Path,
    promise: Promise,
    by_model: bool,
    saving: bool,
    check_next: int,
    seed: int,
) -> Wish:
    """The step and its samples, checked.

    Raises:
        ConfigError: no such step, one that cannot be calibrated, or samples that are none.
    """
    able = [one for one in cascade.steps if one.accept.rule == "confidence" and one.task == "classify"]
    chosen = [one for one in able if name in (None, one.name)]
    if not chosen:
        names = ", ".join(one.name for one in able) or "none"
        said = "no step" if name is None else f"step {name!r} is none that"
        raise ConfigError(
            f"--step: {said} can be calibrated: only those with task classify and rule confidence, which are: {names}",
            param="step",
        )
    following = cascade.after(chosen[0])
    if following is None and (by_model or check_next):
        raise ConfigError(f"Step {chosen[0].name!r} is the last one; no next step can be asked", param="step")
    samples = read_samples(data)
    if len(samples) < 2:
        raise ConfigError(f"{data} holds one image; at least {promise.least_samples} are needed", param="data")
    return Wish(cluster, cascade, chosen[0], following, samples, promise, by_model, saving, check_next, seed)


def run(wish: Wish, where: str | None, headers: dict[str, str], tick: Tick, next_tick: Tick) -> Outcome:
    """Asks and calibrates.

    Args:
        where: the cluster's address; None loads the step's model here.
        tick: told of each answer of the step.
        next_tick: told of each of the next one.

    Raises:
        ConfigError: a sample without a fitting label, or one that is refused.
    """
    with asyncio.Runner() as runner:
        if where is None:
            return _run(wish, OfflineCalls(wish.cluster, wish.step.use), runner, tick, next_tick)
        client = httpx.AsyncClient(base_url=where, headers=headers, trust_env=False)
        try:
            return _run(wish, HttpCalls(client), runner, tick, next_tick)
        finally:
            runner.run(client.aclose())


def _run(wish: Wish, calls: Questions, runner: asyncio.Runner, tick: Tick, next_tick: Tick) -> Outcome:
    asker = Asker(wish.cluster, wish.cascade, calls, wish.samples)
    spent = Spent()
    given = None if wish.by_model else given_labels(wish.samples, wish.cascade.labels)
    try:
        logits, served = runner.run(asker.logits(wish.step, tick))

        def ask(numbers: Int64) -> Int64:
            if given is not None:
                return given[numbers]
            assert wish.next is not None
            return runner.run(asker.labels(wish.next, numbers.tolist(), spent, next_tick))

        found = calibrate_step(
            logits,
            ask,
            wish.promise,
            checkpoint=checkpoint_mark(wish.cluster, wish.step.use),
            served_temperature=served,
            saving=wish.saving,
            seed=wish.seed,
        )
        next_right = None
        if given is not None and wish.next is not None and wish.check_next:
            left = np.flatnonzero(confidences(logits, found.step.temperature) < found.step.threshold)
            numbers = np.random.default_rng(wish.seed).permutation(left)[: wish.check_next]
            said = runner.run(asker.labels(wish.next, numbers.tolist(), spent, next_tick))
            next_right = float((said == given[numbers]).mean()) if len(numbers) else None
    except ExceptionGroup as group:
        raise group.exceptions[0] from None
    return Outcome(found, next_right, spent)


def other_steps(path: Path, cascade: str, wish: Wish) -> dict[str, StepCalibration]:
    """What an older file of the cascade holds for other steps, which stays.

    Raises:
        ConfigError: the file is of another cascade, or no calibration file.
    """
    if not path.is_file():
        return {}
    old = load_calibration(path)
    if old.cascade != cascade:
        raise ConfigError(f"{path}: is of cascade {old.cascade!r}; give another --out", param="out")
    names = {one.name for one in wish.cascade.steps} - {wish.step.name}
    return {name: step for name, step in old.steps.items() if name in names}


def write(path: Path, calibration: Calibration) -> None:
    """Writes a calibration file.

    Raises:
        ConfigError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(calibration.model_dump_json(indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}", param="out") from None
