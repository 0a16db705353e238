"""What a served cluster's processes note for the profiler."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.capacity.profiler import tape
from benchmarks.capacity.profiler.tape import Event
from deployments.base import Pipeline
from deployments.batching import BatchLimits
from deployments.replica import ReplicaMetrics
from serve.handles import ServeHandle
from tests.unit.test_pipeline import Tenfold, until


def test_tapes_are_read_by_time_and_half_lines_left_out(tmp_path: Path) -> None:
    events = [["pass", 5.0, 0.1, 2, 2.0, 0.01], ["call", 4.0, 0.2], ["call", 9.0, 0.2]]
    (tmp_path / "1.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events) + '["call", 6.')
    found = tape.read(tmp_path, 4.0, 9.0)
    assert found == [Event("call", 4.0, 0.2), Event("pass", 5.0, 0.1, 2, 2.0, 0.01)]


def test_the_hook_adds_to_a_runtime_environment() -> None:
    assert tape.hook({"env_vars": {"A": "1"}}) == {
        "env_vars": {"A": "1"},
        "worker_process_setup_hook": "benchmarks.capacity.profiler.tape.install",
    }


async def test_a_pass_is_noted_with_its_threads_processor_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # What `install` changes is put back after the test.
    for owner, names in ((Pipeline, ("__init__",)), (ReplicaMetrics, ("batch_ran", "preprocess_took"))):
        for name in names:
            monkeypatch.setattr(owner, name, getattr(owner, name))
    for name in ("call", "stream"):
        monkeypatch.setattr(ServeHandle, name, getattr(ServeHandle, name))
    monkeypatch.setenv(tape.FOLDER_ENV, str(tmp_path))
    tape.install()

    class Busy(Tenfold):
        def forward(self, batch: Sequence[Any]) -> Sequence[Any]:
            began = time.thread_time()
            while time.thread_time() - began < 0.02:
                pass
            time.sleep(0.3)  # waiting is no work
            return super().forward(batch)

    started = time.monotonic()
    pipeline: Pipeline[Any, Any, Any, Any] = Pipeline(Busy(), BatchLimits())
    await pipeline.run(3, time.monotonic() + 10)

    def seen() -> list[Event]:
        return [one for one in tape.read(tmp_path, started, math.inf) if one.kind == "forward"]

    await until(seen)
    (event,) = seen()
    assert event.items == 1
    assert 0.02 <= event.seconds < 0.2, "processor time, of which sleeping takes none"
    await pipeline.close()
