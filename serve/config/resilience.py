"""The `resilience` section of a cluster file: caches, budgets and limits of the calls that the router makes."""

from __future__ import annotations

from serve.config.models import Section


class Resilience(Section):
    """How calls to models and providers are kept within bounds."""
