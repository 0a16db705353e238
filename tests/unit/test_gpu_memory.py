"""GPU memory beside its budget, with a reader in the place of a driver."""

from __future__ import annotations

from typing import Any

import pytest

from deployments import gpu_memory
from deployments.gpu_memory import GpuMemory, held_bytes, of_processes


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


def test_this_machine_is_asked_without_harm() -> None:
    held = held_bytes()
    assert held is None or held > 0
