"""A model under the profiler's loads: how high they go, which of them count, its memory; and the command's file."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks.capacity.profiler import build, busy, closing, engines, measured, passes
from benchmarks.capacity.profiler import served as loads
from benchmarks.capacity.profiler.engines import LEAST_PASSES, Batched, Passes, Stepped
from benchmarks.capacity.profiler.fit import StepFit
from benchmarks.capacity.profiler.passes import Alone
from benchmarks.capacity.profiler.served import Loads, Served
from benchmarks.capacity.profiler.timing import Effort
from benchmarks.capacity.profiles import ForwardPass, HardwareProfile, Provenance, load_profile, save_profile
from benchmarks.capacity.scenario import Flow
from benchmarks.loadtest.settings import Settings
from benchmarks.targets import load_targets
from serve.cli import app
from serve.config.cluster import ClusterFile
from serve.config.load import load_profile as load_cluster
from serve.errors import ArgusError, Unavailable
from tests.unit.test_profiler import idle
from tests.unit.test_profiles import MEASURED, flat, hardware, one

DEMO, GPU = load_cluster("demo", calibrations=False), load_cluster("gpu", calibrations=False)


def alone(pass_s: float, items: int = 1, memory_bytes: int | None = None) -> Alone:
    return Alone(flat(0.001), (ForwardPass(items=items, cost=items, seconds=flat(pass_s)),), memory_bytes)


def stepped(step_s: float = 0.010, sequence_s: float = 0.001) -> Stepped:
    return Stepped(StepFit(step_s, sequence_s, 0.0001, 0.004, 0.001, flat(1.0), 0.0), flat(0.003), 80, {}, 9)


def refused(run: Served, share: float) -> Served:
    """The same run, of whose requests a share was refused."""
    error = np.full(len(run.requests), -1, np.int16)
    error[: round(share * len(error))] = 0
    return replace(run, requests=replace(run.requests, error=error, errors=("overloaded",)))


class Load:
    """Stands in for a served cluster and its load generator, and keeps what was asked.

    Args:
        refused_share: of the requests of a run, given its arrival process and its number among those of that process.
    """

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, refused_share: Callable[[str, int], float] = lambda process, number: 0.0
    ) -> None:
        self.rates: list[float] = []
        self.asked: Counter[str] = Counter()
        self.refused_share = refused_share
        monkeypatch.setattr(build, "_instance", self.instance)
        monkeypatch.setattr(loads, "rest", lambda instance, seconds: {})
        monkeypatch.setattr(loads, "load", self.load)
        monkeypatch.setattr(loads, "cores", lambda: 16)

    @contextmanager
    def instance(self, cluster: Any, model: Any, name: str) -> Iterator[Any]:
        yield SimpleNamespace(http="http://127.0.0.1:1", grpc="127.0.0.1:2", ready_s={name: 3.0})

    def load(self, instance: Any, settings: Settings) -> Served:
        self.rates.append(settings.arrivals.mean_rate(settings.seconds))
        process = settings.arrivals.process
        self.asked[process] += 1
        return refused(idle(), self.refused_share(process, self.asked[process]))


def served(name: str, what: Alone | Batched | Stepped) -> Loads:
    return build._served(build.Wish(DEMO, "cpu-demo", 2.0), DEMO.models[name], what)


def test_loads_are_shares_of_the_cores_where_these_are_scarcer(monkeypatch: pytest.MonkeyPatch) -> None:
    load = Load(monkeypatch)  # a request takes 75 ms of a core: 16 cores do 213 a second
    served("clip", alone(0.001))
    assert load.rates[2:] == pytest.approx([share * 16 * 12 / 0.9 for share in build.LOADS], rel=1e-3)


def test_a_model_slower_than_the_cores_is_not_asked_more_than_it_can_do(monkeypatch: pytest.MonkeyPatch) -> None:
    load = Load(monkeypatch)
    served("clip", alone(0.5, items=4))
    assert load.rates[2:] == pytest.approx([8 * share for share in build.LOADS], rel=1e-3)


def test_a_model_that_refuses_single_requests_cannot_be_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    Load(monkeypatch, lambda process, number: 0.75 if process == "constant" else 0.0)
    with pytest.raises(Unavailable, match="25% were answered: overloaded"):
        served("clip", alone(0.001))


def test_above_a_load_that_is_refused_nothing_more_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    load = Load(monkeypatch, lambda process, number: 0.75 if (process, number) == ("poisson", 2) else 0.0)
    runs = served("clip", alone(0.001))
    assert [run.sound for run in runs.loaded] == [True, False]
    assert load.rates[2:] == pytest.approx([share * 16 * 12 / 0.9 for share in build.LOADS[:2]], rel=1e-3)


def test_below_a_load_that_is_refused_at_once_less_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    load = Load(monkeypatch, lambda process, number: 0.75 if process == "poisson" and number < 3 else 0.0)
    runs = served("clip", alone(0.001))
    assert [run.sound for run in runs.loaded] == [False, False, True]
    shares = [build.LOADS[0] * 0.75**tries for tries in range(3)]
    assert load.rates[2:] == pytest.approx([share * 16 * 12 / 0.9 for share in shares], rel=1e-3)


def test_a_model_that_refuses_under_every_load_is_said_to_and_asked_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    load = Load(monkeypatch, lambda process, number: 0.75 if process == "poisson" else 0.0)
    told: list[str] = []
    runs = build._served(build.Wish(DEMO, "cpu-demo", 2.0, told.append), DEMO.models["clip"], alone(0.001))
    assert not any(run.sound for run in runs.loaded) and len(load.rates) == 2 + 4
    assert "too much was refused" in told[-1]


def test_an_engine_is_not_asked_more_than_its_steps_can_do(monkeypatch: pytest.MonkeyPatch) -> None:
    load = Load(monkeypatch)
    most = measured.capacity_per_s(stepped(0.5), DEMO.models["llava"].batching.max_items, 3.0)
    served("llava", stepped(0.5))
    assert most < 20
    assert load.rates[2:] == pytest.approx([share * most for share in build.LOADS], rel=1e-3)


def test_an_engine_does_as_many_answers_as_its_sequences_share_steps() -> None:
    prompt = 0.004 + 0.0001 * 100
    assert measured.capacity_per_s(stepped(), 1, 50) == pytest.approx(1 / (prompt + 50 * 0.011))
    assert measured.capacity_per_s(stepped(), 10, 50) == pytest.approx(1 / (prompt + 50 * 0.002))


def test_costs_are_taken_from_the_highest_load_that_was_answered() -> None:
    small, middle, large = idle(12), idle(40), idle(400)
    assert Loads(1.0, {}, small, (middle, large)).reference is large
    assert Loads(1.0, {}, small, (middle, refused(large, 0.1))).reference is middle
    assert Loads(1.0, {}, small, (refused(large, 0.1),)).reference is small


def test_what_a_resting_cluster_uses_is_kept_at_a_pace_of_one() -> None:
    """What it uses was seen on cores twice as slow."""
    runs = Loads(3.0, {"background": 0.3, "router": 0.1}, replace(idle(), pace=2.0), ())
    found = build._profile(build.Wish(DEMO, "cpu-demo", 2.0), DEMO.models["clip"], alone(0.01), runs)
    assert found.background_cores == pytest.approx(0.2)


def test_what_an_answer_took_inside_goes_by_its_own_length() -> None:
    run = idle(3)
    run = replace(run, pace=2.0, requests=replace(run.requests, tokens=np.array([1, 21, 11], np.int32)))
    # The first request was due before the window began: its call was heard all the same.
    late = replace(run, requests=replace(run.requests, due_s=run.requests.due_s + np.array([0.5, 0, 0])))
    first = 0.003 + 0.004 + 0.010 + 0.0001 * (80 + 20)  # beside, picture, a step, prompt
    assert measured.answering_s(run, stepped()) == pytest.approx(
        [2 * first, 2 * (first + 20 * 0.011), 2 * (first + 10 * 0.011)]
    )
    assert measured.answering_s(late, stepped()) == pytest.approx(
        [0.0, 2 * (first + 20 * 0.011), 2 * (first + 10 * 0.011)]
    )


def test_a_stream_that_ends_after_its_last_message_is_its_request_s() -> None:
    run = idle(3)
    later = [replace(one, ended=one.ended + 0.1, seconds=one.seconds + 0.1) for one in run.of("call")]
    run = replace(run, events=later)
    inside = measured.answering_s(run, stepped())
    assert all(inside)
    assert measured.hop(run, [one.seconds for one in later]).latency.samples == 3


def test_what_a_fit_errs_by_is_no_overhead() -> None:
    run = idle(4)
    errors = (0.004, -0.004, 0.009, -0.001)
    found = measured.hop(run, [one.seconds - 0.002 + error for one, error in zip(run.of("call"), errors, strict=True)])
    assert found.overhead.mean == pytest.approx(0.0)
    small = measured.hop(run, [one.seconds - 0.003 + error for one, error in zip(run.of("call"), errors, strict=True)])
    assert small.overhead.mean == pytest.approx(0.001)
    assert min(small.overhead.seconds) == 0.0


def test_memory_of_an_accelerator_is_counted_from_the_loading_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    said: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: said.append("empty"))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: said.append("reset"))
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda: 2_000_000_000)
    scripted = passes.Subject(lambda: None, lambda n: [1] * n, lambda batch: batch, lambda item: 1.0, (1,))

    def loaded(*_: Any) -> passes.Subject:
        said.append("load")
        return scripted

    monkeypatch.setattr(passes, "_loaded", loaded)
    effort = Effort(0, warm_up=0, least=1, most=1)
    on_gpu = passes.subject_of(GPU, GPU.models["clip"])
    assert said == ["empty", "reset", "load"]
    assert passes.measure(on_gpu, effort).memory_bytes == 2_000_000_000
    said.clear()
    assert passes.measure(passes.subject_of(DEMO, DEMO.models["clip"]), effort).memory_bytes is None
    assert said == ["load"]


def test_a_replica_s_memory_is_the_accelerator_s_where_it_has_one() -> None:
    host = replace(idle(), memory_bytes=3_000_000_000)
    llava = GPU.models["llava"]
    assert build._memory_gb(DEMO.models["clip"], alone(0.01), host) == pytest.approx(3.0)
    assert build._memory_gb(DEMO.models["llava"], stepped(), host) == pytest.approx(3.0)
    assert build._memory_gb(GPU.models["clip"], alone(0.01, memory_bytes=2_000_000_000), host) == pytest.approx(2.5)
    assert build._memory_gb(llava, stepped(), host) == llava.gpu_memory_gb


class Static:
    """A static engine whose passes come in the sizes that it is asked for."""

    def __init__(self, seen: Passes) -> None:
        self.seen = seen

    async def start(self) -> Any:
        return SimpleNamespace(start_s={})

    async def generate(self, prompt: Any, sampling: Any, request_id: str, deadline: float) -> Any:
        from deployments.generation.messages import ChatEvent

        self.seen.batch_ran(items=1, cost=5.0, forward_s=0.1, waits_s=(0.0,))
        yield ChatEvent(0, "a", (7,), finish_reason="stop", prompt_tokens=4)


class Stepping:
    """An engine that writes what it is asked for, one token at a time, and keeps what that was."""

    def __init__(self) -> None:
        self.asked: Counter[tuple[bool, int]] = Counter()

    async def start(self) -> Any:
        return SimpleNamespace(start_s={})

    async def generate(self, prompt: Any, sampling: Any, request_id: str, deadline: float) -> Any:
        from deployments.generation.messages import ChatEvent

        self.asked[bool(prompt.images), sampling.max_tokens] += 1
        for _ in range(sampling.max_tokens):
            await asyncio.sleep(0)
            yield ChatEvent(0, "a", (7,), prompt_tokens=10 + 50 * len(prompt.images))


async def test_an_engine_is_asked_for_pictures_alone_and_at_once() -> None:
    engine: Any = Stepping()
    rounds = 4
    effort = Effort(0.0, warm_up=0, least=rounds, most=200)
    asker = engines.asker_of(DEMO.models["llava"])  # type: ignore[arg-type]
    found = await engines.steps(engine, asker, (1, 2, 4), effort)
    assert found.image_tokens == 50
    assert found.beside.samples == 3 * rounds, "of pictures that were asked about alone, each at one of three lengths"
    assert found.beside.mean > 0
    assert engine.asked[True, 1] == 1 + rounds * (3 + 2 + 4), "alone, then two and four at once"
    assert engine.asked[False, 1] == 1 + rounds * 3


@pytest.mark.parametrize("least", [LEAST_PASSES, LEAST_PASSES - 1])
async def test_the_least_effort_gives_a_static_engine_its_passes(least: int) -> None:
    seen = Passes()
    engine: Any = Static(seen)
    effort = Effort(0.0, warm_up=0, least=least, most=200)
    asker = engines.asker_of(DEMO.models["blip2"])  # type: ignore[arg-type]
    if least == LEAST_PASSES:
        found = await engines.batches(engine, seen, asker, 1, effort)
        assert [(each.items, each.cost) for each in found.forward] == [(1, 5.0)]
    else:
        with pytest.raises(Unavailable, match="no size of batch 5 times"):
            await engines.batches(engine, seen, asker, 1, effort)


def test_a_generating_model_is_measured_with_that_effort(monkeypatch: pytest.MonkeyPatch) -> None:
    efforts: list[Any] = []

    async def generating(model: Any, effort: Any) -> Any:
        efforts.append(effort)

    monkeypatch.setattr(build, "_generating", generating)
    build._timed(build.Wish(DEMO, "cpu-demo", 0.2), DEMO.models["blip2"])
    assert [effort.least for effort in efforts] == [LEAST_PASSES]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Flow, ...]]:
    """The flows that runs of a model are taken for, by its name."""

    def flows_of(
        name: str, what: Alone | Batched | Stepped, hardware: Any = "cpu-demo", cluster: ClusterFile = DEMO
    ) -> tuple[Flow, ...]:
        seen: list[tuple[Flow, ...]] = []

        def asking(cluster: Any, name: str, flows: tuple[Flow, ...]) -> Any:
            seen.append(flows)

        Load(monkeypatch)
        monkeypatch.setattr(build, "_alone", lambda wish, model: what)
        monkeypatch.setattr(busy, "asking", asking)
        monkeypatch.setattr(busy, "loaded_figures", lambda asked, found, *_, **__: found)
        monkeypatch.setattr(closing, "closed", lambda asked, found, idle: found)
        build.profile(build.Wish(cluster, hardware, 2.0), name)
        return seen[0]

    return flows_of


def test_a_model_is_asked_what_its_workload_declares_for_the_hardware(asked: Callable[..., tuple[Flow, ...]]) -> None:
    declared = load_targets().workload("llava_chat").flows("cpu-demo")
    assert asked("llava", stepped()) == declared
    assert [(flow.prompt_tokens, flow.output_tokens, flow.streamed) for flow in declared] == [
        (13, 2, True),
        (18, 13, True),
    ]


def test_a_model_of_another_name_is_asked_the_same_by_its_own(asked: Callable[..., tuple[Flow, ...]]) -> None:
    cluster = DEMO.model_copy(update={"models": {"lens": DEMO.models["clip"]}})
    (declared,) = load_targets().workload("classification").flows("cpu-demo")
    assert asked("lens", alone(0.01), cluster=cluster) == (declared.model_copy(update={"entry": "lens"}),)


@pytest.mark.parametrize(("name", "hardware"), [("clip", "a10"), ("video_classifier", "cpu-demo")])
def test_what_no_workload_declares_is_one_plain_request(
    asked: Callable[..., tuple[Flow, ...]], name: str, hardware: str
) -> None:
    """Classification has no place on an A10, and `videos` is in no declaration."""
    assert asked(name, alone(0.01), hardware) == (Flow(name="asked", entry=name),)


def said(*arguments: str) -> tuple[int, str]:
    """Exit status and output; an error of ours is raised out of the application."""
    ran = CliRunner().invoke(app, ["profile", *arguments])
    if isinstance(ran.exception, ArgusError):
        return 1, ran.exception.message
    return ran.exit_code, ran.output


@pytest.fixture
def profiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The models that were measured."""
    names: list[str] = []

    def profile(wish: build.Wish, name: str, known: HardwareProfile | None) -> HardwareProfile:
        assert known is None or "demo:other" in known.models, "what the file has is known"
        names.append(name)
        return hardware(clip=one()).model_copy(update={"hardware": wish.hardware})

    monkeypatch.setattr(build, "profile", profile)
    return names


def test_a_file_of_other_hardware_is_refused_before_anything_is_measured(profiled: list[str], tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    save_profile(path, hardware(clip=one()).model_copy(update={"hardware": "t4"}))
    code, text = said("clip", "--out", str(path))
    assert code == 1 and "is of t4" in text and "cpu-demo" in text
    assert not profiled


@pytest.mark.parametrize(("kind", "head"), [("measured", "# Measured by"), ("estimate", "# Partly measured by")])
def test_the_file_s_head_says_whether_all_of_it_was_measured(
    profiled: list[str], tmp_path: Path, kind: Any, head: str
) -> None:
    path = tmp_path / "mine.yaml"
    estimate = Provenance(kind="estimate", date=MEASURED.date, sources=("somewhere",))
    other = one("demo:other").model_copy(update={"provenance": MEASURED if kind == "measured" else estimate})
    save_profile(path, hardware(other=other))
    code, text = said("clip", "--out", str(path))
    assert code == 0, text
    assert path.read_text().startswith(head)
    assert set(load_profile(path).models) == {"demo:clip", "demo:other"} and profiled == ["clip"]
