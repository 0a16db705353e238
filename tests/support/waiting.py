"""Waiting for what another process does in its own time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
# For what takes seconds here: a machine of half the speed that does something else as well needs many times as long,
# and a test that passes waits no longer for it.
PATIENCE_S = 120.0


def until(look: Callable[[], T], *, patience_s: float = PATIENCE_S, every_s: float = 0.2) -> T:
    """What `look` finds as soon as that is true; else what it found last."""
    end = time.monotonic() + patience_s
    while not (found := look()) and time.monotonic() < end:
        time.sleep(every_s)
    return found
