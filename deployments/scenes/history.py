"""Which version of a scene is meant, and what stands before and after it."""

from __future__ import annotations

from deployments.scenes.types import SceneInfo, Version
from serve.errors import Conflict, NotFound


def version_of(info: SceneInfo, number: int | None) -> Version:
    """A version by its number; the current one when None.

    Raises:
        NotFound: `version_not_found`.
    """
    if number is None:
        return info.shown
    for version in info.versions:
        if version.number == number:
            return version
    numbers = ", ".join(str(version.number) for version in info.versions)
    message = f"Scene {info.name!r} has no version {number}; it has {numbers}."
    raise NotFound(message, code="version_not_found", param="version")


def neighbour(info: SceneInfo, number: int, way: int) -> Version | None:
    """The version before (`way` -1) or after (1) one; None when there is none."""
    numbers = [version.number for version in info.versions]
    if number not in numbers or not 0 <= numbers.index(number) + way < len(numbers):
        return None
    return info.versions[numbers.index(number) + way]


def conflict(base: int, info: SceneInfo) -> Conflict:
    """The error of a change to a version that is not shown any more."""
    return Conflict(
        f"Scene {info.name!r} has changed since its version {base} was shown; now it is version {info.current}.",
        code="version_conflict",
        param="base_version",
    )
