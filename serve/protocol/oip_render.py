"""Pictures of a 3D scene as tensors: `NAME.render`, one view for each camera.

WORLD_TO_CAMERA and INTRINSICS are OpenCV's matrices (x to the right, y down, z forward; pixels); one INTRINSICS may
stand for all cameras.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter, ValidationError

from deployments.rendering.messages import Output, RasterOptions
from serve.context import RequestContext
from serve.errors import ArgusError, InvalidRequest
from serve.protocol.oip_inputs import check_names, parameter, required, texts
from serve.protocol.scene_cameras import Colour
from serve.protocol.tensors import InferRequest, ModelSpec, Tensor, TensorSpec
from serve.scenes.cameras import Calibrated
from serve.scenes.rendering import Shot
from serve.scenes.service import SceneService

_INPUTS: Final = ("SCENE", "WORLD_TO_CAMERA", "INTRINSICS", "WIDTH", "HEIGHT", "TIME")
_PARAMETERS: Final = ("version", "background", "sh_degree", "antialiased", "radius_clip", "effort")
# Output tensors: what each is of, its OIP datatype, and its sides after that of the cameras.
_OUTPUTS: Final[Mapping[str, tuple[Output, str, tuple[int, ...]]]] = {
    "RGB": ("rgb", "UINT8", (-1, -1, 3)),
    "DEPTH": ("depth", "FP32", (-1, -1)),
    "ALPHA": ("alpha", "UINT8", (-1, -1)),
}
_MOST_SIDE: Final = 65_536
_COLOUR: Final[TypeAdapter[tuple[float, float, float]]] = TypeAdapter(Colour)
Float64 = npt.NDArray[np.float64]


class RenderFunction:
    """See the module's text."""

    def __init__(self, scenes: SceneService) -> None:
        self._scenes = scenes

    def spec(self, name: str) -> ModelSpec:
        """Metadata. TIME may be left out."""
        inputs = (
            TensorSpec("SCENE", "BYTES", (1,)),
            TensorSpec("WORLD_TO_CAMERA", "FP64", (-1, 4, 4)),
            TensorSpec("INTRINSICS", "FP64", (-1, 3, 3)),
            TensorSpec("WIDTH", "INT32", (1,)),
            TensorSpec("HEIGHT", "INT32", (1,)),
            TensorSpec("TIME", "FP64", (1,)),
        )
        outputs = tuple(TensorSpec(one, kind, (-1, *sides)) for one, (_, kind, sides) in _OUTPUTS.items())
        return ModelSpec(name, "argus", inputs, outputs)

    async def infer(self, model: str, request: InferRequest, context: RequestContext) -> dict[str, Tensor]:
        """RGB is 0 to 255, DEPTH along z in the scene's unit (0 where nothing is), ALPHA 0 to 255; only what is asked
        for is drawn.

        Raises:
            ArgusError: what is wrong; tensors have no place for an item's error, so one bad view fails the request.
        """
        check_names(request, _INPUTS, _PARAMETERS)
        names = texts(request, "SCENE")
        if len(names) != 1:
            raise InvalidRequest(f"SCENE names one scene, not {len(names)}.", code="invalid_shape", param="SCENE")
        wanted = [name for name in _OUTPUTS if not request.outputs or name in request.outputs]
        shot = _shot(request, model, tuple(_OUTPUTS[name][0] for name in wanted or _OUTPUTS))
        try:
            info, version = await self._scenes.version(names[0], _whole(request, "version", None), context)
            drawn = await self._scenes.renderer.draw(shot, info, version, context, whole=True)
        except ArgusError as error:
            raise error.at(_blamed(error.param or "")) from error.__cause__
        pictures: list[dict[Output, Any]] = []
        for view in drawn.views:
            if isinstance(view, ArgusError):
                raise view.at(_blamed(view.param or ""))
            pictures.append(dict(view.files))
        tensors = {}
        for name in wanted:
            output, datatype, _ = _OUTPUTS[name]
            data = np.stack([picture[output] for picture in pictures])
            tensors[name] = Tensor(name, datatype, data.shape, data)
        return tensors


