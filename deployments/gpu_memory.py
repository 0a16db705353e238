"""GPU memory that a replica holds, beside its budget, which bounds torch's allocator and not what else allocates.

Asked is NVML, by process, since that counts everything: the CUDA context, libraries, the memory pool of an engine
process below the replica. Where NVML does not know our process ids (in a container with ids of its own) torch is asked
for what its allocator has reserved, which says nothing of another process.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import psutil

from deployments.gauges import Gauge
from deployments.gpu import CONTEXT_GB

_LOG = logging.getLogger("argus.replica")
_GB = 1_000_000_000


class GpuMemory:
    """Two series of one replica; none without a budget or without a GPU.

    Args:
        budget_gb: the model's `gpu_memory_gb`.
        read: bytes that this replica holds; None when that is not known.
    """

    def __init__(self, model: str, budget_gb: float | None, read: Callable[[], int | None] | None = None) -> None:
        self._used = Gauge(
            "argus_gpu_memory_used_bytes", "GPU memory that a replica and its processes hold.", tag_keys=("model",)
        )
        self._budget = Gauge(
            "argus_gpu_memory_budget_bytes", "GPU memory that a replica may hold: gpu_memory_gb.", tag_keys=("model",)
        )
        for gauge in (self._used, self._budget):
            gauge.set_default_tags({"model": model})
        self._budget_gb = budget_gb
        self._read = read or held_bytes

    async def report(self) -> None:
        """Reads and reports, in a thread: NVML takes milliseconds. For health checks, which come every few seconds.

        What fails is logged only: a replica without this series serves.
        """
        if not self._budget_gb:
            return
        try:
            used = await asyncio.to_thread(self._read)
            if used is not None:
                self._used.set(used)
                self._budget.set(self._budget_gb * _GB)
        except Exception:
            _LOG.exception("the GPU memory in use cannot be told")


def held_bytes() -> int | None:
    """Bytes that this process and those below it hold on all GPUs together; None without one."""
    here = psutil.Process()
    mine = {here.pid, *(child.pid for child in here.children(recursive=True))}
    return of_processes(_nvml_processes(), mine) or _torch_bytes()


def of_processes(holding: Iterable[tuple[int, int | None]], mine: set[int]) -> int | None:
    """The sum over processes of ours; None when none of them is there.

    Args:
        holding: process id and bytes of each process on a GPU, None where the driver does not say.
    """
    held = [used for pid, used in holding if pid in mine and used is not None]
    return sum(held) if held else None


def _nvml_processes() -> list[tuple[int, int | None]]:
    """Process id and bytes of every process on every GPU; none where there is no NVML."""
    try:
        nvml: Any = importlib.import_module("pynvml")
    except ImportError:
        return []
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return []
    try:
        devices = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
        return [
            (process.pid, process.usedGpuMemory)
            for device in devices
            for process in nvml.nvmlDeviceGetComputeRunningProcesses(device)
        ]
    except nvml.NVMLError:
        return []
    finally:
        with suppress(nvml.NVMLError):
            nvml.nvmlShutdown()


def _torch_bytes() -> int | None:
    """What torch's allocator has reserved in this process, and a CUDA context; None where torch has no CUDA in use."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    return int(torch.cuda.memory_reserved()) + int(CONTEXT_GB * _GB)
