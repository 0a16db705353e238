"""Writes SOG files: see `sog`. Scales and colours go on codebooks of 256 numbers, further harmonics on a palette."""

from __future__ import annotations

import io
import json
import math
import zipfile
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from deployments.splat.formats.packing import MOST_OF_OTHERS, Floats, UInt8, along_curve, to_byte, without_largest
from deployments.splat.gaussians import Float32, Gaussians

# Entries of a palette, one for so many Gaussians within these bounds; the format has two bytes for an entry.
_LEAST_PALETTE: Final = 1024
_MOST_PALETTE: Final = 65_000
_GAUSSIANS_AN_ENTRY: Final = 16
_SAMPLES_AN_ENTRY: Final = 32
_ROUNDS: Final = 6
_CODES: Final = 256
_CODE_SAMPLES: Final = 1 << 20
_CODE_ROUNDS: Final = 30
_ENTRIES_A_ROW: Final = 64
_FIRST_TAG: Final = 252


def write(gaussians: Gaussians) -> bytes:
    """A file; neighbours in space are neighbours in its pictures, which makes them small."""
    scene = gaussians.select(along_curve(gaussians.means))
    pictures: dict[str, UInt8] = {}
    meta: dict[str, Any] = {"version": 2, "asset": {"generator": "Argus"}, "count": len(scene)}
    logs = np.sign(scene.means) * np.log1p(np.abs(scene.means.astype(np.float64)))
    least, most = logs.min(axis=0), logs.max(axis=0)
    fixed = np.rint((logs - least) / np.where(most > least, most - least, 1) * 65535).astype(np.uint16)
    pictures["means_l.webp"] = _square((fixed & 255).astype(np.uint8))
    pictures["means_u.webp"] = _square((fixed >> 8).astype(np.uint8))
    meta["means"] = {"mins": least.tolist(), "maxs": most.tolist(), "files": ["means_l.webp", "means_u.webp"]}
    largest, others = without_largest(scene.quats)
    tags = (largest + _FIRST_TAG).astype(np.uint8)
    quats = to_byte((others / MOST_OF_OTHERS + 1) / 2 * 255)
    pictures["quats.webp"] = _square(np.concatenate([quats, tags[:, None]], axis=1))
    meta["quats"] = {"files": ["quats.webp"]}
    codebook, codes = _coded(np.log(scene.scales))
    pictures["scales.webp"] = _square(codes)
    meta["scales"] = {"codebook": codebook, "files": ["scales.webp"]}
    codebook, codes = _coded(scene.sh[:, 0])
    alpha = to_byte(scene.opacities * 255)[:, None]
    pictures["sh0.webp"] = _square(np.concatenate([codes, alpha], axis=1))
    meta["sh0"] = {"codebook": codebook, "files": ["sh0.webp"]}
    if scene.sh_degree:
        meta["shN"] = _harmonics(scene.sh[:, 1:], scene.sh_degree, pictures)
    return _zipped(meta, pictures)


