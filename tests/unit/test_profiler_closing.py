"""A profile whose simulated idle run is as long as the real one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.capacity.profiler.busy import asking
from benchmarks.capacity.profiler.closing import closed
from benchmarks.capacity.profiler.served import Served
from benchmarks.capacity.profiles import Generation, HardwareProfile, ModelProfile, scaled
from benchmarks.capacity.scenario import Flow
from benchmarks.capacity.simulator import simulate
from serve.config.load import load_profile as load_cluster
from tests.support import made_up
from tests.unit.test_profiler import served
from tests.unit.test_profiles import flat, hardware, one

DEMO = load_cluster("demo", calibrations=False)
ASK_LLAVA = asking(DEMO, "llava", (Flow(name="all", entry="llava", output_tokens=5, streamed=True),))
ASK_CLIP = asking(DEMO, "clip", (Flow(name="all", entry="clip"),))


def llava(step_s: float = 0.010, overhead_s: float = 0.008) -> HardwareProfile:
    made = made_up.engine(step_s=step_s, sequence_s=0.001, encode_s=0.02)
    return on_busy_cores(made.model_copy(update={"model": "demo:llava", "kind": "llava", "overhead": flat(overhead_s)}))


def on_busy_cores(model: ModelProfile) -> HardwareProfile:
    """Whose processes want more than there is, even for one request."""
    working = model.model_copy(update={"cores": 1.0, "cpu_s": 0.002, "wake_s": 0.001})
    profile = hardware(one=working)
    router = profile.router.model_copy(update={"latency": flat(0.02), "wake_s": 0.001, "ingress_wake_s": 0.001})
    return profile.model_copy(update={"cores": 1.2, "router": router})


def idle(profile: HardwareProfile, pace: float = 1.4, others: float = 0.0) -> Served:
    """Forty requests, a second apart, as they are with such a profile; every other answer is long."""
    due = np.arange(1.0, 41.0)
    (model,) = profile.models.values()
    tokens = np.where(np.arange(40) % 2, 13, 2).astype(np.int32) * (model.generation is not None)
    asked = ASK_LLAVA if model.generation else ASK_CLIP
    written = (np.zeros_like(tokens), tokens) if tokens.any() else None
    took = simulate(asked(profile, pace), due, seed=99, tokens=written).latency_s
    run = served([], list(zip(due.tolist(), (due + took).tolist(), strict=True)), others=others)
    return replace(run, pace=pace, requests=replace(run.requests, tokens=tokens))


def steps(profile: HardwareProfile) -> Generation:
    (model,) = profile.models.values()
    assert model.generation is not None
    return model.generation


def overhead_s(profile: HardwareProfile) -> float:
    (model,) = profile.models.values()
    return model.overhead.mean


@pytest.mark.parametrize(("step_s", "around_s"), [(0.013, 0.001), (0.007, 0.030), (0.010, 0.008)])
def test_steps_and_overhead_become_those_of_the_real_run(step_s: float, around_s: float) -> None:
    found = closed(ASK_LLAVA, llava(step_s, around_s), idle(llava()))
    assert steps(found).step_s + steps(found).sequence_s == pytest.approx(0.011, rel=0.01), "one sequence at a time"
    assert steps(found).sequence_s / steps(found).step_s == pytest.approx(0.001 / step_s), "in the same proportion"
    assert steps(found).encode_s == 0.02, "what a prompt takes is not told by longer answers"
    assert overhead_s(found) == pytest.approx(0.008, abs=0.001)


def test_answers_of_one_length_say_nothing_of_steps() -> None:
    run = idle(llava())
    run = replace(run, requests=replace(run.requests, tokens=np.full(40, 3, np.int32)))
    assert steps(closed(ASK_LLAVA, llava(0.013), run)) == steps(llava(0.013))


@pytest.mark.parametrize("factor", [0.0, 0.5, 3.0])
def test_what_a_call_takes_around_its_passes_follows_from_the_whole(factor: float) -> None:
    true = on_busy_cores(one().model_copy(update={"overhead": flat(0.012)}))
    (key, model), *_ = true.models.items()
    off = true.model_copy(update={"models": {key: model.model_copy(update={"overhead": scaled(flat(0.012), factor)})}})
    found = closed(ASK_CLIP, off, idle(true))
    assert overhead_s(found) == pytest.approx(0.012, abs=2e-4)
    assert found.models[key].forward == model.forward


def test_where_the_simulation_answers_nothing_there_is_nothing_to_compare() -> None:
    never = asking(DEMO, "clip", (Flow(name="all", entry="clip", deadline_s=1e-6),))
    true = on_busy_cores(one())
    assert closed(never, true, idle(true)) == true


def test_where_others_had_the_cores_nothing_is_compared() -> None:
    assert closed(ASK_LLAVA, llava(0.013), idle(llava(), others=0.5)) == llava(0.013)
