"""Scene files that are damaged, or made to do harm: each is refused with its reason, before memory is taken for it."""

from __future__ import annotations

import gzip
import io
import math
import struct
import tracemalloc
import zipfile
from collections.abc import Callable

import numpy as np
import pytest

from deployments.splat import formats
from deployments.splat.formats import FORMATS, FormatName
from deployments.splat.motion import Motion
from serve.errors import InvalidMedia, PayloadTooLarge, UnsupportedMedia
from tests.support.gaussians import random_scene
from tests.support.scene_bytes import (
    ONE,
    ply_by_hand,
    sog_with,
    spz_4,
    spz_by_hand,
    webp,
    webp_that_claims,
    without,
)


def endless(period_s: float, wave: float, axes: int = 3) -> bytes:
    waves = np.full((3, 1, 2, axes), wave, np.float32)
    return formats.write(random_scene(3, motion=Motion(period_s, waves, np.zeros((3, 3), np.float32))), "argus")


def zipped(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED, *, damaged: bool = False) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    made = bytearray(buffer.getvalue())
    if damaged:  # the properties of LZMA, behind the first member's header and name
        made[30 + 9 + 4 : 30 + 9 + 9] = b"\xff" * 5
    return bytes(made)


SPZ_CUT = gzip.compress(struct.pack("<4sIIBBBB", b"NGSP", 2, 2, 0, 12, 0, 0) + bytes(37))


COMPRESSED = formats.write(random_scene(300, 1), "compressed_ply")


