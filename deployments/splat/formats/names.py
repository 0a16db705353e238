"""The formats of scene files, and how each is called outside."""

from __future__ import annotations

from typing import Final, Literal, get_args

FormatName = Literal["ply", "splat", "compressed_ply", "spz", "sog", "argus"]
FORMATS: Final[tuple[FormatName, ...]] = get_args(FormatName)

# What a scene can be written as: a cloud of points is read by others, but is no scene of Gaussians any more.
ExportName = Literal[FormatName, "points"]
EXPORTS: Final[tuple[ExportName, ...]] = get_args(ExportName)

EXTENSIONS: Final[dict[ExportName, str]] = {
    "ply": ".ply",
    "splat": ".splat",
    "compressed_ply": ".compressed.ply",
    "spz": ".spz",
    "sog": ".sog",
    "argus": ".safetensors",
    "points": ".points.ply",
}

# None of them is registered but PLY's, and that by usage.
MEDIA_TYPES: Final[dict[ExportName, str]] = {
    "ply": "model/ply",
    "splat": "application/octet-stream",
    "compressed_ply": "model/ply",
    "spz": "application/octet-stream",
    "sog": "application/zip",
    "argus": "application/octet-stream",
    "points": "model/ply",
}
