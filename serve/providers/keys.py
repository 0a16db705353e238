"""Where providers' keys come from: the environment, or a mounted file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from serve.config.providers import Provider
from serve.errors import Forbidden
from serve.providers.faults import Secret

# What servers that ask for no key are sent: the SDKs insist on one, and would look for their own variables.
_NONE = "none"


def key_of(name: str, settings: Provider, environment: Mapping[str, str] = os.environ) -> Secret:
    """A provider's key.

    Raises:
        Forbidden: `provider_key_missing`: the variable is not set, or the file cannot be read.
    """
    if settings.api_key_env is not None:
        value = environment.get(settings.api_key_env, "").strip()
        where = f"the environment variable {settings.api_key_env}"
    elif settings.api_key_file is not None:
        value, where = _read(Path(settings.api_key_file)), "its api_key_file"
    else:
        return Secret(_NONE)
    if not value:
        raise Forbidden(f"{name} has no key: {where} holds none.", code="provider_key_missing")
    return Secret(value)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""
