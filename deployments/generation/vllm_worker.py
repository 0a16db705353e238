"""What Argus asks of vLLM's worker, inside the engine process: vLLM mixes this class into its own worker."""

from __future__ import annotations

import time
from typing import Any

# vLLM imports this module when the engine process is up and the weights come next.
_PROCESS_READY = time.time()


class ArgusWorker:
    """Called by name through `AsyncLLM.collective_rpc`; names must not collide with those of vLLM's workers."""

    model_runner: Any

    def argus_report(self) -> dict[str, float]:
        """Bytes of the loaded weights, and when (Unix time) the process was ready to load them."""
        weights = {id(weight): weight for weight in self.model_runner.get_model().parameters()}
        size = sum(weight.numel() * weight.element_size() for weight in weights.values())
        return {"weights_bytes": float(size), "process_ready": _PROCESS_READY}
