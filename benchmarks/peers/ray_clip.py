"""CLIP in plain Ray Serve: a FastAPI ingress before a deployment with `@serve.batch`.

`python -m benchmarks.peers.ray_clip PORT CHECKPOINT DECODE default|tuned`: with Ray Serve's own proxy and settings, or
with Argus' HAProxy and flags.
"""

from __future__ import annotations

import sys
from typing import Any

from benchmarks.peers import plain_ray


def applications(checkpoint: str, decode: str) -> dict[str, Any]:
    """The application at the root."""
    from benchmarks.peers.encoder import Settings
    from benchmarks.peers.ray_clip_apps import Clip, Ingress

    return {"/": Ingress.bind(Clip.bind(Settings(checkpoint, decode)))}


if __name__ == "__main__":
    port, folder, how, ingress = sys.argv[1:]
    plain_ray.run("bench-ray", int(port), tuned=ingress == "tuned", applications=lambda: applications(folder, how))
