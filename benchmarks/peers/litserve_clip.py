"""CLIP in LitServe: `python -m benchmarks.peers.litserve_clip PORT CHECKPOINT DECODE`.

One model worker like everywhere else, responses over ZeroMQ (`fast_queue`). LitServe decodes in its model worker, one
file after another, before each forward pass; a pool inside `batch` makes that parallel.
"""

# No `from __future__ import annotations`: LitServe hands the annotation of `decode_request` to FastAPI as it is.
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any

import litserve
import orjson
from fastapi import Body, Response

from benchmarks.peers.encoder import DECODERS, MAX_BATCH, WAIT_S, Encoder, Settings


class Clip(litserve.LitAPI):
    """LitServe's hooks around the encoder."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(max_batch_size=MAX_BATCH, batch_timeout=WAIT_S, api_path="/embed")
        self._settings = settings

    def setup(self, device: str) -> None:
        """Runs in the worker."""
        self._encoder = Encoder(self._settings)
        self._decoders = ThreadPoolExecutor(DECODERS)

    def decode_request(self, request: Annotated[bytes, Body(media_type="image/jpeg")]) -> bytes:
        """The raw body."""
        return request

    def batch(self, inputs: Sequence[bytes]) -> list[Any]:
        """Decodes a batch."""
        return list(self._decoders.map(self._encoder.preprocess, inputs))

    def predict(self, x: list[Any]) -> list[Any]:
        """Runs a batch."""
        return self._encoder.forward(x)

    def unbatch(self, output: list[Any]) -> list[Any]:
        """One vector a request."""
        return output

    def encode_response(self, output: Any) -> Response:
        """JSON."""
        return Response(
            orjson.dumps({"embedding": output}, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json"
        )


if __name__ == "__main__":
    port, checkpoint, decode = sys.argv[1:]
    # LitServe 0.2.19 looks for `mcp` where it needs `fastmcp`, and does not start with the former alone.
    litserve.server._MCP_AVAILABLE = False
    server = litserve.LitServer(
        Clip(Settings(checkpoint, decode)), accelerator="cpu", workers_per_device=1, timeout=60, fast_queue=True
    )
    server.run(host="127.0.0.1", port=int(port), generate_client_file=False, log_level="warning")
