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
        model = self.model_runner.get_model()
        weights = {id(weight): weight for weight in model.parameters()}
        size = sum(weight.numel() * weight.element_size() for weight in weights.values())
        size += sum(_packed_bytes(module) for module in model.modules())
        return {"weights_bytes": float(size), "process_ready": _PROCESS_READY}


def _packed_bytes(module: Any) -> int:
    """Bytes of a linear layer's weight that vLLM moved into a form of its own, which it does on CPUs."""
    weight = getattr(module, "weight", None)
    if weight is None or weight.numel() or not hasattr(module, "output_size"):
        return 0
    wide = getattr(module, "input_size_per_partition", module.input_size)
    high = getattr(module, "output_size_per_partition", module.output_size)
    return int(wide * high * weight.element_size())
