"""PLY files of Gaussians, as the training code of Kerbl et al. (2023) writes them and every viewer reads them."""

from __future__ import annotations

import warnings
from io import BytesIO
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from deployments.splat.formats.checks import activated, check_count, refuse
from deployments.splat.formats.ply_header import Header, parse
from deployments.splat.gaussians import Float32, Gaussians

_POSITION: Final = ("x", "y", "z")
_DC: Final = ("f_dc_0", "f_dc_1", "f_dc_2")
_SCALES: Final = ("scale_0", "scale_1", "scale_2")
_ROTATION: Final = ("rot_0", "rot_1", "rot_2", "rot_3")
_REQUIRED: Final = (*_POSITION, *_DC, "opacity", *_SCALES, *_ROTATION)
# An opacity of 0 or 1 has no finite logit; this is that of the nearest one that 8 bits cannot tell from it.
_MOST_LOGIT: Final = 13.8


def read(data: bytes, max_gaussians: int) -> Gaussians:
    """The scene in a file.

    Raises:
        InvalidMedia: `invalid_scene`.
        PayloadTooLarge: `too_many_gaussians`.
    """
    header = parse(data)
    rest = _rest(header)
    check_count(header.count, max_gaussians)
    rows = _written(data, header) if header.form == "ascii" else _packed(data, header)
    sh = np.empty((header.count, 1 + len(rest) // 3, 3), np.float32)
    for channel in range(3):
        names = (_DC[channel], *rest[channel * len(rest) // 3 : (channel + 1) * len(rest) // 3])
        sh[:, :, channel] = _columns(rows, names)
    logits = _columns(rows, ("opacity",))[:, 0]
    return activated(_columns(rows, _POSITION), _columns(rows, _ROTATION), _columns(rows, _SCALES), logits, sh)


def write(gaussians: Gaussians) -> bytes:
    """A file of 62 floats a Gaussian with harmonics of degree 3; with normals, all zero, since older readers count on
    their place."""
    count, harmonics = gaussians.sh.shape[:2]
    rest = tuple(f"f_rest_{index}" for index in range(3 * (harmonics - 1)))
    names = (*_POSITION, "nx", "ny", "nz", *_DC, *rest, "opacity", *_SCALES, *_ROTATION)
    header = "\n".join(
        [
            "ply",
            "format binary_little_endian 1.0",
            f"element vertex {count}",
            *(f"property float {name}" for name in names),
            "end_header\n",
        ]
    )
    with np.errstate(divide="ignore"):
        logits = np.log(gaussians.opacities) - np.log1p(-gaussians.opacities)
    table = np.empty((count, len(names)), "<f4")
    table[:, 0:3] = gaussians.means
    table[:, 3:6] = 0
    table[:, 6:9] = gaussians.sh[:, 0]
    table[:, 9 : 9 + len(rest)] = gaussians.sh[:, 1:].transpose(0, 2, 1).reshape(count, len(rest))
    table[:, -8] = np.clip(logits, -_MOST_LOGIT, _MOST_LOGIT)
    table[:, -7:-4] = np.log(gaussians.scales)
    table[:, -4:] = gaussians.quats
    return b"".join([header.encode(), table.data])


def _packed(data: bytes, header: Header) -> npt.NDArray[Any]:
    """The vertices of a binary file."""
    record = header.record.newbyteorder(">") if header.form == "binary_big_endian" else header.record
    _check_rows(header, (len(data) - header.nbytes) // record.itemsize)
    return np.frombuffer(data, record, header.count, header.nbytes)


def _written(data: bytes, header: Header) -> npt.NDArray[Any]:
    """The vertices of a file of text, one a line. A number takes two bytes there at least, and here four."""
    names = header.record.names or ()
    text = BytesIO(data)
    text.seek(header.nbytes)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of no lines at all, which are counted below
            table = np.loadtxt(text, np.float32, comments=None, max_rows=header.count, ndmin=2)
    except ValueError as error:
        raise refuse(f"The vertices of the PLY file are not lines of numbers: {error}.") from None
    _check_rows(header, len(table))
    if table.shape[1] != len(names):
        raise refuse(f"A vertex of the PLY file has {table.shape[1]} numbers; its header announces {len(names)}.")
    return table.view([(name, np.float32) for name in names])[:, 0]


def _check_rows(header: Header, have: int) -> None:
    if have < header.count:
        raise refuse(f"The file is cut off: its header announces {header.count:,} Gaussians, it holds {have:,}.")


def _rest(header: Header) -> tuple[str, ...]:
    """The names of the harmonics above degree 0: all of red, then all of green, then all of blue."""
    names = header.record.names or ()
    missing = [name for name in _REQUIRED if name not in names]
    if missing:
        kind = "a mesh or a cloud of points, not Gaussians" if "opacity" in missing else "not a scene of Gaussians"
        raise refuse(f"The PLY file is {kind}: its vertices have no {', '.join(missing)}.")
    count = sum(name.startswith("f_rest_") for name in names)
    rest = tuple(f"f_rest_{index}" for index in range(count))
    if count not in (0, 9, 24, 45) or any(name not in names for name in rest):
        raise refuse(f"The PLY file has {count} properties f_rest_*; 0, 9, 24 or 45, numbered from 0, are right.")
    for name in (*_REQUIRED, *rest):
        if header.record[name].kind != "f":
            raise refuse(f"Property {name} of the PLY file is a whole number; it must be a float.")
    return rest


def _columns(rows: npt.NDArray[Any], names: tuple[str, ...]) -> Float32:
    out = np.empty((len(rows), len(names)), np.float32)
    with np.errstate(over="ignore"):  # a double may not fit; an infinity is refused later
        for index, name in enumerate(names):
            out[:, index] = rows[name]
    return out
