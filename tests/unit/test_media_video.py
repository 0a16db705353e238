"""Videos: the check at the edge, which frames are sampled, and files that are damaged or mean harm."""

from __future__ import annotations

import io
import random
import struct
import time
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from demo.scenes import render_video, sample_scene
from deployments.base import CpuPool
from deployments.generation.engine import Prompt
from deployments.generation.frames import sample_frames
from deployments.generation.media import DecodedMedia, MediaLimits, load_image, load_prompt
from deployments.generation.messages import ImagePart, VideoPart
from deployments.generation.prompts import Rendered
from deployments.messages import EncodedImage, PixelValues, RawImage
from serve.errors import ArgusError, DeadlineExceeded, InvalidMedia, InvalidRequest, PayloadTooLarge
from serve.media.image import ImageLimits
from serve.media.video import VideoLimits, inspect_video

Frames = npt.NDArray[np.uint8]
LIMITS = VideoLimits()
CODECS = {"mp4": "libx264", "mov": "libx264", "matroska": "libx264", "webm": "libvpx", "avi": "mpeg4", "gif": "gif"}
# Each frame one grey, 8 apart, so that a decoded frame says its number.
STEP = 8


def greys(count: int, width: int = 64, height: int = 48) -> Frames:
    return np.stack([np.full((height, width, 3), min(255, STEP * i), np.uint8) for i in range(count)])


def numbers(frames: Frames) -> list[int]:
    return [round(float(frame.mean()) / STEP) for frame in frames]


