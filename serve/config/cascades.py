"""The `cascades` section of a cluster file: steps over models and providers, with a rule for when to go on."""

from __future__ import annotations

from pydantic import Field

from serve.config.models import Section


class CascadeStep(Section):
    """One step of a cascade."""

    use: str = Field(description="Name of a model or provider of this file.")
    task: str = Field(min_length=1, description="Task that the step asks of it.")


class Cascade(Section):
    """An ordered list of steps."""

    steps: tuple[CascadeStep, ...] = Field(min_length=1, description="Tried in order.")
