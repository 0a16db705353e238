"""What the fork server (see vllm_process) imports before it forks the first engine: vLLM and the models we serve."""

import vllm.v1.engine.core
import vllm.v1.worker.cpu_worker  # noqa: F401

from deployments.generation.vllm_plugin import MODULES, register_class

for architecture in MODULES:
    register_class(architecture)