def encode(
    frames: Iterable[npt.NDArray[Any]],
    container: str = "mp4",
    *,
    times: Sequence[int] | None = None,
    codec: str | None = None,
    key_every: int = 5,
    rotation: int = 0,
) -> bytes:
    """A clip at 10 frames a second, or with frame i shown from `times[i]` tenths of a second on."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as output:
        stream: Any = output.add_stream(codec or CODECS[container], rate=10, options={"g": str(key_every)})
        for number, pixels in enumerate(frames):
            if number == 0:
                stream.height, stream.width = pixels.shape[:2]
                stream.pix_fmt = "rgb8" if container == "gif" else "yuv420p"
                if rotation:
                    stream.set_display_rotation(rotation)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = times[number] if times else number, Fraction(1, 10)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return buffer.getvalue()


def webp(frames: Frames) -> bytes:
    buffer = io.BytesIO()
    first, *rest = (Image.fromarray(frame) for frame in frames)
    first.save(buffer, "WEBP", save_all=True, append_images=rest, duration=100, lossless=True)
    return buffer.getvalue()


def sound() -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as output:
        stream: Any = output.add_stream("aac", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16_000
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return buffer.getvalue()


FILES = {container: encode(greys(20), container) for container in CODECS if container != "gif"}
FILES["webp"] = webp(greys(20))
FAMILIES = {"mp4": "MP4", "mov": "MP4", "matroska": "WEBM", "webm": "WEBM", "avi": "AVI", "webp": "WEBP"}


def refused(data: bytes, limits: VideoLimits = LIMITS) -> ArgusError:
    with pytest.raises(ArgusError) as caught:
        sample_frames(data, 4, limits)
    return caught.value


@pytest.mark.parametrize("container", sorted(FILES))
def test_frames_are_spread_evenly_over_every_container(container: str) -> None:
    frames = sample_frames(FILES[container], 8)
    assert frames.shape == (8, 48, 64, 3)
    assert frames.dtype == np.uint8
    # (20 - 1) * k / 7, rounded down.
    assert numbers(frames) == [0, 2, 5, 8, 10, 13, 16, 19]


def test_a_gif_is_a_video() -> None:
    scene = sample_scene(7)
    source = render_video(scene, 64, 12, 10)
    frames = sample_frames(encode(source, "gif"), 12)
    assert frames.shape == source.shape
    assert np.abs(frames.astype(int) - source).mean() < 30  # 256 fixed colours


def test_a_real_clip_looks_like_its_source() -> None:
    scene = sample_scene(7)
    source = render_video(scene, 96, 16, 10)
    frames = sample_frames(encode(source), 4)
    assert np.abs(frames.astype(int) - source[[0, 5, 10, 15]]).mean() < 6


@pytest.mark.parametrize(("count", "expected"), [(1, [0]), (2, [0, 2]), (5, [0, 0, 1, 1, 2])])
def test_a_short_clip_gives_frames_twice(count: int, expected: list[int]) -> None:
    assert numbers(sample_frames(encode(greys(3)), count)) == expected


def test_one_frame_is_a_video() -> None:
    for data in (encode(greys(1)), webp(greys(1)), encode(greys(1), "gif")):
        assert numbers(sample_frames(data, 3)) == [0, 0, 0]


@pytest.mark.parametrize("container", ["mp4", "matroska", "webm"])
def test_frames_are_even_in_time_when_the_rate_varies(container: str) -> None:
    data = encode(greys(10), container, times=[0, 1, 2, 3, 4, 5, 6, 7, 8, 20])
    # Shown at 0, 5, 10, 15 and 20 tenths of a second; the ninth frame stands from 8 to 20.
    assert numbers(sample_frames(data, 5)) == [0, 5, 8, 8, 9]


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_a_turned_clip_is_shown_upright(rotation: int) -> None:
    upright = np.zeros((48, 64, 3), np.uint8)
    upright[:16, :16] = 255  # a white corner, top left
    stored = np.ascontiguousarray(np.rot90(upright, -rotation // 90))
    (frame,) = sample_frames(encode([stored], rotation=rotation), 1)
    assert frame.shape == upright.shape
    assert frame[4:12, 4:12].mean() > 200
    assert frame[20:].mean() < 50


class CountingClock:
    """Stands still and counts how often it is looked at: once for each packet, once for each decoded frame."""

    def __init__(self) -> None:
        self.looks = 0

    def __call__(self) -> float:
        self.looks += 1
        return 0.0


@pytest.mark.parametrize("container", ["mp4", "matroska", "webm", "avi"])
def test_long_clips_are_jumped_through(container: str) -> None:
    # 600 frames in which the picture's left edge counts in binary, key frames every 20.
    def picture(number: int) -> Frames:
        bits = [255 * (number >> bit & 1) for bit in range(10)]
        return np.repeat(np.repeat(np.repeat(np.array(bits, np.uint8), 8)[:, None], 16, 1)[..., None], 3, 2)

    clock = CountingClock()
    data = encode((picture(i) for i in range(600)), container, key_every=20)
    frames = sample_frames(data, 6, clock=clock)
    seen = [sum(1 << bit for bit in range(10) if frame[8 * bit + 2 : 8 * bit + 6].mean() > 127) for frame in frames]
    assert seen == [0, 119, 239, 359, 479, 599]
    assert clock.looks < 600 + 6 * 40


def test_large_frames_are_scaled_down() -> None:
    frames = sample_frames(encode(greys(2, 320, 160)), 2, VideoLimits(frame_side=80))
    assert frames.shape == (2, 40, 80, 3)
    frames = sample_frames(webp(greys(2, 320, 160)), 2, VideoLimits(frame_side=80))
    assert frames.shape == (2, 40, 80, 3)


@pytest.mark.parametrize("container", ["mp4", "gif", "webp"])
def test_large_dimensions_are_refused(container: str) -> None:
    data = webp(greys(2)) if container == "webp" else encode(greys(2), container)
    assert refused(data, VideoLimits(max_pixels=64 * 47)).code == "video_too_large"
    assert refused(data, VideoLimits(max_side=63)).code == "video_too_large"
    sample_frames(data, 1, VideoLimits(max_pixels=64 * 48, max_side=64))


def test_a_gif_that_claims_a_vast_canvas_is_refused() -> None:
    data = bytearray(encode(greys(2), "gif"))
    data[6:10] = struct.pack("<HH", 65_535, 65_535)
    assert refused(bytes(data)).code == "video_too_large"


def test_length_is_limited_in_time_and_in_frames() -> None:
    data = FILES["mp4"]  # 1.9 s from the first frame to the last
    assert refused(data, VideoLimits(max_duration_s=1.8)).code == "video_too_long"
    sample_frames(data, 2, VideoLimits(max_duration_s=2))
    assert refused(data, VideoLimits(max_frames=19)).code == "video_too_long"
    assert refused(FILES["webp"], VideoLimits(max_frames=19)).code == "video_too_long"
    sample_frames(data, 2, VideoLimits(max_frames=20))
    with pytest.raises(PayloadTooLarge):
        sample_frames(data, 2, VideoLimits(max_bytes=len(data) - 1))


def test_a_last_frame_that_stands_for_ever_is_refused() -> None:
    buffer = io.BytesIO()
    first, *rest = (Image.fromarray(frame) for frame in greys(3))
    first.save(buffer, "WEBP", save_all=True, append_images=rest, duration=[100, 100, 2**24 - 1], lossless=True)
    assert refused(buffer.getvalue()).code == "video_too_long"
    data = encode(greys(1))
    # One frame, whose duration is the last number of `stts` (ISO/IEC 14496-12, section 8.6.1.2).
    at = data.index(b"stts") + 16
    data = data[:at] + struct.pack(">I", 2**31 - 1) + data[at + 4 :]
    assert refused(data).code == "video_too_long"


def test_frames_that_a_container_names_in_the_order_of_decoding_only() -> None:
    data = encode(greys(20), "avi", codec="libx264")  # with B-frames, for whose times AVI has no place
    assert numbers(sample_frames(data, 8)) == [0, 2, 5, 8, 10, 13, 16, 19]
    assert numbers(sample_frames(data, 2)) == [0, 19]


class Ticking:
    """One second passes between any two looks."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


