"""From a model of COLMAP's to what is trained on: pinhole pictures, cameras and points in an upright, scaled frame."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pycolmap
from PIL import Image

from deployments.reconstruction.folder import WorkFolder, read_json, replacing, write_json
from deployments.reconstruction.messages import Spec, Up
from deployments.rendering.camera import Camera

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
UInt8 = npt.NDArray[np.uint8]

# The y axis points down, as is customary where photos become scenes.
UP: Final = (0.0, -1.0, 0.0)
# Every eighth view is held out, as is usual since Mip-NeRF 360, when there are enough.
_HOLD_OUT: Final = 8
_AXES: Final = {"x": (1.0, 0.0, 0.0), "y": (0.0, 1.0, 0.0), "z": (0.0, 0.0, 1.0)}
# Of the points' distances from their middle: this percentile becomes 1.
_UNIT_PERCENTILE: Final = 80.0
_WORST_ERROR_PX: Final = 2.0


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """One picture that is trained on, or held out.

    Attributes:
        name: of the photo, as its owner knows it.
        path: of the undistorted picture.
        held_out: it is only looked at in the end.
    """

    name: str
    path: Path
    camera: Camera
    held_out: bool

    def pixels(self, side: int | None = None) -> UInt8:
        """(height, width, 3) uint8, its longest side at most `side`; see `camera_at`."""
        camera = self.camera_at(side)
        with Image.open(self.path) as image:
            if image.size != (camera.width, camera.height):
                return np.asarray(image.convert("RGB").resize((camera.width, camera.height), Image.Resampling.BOX))
            return np.asarray(image.convert("RGB"))

    def camera_at(self, side: int | None) -> Camera:
        """The camera of a picture whose longest side is at most `side` pixels."""
        longest = max(self.camera.width, self.camera.height)
        if side is None or longest <= side:
            return self.camera
        scale = side / longest
        return self.camera.resized(max(1, round(self.camera.width * scale)), max(1, round(self.camera.height * scale)))


@dataclass(frozen=True, slots=True, eq=False)
class Views:
    """All that training needs.

    Attributes:
        points: (N, 3) float32 in the scene's frame.
        colours: (N, 3) uint8.
        frame: (4, 4) float64: a similarity from the frame of structure from motion to the scene's.
    """

    views: tuple[View, ...]
    points: Float32
    colours: UInt8
    frame: Float64

    @property
    def training(self) -> list[View]:
        """Those that are trained on."""
        return [view for view in self.views if not view.held_out]

    @property
    def held_out(self) -> list[View]:
        """Those that are not."""
        return [view for view in self.views if view.held_out]


def make_views(folder: WorkFolder, spec: Spec, names: dict[str, str]) -> dict[str, Any]:
    """The stage: undistorts the photos and puts the scene upright.

    Args:
        names: of the photos, by their files.
    """
    with replacing(folder.views) as new:
        pycolmap.undistort_images(
            new, folder.alignment / "model", folder.photos, jpeg_quality=97, num_threads=spec.threads
        )
        model = pycolmap.Reconstruction(new / "sparse")
        images = sorted((image for image in model.images.values() if image.has_pose), key=lambda image: image.name)
        poses = np.stack([_matrix(image.cam_from_world()) for image in images])
        points, colours = _points(model.points3D.values())
        frame = upright_frame(poses, points, spec.up)
        np.savez(new / "points.npz", points=_applied(frame, points).astype(np.float32), colours=colours)
        hold = len(images) >= _HOLD_OUT
        write_json(
            new / "views.json",
            {
                "frame": frame.tolist(),
                "views": [
                    _fields(
                        image, model.cameras[image.camera_id], pose, names, hold and i % _HOLD_OUT == _HOLD_OUT // 2
                    )
                    for i, (image, pose) in enumerate(zip(images, moved(poses, frame), strict=True))
                ],
            },
        )
    made = load_views(folder)
    return {
        "training_views": len(made.training),
        "held_out_views": len(made.held_out),
        "points": len(made.points),
        "width": made.views[0].camera.width,
        "height": made.views[0].camera.height,
        "frame": made.frame.tolist(),
    }


def load_views(folder: WorkFolder) -> Views:
    """What `make_views` made."""
    content = read_json(folder.views / "views.json")
    views = tuple(
        View(
            one["name"],
            folder.views / "images" / one["file"],
            _camera(one),
            one["held_out"],
        )
        for one in content["views"]
    )
    with np.load(folder.views / "points.npz", allow_pickle=False) as points:
        return Views(views, points["points"], points["colours"], np.array(content["frame"]))


def _camera(fields: dict[str, Any]) -> Camera:
    pose = np.array(fields["world_to_camera"], np.float64)
    fx, fy, cx, cy = (float(fields[key]) for key in ("fx", "fy", "cx", "cy"))
    return Camera(fields["width"], fields["height"], fx, fy, cx, cy, pose)


def upright_frame(poses: Float64, points: Float64, up: Up) -> Float64:
    """A similarity to a frame with y down, the points' middle at the origin, and most points within 1 of it.

    Args:
        poses: (V, 4, 4), world to camera.
        points: (N, 3).
        up: where up is in the frame that these are in; `auto`: against the mean of the pictures' downward axes, which
            is how people hold cameras.
    """
    if up == "auto":
        axis = -poses[:, 1, :3].mean(axis=0)
    else:
        axis = np.array(_AXES[up[-1]]) * (-1.0 if up.startswith("-") else 1.0)
    length = float(np.linalg.norm(axis))
    rotation = _turn_to_up(axis / length) if length > 1e-6 else np.eye(3)
    centre = np.median(points, axis=0)
    reach = float(np.percentile(np.linalg.norm(points - centre, axis=1), _UNIT_PERCENTILE))
    scale = 1.0 / max(reach, 1e-9)
    frame = np.eye(4)
    frame[:3, :3] = scale * rotation
    frame[:3, 3] = -scale * rotation @ centre
    return frame


def moved(poses: Float64, frame: Float64) -> Float64:
    """Cameras' poses (V, 4, 4) in the frame that the similarity `frame` leads to, rigid again."""
    scale = float(np.cbrt(np.linalg.det(frame[:3, :3])))
    result = poses @ np.linalg.inv(frame)
    result[:, :3, :3] *= scale
    result[:, :3, 3] *= scale
    return np.asarray(result)


