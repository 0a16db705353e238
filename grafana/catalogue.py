"""All dashboards, in the order in which one looks at them."""

from __future__ import annotations

from typing import Final

from grafana.capacity import CAPACITY
from grafana.cascade import CASCADE
from grafana.models import MODELS
from grafana.overview import OVERVIEW
from grafana.providers import PROVIDERS

DASHBOARDS: Final = (OVERVIEW, CASCADE, MODELS, PROVIDERS, CAPACITY)
