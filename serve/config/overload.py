"""The `overload` and `tenants` sections of a cluster file: who goes first when there is more than can be done."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from serve.config.models import Section

Priority = Literal["high", "normal", "low"]


class Overload(Section):
    """When the router sheds requests."""


class Tenant(Section):
    """What one client, by the name of its API key, may use."""

    priority: Priority = Field("normal", description="Class of its requests; lower ones are shed first.")
    requests_per_minute: int | None = Field(None, ge=1, description="Most requests a minute; unlimited when left out.")
    tokens_per_minute: int | None = Field(
        None, ge=1, description="Most tokens a minute, prompts and answers together; unlimited when left out."
    )
    usd_per_day: float | None = Field(
        None, gt=0, description="Most money for providers a day (UTC), in US dollars; unlimited when left out."
    )