def _shot(request: InferRequest, model: str, outputs: tuple[Output, ...]) -> Shot:
    poses = _matrices(request, "WORLD_TO_CAMERA", 4)
    intrinsics = _matrices(request, "INTRINSICS", 3)
    if len(intrinsics) not in (1, len(poses)):
        raise InvalidRequest(
            f"There are {len(intrinsics)} INTRINSICS for {len(poses)} cameras; send one for all, or one for each.",
            code="invalid_shape",
            param="INTRINSICS",
        )
    intrinsics = np.broadcast_to(intrinsics, (len(poses), 3, 3))
    views = tuple((f"[{index}]", Calibrated(intrinsics[index], poses[index])) for index in range(len(poses)))
    time_s = float(_number(request, "TIME", ("FP32", "FP64"))) if "TIME" in request.inputs else 0.0
    return Shot(
        views,
        _side(request, "WIDTH"),
        _side(request, "HEIGHT"),
        outputs,
        "raw",
        RasterOptions(
            background=_background(request),
            antialiased=parameter(request, "antialiased", bool, False),
            sh_degree=_whole(request, "sh_degree", 3),
            radius_clip=_real(request, "radius_clip", 0.0, 1000.0),
        ),
        time_s,
        effort=_real(request, "effort", 1.0, 1.0),
        model=model,
    )


def _matrices(request: InferRequest, name: str, side: int) -> Float64:
    """(C, side, side)."""
    tensor = required(request, name)
    data = np.asarray(tensor.data)
    if tensor.datatype not in ("FP32", "FP64") or data.ndim not in (2, 3) or data.shape[-2:] != (side, side):
        raise InvalidRequest(
            f"{name} has type {tensor.datatype[:20]} and shape {list(tensor.shape)}; it must be FP32 or FP64 "
            f"[n, {side}, {side}].",
            code="invalid_shape",
            param=name,
        )
    if data.size == 0:
        raise InvalidRequest(f"{name} holds no camera.", code="no_input", param=name)
    return data.reshape(-1, side, side).astype(np.float64)


def _number(request: InferRequest, name: str, kinds: tuple[str, ...]) -> float:
    tensor = required(request, name)
    data = np.asarray(tensor.data)
    if tensor.datatype not in kinds or data.size != 1 or not np.isfinite(data).all():
        raise InvalidRequest(
            f"{name} has type {tensor.datatype[:20]} and shape {list(tensor.shape)}; it must be one finite number, "
            f"{' or '.join(kinds)} [1].",
            code="invalid_shape",
            param=name,
        )
    return float(data.reshape(-1)[0])


def _side(request: InferRequest, name: str) -> int:
    side = int(_number(request, name, ("INT32", "INT64", "UINT32")))
    if not 1 <= side <= _MOST_SIDE:
        message = f"{name} is {side}; it must be from 1 to {_MOST_SIDE}."
        raise InvalidRequest(message, code="invalid_tensor_data", param=name)
    return side


def _whole(request: InferRequest, name: str, most: int | None) -> int | None:
    """A whole number from 0 (from 1 without a bound), or None."""
    if name not in request.parameters:
        return None
    value: int = parameter(request, name, int, 0)
    least = 1 if most is None else 0
    if isinstance(value, bool) or value < least or (most is not None and value > most):
        bound = f"at least {least}" if most is None else f"from {least} to {most}"
        raise InvalidRequest(f"{name} must be {bound}.", code="invalid_parameter", param=name)
    return value


def _real(request: InferRequest, name: str, default: float, most: float) -> float:
    value = request.parameters.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        raise InvalidRequest(f"{name} must be from 0 to {most:g}.", code="invalid_parameter", param=name)
    return float(value)


def _background(request: InferRequest) -> tuple[float, float, float]:
    try:
        return _COLOUR.validate_python(parameter(request, "background", str, "#000"))
    except ValidationError as error:
        message = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise InvalidRequest(f"background: {message}.", code="invalid_parameter", param="background") from None


def _blamed(param: str) -> str:
    """The tensor that a field of the scene service stands in: views are known by their place, `[2]`."""
    if param.startswith("["):
        place, _, part = param.partition(".")
        return f"{'INTRINSICS' if part == 'intrinsics' else 'WORLD_TO_CAMERA'}{place}"
    return {"name": "SCENE", "scene": "SCENE", "cameras": "WORLD_TO_CAMERA", "width": "WIDTH"}.get(param, param)
