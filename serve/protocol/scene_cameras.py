"""Cameras and pictures as fields of a request: the same for a picture, a film and a live view."""

from __future__ import annotations

import re
from typing import Annotated, Literal, get_args

import numpy as np
from pydantic import BeforeValidator, Field, FiniteFloat, field_validator, model_validator

from deployments.rendering.messages import Output, RasterOptions
from serve.errors import InvalidRequest
from serve.protocol.bodies import AS_TUPLE, Fields, TextList
from serve.scenes import cameras
from serve.scenes.cameras import Calibrated, LookAt, Orbit, View, from_camera, rigid
from serve.scenes.rendering import Shot

Picture = Literal["png", "jpeg", "webp", "exr", "npy"]
Triple = Annotated[tuple[FiniteFloat, FiniteFloat, FiniteFloat], AS_TUPLE, Field(description="x, y, z.")]
Row3 = Annotated[tuple[FiniteFloat, FiniteFloat, FiniteFloat], AS_TUPLE]
Row4 = Annotated[tuple[FiniteFloat, FiniteFloat, FiniteFloat, FiniteFloat], AS_TUPLE]
Rows3 = Annotated[tuple[Row3, Row3, Row3], AS_TUPLE]
Rows4 = Annotated[tuple[Row4, Row4, Row4, Row4], AS_TUPLE]
Degrees = Annotated[float, Field(ge=1, le=170)]
_HEX = re.compile(r"#?([0-9a-fA-F]{6}|[0-9a-fA-F]{3})")


def _colour(value: object) -> object:
    """Red, green, blue from 0 to 1, of `#rrggbb` or `#rgb`."""
    if not isinstance(value, str):
        return value
    found = _HEX.fullmatch(value.strip())
    if found is None:
        raise ValueError("a colour is #rrggbb, #rgb, or a list of red, green and blue from 0 to 1")
    digits = found[1] if len(found[1]) == 6 else "".join(2 * digit for digit in found[1])
    return tuple(int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4))


Share = Annotated[float, Field(ge=0, le=1)]
Colour = Annotated[tuple[Share, Share, Share], AS_TUPLE, BeforeValidator(_colour)]


class LookAtFields(Fields):
    """A camera at a place, turned to another."""

    eye: Triple = Field(description="Where the camera stands.")
    target: Triple = Field(description="What is in the middle of the picture.")
    up: Triple | None = Field(None, description="Direction of the picture's top; the scene's own when left out.")
    fov_deg: Degrees = Field(cameras.FOV_DEG, description="Vertical field of view, in degrees.")


class OrbitFields(Fields):
    """A camera on a sphere around a place."""

    azimuth_deg: FiniteFloat = Field(
        cameras.AZIMUTH_DEG, description="Around the scene's up axis, counter-clockwise from above, in degrees."
    )
    elevation_deg: float = Field(cameras.ELEVATION_DEG, ge=-89.9, le=89.9, description="Above the plane, in degrees.")
    radius: Annotated[FiniteFloat, Field(gt=0)] | None = Field(
        None, description="Distance from the target; when left out, one from which the whole scene is seen."
    )
    target: Triple | None = Field(None, description="The sphere's middle; the scene's when left out.")
    fov_deg: Degrees = Field(cameras.FOV_DEG, description="Vertical field of view, in degrees.")


class CameraFields(Fields):
    """One camera: `look_at`, or `orbit`, or `intrinsics` with `world_to_camera` or `camera_to_world`."""

    look_at: LookAtFields | None = Field(None, description="A camera at a place, turned to another.")
    orbit: OrbitFields | None = Field(None, description="A camera on a sphere around a place.")
    intrinsics: Rows3 | None = Field(
        None, description="[[fx, 0, cx], [0, fy, cy], [0, 0, 1]] in pixels, for pictures of the size asked for."
    )
    world_to_camera: Rows4 | None = Field(
        None, description="4 x 4, rigid, in OpenCV's convention: x to the right, y down, z forward."
    )
    camera_to_world: Rows4 | None = Field(None, description="The same, inverted.")

    @model_validator(mode="after")
    def _one_way_of_saying_it(self) -> CameraFields:
        poses = [self.world_to_camera, self.camera_to_world]
        matrices = self.intrinsics is not None or any(pose is not None for pose in poses)
        if (self.look_at is not None) + (self.orbit is not None) + matrices != 1:
            raise ValueError("a camera is one of look_at, orbit, and intrinsics with a matrix")
        if matrices and (self.intrinsics is None or sum(pose is not None for pose in poses) != 1):
            raise ValueError("intrinsics go with world_to_camera or with camera_to_world")
        return self

    def view(self, param: str) -> View:
        """What they mean.

        Args:
            param: the field that they stand in, for messages.

        Raises:
            InvalidRequest: `invalid_camera`.
        """
        if self.look_at is not None:
            return LookAt(self.look_at.eye, self.look_at.target, self.look_at.up, self.look_at.fov_deg)
        if self.orbit is not None:
            given = self.orbit
            return Orbit(given.azimuth_deg, given.elevation_deg, given.radius, given.target, given.fov_deg)
        pose = np.asarray(self.world_to_camera or self.camera_to_world, np.float64)
        if self.camera_to_world is not None:
            pose = from_camera(rigid(pose, f"{param}.camera_to_world"))
        return Calibrated(np.asarray(self.intrinsics, np.float64), pose)