def _harmonics(sh: Float32, degree: int, pictures: dict[str, UInt8]) -> dict[str, Any]:
    count, harmonics = sh.shape[:2]
    palette, labels = _palette(np.ascontiguousarray(sh.reshape(count, -1)))
    codebook, codes = _coded(palette)
    rows = -(-len(palette) // _ENTRIES_A_ROW)
    table = np.zeros((rows * _ENTRIES_A_ROW, harmonics * 3), np.uint8)
    table[: len(palette)] = codes
    pictures["shN_centroids.webp"] = _opaque(table.reshape(rows, _ENTRIES_A_ROW * harmonics, 3))
    halves = np.stack([labels & 255, labels >> 8, np.zeros_like(labels)], axis=1)
    pictures["shN_labels.webp"] = _square(halves.astype(np.uint8))
    files = ["shN_centroids.webp", "shN_labels.webp"]
    return {"count": len(palette), "bands": degree, "codebook": codebook, "files": files}


def _palette(values: Float32) -> tuple[Float32, npt.NDArray[np.intp]]:
    """Rows that stand for all, and which of them stands for each.

    Clustered in two steps, since the work of one is the product of rows and entries: into groups, and each group into
    its share of the entries (a tree of depth two; Gersho & Gray 1992).
    """
    entries = min(max(len(values) // _GAUSSIANS_AN_ENTRY, _LEAST_PALETTE), _MOST_PALETTE)
    if len(values) <= entries:
        return values, np.arange(len(values))
    _, groups = _clustered(values, math.isqrt(entries))
    labels = np.empty(len(values), np.intp)
    palette: list[Float32] = []
    begun = 0
    order = np.argsort(groups, kind="stable")
    for members in np.split(order, np.flatnonzero(np.diff(groups[order])) + 1):
        rows, inner = _clustered(values[members], max(entries * len(members) // len(values), 1))
        labels[members] = begun + inner
        palette.append(rows)
        begun += len(rows)
    return np.concatenate(palette), labels


def _clustered(values: Float32, entries: int) -> tuple[Float32, npt.NDArray[np.intp]]:
    """Centres of clusters, and the nearest of them to each row."""
    if len(values) <= entries:
        return values, np.arange(len(values))
    import faiss

    bounds = {"min_points_per_centroid": 1, "max_points_per_centroid": _SAMPLES_AN_ENTRY}
    kmeans = faiss.Kmeans(values.shape[1], entries, niter=_ROUNDS, seed=1, **bounds)
    kmeans.train(values)
    _, labels = kmeans.index.search(values, 1)
    return np.asarray(kmeans.centroids, np.float32), np.asarray(labels[:, 0], np.intp)


def _coded(values: Floats) -> tuple[list[float], UInt8]:
    """Numbers in ascending order (Lloyd 1982, in one dimension), and for each value the index of the nearest."""
    flat = values.reshape(-1).astype(np.float64)
    sample = np.sort(flat[:: -(-flat.size // _CODE_SAMPLES)])
    sums = np.concatenate([[0.0], np.cumsum(sample)])
    # From different ones: where most values are one and the same, the others have the rest of the numbers.
    distinct = np.unique(sample)
    book = distinct[np.linspace(0, len(distinct) - 1, _CODES).astype(np.intp)]
    for _ in range(_CODE_ROUNDS):
        ends = np.concatenate([[0], np.searchsorted(sample, (book[1:] + book[:-1]) / 2), [len(sample)]])
        counts = np.diff(ends)
        book = np.where(counts > 0, np.diff(sums[ends]) / np.maximum(counts, 1), book)
        # Rounding may leave equal ones in the wrong order.
        book = np.maximum.accumulate(book)
    codes = np.searchsorted((book[1:] + book[:-1]) / 2, flat).astype(np.uint8)
    return book.tolist(), codes.reshape(values.shape)


def _square(channels: UInt8) -> UInt8:
    """A picture (H, W, 4) with a row of channels (N, 3 or 4) a pixel."""
    side = math.isqrt(len(channels) - 1) + 1
    rows = -(-len(channels) // side)
    # Pixels left over repeat the last one, so that each holds what readers accept.
    padded = np.pad(channels, ((0, rows * side - len(channels)), (0, 0)), mode="edge")
    return _opaque(padded.reshape(rows, side, -1))


def _opaque(picture: UInt8) -> UInt8:
    if picture.shape[2] == 4:
        return picture
    return np.concatenate([picture, np.full((*picture.shape[:2], 1), 255, np.uint8)], axis=2)


def _zipped(meta: dict[str, Any], pictures: dict[str, UInt8]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, picture in pictures.items():
            encoded = io.BytesIO()
            # `exact` keeps colours where alpha is 0: they are numbers here.
            Image.fromarray(picture).save(encoded, "WEBP", lossless=True, exact=True, quality=50, method=2)
            archive.writestr(zipfile.ZipInfo(name), encoded.getvalue())
        archive.writestr(zipfile.ZipInfo("meta.json"), json.dumps(meta))
    return buffer.getvalue()
