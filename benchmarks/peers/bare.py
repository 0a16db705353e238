"""The least that a Ray Serve application of two deployments can do: an ingress, one hop, a small answer.

`python -m benchmarks.peers.bare PORT` serves it twice: /fastapi with the ingress that Ray's documentation shows, /asgi
with a hand-written ASGI app, the fastest that Ray Serve allows.
"""

from __future__ import annotations

import sys
from typing import Any

from benchmarks.peers import plain_ray


def applications() -> dict[str, Any]:
    """Both applications by route prefix."""
    from benchmarks.peers.bare_apps import AsgiIngress, FastapiIngress, Model

    return {"/fastapi": FastapiIngress.bind(Model.bind()), "/asgi": AsgiIngress.bind(Model.bind())}


if __name__ == "__main__":
    plain_ray.run("bench-bare", int(sys.argv[1]), tuned=True, applications=applications)
