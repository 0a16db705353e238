"""Functions of someone's own, named in the cluster file."""

from __future__ import annotations

import importlib
from collections.abc import Mapping

from serve.cascade.types import Function
from serve.config.cascades import Cascade
from serve.config.load import ConfigErrors


def functions(name: str, cascade: Cascade) -> Mapping[str, Function]:
    """The functions of a cascade's `python` rules, by step.

    Raises:
        ConfigErrors: one cannot be imported, or is no function.
    """
    found: dict[str, Function] = {}
    problems: list[str] = []
    for i, step in enumerate(cascade.steps):
        path = step.accept.function
        if path is None:
            continue
        module, _, attribute = path.partition(":")
        try:
            function = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            problems.append(
                f"cascades.{name}.steps.{i}.accept.function: got {path!r}, which cannot be imported: {error}"
            )
            continue
        if not callable(function):
            problems.append(f"cascades.{name}.steps.{i}.accept.function: got {path!r}, which is no function")
            continue
        found[step.name] = function
    if problems:
        raise ConfigErrors("; ".join(problems), tuple(problems))
    return found
