"""The profiler's parts: timing on a scripted clock, fits, what is made of a served load, and what is refused."""

from __future__ import annotations

import asyncio
import itertools
import math
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from benchmarks.capacity.profiler import measured
from benchmarks.capacity.profiler.build import WORKLOADS, Wish, combined, profilable, profile
from benchmarks.capacity.profiler.engines import Heard, Passes, concurrencies, first_tokens, hear, together
from benchmarks.capacity.profiler.fit import Observation, fit_steps
from benchmarks.capacity.profiler.passes import Subject, clock_of, measure, sizes_up_to
from benchmarks.capacity.profiler.served import Loads, Served
from benchmarks.capacity.profiler.tape import Event
from benchmarks.capacity.profiler.timing import Effort, distribution, rounds, time_by_size
from benchmarks.capacity.profiles import ForwardPass
from benchmarks.loadtest.columns import Columns
from serve.config.load import load_profile as load_cluster
from serve.errors import ConfigError, ModelFailed, Unavailable
from tests.unit.test_profiles import flat, hardware, one


class Clock:
    """Moves when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_quantiles_are_those_of_the_samples() -> None:
    found = distribution([float(value) for value in range(101)])
    assert found.seconds == (0, 1, 5, 10, 25, 50, 75, 90, 95, 99, 100)
    assert found.mean == 50 and found.samples == 101
    with pytest.raises(ValueError, match="no samples"):
        distribution([])


def test_every_round_has_every_size_and_orders_differ() -> None:
    some = list(itertools.islice(rounds((1, 2, 4, 8), seed=3), 20))
    assert all(sorted(order) == [1, 2, 4, 8] for order in some)
    assert len({tuple(order) for order in some}) > 5
    assert some == list(itertools.islice(rounds((1, 2, 4, 8), seed=3), 20))


def test_a_drifting_machine_does_not_become_a_slope() -> None:
    """Every run takes as long whatever its size, but the machine slows down by half meanwhile."""
    clock = Clock()

    def run(size: int) -> None:
        clock.now += 1.0 + clock.now / 800

    times = time_by_size(run, (1, 2, 4, 8), Effort(0, warm_up=0, least=60, most=60), clock=clock)
    means = [float(np.mean(times[size])) for size in (1, 2, 4, 8)]
    assert max(means) / min(means) < 1.05


def test_warm_up_is_left_out_and_preparation_is_not_timed() -> None:
    clock = Clock()
    runs = itertools.count()

    def run(size: int) -> None:
        clock.now += 100.0 if next(runs) < 4 else 1.0 * size

    def before(size: int) -> None:
        clock.now += 50.0

    effort = Effort(0, warm_up=2, least=5, most=10)
    assert time_by_size(run, (1, 3), effort, clock=clock, before=before) == {1: [1.0] * 5, 3: [3.0] * 5}


def test_it_goes_on_until_its_time_is_up_and_not_beyond_the_most() -> None:
    clock = Clock()

    def run(size: int) -> None:
        clock.now += 1.0

    assert len(time_by_size(run, (1,), Effort(30, warm_up=0, least=5, most=100), clock=clock)[1]) == 30
    clock.now = 0.0
    assert len(time_by_size(run, (1,), Effort(1000, warm_up=0, least=5, most=100), clock=clock)[1]) == 100


def scripted(clock: Clock, fail: bool = False) -> Subject:
    """2 ms and 3 ms an item; costs 7 an item."""

    def forward(batch: Sequence[Any]) -> Sequence[Any]:
        clock.now += 0.002 + 0.003 * len(batch)
        return [ModelFailed("out of order") if fail else item for item in batch]

    return Subject(lambda: None, lambda size: list(range(size)), forward, lambda item: 7.0, (1, 2, 4), clock)


def test_a_profile_of_a_scripted_adapter_has_its_numbers() -> None:
    found = measure(scripted(Clock()), Effort(0, warm_up=1, least=5, most=5))
    assert [(each.items, each.cost) for each in found.forward] == [(1, 7.0), (2, 14.0), (4, 28.0)]
    assert [each.seconds.mean for each in found.forward] == pytest.approx([0.005, 0.008, 0.014])
    assert all(each.seconds.samples == 5 for each in found.forward)


def test_a_model_that_fails_is_not_timed() -> None:
    with pytest.raises(ModelFailed, match="out of order"):
        measure(scripted(Clock(), fail=True), Effort(0, least=1))


def test_sizes_are_dense_where_batches_are_common() -> None:
    assert sizes_up_to(1) == (1,)
    assert sizes_up_to(8) == (1, 2, 3, 4, 6, 8)
    assert sizes_up_to(20) == (1, 2, 3, 4, 6, 8, 12, 16, 20)
    assert concurrencies(16) == (1, 2, 4, 8, 16)


def test_a_single_thread_is_timed_by_what_it_used() -> None:
    import time

    demo = load_cluster("demo", calibrations=False)
    assert clock_of(demo.models["clip"]) is time.thread_time
    assert clock_of(demo.models["splat"]) is time.perf_counter  # two threads


def observations(noise: float, seed: int = 1) -> list[Observation]:
    """5 ms a step, 0.2 a sequence, 0.05 a prompt token, 12 an image, 3 beside; some prompts in three steps."""
    draw = random.Random(seed)

    def seconds(n: int, t: int, images: int, asked: int, steps: int = 1) -> float:
        exact = 0.005 * steps + 0.0002 * n + 0.00005 * t + 0.012 * images + 0.003 * asked
        return exact * draw.lognormvariate(0, noise) if noise else exact

    shapes: list[tuple[int, ...]] = [(n, 0, 0, 0) for n in (1, 2, 4, 8, 16)]
    shapes += [(0, t, i, 1) for t in (20, 150, 400) for i in (0, 1)] + [(0, 640, 4, 1, 3)]
    return [Observation(seconds(*shape), *shape) for shape in shapes for _ in range(40)]


@pytest.mark.parametrize(("noise", "near"), [(0.0, 1e-6), (0.05, 0.06)])
def test_a_fit_finds_the_coefficients(noise: float, near: float) -> None:
    fit = fit_steps(observations(noise))
    found = (fit.step_s, fit.sequence_s, fit.prompt_token_s, fit.encode_s, fit.asked_s)
    assert found == pytest.approx((0.005, 0.0002, 0.00005, 0.012, 0.003), rel=max(near, 1e-6) * 3)
    assert fit.error <= near
    assert fit.residual.mean == pytest.approx(1.0)


def test_what_disturbs_some_steps_does_not_move_the_fit() -> None:
    disturbed = [
        replace(each, seconds=each.seconds * (4 if number % 5 == 0 else 1))
        for number, each in enumerate(observations(0.0))
    ]
    assert fit_steps(disturbed).step_s == pytest.approx(0.005, rel=0.01)


def test_too_little_is_not_fitted() -> None:
    with pytest.raises(Unavailable, match="too few"):
        fit_steps(observations(0.0)[:4])
    with pytest.raises(Unavailable, match="0 of steps"):
        fit_steps([each for each in observations(0.0) if each.asked])


def test_answers_that_run_together_give_a_step() -> None:
    answers = [Heard(0.0, 0.10 + 0.01 * n, 1.10 + 0.01 * n, 11, 20, 0) for n in range(4)]
    (found,) = together(answers)
    assert found.sequences == 4
    assert found.seconds == pytest.approx(0.1)
    assert together([Heard(0, 0.1, 0.2, 5, 20, 0), Heard(0, 0.3, 0.9, 5, 20, 0)]) == []


def test_what_we_do_ourselves_before_the_first_token_is_not_the_engine_s() -> None:
    (one,) = first_tokens([Heard(1.0, 1.5, 1.5, 1, 120, 20, ours_s=0.1)], image=True)
    assert one == Observation(pytest.approx(0.4), 0, 100, 1, asked=1)
    (quick,) = first_tokens([Heard(1.0, 1.1, 1.1, 1, 120, 0, ours_s=0.3)], image=False)
    assert quick.seconds > 0 and quick.images == 0, "other threads work too"


def test_prompts_that_are_asked_at_once_are_read_in_as_many_steps_as_their_answers_come_in() -> None:
    firsts = (1.06, 1.22, 1.222, 1.225)  # the first alone, the others together
    answers = [Heard(1.0, first, first, 1, 100, 0, ours_s=0.04 + 0.01 * n) for n, first in enumerate(firsts)]
    (found,) = first_tokens(answers, image=True)
    assert found == Observation(pytest.approx(0.225 - 0.04 / 4), 0, 400, 4, asked=1, steps=2)
    assert first_tokens([*answers, Heard(1.0, 1.0, 1.0, 0, 100, 0)], image=True) == [], "one was not answered"


def span(kind: Any, start: float, end: float, items: int = 1, waited: float = 0.0) -> Event:
    return Event(kind, end, end - start, items, float(items), waited)


def served(events: list[Event], spans: list[tuple[float, float]], **more: Any) -> Served:
    """A load whose requests were due and ended at `spans`, in a run that began at 100."""
    count = len(spans)
    columns = Columns(
        number=np.arange(count),
        due_s=np.array([due for due, _ in spans], np.float64),
        sent_s=np.array([due for due, _ in spans], np.float64),
        ended_s=np.array([end for _, end in spans], np.float64),
        first_s=np.zeros(count, np.float32),
        usd=np.zeros(count),
        tokens=np.full(count, 3, np.int32),
        cached=np.zeros(count, np.bool_),
        escalated=np.zeros(count, np.bool_),
        kind=np.zeros(count, np.int16),
        path=np.zeros(count, np.int16),
        error=np.full(count, -1, np.int16),
        kinds=("ask",),
        paths=("model",),
        errors=(),
    )
    values = {"cpu_s": {"router": 0.2, "replica": 0.6, "background": 0.1}, "others": 0.0, "memory_bytes": 5} | more
    return Served(100.0, 10.0, columns, sorted(events, key=lambda event: event.ended), **values)


def idle(requests: int = 12, pass_s: float = 0.010) -> Served:
    """One request a second: 1 ms to the call, 2 of preprocessing, a pass, 1.5 around them, 3 back."""
    events, spans = [], []
    for number in range(requests):
        due = float(number)
        call = 100.0 + due + 0.001
        events += [
            span("preprocess", call + 0.001, call + 0.003),
            span("pass", call + 0.003, call + 0.003 + pass_s),
            span("call", call, call + 0.0035 + pass_s),
        ]
        spans.append((due, due + 0.001 + 0.0035 + pass_s + 0.003))
    return served(events, spans)


def test_the_hop_is_what_is_left_of_a_request() -> None:
    found = measured.hop(idle())
    assert found.overhead.mean == pytest.approx(0.0015)
    assert found.latency.mean == pytest.approx(0.004)


def test_a_run_without_answers_gives_no_hop() -> None:
    with pytest.raises(Unavailable, match="No request"):
        measured.hop(served([], []))


def alone() -> tuple[ForwardPass, ...]:
    """5, 8 and 14 ms for 1, 2 and 4 items."""
    return measure(scripted(Clock()), Effort(0, warm_up=1, least=5, most=5)).forward


def computed(run: Served, *passes: tuple[int, float], pace: float = 1.0) -> Served:
    """The run with twelve passes of each kind, (items, processor seconds), by one thread."""
    events = [Event("forward", 100.0 + n, seconds * pace, items) for n in range(12) for items, seconds in passes]
    return replace(run, events=[*run.events, *events], pace=pace)


def in_place(*runs: Served, one_thread: bool) -> list[float]:
    """Mean seconds by size."""
    found = measured.in_place(alone(), Loads(1.0, {}, runs[0], runs[1:]), one_thread=one_thread)
    return [each.seconds.mean for each in found]


def test_passes_that_the_clock_tells_are_scaled_by_single_ones_unless_others_were_busy() -> None:
    assert in_place(idle(pass_s=0.010), one_thread=False) == pytest.approx([0.010, 0.016, 0.028])
    assert in_place(served(idle().events, [], others=0.5), one_thread=False) == pytest.approx([0.005, 0.008, 0.014])
    assert in_place(replace(idle(pass_s=0.020), pace=2.0), one_thread=False) == pytest.approx([0.010, 0.016, 0.028])


def test_passes_of_one_thread_are_scaled_by_its_processor_time_at_each_size() -> None:
    """The clock says that passes took 10 ms, because they waited; what the simulator adds must not be in it."""
    quiet = computed(idle(pass_s=0.010), (1, 0.006))
    assert in_place(quiet, one_thread=True) == pytest.approx([0.006, 0.0096, 0.0168]), "one size stands for all"
    loaded = computed(served([], [], others=0.5), (4, 0.014), pace=2.0)
    both = in_place(quiet, loaded, one_thread=True)
    assert both == pytest.approx([0.006, 0.008 * 1.1, 0.014]), "between sizes that were seen"
    rare = served([Event("forward", 100.0, 0.9, 2)], [])
    assert in_place(quiet, loaded, rare, one_thread=True) == pytest.approx(both), "one pass says nothing"
    assert in_place(idle(pass_s=0.010), one_thread=True) == pytest.approx([0.005, 0.008, 0.014]), "none was seen"


def test_passes_of_a_request_are_those_of_its_batches() -> None:
    passes = measure(scripted(Clock()), Effort(0, warm_up=1, least=5, most=5)).forward  # 5 ms for one item, 8 for two
    pairs = served([Event("pass", 100.0 + n, 0.020, items=2) for n in range(20)], [(n / 10, n / 10) for n in range(40)])
    assert measured.passes_s(passes, pairs) == pytest.approx(0.004)
    assert measured.passes_s(passes, served([], [(0.0, 1.0)])) == pytest.approx(0.005), "none was seen"


def test_what_was_measured_at_a_slow_pace_is_as_at_one() -> None:
    calm = idle(12)
    slow = replace(calm, pace=2.0)
    assert measured.each(slow, {}, "router") == pytest.approx(measured.each(calm, {}, "router") / 2)
    assert measured.hop(slow).latency.mean == pytest.approx(measured.hop(calm).latency.mean / 2)
    assert measured.hop(slow).overhead.mean == pytest.approx(measured.hop(calm).overhead.mean / 2)


def test_processor_time_of_a_request_is_without_what_is_spent_at_rest() -> None:
    run = idle(10)
    rest = {"router": 0.01, "background": 0.01}
    assert measured.each(run, rest, "router") == pytest.approx(0.01)
    assert measured.each(run, rest, "background") == pytest.approx(0.0)
    assert measured.request_cpu_s(run, rest) == pytest.approx(0.07)


def test_what_models_share_is_kept_when_another_kind_is_measured() -> None:
    old = hardware(clip=one())
    chat = one("demo:llava").model_copy(update={"kind": "llava"})
    slower = hardware(llava=chat)
    slower = slower.model_copy(update={"router": slower.router.model_copy(update={"cpu": flat(0.005)}), "cores": 9})
    new = combined(old, slower)
    assert new.router == old.router and new.cores == old.cores
    assert new.models["demo:llava"].router_cpu_s == pytest.approx(0.003)
    assert new.models["demo:clip"] == old.models["demo:clip"]
    assert combined(None, slower) == slower


def test_models_that_can_be_profiled_begin_with_what_others_share() -> None:
    demo = load_cluster("demo", calibrations=False)
    names = profilable(demo)
    assert names[0] == "clip"
    assert {"llava", "blip2", "florence2", "video_classifier", "splat"} <= set(names)
    assert all(demo.models[name].kind in WORKLOADS for name in names)


@pytest.mark.parametrize(("name", "said"), [("nope", "there is no model 'nope'"), ("index", "kind vector_index")])
def test_what_cannot_be_profiled_is_said(name: str, said: str) -> None:
    wish = Wish(load_cluster("demo", calibrations=False), "cpu-demo")
    with pytest.raises(ConfigError, match=said):
        profile(wish, name)


class ScriptedEngine:
    """An engine of 3 ms to ask, 4 an image, 0.1 a prompt token, 10 a step and 1 a sequence, on a scripted clock."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.images: set[str] = set()

    async def generate(self, prompt: Any, sampling: Any, request_id: str, deadline: float) -> Any:
        from deployments.generation.messages import ChatEvent

        assert deadline == math.inf
        assert not self.images & set(prompt.image_ids), "no picture is shown twice"
        self.images |= set(prompt.image_ids)
        read = len(prompt.text.split()) + 100 * len(prompt.images)
        self.clock.now += 0.003 + 0.004 * len(prompt.images) + 0.0001 * read + 0.010
        for number in range(sampling.max_tokens):
            if number:
                self.clock.now += 0.011
            ends = "length" if number == sampling.max_tokens - 1 else None
            yield ChatEvent(0, "a", (7,), finish_reason=ends, prompt_tokens=read)


