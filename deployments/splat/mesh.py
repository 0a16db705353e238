"""A surface mesh of a scene, from views of it with depth, so that it does not matter what draws them.

The scene is looked at from all around, so what is closed from outside is found; the inside of a room is not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import trimesh
from scipy.ndimage import map_coordinates
from skimage.measure import marching_cubes

from deployments.rendering.camera import Camera, Vector, look_at, side_of
from deployments.rendering.messages import Rendered
from deployments.splat.mesh_volume import Volume
from serve.errors import InvalidRequest

MeshFormat = Literal["ply", "glb"]
Render = Callable[[Sequence[Camera]], list[Rendered]]

MEDIA_TYPES: Final[dict[MeshFormat, str]] = {"ply": "model/ply", "glb": "model/gltf-binary"}
# 300 MB of voxels at most.
RESOLUTIONS: Final = (16, 256)
VIEWS: Final = (4, 200)

# Pieces with less than this of the largest one's faces are floating specks, not the scene.
_LEAST_SHARE: Final = 0.05
# Distance of the cameras from the middle, in radii of the box's sphere: far enough to see past what is near.
_DISTANCE: Final = 2.5
_VIEWS_AT_ONCE: Final = 4
_PIXELS_A_VOXEL: Final = 2


def extract_mesh(
    render: Render, least: Vector, most: Vector, *, resolution: int = 128, views: int = 48
) -> trimesh.Trimesh:
    """The surface within a box, with the colours of its vertices.

    Args:
        render: draws views of the scene; square ones here.
        least, most: corners of the box.
        resolution: voxels along the box's longest side.
        views: cameras around it.

    Raises:
        InvalidRequest: `invalid_mesh` (a bound is not kept), `no_surface` (nothing in the box covers a pixel by half,
            or what does is thinner than a voxel).
    """
    low, high = np.array(least, np.float64), np.array(most, np.float64)
    if not ((high > low).all() and np.isfinite(high - low).all()):
        raise InvalidRequest("The box of a mesh has some extent on each axis.", code="invalid_mesh", param="bounds")
    _check("resolution", resolution, RESOLUTIONS)
    _check("views", views, VIEWS)
    volume = Volume(low, high, resolution)
    cameras = list(cameras_around(low, high, views, _PIXELS_A_VOXEL * resolution))
    for start in range(0, views, _VIEWS_AT_ONCE):
        some = cameras[start : start + _VIEWS_AT_ONCE]
        for camera, picture in zip(some, render(some), strict=True):
            volume.add(camera, picture)
    return _surface(volume)


def to_bytes(mesh: trimesh.Trimesh, format: MeshFormat, up: Vector = (0.0, 1.0, 0.0)) -> bytes:
    """A file of the mesh.

    GLB files are as glTF 2.0 wants them: their node is turned so that `up` is y, and z points to who looks from azimuth
    0; colours are linear.

    Args:
        up: of the scene; any length but 0.
    """
    data = _glb(mesh, up) if format == "glb" else mesh.export(file_type=format)
    assert isinstance(data, bytes)
    return data


def _glb(mesh: trimesh.Trimesh, up: Vector) -> Any:
    linear: Any = mesh.copy()
    linear.visual.vertex_colors = np.rint(_linear(linear.visual.vertex_colors[:, :3] / 255) * 255).astype(np.uint8)
    axis, side = np.array(up) / np.linalg.norm(up), side_of(up)
    turn = np.eye(4)
    turn[:3, :3] = np.cross(axis, side), axis, side
    scene: Any = trimesh.Scene()
    scene.add_geometry(linear, transform=turn)
    return scene.export(file_type="glb")


def _linear(srgb: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Of colours as screens show them (IEC 61966-2-1), light."""
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def cameras_around(
    least: npt.NDArray[np.float64], most: npt.NDArray[np.float64], views: int, side: int
) -> Iterator[Camera]:
    """Cameras evenly spread on a sphere around a box (Fibonacci's spiral), each with the whole box in a square picture.

    Args:
        side: of the pictures, in pixels.
    """
    centre = (least + most) / 2
    radius = float(np.linalg.norm(most - least)) / 2
    fov_deg = 2 * math.degrees(math.asin(1 / _DISTANCE))
    for index in range(views):
        height = 1 - (2 * index + 1) / views
        turn = math.pi * (1 + math.sqrt(5)) * index
        across = math.sqrt(1 - height * height)
        direction = np.array([across * math.cos(turn), across * math.sin(turn), height])
        up = (0.0, 0.0, 1.0) if abs(height) < 0.9 else (1.0, 0.0, 0.0)
        eye = centre + _DISTANCE * radius * direction
        yield look_at(_vector(eye), _vector(centre), up, fov_deg, side, side)


def _surface(volume: Volume) -> trimesh.Trimesh:
    # A border of outside closes what reaches the box's sides.
    padded = np.pad(volume.distances, 1, constant_values=1)
    if volume.distances.max() <= 0 or volume.distances.min() >= 0 or not volume.colours.any():
        raise InvalidRequest(
            "No surface was found in the box: what is there is empty, translucent, or thinner than a voxel.",
            code="no_surface",
            param="bounds",
        )
    places, faces, _, _ = marching_cubes(  # type: ignore[no-untyped-call]
        padded, 0.0, gradient_direction="descent"
    )
    places = places - 1
    channels = np.moveaxis(volume.colours, 3, 0)
    colours = np.stack([map_coordinates(one, places.T, order=1, mode="nearest") for one in channels], axis=1)
    mesh = trimesh.Trimesh(
        places * volume.size + volume.origin,
        faces,
        vertex_colors=np.rint(np.clip(colours, 0, 1) * 255).astype(np.uint8),
        process=False,
    )
    labels = trimesh.graph.connected_component_labels(  # type: ignore[no-untyped-call]
        mesh.face_adjacency, node_count=len(faces)
    )
    sizes = np.bincount(labels)
    mesh.update_faces((sizes >= _LEAST_SHARE * sizes.max())[labels])
    mesh.remove_unreferenced_vertices()
    return mesh


def _check(name: str, value: int, bounds: tuple[int, int]) -> None:
    least, most = bounds
    if not least <= value <= most:
        raise InvalidRequest(f"{name} is {value}; {least} to {most} is right.", code="invalid_mesh", param=name)


def _vector(values: npt.NDArray[np.float64]) -> Vector:
    return float(values[0]), float(values[1]), float(values[2])