def _turn_to_up(axis: Float64) -> Float64:
    """The shortest rotation (3, 3) that takes a unit vector to `UP`."""
    target = np.array(UP)
    cross, cosine = np.cross(axis, target), float(axis @ target)
    if cosine < -1 + 1e-9:
        return np.diag([1.0, -1.0, -1.0])
    skew = np.array([[0, -cross[2], cross[1]], [cross[2], 0, -cross[0]], [-cross[1], cross[0], 0]])
    return np.asarray(np.eye(3) + skew + skew @ skew / (1 + cosine))


def _applied(frame: Float64, points: Float64) -> Float64:
    return points @ frame[:3, :3].T + frame[:3, 3]


def _points(points: Iterable[Any]) -> tuple[Float64, UInt8]:
    """Those that several photos agree on; all, when that would leave too few."""
    every: Sequence[Any] = list(points)
    good = [p for p in every if p.track.length() >= 3 and p.error <= _WORST_ERROR_PX]
    used = good if len(good) >= 100 else every
    return np.array([p.xyz for p in used], np.float64), np.array([p.color for p in used], np.uint8)


def _matrix(rigid: Any) -> Float64:
    return np.vstack([rigid.matrix(), [0.0, 0.0, 0.0, 1.0]])


def _fields(image: Any, camera: Any, pose: Float64, names: dict[str, str], held_out: bool) -> dict[str, Any]:
    return {
        "name": names.get(image.name, image.name),
        "file": image.name,
        "width": camera.width,
        "height": camera.height,
        "fx": camera.focal_length_x,
        "fy": camera.focal_length_y,
        "cx": camera.principal_point_x,
        "cy": camera.principal_point_y,
        "world_to_camera": pose.tolist(),
        "held_out": held_out,
    }