async def test_answers_are_heard_token_by_token() -> None:
    clock = Clock()
    demo = load_cluster("demo", calibrations=False)
    from benchmarks.capacity.profiler.engines import asker_of

    asker = asker_of(demo.models["llava"])  # type: ignore[arg-type]
    engine: Any = ScriptedEngine(clock)
    worked = iter((1.0, 1.002, 5.0, 5.003))
    first, second = [await hear(engine, asker.prompt(4), 5, clock, worked.__next__) for _ in range(2)]
    assert first.tokens == 5
    assert (first.ours_s, second.ours_s) == pytest.approx((0.002, 0.003)), "until the first token, and no further"
    assert first.last - first.first == pytest.approx(0.044)
    assert first.first - first.asked == pytest.approx(0.017 + 0.0001 * first.prompt_tokens)
    assert second.asked == first.last and second.prompt_tokens >= first.prompt_tokens


async def test_passes_are_waited_for_and_not_for_ever() -> None:
    seen = Passes()
    asyncio.get_running_loop().call_later(
        0.01, lambda: seen.batch_ran(items=3, cost=6.0, forward_s=0.5, waits_s=(0.0, 0.0, 0.0))
    )
    await seen.all_ran(3)
    assert seen.ran == [(3, 6.0, 0.5)]
    with pytest.raises(TimeoutError):
        await seen.all_ran(4, most_s=0.01)