@pytest.mark.parametrize("container", ["mp4", "webp"])
def test_decoding_ends_at_the_deadline(container: str) -> None:
    with pytest.raises(DeadlineExceeded):
        sample_frames(FILES[container], 4, deadline=10, clock=Ticking())
    with pytest.raises(InvalidMedia, match="longer than 10 s") as caught:
        sample_frames(FILES[container], 4, VideoLimits(decode_s=10), clock=Ticking())
    assert caught.value.code == "video_too_large"


def test_an_empty_file_and_sound_alone_are_no_video() -> None:
    assert refused(b"").code == "invalid_video"
    error = refused(sound())
    assert error.code == "invalid_video"
    assert "no video track" in error.message


def test_a_rare_codec_is_named() -> None:
    error = refused(encode(greys(2), "avi", codec="flv"))
    assert error.code == "unsupported_video_type"
    assert "flv" in error.message


@pytest.mark.parametrize("container", sorted(FILES))
def test_a_cut_file_is_refused(container: str) -> None:
    data = FILES[container]
    for share in (0.02, 0.1, 0.5, 0.9, 0.99):
        cut = data[: int(len(data) * share)]
        assert refused(cut).code == "invalid_video", share


@pytest.mark.parametrize("container", [*sorted(FILES), "gif"])
def test_damage_never_gives_more_than_an_error(container: str) -> None:
    """Bytes changed at random: frames of the right number and kind, or one of our errors."""
    random_ = random.Random(container)
    original = FILES.get(container) or encode(greys(8), "gif")
    refusals = 0
    for _ in range(60):
        data = bytearray(original)
        for _ in range(random_.choice((1, 5, 50))):
            data[random_.randrange(len(data))] = random_.randrange(256)
        try:
            frames = sample_frames(bytes(data), 3, VideoLimits(max_pixels=1 << 20))
        except InvalidRequest as error:
            refusals += 1
            assert error.code in ("invalid_video", "unsupported_video_type", "video_too_large", "video_too_long")
        else:
            assert (frames.shape[0], frames.shape[3], frames.dtype) == (3, 3, np.uint8)
    assert refusals


