"""LiteLLM's Router in the fault drill; runs under the peer's interpreter, and imports nothing of ours.

Reads one JSON command a line: `{"new": {...}}` makes a router, `{"run": NAME, "count": N}` makes N calls of a model and
answers their seconds; a failed one is null.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from typing import Any

import litellm
from litellm import Router

litellm.telemetry = False
litellm.suppress_debug_info = True
logging.disable(logging.CRITICAL)


def router(primary: str, fallback: str, key: str, timeout_s: float) -> Any:
    """A router as its documentation advises for a fallback: no retries before it, failing models cooled down."""

    def model(name: str, address: str) -> dict[str, Any]:
        parameters = {"model": "openai/gpt-4o", "api_base": address, "api_key": key, "timeout": timeout_s}
        return {"model_name": name, "litellm_params": {**parameters, "max_retries": 0}}

    return Router(
        model_list=[model("primary", primary), model("fallback", fallback)],
        fallbacks=[{"primary": ["fallback"]}],
        num_retries=0,
        allowed_fails=3,
        cooldown_time=10,
    )


async def one(target: Any, name: str, question: str) -> float | None:
    """Seconds of one call."""
    began = time.perf_counter()
    try:
        await target.acompletion(
            model=name, messages=[{"role": "user", "content": question}], temperature=0, max_tokens=16
        )
    except Exception:
        return None
    return time.perf_counter() - began


async def main() -> None:
    """Serves commands until the pipe is closed."""
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    print(json.dumps({"version": getattr(litellm, "__version__", None)}), flush=True)
    target: Any = None
    while line := await lines.readline():
        command = json.loads(line)
        if "new" in command:
            target = router(**command["new"])
            print("{}", flush=True)
            continue
        seconds = [await one(target, command["run"], f"What is it? {n}") for n in range(command["count"])]
        print(json.dumps({"seconds": seconds}), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
