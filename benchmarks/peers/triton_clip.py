"""CLIP in a Triton server with its dynamic batcher, through PyTriton; see `setup` for its environment.

`python -m benchmarks.peers.triton_clip HTTP_PORT GRPC_PORT METRICS_PORT CHECKPOINT DECODE`
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

from benchmarks.peers.encoder import DECODERS, MAX_BATCH, WAIT_S, Encoder, Settings


class Clip:
    """JPEG files (n, 1) in, embeddings (n, dimension) out."""

    def __init__(self, settings: Settings) -> None:
        self._encoder = Encoder(settings)
        self._decoders = ThreadPoolExecutor(DECODERS)
        self.dimension = len(self._encoder.forward([self._encoder.preprocess_probe()])[0])

    @batch
    def embed(self, IMAGE: Any) -> dict[str, Any]:  # noqa: N803
        """One batch."""
        prepared = list(self._decoders.map(self._encoder.preprocess, (bytes(data) for data in IMAGE[:, 0])))
        return {"EMBEDDING": np.stack(self._encoder.forward(prepared))}


if __name__ == "__main__":
    http_port, grpc_port, metrics_port, checkpoint, decode = sys.argv[1:]
    clip = Clip(Settings(checkpoint, decode))
    config = TritonConfig(
        http_address="127.0.0.1",
        http_port=int(http_port),
        grpc_address="127.0.0.1",
        grpc_port=int(grpc_port),
        metrics_address="127.0.0.1",
        metrics_port=int(metrics_port),
    )
    with Triton(config=config) as triton:
        triton.bind(
            model_name="clip",
            infer_func=clip.embed,
            inputs=[Tensor(name="IMAGE", dtype=bytes, shape=(1,))],
            outputs=[Tensor(name="EMBEDDING", dtype=np.float32, shape=(clip.dimension,))],
            config=ModelConfig(
                max_batch_size=MAX_BATCH, batcher=DynamicBatcher(max_queue_delay_microseconds=round(WAIT_S * 1e6))
            ),
        )
        triton.serve()
