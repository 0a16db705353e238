"""What travels to and from the scene store: plain dataclasses that pickle fast. Times are Unix seconds."""

from __future__ import annotations

from dataclasses import dataclass

from deployments.rendering.messages import SceneKind, SceneRef

Vector = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Bounds:
    """Where a scene is: the box that holds the middle 99 % of its Gaussians on each axis, and what an orbit needs.

    Attributes:
        centre: of the box.
        radius: of the sphere around `centre` that holds the box.
    """

    least: Vector
    most: Vector
    centre: Vector
    radius: float


@dataclass(frozen=True, slots=True)
class Version:
    """One state of a scene.

    Attributes:
        number: from 1, never used again within a scene's life.
        ref: what is in it.
        edit: what made it, in words; `uploaded`, `moved left.obj by ...`.
        count: Gaussians; 0 for a radiance field.
        sh_degree: 0 to 3; 0 for a radiance field.
    """

    number: int
    ref: SceneRef
    edit: str
    count: int
    sh_degree: int
    bounds: Bounds
    created: float


@dataclass(frozen=True, slots=True)
class SceneInfo:
    """A scene.

    Attributes:
        current: number of the version that is shown.
        versions: oldest first; those after `current` were undone and can be redone until the next edit.
        source: format of the file that it came from, `reconstruction` or `demo`.
        up: unit vector.
        attribution: who made it and under which licence, as its uploader stated.
    """

    name: str
    kind: SceneKind
    current: int
    versions: tuple[Version, ...]
    source: str
    up: Vector
    attribution: str
    created: float
    updated: float

    @property
    def shown(self) -> Version:
        """The current version."""
        return next(version for version in self.versions if version.number == self.current)


@dataclass(frozen=True, slots=True)
class Artifact:
    """A file that was made from a scene: an export, a video.

    Attributes:
        id: unguessable.
        scene: its name then; it may be another's by now, or nobody's.
        nbytes: of the file.
        expires: when it goes.
    """

    id: str
    scene: str
    filename: str
    media_type: str
    nbytes: int
    expires: float


@dataclass(frozen=True, slots=True)
class Label:
    """What an artifact is of, and what it is called; see `Artifact`."""

    scene: str
    filename: str
    media_type: str


@dataclass(frozen=True, slots=True)
class SceneFile:
    """What is known of a scene's file before it is a version of a scene.

    Attributes:
        source: see `SceneInfo`.
        edit, count, sh_degree: see `Version`.
    """

    ref: SceneRef
    source: str
    edit: str
    count: int
    sh_degree: int
    bounds: Bounds


@dataclass(frozen=True, slots=True)
class NewScene:
    """What its uploader says of a scene; see `SceneInfo`."""

    name: str
    up: Vector
    attribution: str


@dataclass(frozen=True, slots=True)
class StoreStats:
    """How full the store is.

    Attributes:
        versions: of all scenes.
        artifacts: exports and videos.
        bytes: of the files of both.
    """

    scenes: int
    versions: int
    artifacts: int
    bytes: int
