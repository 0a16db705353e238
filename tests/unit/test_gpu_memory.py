"""GPU memory beside its budget, with a reader in the place of a driver."""

from __future__ import annotations

import asyncio
import importlib
import math
import os
import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from deployments import gpu_memory
from deployments.gpu_memory import GpuMemory, held_bytes, of_processes
from serve.errors import Unavailable


class Gauge:
    """Stands in for Ray's."""

    made: dict[str, Gauge]

    def __init__(self, name: str, description: str, tag_keys: tuple[str, ...]) -> None:
        self.made[name] = self
        self.values: list[float] = []
        self.tags: dict[str, str] = {}

    def set_default_tags(self, tags: dict[str, str]) -> None:
        self.tags = tags

    def set(self, value: float) -> None:
        self.values.append(value)


@pytest.fixture
def gauges(monkeypatch: pytest.MonkeyPatch) -> dict[str, Gauge]:
    Gauge.made = {}
    monkeypatch.setattr(gpu_memory, "Gauge", Gauge)
    return Gauge.made


async def test_what_is_held_stands_beside_the_budget(gauges: dict[str, Any]) -> None:
    await GpuMemory("llava", 24.0, lambda: 23_500_000_000).report()
    used, budget = gauges["argus_gpu_memory_used_bytes"], gauges["argus_gpu_memory_budget_bytes"]
    assert (used.values, budget.values) == ([23_500_000_000], [24_000_000_000])
    assert used.tags == budget.tags == {"model": "llava"}


@pytest.mark.parametrize(("budget", "held"), [(None, 5), (0.0, 5), (24.0, None)])
async def test_without_a_budget_or_a_gpu_there_are_no_series(
    gauges: dict[str, Any], budget: float | None, held: int | None
) -> None:
    await GpuMemory("clip", budget, lambda: held).report()
    assert all(gauge.values == [] for gauge in gauges.values())


def test_processes_of_others_do_not_count() -> None:
    assert of_processes([(1, 100), (2, 50), (3, 7)], {1, 3}) == 107
    assert of_processes([(2, 50)], {1, 3}) is None
    assert of_processes([(1, None)], {1}) is None, "a driver that does not say is no zero"
    assert of_processes([], {1}) is None


async def test_what_fails_costs_no_replica_its_life(gauges: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    def read() -> int:
        raise RuntimeError("the driver is gone")

    await GpuMemory("llava", 24.0, read).report()
    assert all(gauge.values == [] for gauge in gauges.values())
    assert "the driver is gone" in caplog.text


class NvmlError(Exception):
    pass


def nvml(failing: tuple[str, ...], open_now: list[str]) -> ModuleType:
    """A driver with two GPUs, of which the named functions raise."""

    def function(name: str, answer: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: int) -> Any:
            if name == "nvmlShutdown":
                open_now.remove("nvml")
            if name in failing:
                raise NvmlError(name)
            return answer(*args)

        return called

    def processes(device: int) -> list[SimpleNamespace]:
        ours = SimpleNamespace(pid=os.getpid(), usedGpuMemory=100 + device)
        return [ours, SimpleNamespace(pid=1, usedGpuMemory=7_000)]

    answers: dict[str, Callable[..., Any]] = {
        "nvmlInit": lambda: open_now.append("nvml"),
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetCount": lambda: 2,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetComputeRunningProcesses": processes,
    }
    driver = ModuleType("pynvml")
    driver.__dict__.update({name: function(name, answer) for name, answer in answers.items()}, NVMLError=NvmlError)
    return driver


@pytest.mark.parametrize(
    ("failing", "held"),
    [
        ((), 201),
        (("nvmlShutdown",), 201),
        (("nvmlDeviceGetCount",), None),
        (("nvmlDeviceGetCount", "nvmlShutdown"), None),
        (("nvmlInit",), None),
    ],
)
def test_the_driver_is_asked_and_let_go(
    monkeypatch: pytest.MonkeyPatch, failing: tuple[str, ...], held: int | None
) -> None:
    open_now: list[str] = []
    monkeypatch.setitem(sys.modules, "pynvml", nvml(failing, open_now))
    monkeypatch.setattr(gpu_memory, "_torch_bytes", lambda: None)
    assert held_bytes() == held
    assert open_now == []


def test_where_there_is_no_driver_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setattr(gpu_memory, "_torch_bytes", lambda: None)
    assert held_bytes() is None


REPLICAS = [
    *("clip:ClipReplica", "florence2.replica:Florence2Replica", "generation.replica:GenerativeReplica"),
    *("nerf.replica:NerfReplica", "reconstruction.replica:ReconstructionReplica", "splat.replica:SplatReplica"),
    "video_classifier.replica:VideoClassifierReplica",
]


@pytest.mark.parametrize("place", REPLICAS)
async def test_each_model_with_a_budget_reports_after_its_check(place: str) -> None:
    """`check_health` of a replica all of whose parts are stand-ins."""
    module, name = place.split(":")
    replica_class = getattr(importlib.import_module(f"deployments.{module}"), name)
    asked: list[str] = []
    parts = Parts(asked)
    await replica_class.check_health(parts)
    assert asked[-1] == "_gpu.report"
    assert len(asked) > 1

    parts = Parts(asked, failing=True)
    asked.clear()
    with pytest.raises(Unavailable):
        await replica_class.check_health(parts)
    assert "_gpu.report" not in asked


class Parts:
    """Whatever is asked of it is noted; but for the GPU's report, it fails where it is told to."""

    def __init__(self, asked: list[str], path: str = "", failing: bool = False) -> None:
        self._asked_for, self._path, self._failing = asked, path, failing

    def __getattr__(self, name: str) -> Any:
        if name == "last_step":
            return -math.inf
        return Parts(self._asked_for, f"{self._path}.{name}".lstrip("."), self._failing)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self._asked_for.append(self._path)
        if self._failing and self._path != "_gpu.report":
            raise Unavailable("It is ill.")
        return asyncio.sleep(0)
