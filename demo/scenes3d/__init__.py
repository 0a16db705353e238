"""A deterministic world of solids in 3D: scenes of Gaussians, cameras around them, and photos with true poses."""

from demo.scenes3d.surfaces import SOLIDS, Solid
from demo.scenes3d.views import FOV_Y_DEG, RADIUS, TARGET, Photo, cutouts, draw, orbit_cameras, photos
from demo.scenes3d.world import LOOKS, NAMES, PERIOD_S, PLATE_RADIUS, UP, Name, Thing, World, build, moving

__all__ = [
    "FOV_Y_DEG",
    "LOOKS",
    "NAMES",
    "PERIOD_S",
    "PLATE_RADIUS",
    "RADIUS",
    "SOLIDS",
    "TARGET",
    "UP",
    "Name",
    "Photo",
    "Solid",
    "Thing",
    "World",
    "build",
    "cutouts",
    "draw",
    "moving",
    "orbit_cameras",
    "photos",
]
