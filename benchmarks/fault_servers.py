"""Two fake providers in a process of their own, whose faults are set over a pipe: `python -m benchmarks.fault_servers`.

Apart from the clients that are measured, so that neither waits for the other's interpreter.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.fake_providers import FakeOpenAI, Fault
from benchmarks.servers import ROOT


class FaultServers:
    """The parent's side.

    Attributes:
        primary: base URL of the server that fails.
        fallback: base URL of the healthy one.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        ready = self._read()
        self.primary: str = ready["primary"]
        self.fallback: str = ready["fallback"]

    def set(self, mode: str | None, every: int = 1, **fault: Any) -> None:
        """From now on each call of the primary, or each `every`th, meets a fault; None for none. Counts start anew."""
        self._ask({"mode": mode, "every": every, "fault": fault})

    def calls(self) -> tuple[int, int]:
        """Calls that the primary and the fallback have received since `set`."""
        found = self._ask({})
        return found["primary"], found["fallback"]

    def _ask(self, command: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None, "it was started with pipes"
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None, "it was started with pipes"
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer


@contextmanager
def fault_servers(latency_s: float) -> Iterator[FaultServers]:
    """The servers, for the time of the block; each answer takes `latency_s` seconds."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.fault_servers", str(latency_s)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield FaultServers(process)
    finally:
        process.kill()
        process.wait()


async def _serve(latency_s: float) -> None:
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    async with FakeOpenAI(latency_s=latency_s) as primary, FakeOpenAI(latency_s=latency_s) as fallback:
        _say({"primary": primary.base_url, "fallback": fallback.base_url})
        seen = [0, 0]
        while line := await lines.readline():
            command = json.loads(line)
            if "mode" in command:
                primary.always = _faults(primary, **command)
                seen = [primary.calls, fallback.calls]
            _say({"primary": primary.calls - seen[0], "fallback": fallback.calls - seen[1]})


def _faults(server: FakeOpenAI, mode: str | None, every: int, fault: dict[str, Any]) -> Any:
    if mode is None:
        return None
    made, first = Fault(mode, **fault), server.calls
    return lambda number: made if (number - first) % every == every - 1 else None


def _say(answer: dict[str, Any]) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    asyncio.run(_serve(float(sys.argv[1])))
