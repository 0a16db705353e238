"""From what was given (photos, an archive, a video) to upright photos of bearable size, in one folder a camera."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from deployments.reconstruction import archive, capture
from deployments.reconstruction.folder import WorkFolder, replacing
from deployments.reconstruction.frames import video_frames
from deployments.reconstruction.given import HEAD, LEAST_PHOTOS, Given, check_count, kind_of
from deployments.reconstruction.messages import Spec
from serve.errors import ArgusError, InvalidMedia, InvalidRequest
from serve.media.image import ImageLimits, decode_image
from serve.media.video import VideoLimits

UInt8 = npt.NDArray[np.uint8]
Tell = Callable[[int, int], None]

PHOTO_LIMITS: Final = ImageLimits(max_bytes=64 * 1024 * 1024, max_pixels=120_000_000, max_side=20_000, min_side=32)
VIDEO_LIMITS: Final = VideoLimits(max_bytes=2 * 1024**3, decode_s=1800)
# EXIF 2.32: the directory of the exposure, and in it the focal length on 35 mm film, in mm.
_EXPOSURE_IFD, _FOCAL_35MM = 0x8769, 0xA405
# TIFF tags of who made the camera.
_MAKE, _MODEL = 0x010F, 0x0110
_QUALITY: Final = 97
_MOST_NAME: Final = 80


@dataclass(frozen=True, slots=True, eq=False)
class _Photo:
    """One photo.

    Attributes:
        name: as its owner knows it.
        pixels: (height, width, 3) uint8, upright.
        camera: photos of one camera at one focal length are alike here.
        focal_mm: on 35 mm film; None when unknown.
    """

    name: str
    pixels: UInt8
    camera: tuple[str, ...]
    focal_mm: int | None


def take_in(folder: WorkFolder, spec: Spec, tell: Tell) -> dict[str, Any]:
    """The first stage.

    Args:
        tell: is told how many photos have been looked at, and of how many.

    Returns:
        The report on the capture; its `photos` gives each photo's name by its file.

    Raises:
        InvalidRequest: `too_few_photos`: fewer can be used than a scene needs.
        ArgusError: what is wrong with the first file when none can be used.
    """
    files = sorted(path for path in folder.media.iterdir())
    kind = kind_of([_head(path) for path in files])
    count = _count(kind, files, spec)
    skipped: list[dict[str, str]] = []
    used: list[_Kept] = []
    cameras: dict[tuple[str, ...], Path] = {}
    with replacing(folder.photos) as new:
        new.mkdir()
        for position, photo in enumerate(_photos(kind, files, folder.names(), spec, skipped)):
            tell(min(position, count), count)
            used.append(_keep(new, photo, len(used), cameras))
        used = _selected(used, spec.max_photos, skipped)
        if len(used) < LEAST_PHOTOS:
            raise InvalidRequest(_too_few(len(used), kind, skipped), code="too_few_photos", param="photos")
    report = capture.assess([k.name for k in used], [k.measures for k in used], from_video=kind == "video")
    return {
        "kind": kind,
        **report,
        "skipped": skipped,
        "cameras": len({k.path.parent for k in used}),
        "photos": {f"{k.path.parent.name}/{k.path.name}": k.name for k in used},
    }


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(HEAD)


def _count(kind: Given, files: Sequence[Path], spec: Spec) -> int:
    """Photos to look at; of a video, those to choose at most."""
    if kind == "video":
        return spec.max_photos
    count = len(archive.photo_names(files[0].read_bytes())) if kind == "archive" else len(files)
    check_count(count)
    return count


@dataclass(frozen=True, slots=True, eq=False)
class _Kept:
    name: str
    path: Path
    measures: capture.Measures


def _photos(
    kind: Given, files: Sequence[Path], labels: Sequence[str], spec: Spec, skipped: list[dict[str, str]]
) -> Iterator[_Photo]:
    if kind == "video":
        for name, pixels in video_frames(files[0].read_bytes(), spec.max_photos, spec.max_side, VIDEO_LIMITS):
            yield _Photo(name, pixels, ("video",), None)
        return
    named: Iterator[tuple[str, bytes]] = (
        archive.photos(files[0].read_bytes())
        if kind == "archive"
        else ((label, path.read_bytes()) for label, path in zip(labels, files, strict=True))
    )
    first: ArgusError | None = None
    good = 0
    for name, data in named:
        try:
            photo = _decoded(name, data, spec.max_side)
        except ArgusError as error:  # one bad photo among good ones is left out
            first = first or error
            skipped.append({"photo": _label(name), "why": error.message})
            continue
        good += 1
        yield photo
    if not good and first is not None:
        raise InvalidMedia(f"No photo can be read; the first one: {first.message}", code=first.code, param="photos")


def _decoded(name: str, data: bytes, max_side: int) -> _Photo:
    image = decode_image(data, PHOTO_LIMITS, at_least=(max_side, max_side))
    image.thumbnail((max_side, max_side), Image.Resampling.LANCZOS, reducing_gap=3.0)
    make, focal = _exif(data)
    return _Photo(name, np.asarray(image), (*make, f"{image.width}x{image.height}", str(focal)), focal)


def _exif(data: bytes) -> tuple[tuple[str, str], int | None]:
    """Who made the camera, and the focal length on 35 mm film; what cannot be read is not known."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            exif = image.getexif()
        make = (str(exif.get(_MAKE, ""))[:64], str(exif.get(_MODEL, ""))[:64])
        focal = int(exif.get_ifd(_EXPOSURE_IFD).get(_FOCAL_35MM, 0))
    except Exception:  # EXIF is written by anyone, and Pillow raises whatever it meets there
        return ("", ""), None
    return make, focal if 4 <= focal <= 2000 else None


