"""What can be done to a scene of Gaussians. Selections and edits are plain data; `edits` applies them.

Vectors are in the scene's own unit and axes. What moves is selected by where it stands at time 0, and moves with its
edit: a turned scene's motions are turned.
"""

from __future__ import annotations

from dataclasses import dataclass

Vector = tuple[float, float, float]
Quaternion = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class All:
    """Every Gaussian."""


@dataclass(frozen=True, slots=True)
class Box:
    """Those whose centre is in a box, borders included.

    Attributes:
        turn: w, x, y, z: how the box is turned about its own centre.
    """

    least: Vector
    most: Vector
    turn: Quaternion = (1.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Sphere:
    """Those whose centre is at most `radius` from a point."""

    centre: Vector
    radius: float


@dataclass(frozen=True, slots=True)
class Mask:
    """Those whose bit is set, in the order of the scene's version.

    Attributes:
        bits: eight Gaussians a byte, the first in the lowest bit.
        count: Gaussians of the scene that it was made for.
    """

    bits: bytes
    count: int


@dataclass(frozen=True, slots=True)
class Not:
    """All others."""

    of: Selection


@dataclass(frozen=True, slots=True)
class AllOf:
    """Those in every one of these."""

    of: tuple[Selection, ...]


@dataclass(frozen=True, slots=True)
class AnyOf:
    """Those in at least one of these."""

    of: tuple[Selection, ...]


Selection = All | Box | Sphere | Mask | Not | AllOf | AnyOf


@dataclass(frozen=True, slots=True)
class Crop:
    """Keeps what is selected."""

    where: Selection


@dataclass(frozen=True, slots=True)
class Delete:
    """Takes out what is selected."""

    where: Selection


@dataclass(frozen=True, slots=True)
class Duplicate:
    """Puts a copy of what is selected beside it, `offset` away; the copies come last in the scene's order."""

    where: Selection
    offset: Vector


@dataclass(frozen=True, slots=True)
class Translate:
    """Moves what is selected."""

    where: Selection
    offset: Vector


@dataclass(frozen=True, slots=True)
class Rotate:
    """Turns what is selected: counter-clockwise when the axis points to the viewer.

    Attributes:
        axis: of any length above 0.
        centre: a point that stays; the mean of the selected centres when None.
    """

    where: Selection
    axis: Vector
    degrees: float
    centre: Vector | None = None


@dataclass(frozen=True, slots=True)
class Scale:
    """Makes what is selected larger or smaller.

    Attributes:
        factor: above 0.
        centre: a point that stays; the mean of the selected centres when None.
    """

    where: Selection
    factor: float
    centre: Vector | None = None


@dataclass(frozen=True, slots=True)
class Recolour:
    """Gives what is selected another colour; red, green and blue are from 0 to 1.

    Attributes:
        rgb: the mean colour afterwards; light and dark, and how they change with the view, stay.
        flat: with `rgb`: this very colour everywhere and from everywhere; light and dark go.
        tint: factors of red, green and blue, as seen from everywhere.
        brightness: a factor of all three.
    """

    where: Selection
    rgb: Vector | None = None
    flat: bool = False
    tint: Vector = (1.0, 1.0, 1.0)
    brightness: float = 1.0


@dataclass(frozen=True, slots=True)
class Fade:
    """Multiplies the opacity of what is selected; it stays within 0 to 1."""

    where: Selection
    factor: float


@dataclass(frozen=True, slots=True)
class Merge:
    """Puts another scene in: scaled, then turned (both about its own origin), then moved. It comes last in the order.

    Attributes:
        scene: its name.
        version: the current one when None.
    """

    scene: str
    version: int | None = None
    scale: float = 1.0
    axis: Vector = (0.0, 0.0, 1.0)
    degrees: float = 0.0
    offset: Vector = (0.0, 0.0, 0.0)


Edit = Crop | Delete | Duplicate | Translate | Rotate | Scale | Recolour | Fade | Merge
