"""The `overload` and `tenants` sections of a cluster file: who goes first when there is more than can be done."""

from __future__ import annotations

from typing import Final, Literal, get_args

from pydantic import Field, model_validator

from serve.config.model_base import Section

Priority = Literal["high", "normal", "low"]
# Highest first.
PRIORITIES: Final[tuple[Priority, ...]] = get_args(Priority)


class Overload(Section):
    """When the router sheds requests: the lowest class first, and a share of a class before all of it."""

    target_queue_wait_ms: float = Field(
        20,
        gt=0,
        description="Mean wait of calls for their model, in milliseconds, above which more is shed and below which "
        "less is (20 is DAGOR's, Zhou et al. 2018); where a model's calls usually take more than twice that, half of "
        "their time.",
    )
    rise_per_s: float = Field(
        2, gt=0, description="Classes a second that are shed in addition while the wait is twice the target or longer."
    )
    relax_per_s: float = Field(
        0.25,
        gt=0,
        description="Classes a second that are let in again at first while nothing waits; every further second without "
        "long waits adds as much.",
    )
    reserved_share: float = Field(
        0.1,
        ge=0,
        le=0.4,
        description="Share of router.max_ongoing_requests that each class leaves free for each higher class that some "
        "tenant has.",
    )

    @model_validator(mode="after")
    def _slower_down(self) -> Overload:
        if self.relax_per_s > self.rise_per_s:
            raise ValueError(
                f"relax_per_s is {self.relax_per_s:g}, rise_per_s is {self.rise_per_s:g}; letting in again must not be "
                "faster than shedding"
            )
        return self


class Tenant(Section):
    """What one client, by the name of its API key, may use."""

    priority: Priority = Field("normal", description="Class of its requests; lower ones are shed first.")
    requests_per_minute: int | None = Field(
        None, ge=1, description="Most requests a minute, over all protocols; unlimited when left out."
    )
    tokens_per_minute: int | None = Field(
        None, ge=1, description="Most tokens a minute, prompts and answers together; unlimited when left out."
    )
    usd_per_day: float | None = Field(
        None, gt=0, description="Most money for providers a day (UTC), in US dollars; unlimited when left out."
    )