@pytest.mark.parametrize("container", sorted(FILES))
def test_the_edge_knows_the_containers(container: str) -> None:
    assert inspect_video(FILES[container], LIMITS) == FAMILIES[container]


@pytest.mark.parametrize(
    ("container", "declared", "fits"),
    [
        ("mp4", "video/mp4", True),
        ("mp4", "VIDEO/MP4; codecs=avc1", True),
        ("mov", "video/quicktime", True),
        ("mp4", "application/octet-stream", True),
        ("matroska", "video/webm", True),
        ("webm", "video/mp4", False),
        ("mp4", "image/png", False),
        ("avi", "video/x-msvideo", True),
        ("webp", "image/webp", True),
    ],
)
def test_a_declared_type_must_fit(container: str, declared: str, fits: bool) -> None:
    if fits:
        inspect_video(FILES[container], LIMITS, declared_type=declared)
        return
    with pytest.raises(InvalidMedia) as caught:
        inspect_video(FILES[container], LIMITS, declared_type=declared)
    assert caught.value.code == "invalid_video"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "invalid_video"),
        (b"hello, I am a video", "invalid_video"),
        (b"\0" * 64, "invalid_video"),
        (b"\0\0\0\x18ftypisom\0\0\0\0isommp41", "invalid_video"),  # no index follows
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "unsupported_video_type"),
        (b"\xff\xd8\xff\xe0 JPEG", "unsupported_video_type"),
        (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", "unsupported_video_type"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "unsupported_video_type"),
        (b"OggS\0\2", "unsupported_video_type"),
        ((b"G" + b"\0" * 187) * 3, "unsupported_video_type"),
    ],
)
def test_the_edge_refuses_by_the_first_bytes(data: bytes, code: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        inspect_video(data, LIMITS)
    assert caught.value.code == code
    assert refused(data).code == code


def test_the_edge_limits_bytes() -> None:
    with pytest.raises(PayloadTooLarge):
        inspect_video(FILES["mp4"], VideoLimits(max_bytes=len(FILES["mp4"]) - 1))


def encoded(size: tuple[int, int], format: str, colour: str = "red") -> EncodedImage:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, format)
    return EncodedImage(buffer.getvalue())


def png(size: tuple[int, int], colour: str = "red") -> EncodedImage:
    return encoded(size, "PNG", colour)


@pytest.fixture
def pool() -> Iterable[CpuPool]:
    made = CpuPool(2)
    yield made
    made.close()


async def test_a_prompt_gets_its_media_in_order(pool: CpuPool) -> None:
    raw = RawImage(np.full((4, 6, 3), 9, np.uint8))
    rendered = Rendered(
        "text",
        (("a", ImagePart(png((30, 20)))), ("b", ImagePart(raw)), ("c", ImagePart(png((30, 20))))),
        (("d", VideoPart(FILES["mp4"])),),
    )
    prompt = await load_prompt(rendered, pool, MediaLimits(frames=3), time.monotonic() + 60)
    assert prompt.text == "text"
    assert [image.size for image in prompt.images] == [(30, 20), (6, 4), (30, 20)]
    assert {image.mode for image in prompt.images} == {"RGB"}
    assert prompt.images[1].getpixel((0, 0)) == (9, 9, 9)
    first, second, third = prompt.image_ids
    assert first == third != second
    assert numbers(prompt.videos[0]) == [0, 9, 19]
    assert len(prompt.video_ids) == 1