def _label(name: str) -> str:
    """A stranger's file name as it can be shown: without what controls a screen, and its end where it is long."""
    return "".join(letter for letter in name if letter.isprintable())[-_MOST_NAME:] or "unnamed"


def _keep(root: Path, photo: _Photo, number: int, cameras: dict[tuple[str, ...], Path]) -> _Kept:
    """The photo as a file in its camera's folder: what lies in one folder shares a focal length and a distortion.

    Args:
        cameras: folders so far.
    """
    folder = cameras.setdefault(photo.camera, root / f"camera{len(cameras)}")
    folder.mkdir(exist_ok=True)
    path = folder / f"{number:05d}.jpg"
    exif = Image.Exif()
    if photo.focal_mm is not None:
        exif.get_ifd(_EXPOSURE_IFD)[_FOCAL_35MM] = photo.focal_mm
    Image.fromarray(photo.pixels).save(path, quality=_QUALITY, subsampling=0, exif=exif)
    return _Kept(_label(photo.name), path, capture.measure(photo.pixels))


def _selected(kept: list[_Kept], most: int, skipped: list[dict[str, str]]) -> list[_Kept]:
    """Without repeats, and no more than `most`: of each stretch of the walk the sharpest."""
    doubles = set(capture.repeats([k.measures for k in kept]))
    single = [k for position, k in enumerate(kept) if position not in doubles]
    chosen = single
    if len(single) > most:
        stretches = np.array_split(np.arange(len(single)), most)
        chosen = [max((single[i] for i in stretch), key=lambda k: k.measures.sharpness) for stretch in stretches]
    stay = {k.path for k in chosen}
    for position, k in enumerate(kept):
        if k.path not in stay:
            k.path.unlink()
            why = "It shows the same as an earlier one." if position in doubles else f"Only {most} photos are used."
            skipped.append({"photo": k.name, "why": why})
    return chosen


def _too_few(count: int, kind: Given, skipped: Sequence[dict[str, str]]) -> str:
    what = "frames of the video" if kind == "video" else "photos"
    reason = f" The first that cannot: {skipped[0]['photo']}: {skipped[0]['why']}" if skipped else ""
    return f"Only {count} {what} can be used; a scene needs at least {LEAST_PHOTOS}.{reason}"
