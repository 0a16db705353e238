"""What is left of budgets, out of what router replicas say: each the whole where Redis counts, else only its part."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

Select = Callable[..., str]
"""Makes a selector of a series' name and matchers."""

_LEFT: Final = "ray_argus_budget_left_usd"
_WHOLE: Final = "ray_argus_budget_usd"
_SHARED: Final = 'counted="shared"'
_PARTS: Final = 'counted="replica"'


def left(select: Select) -> str:
    """US dollars by tenant: the least that a replica has heard from Redis; without Redis the sum of all parts."""
    return f"min by (tenant) ({select(_LEFT, _SHARED)}) or sum by (tenant) ({select(_LEFT, _PARTS)})"


def share_left(select: Select) -> str:
    """The same as a share of the day's money."""
    shared = f"min by (tenant) ({select(_LEFT, _SHARED)} / {select(_WHOLE, _SHARED)})"
    parts = f"sum by (tenant) ({select(_LEFT, _PARTS)}) / sum by (tenant) ({select(_WHOLE, _PARTS)})"
    return f"{shared} or {parts}"