SPZ_4 = b"NGSP" + struct.pack("<IIBBBB", 4, 4_000_000_000, 0, 12, 0, 6) + bytes(100)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (ply_by_hand(ONE, form="text"), "is text; there are binary_little_endian, binary_big_endian, ascii"),
        (ply_by_hand(ONE, form="ascii", count=2), "announces 2 Gaussians, it holds 1"),
        (ply_by_hand(ONE, form="ascii").replace(b"1.5 1.5", b"1.5"), "has 13 numbers; its header announces 14"),
        (ply_by_hand(ONE, form="ascii").replace(b"1.5 1.5", b"1.5 one"), "not lines of numbers"),
        (ply_by_hand(ONE | {"y": math.nan}, form="ascii"), "Gaussian 0 has a position that is not a number"),
        (ply_by_hand(ONE | {"y": 1e99}, form="ascii"), "Gaussian 0 has a position that is not a number, or beyond"),
        (ply_by_hand(ONE, form="ascii").partition(b"end_header\n")[0] + b"end_header\n", "it holds 0"),
        (ply_by_hand(ONE, form="binary_big_endian")[:-1], "announces 1 Gaussians, it holds 0"),
        (COMPRESSED.replace(b"little", b"big"), "compressed PLY file is binary_big_endian"),
        (ply_by_hand(without("opacity", "rot_0")), "a mesh or a cloud of points, not Gaussians"),
        (ply_by_hand(without("rot_3")), "have no rot_3"),
        (ply_by_hand(ONE | {"f_rest_0": 0.0}), "1 properties f_rest_*"),
        (ply_by_hand(ONE | {f"f_rest_{index}": 0.0 for index in range(1, 10)}), "9 properties f_rest_*"),
        (ply_by_hand(ONE, kind="int"), "Property x of the PLY file is a whole number"),
        (ply_by_hand(ONE, count=2), "announces 2 Gaussians, it holds 1"),
        (ply_by_hand(ONE, count=0), "no Gaussians"),
        (ply_by_hand(ONE)[:60], "header does not end"),
        (ply_by_hand(ONE).replace(b"float rot_3", b"list uchar int rot_3"), "no lists"),
        (ply_by_hand(ONE).replace(b"float rot_3", b"half rot_3"), "Line 18 of the PLY file's header is not understood"),
        (ply_by_hand(ONE).replace(b"float rot_3", b"float rot_2"), "has rot_2 twice"),
        (ply_by_hand(ONE).replace(b"element vertex", b"element face"), "first element must be its vertices"),
        (ply_by_hand(ONE).replace(b"vertex 1", b"vertex -1"), "not understood"),
        (ply_by_hand(ONE).replace(b"by hand", b"by h\xe4nd"), "is not ASCII"),
        (ply_by_hand(ONE | {"y": math.nan}), "Gaussian 0 has a position that is not a number"),
        (ply_by_hand(ONE | {"y": 1e30}), "Gaussian 0 has a position"),
        (ply_by_hand(ONE | {"scale_2": 200.0}), "Gaussian 0 has a scale"),
        (ply_by_hand(ONE | {"opacity": math.nan}), "Gaussian 0 has an opacity"),
        (ply_by_hand(ONE | {"f_dc_1": math.inf}), "Gaussian 0 has a colour"),
        (ply_by_hand(ONE | {"rot_0": 0.0}), "Gaussian 0 has a rotation of length 0"),
        (struct.pack("<6f8B", 0, 0, 0, 1, -1, 1, 9, 9, 9, 9, 255, 0, 0, 0), "Gaussian 0 has a negative scale"),
        (struct.pack("<6f8B", 0, 0, 0, 1, 1, 1, 9, 9, 9, 9, 128, 128, 128, 128), "rotation of length 0"),
        (bytes(33), "32 bytes a Gaussian; this one has 1 left over"),
        (b"", "no Gaussians"),
        (SPZ_CUT, "cut off: 2 Gaussians need 38 bytes"),
        (gzip.compress(b"a text"), "does not begin with NGSP"),
        (b"\x1f\x8b" + bytes(50), "gzip stream is damaged"),
        (spz_by_hand(1, b"abc"), "of version 1; 2, 3 and 4 are read"),
        (spz_4({4: 4_000_000_000}), "announce [18, 2, 6, 6, 4000000000] bytes unpacked; [18, 2, 6, 6, 8] are right"),
        (spz_4({})[:18], "cut off in its header"),
        (spz_4({})[:60], "not all of their table"),
        (spz_4({})[:-1], "more bytes than it has"),
        (COMPRESSED[:-1], "is cut off"),
        (COMPRESSED.replace(b"chunk 2", b"chunk 3"), "300 Gaussians do not fit 3 chunks"),
        (COMPRESSED.replace(b"uint packed_scale", b"float packed_scale"), "unsigned integers"),
        (COMPRESSED.replace(b"float min_y", b"uint min_y"), "have the floats"),
        (COMPRESSED.replace(b"element sh 300", b"element sh 299"), "one row a Gaussian"),
        (COMPRESSED.replace(b"f_rest_8", b"f_rest_9"), "in order"),
        (sog_with(version=1), "of version 1; version 2 is read"),
        (sog_with(count=3), "it must hold 3 pixels"),
        (sog_with(count="many"), "meta.json is not of version 2"),
        (sog_with(means={}), "meta.json is not of version 2"),
        (sog_with(means={"mins": [0, 0], "maxs": [1, 1, 1], "files": ["means_l.webp", "means_u.webp"]}), "3 numbers"),
        (sog_with(scales={"codebook": [0.0], "files": ["scales.webp"]}), "beyond a codebook of 1"),
        (sog_with(scales={"codebook": [0.0], "files": ["../secret"]}), "not of version 2"),
        (sog_with(shN={"count": 70_000, "bands": 1, "codebook": [0.0] * 256, "files": ["a", "b"]}), "70000 entries"),
        (sog_with(quats=webp(2, 1, 7)), "has the tag 7"),
        (sog_with(more="x" * 2_000_000), "meta.json of the SOG file is larger"),
        (sog_with(quats=webp(1, 1)), "it must hold 2 pixels"),
        (sog_with(quats=webp(2000, 2000)), "it must hold 2 pixels"),
        (sog_with(quats=webp_that_claims(16_383)), "not a picture that can be read"),
        (sog_with(quats=webp_that_claims(9_000)), "9000 x 9000; it must hold 2 pixels"),
        (sog_with(quats=b"RIFF but not a picture"), "not a picture that can be read"),
        (sog_with()[:-30], "archive is damaged"),
        (formats.write(random_scene(3), "argus")[:-1], "scene file of ours"),
        (struct.pack("<Q", 200_000) + b'{"a":' + b"[" * 199_995, "scene file of ours"),
        (endless(math.inf, 1.0), "motion does not fit"),
        (endless(1.0, 0.0, axes=5), "motion does not fit"),
        (endless(1e-320, 0.0), "motion does not fit"),
        (zipped({"meta.json": b"[]"}), "meta.json is not of version 2"),
        (zipped({"meta.json": b"{}" * 500}, zipfile.ZIP_LZMA, damaged=True), "archive is damaged"),
        (endless(1.0, 1e38), "moves further than"),
    ],
)
def test_a_file_that_is_not_right_is_refused_with_its_reason(data: bytes, message: str) -> None:
    given: FormatName | None = "splat" if len(data) in (0, 32, 33) else None
    with pytest.raises(InvalidMedia) as caught:
        formats.read(data, given, max_gaussians=5_000_000_000)
    assert message in caught.value.message
    assert caught.value.code == "invalid_scene"


