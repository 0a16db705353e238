"""How the functions of the simulation are compiled: each into those that call it, and for nobody else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba


def part(function: Callable[..., Any]) -> Any:
    """Compiles a function for other compiled ones: Python cannot call it, which saves half the time that it takes."""
    return numba.njit(no_cpython_wrapper=True, no_cfunc_wrapper=True, error_model="numpy")(function)
