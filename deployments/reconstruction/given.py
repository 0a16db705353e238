"""What a reconstruction was given, told from first bytes alone: photos, an archive of photos, or a video."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

from deployments.reconstruction.archive import is_zip
from serve.errors import ArgusError, InvalidRequest
from serve.media.headers import sniff_format
from serve.media.video import sniff_video

Given = Literal["photos", "archive", "video"]

LEAST_PHOTOS: Final = 3
# Bytes of a file by which its kind is known.
HEAD: Final = 1024


def kind_of(heads: Sequence[bytes]) -> Given:
    """What all the files are.

    Args:
        heads: the first `HEAD` bytes of each, or more.

    Raises:
        InvalidRequest: `no_photos`, `mixed_media`.
        UnsupportedMedia, InvalidMedia: a file that is none of these.
    """
    if not heads:
        raise InvalidRequest("Send photos, a zip file of photos, or a video.", code="no_photos", param="photos")
    kinds = {_kind(head) for head in heads}
    if len(kinds) > 1 or (len(heads) > 1 and "photos" not in kinds):
        raise InvalidRequest(
            "Send photos, or one zip file of photos, or one video; not several of these.",
            code="mixed_media",
            param="photos",
        )
    return kinds.pop()


def check_count(count: int) -> None:
    """Raises `InvalidRequest`, `too_few_photos`, when no scene can come of so many photos."""
    if count < LEAST_PHOTOS:
        raise InvalidRequest(
            f"{count} photos are too few; a scene needs at least {LEAST_PHOTOS}, and twenty or more to look good.",
            code="too_few_photos",
            param="photos",
        )


def _kind(head: bytes) -> Given:
    if is_zip(head):
        return "archive"
    if _is_video(head):
        return "video"
    sniff_format(head)
    return "photos"


def _is_video(head: bytes) -> bool:
    """Animations are photos here: GIF and WebP hold too little to align."""
    try:
        return sniff_video(head) in ("MP4", "WEBM", "AVI")
    except ArgusError:
        return False
