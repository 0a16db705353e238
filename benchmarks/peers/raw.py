"""The limit: the model in one process without any serving.

`python -m benchmarks.peers.raw CHECKPOINT DECODE LIST SECONDS all|forward`, where LIST is a file that names one JPEG a
line. Writes one line of JSON: images a second of the forward pass alone over prepared batches; with `all` also of
decoding alone in one thread, and of both with decoding in a thread beside the model.
"""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from benchmarks.peers.encoder import MAX_BATCH, Encoder, Settings


def rate(step: Callable[[], int], seconds: float) -> tuple[float, list[float]]:
    """Items a second of `step`, which says how many it did, and the seconds of each call."""
    took: list[float] = []
    done, began = 0, time.monotonic()
    while (now := time.monotonic()) - began < seconds:
        done += step()
        took.append(time.monotonic() - now)
    return done / (time.monotonic() - began), sorted(took)


def measure(encoder: Encoder, files: list[bytes], seconds: float, *, forward_only: bool) -> dict[str, float]:
    """The rates."""
    prepared = [encoder.preprocess(data) for data in islice(cycle(files), MAX_BATCH)]
    batches = cycle([prepared])
    images = cycle(files)

    def forward() -> int:
        return len(encoder.forward(next(batches)))

    def decode() -> int:
        encoder.preprocess(next(images))
        return 1

    forward_per_s, took = rate(forward, seconds)
    alone = {"forward_per_s": forward_per_s, "forward_p50_s": took[len(took) // 2]}
    if forward_only:
        return alone
    decode_per_s, _ = rate(decode, min(seconds, 5.0))
    return {
        **alone,
        "decode_per_s": decode_per_s,
        "pipeline_per_s": pipelined(encoder, files, seconds),
    }


def pipelined(encoder: Encoder, files: list[bytes], seconds: float) -> float:
    """Images a second with the next batches decoded in one thread while the model runs the present one."""
    images = cycle(files)
    with ThreadPoolExecutor(1) as pool:
        queue: deque[list[Future[Any]]] = deque()

        def feed() -> None:
            queue.append([pool.submit(encoder.preprocess, next(images)) for _ in range(MAX_BATCH)])

        def step() -> int:
            batch = [future.result() for future in queue.popleft()]
            feed()
            return len(encoder.forward(batch))

        feed()
        feed()
        step()
        per_s, _ = rate(step, seconds)
        for batch in queue:
            for future in batch:
                future.cancel()
    return per_s


if __name__ == "__main__":
    checkpoint, how, listing, window, what = sys.argv[1:]
    paths = Path(listing).read_text(encoding="utf-8").split("\n")
    contents = [Path(path).read_bytes() for path in paths]
    encoder = Encoder(Settings(checkpoint, how))
    print(json.dumps(measure(encoder, contents, float(window), forward_only=what == "forward")))