class DrawingFields(Fields):
    """How pictures are drawn, whatever the camera and the file."""

    width: int = Field(640, ge=1, le=65_536, description="Of each picture, in pixels.")
    height: int = Field(480, ge=1, le=65_536, description="Of each picture, in pixels.")
    background: Colour = Field(
        (0.0, 0.0, 0.0),
        description="Behind what is not covered: #rrggbb, or red, green and blue from 0 to 1.",
        json_schema_extra={"type": ["string", "array"]},
    )
    time_s: FiniteFloat = Field(0.0, description="A moving scene's moment, in seconds.")
    version: int | None = Field(None, ge=1, description="Of the scene; the current one when left out.")
    sh_degree: int | None = Field(None, ge=0, le=3, description="Highest degree of spherical harmonics used.")
    antialiased: bool = Field(False, description="Keep thin Gaussians from growing in small pictures (Mip-Splatting).")
    radius_clip: float = Field(0.0, ge=0, le=1000, description="Leave out Gaussians of at most so many pixels' radius.")
    model: str | None = Field(None, description="A renderer; the first that draws this scene when left out.")

    @property
    def options(self) -> RasterOptions:
        """Of the rasteriser."""
        return RasterOptions(self.background, self.antialiased, self.sh_degree, self.radius_clip)


class PictureFields(DrawingFields):
    """How pictures are drawn and written, whatever the camera."""

    outputs: TextList = Field(["rgb"], description="Of rgb, depth, alpha; a picture each.")
    format: Picture = Field("png", description="Depth is written as png (thousandths, 16 bits), exr or npy.")
    quality: int = Field(90, ge=1, le=100, description="Of JPEG and WebP.")
    effort: float = Field(1.0, ge=0, le=1, description="Of a radiance field: from coarse at once to every sample.")

    @field_validator("outputs")
    @classmethod
    def _known_outputs(cls, outputs: list[str]) -> list[str]:
        known = get_args(Output)
        if not outputs or len(set(outputs)) < len(outputs) or not set(outputs) <= set(known):
            raise ValueError(f"must be different ones of {', '.join(known)}")
        return outputs

    def shot(self, views: tuple[tuple[str, View], ...]) -> Shot:
        """These pictures from cameras, each with the field that it stands in."""
        return Shot(
            views,
            self.width,
            self.height,
            tuple(output for output in get_args(Output) if output in self.outputs),
            self.format,
            self.options,
            self.time_s,
            self.quality,
            self.effort,
            self.model,
        )


class RenderFields(PictureFields):
    """Pictures of a scene from one or several cameras."""

    camera: CameraFields | None = Field(None, description="One camera; one that sees the whole scene when left out.")
    cameras: list[CameraFields] | None = Field(None, min_length=1, description="Several cameras.")

    def views(self) -> tuple[tuple[str, View], ...]:
        """The cameras, each with its field.

        Raises:
            InvalidRequest: both `camera` and `cameras`; `invalid_camera`.
        """
        if self.cameras is not None:
            if self.camera is not None:
                raise InvalidRequest("Send either camera or cameras.", code="invalid_field", param="camera")
            named = [(f"cameras[{i}]", camera) for i, camera in enumerate(self.cameras)]
            return tuple((param, camera.view(param)) for param, camera in named)
        return (("camera", Orbit() if self.camera is None else self.camera.view("camera")),)


class ThumbnailFields(PictureFields):
    """A picture of a scene, named by a link: an orbit around it."""

    azimuth_deg: FiniteFloat = Field(cameras.AZIMUTH_DEG, description="See `orbit`.")
    elevation_deg: float = Field(cameras.ELEVATION_DEG, ge=-89.9, le=89.9, description="See `orbit`.")
    radius: Annotated[FiniteFloat, Field(gt=0)] | None = Field(None, description="See `orbit`.")
    fov_deg: Degrees = Field(cameras.FOV_DEG, description="See `orbit`.")

    def views(self) -> tuple[tuple[str, View], ...]:
        """The one camera, with the field that its faults are blamed on."""
        orbit = Orbit(self.azimuth_deg, self.elevation_deg, self.radius, None, self.fov_deg)
        return (("azimuth_deg", orbit),)


class LiveFields(DrawingFields):
    """What a live view shows. A message says what has changed; the rest stays."""

    camera: CameraFields = Field(
        CameraFields(orbit=OrbitFields()), description="One that sees the whole scene at first."
    )
    format: Literal["jpeg", "webp", "png"] = Field("jpeg", description="Of the pictures.")
    quality: int = Field(75, ge=1, le=100, description="Of JPEG and WebP.")
    effort: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Of a radiance field: stated, each message is answered by one picture; when left out, pictures "
        "become better while the camera rests, and are drawn again when the scene changes.",
    )

    def shot(self, effort: float) -> Shot:
        """The picture.

        Raises:
            InvalidRequest: `invalid_camera`.
        """
        return Shot(
            (("camera", self.camera.view("camera")),),
            self.width,
            self.height,
            ("rgb",),
            self.format,
            self.options,
            self.time_s,
            self.quality,
            effort,
            self.model,
        )
