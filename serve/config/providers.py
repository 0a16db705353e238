"""The `providers` section of a cluster file: models that others host, and what is known of their prices."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from serve.config.models import Section


class Provider(Section):
    """A model that someone else hosts."""

    kind: Literal["openai", "gemini", "anthropic", "oip"] = Field(description="API that it speaks.")
    model: str = Field(min_length=1, description="Model name at the provider.")
    base_url: str | None = Field(None, description="Address, for compatible servers; the provider's own by default.")
    api_key_env: str | None = Field(
        None, pattern=r"^[A-Z_][A-Z0-9_]*$", description="Environment variable that holds the key; never the key."
    )