@pytest.mark.parametrize(
    ("rendered", "error", "where"),
    [
        (Rendered("", (("x", ImagePart(png((2, 2)))),), ()), "image_too_small", "x"),
        (Rendered("", (("x", ImagePart(EncodedImage(b"no"))),), ()), "not_an_image", "x"),
        (Rendered("", (), (("y", VideoPart(FILES["mp4"][:-40])),)), "invalid_video", "y"),
        (
            Rendered("", (("z", ImagePart(PixelValues(np.zeros((3, 4, 4), np.float32)))),), ()),
            "unsupported_content",
            "z",
        ),
    ],
)
async def test_errors_name_the_medium(pool: CpuPool, rendered: Rendered, error: str, where: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await load_prompt(rendered, pool, MediaLimits(), time.monotonic() + 60)
    assert (caught.value.code, caught.value.param) == (error, where)


async def test_a_video_stops_at_the_requests_deadline(pool: CpuPool) -> None:
    rendered = Rendered("", (), (("y", VideoPart(FILES["mp4"])),))
    with pytest.raises(DeadlineExceeded):
        await load_prompt(rendered, pool, MediaLimits(), time.monotonic() - 1)


def test_low_detail_caps_the_longer_side() -> None:
    limits = MediaLimits(image=ImageLimits())
    source = png((1000, 500))
    low, low_id = load_image(ImagePart(source, "low"), limits)
    high, high_id = load_image(ImagePart(source, "high"), limits)
    assert (low.size, high.size) == ((512, 256), (1000, 500))
    assert low_id != high_id
    small = png((300, 200))
    assert load_image(ImagePart(small, "low"), limits)[0].size == (300, 200)
    assert load_image(ImagePart(small, "low"), limits)[1] == load_image(ImagePart(small), limits)[1]


def test_other_details_cap_the_shorter_side_or_nothing() -> None:
    limits = MediaLimits()
    for format in ("PNG", "JPEG"):  # the latter may be decoded at half its size
        source = encoded((3600, 1600), format)
        auto, auto_id = load_image(ImagePart(source), limits)
        high, high_id = load_image(ImagePart(source, "high"), limits)
        assert (auto.size, high.size) == ((1728, 768), (3600, 1600))
        assert auto_id != high_id
    panorama = encoded((3000, 700), "PNG")
    assert load_image(ImagePart(panorama), limits)[0].size == (3000, 700)
    assert load_image(ImagePart(panorama, "low"), MediaLimits(low_side=300))[0].size == (300, 70)


async def test_a_medium_is_decoded_once_for_many_turns(pool: CpuPool) -> None:
    picture = png((40, 20))
    rendered = Rendered("", (("a", ImagePart(picture)),), (("b", VideoPart(FILES["mp4"])),))
    limits, kept = MediaLimits(frames=3), DecodedMedia()

    async def prompt() -> Prompt:
        return await load_prompt(rendered, pool, limits, time.monotonic() + 60, kept)

    first, second = await prompt(), await prompt()
    assert second.images[0] is first.images[0] and second.videos[0] is first.videos[0]
    assert (second.image_ids, second.video_ids) == (first.image_ids, first.video_ids)
    assert load_image(ImagePart(picture, "low"), MediaLimits(low_side=20), kept)[0].size == (20, 10)
    assert load_image(ImagePart(png((20, 40))), limits, kept)[0].size == (20, 40)


def test_what_is_kept_is_bounded() -> None:
    kept = DecodedMedia(3 * 100 * 100)
    small, large = ImagePart(png((100, 100))), ImagePart(png((100, 101)))
    one = load_image(small, MediaLimits(), kept)[0]
    assert load_image(small, MediaLimits(), kept)[0] is one
    assert load_image(large, MediaLimits(), kept)[0] is not load_image(large, MediaLimits(), kept)[0]
    load_image(ImagePart(png((10, 10), "blue")), MediaLimits(), kept)
    assert load_image(small, MediaLimits(), kept)[0] is not one, "it made room"


def test_a_bad_image_is_refused_each_time() -> None:
    kept = DecodedMedia()
    for _ in range(2):
        with pytest.raises(InvalidRequest):
            load_image(ImagePart(EncodedImage(b"no")), MediaLimits(), kept)


def test_equal_bytes_of_other_shape_are_another_image() -> None:
    pixels = np.arange(4 * 8 * 3, dtype=np.uint8)
    ids = {load_image(ImagePart(RawImage(pixels.reshape(h, w, 3))), MediaLimits())[1] for h, w in ((4, 8), (8, 4))}
    assert len(ids) == 2
