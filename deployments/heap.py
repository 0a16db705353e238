"""The garbage collector of a process that has built what it keeps."""

from __future__ import annotations

import gc

# Requests leave little behind that reference counting does not free at once, so the young need few visits; each one
# stops the event loop. Python's own numbers are 700, 10, 10.
_THRESHOLDS = (10_000, 10, 100)


def settle() -> None:
    """To be called once a replica is built: what it holds (imported libraries, configuration, routes) is never garbage,
    so the collector need not walk over it again and again. See `gc.freeze` in Python's documentation."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)