@pytest.mark.parametrize("format", FORMATS)
def test_more_gaussians_than_allowed_are_refused(format: FormatName) -> None:
    with pytest.raises(PayloadTooLarge) as caught:
        formats.read(formats.write(random_scene(101, 0), format), max_gaussians=100)
    assert caught.value.code == "too_many_gaussians"
    assert "101" in caught.value.message


@pytest.mark.parametrize(
    "data",
    [
        ply_by_hand(ONE, count=4_000_000_000_000),
        gzip.compress(struct.pack("<4sIIBBBB", b"NGSP", 3, 4_000_000_000, 3, 12, 0, 0)),
        SPZ_4,
        sog_with(count=4_000_000_000),
        COMPRESSED.replace(b"chunk 2", b"chunk 15625000").replace(b" 300", b" 4000000000"),
    ],
)
def test_a_count_is_believed_before_memory_is_taken_for_it(data: bytes) -> None:
    with pytest.raises(PayloadTooLarge):
        formats.read(data, max_gaussians=5_000_000)


def test_a_stream_is_unpacked_little_further_than_its_header_says() -> None:
    head = struct.pack("<4sIIBBBB", b"NGSP", 3, 1, 0, 12, 0, 0)
    assert len(formats.read(gzip.compress(head + bytes(20 + 1000)), max_gaussians=10)) == 1  # extensions are left alone
    data = gzip.compress(head + bytes(50_000_000))
    assert len(data) < 100_000
    assert peak_memory(lambda: refused(data, "far more in it")) < 5_000_000


def test_a_picture_is_unpacked_only_when_its_size_is_right() -> None:
    data = sog_with(quats=webp(3000, 3000))
    assert peak_memory(lambda: refused(data, "3000 x 3000")) < 3_000_000


def test_a_palette_is_bounded_by_its_own_size() -> None:
    meta = {"count": 1024, "bands": 1, "codebook": [0.0] * 256, "files": ["shN_centroids.webp", "shN_labels.webp"]}
    bomb = webp(192, 16, 0) + bytes(30_000_000)
    data = sog_with(shN=meta, shN_centroids=bomb, shN_labels=webp(2, 1, 0))
    assert len(data) < 200_000
    assert peak_memory(lambda: refused(data, "shN_centroids.webp of the SOG file is larger")) < 3_000_000
    other = sog_with(shN=meta, shN_centroids=webp(192, 17, 0), shN_labels=webp(2, 1, 0))
    refused(other, "192 x 17; 192 x 16 is right")


def refused(data: bytes, message: str) -> None:
    with pytest.raises(InvalidMedia, match=message):
        formats.read(data, max_gaussians=10)


def peak_memory(work: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_what_is_no_scene_is_not_guessed_at() -> None:
    for data in (
        b"",
        b"GIF89a" + bytes(100),
        b"\x89PNG\r\n" + bytes(26),
        bytes(64),
        b"a text of 32 bytes, or so it is",
    ):
        with pytest.raises(UnsupportedMedia) as caught:
            formats.detect(data)
        assert caught.value.code == "unknown_scene_format"
    # A name decides where nothing else does.
    assert formats.detect(bytes(64), "scene.SPLAT") == "splat"
    assert formats.detect(formats.write(random_scene(3), "ply"), "scene.splat") == "ply"
