"""Whatever bytes are read as a scene, the answer is a scene or an error of ours, and memory stays bounded."""

from __future__ import annotations

import io
import random
import tracemalloc
from functools import cache

from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from benchmarks import scene_files
from benchmarks.scene_damage import DAMAGE, whole_files
from deployments.splat import formats, scene_file
from deployments.splat.formats import FORMATS, FormatName
from serve.errors import ArgusError

_CODES = {"invalid_scene", "too_many_gaussians", "unknown_scene_format"}
_MOST_GAUSSIANS = 1_000_000
_MOST_BYTES = 20_000_000


@cache
def files() -> dict[str, bytes]:
    return whole_files(300)


def read_somehow(data: bytes, format: FormatName | None) -> str:
    """`read`, or the code of the error; anything else fails the test."""
    tracemalloc.start()
    try:
        scene = formats.read(data, format, max_gaussians=_MOST_GAUSSIANS)
    except ArgusError as error:
        assert error.code in _CODES, error
        assert len(error.message) < 500
        return error.code
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < _MOST_BYTES
    scene_file.check(scene)
    return "read"


@settings(deadline=None, max_examples=400, derandomize=True)
@given(st.sampled_from(FORMATS), st.sampled_from(sorted(DAMAGE)), st.integers(0, 2**32))
def test_damaged_files(format: FormatName, damage: str, seed: int) -> None:
    result = read_somehow(DAMAGE[damage](files()[format], random.Random(seed)), format)
    if damage == "none":
        assert result == "read"


@settings(deadline=None, max_examples=150, derandomize=True)
@given(
    st.sampled_from([None, *FORMATS]),
    st.sampled_from([b"", b"ply\nformat binary_little_endian 1.0\n", b"\x1f\x8b\x08\x00", b"PK\x03\x04", b"{"]),
    st.binary(max_size=500),
)
def test_any_bytes(format: FormatName | None, start: bytes, data: bytes) -> None:
    # gaussforge reads what begins with NGSP; it does so in a process of its own below.
    if not (start + data).startswith(b"NGSP"):
        read_somehow(start + data, format)


def test_damage_can_be_read_and_can_be_refused() -> None:
    """Else the tests above would say nothing."""
    results = {
        damage: {read_somehow(make(files()["ply"], random.Random(seed)), None) for seed in range(30)}
        for damage, make in DAMAGE.items()
    }
    assert results["none"] == {"read"}
    assert {"read", "invalid_scene"} <= results["bits"]
    assert results["cut"] == {"invalid_scene", "unknown_scene_format"} or results["cut"] == {"invalid_scene"}
    assert "too_many_gaussians" in results["count"]


def test_what_is_left_to_a_library_in_cpp_is_read_in_a_process_that_can_be_killed() -> None:
    report = scene_files.run(cases=6, seed=3, progress=Console(file=io.StringIO()), only=("spz 4",))
    assert report.misses == []
    rows = {row["damage"]: row for row in report.rows}
    assert rows["none"]["read"] == 1
    assert rows["cut"]["refused"] + rows["cut"]["crashed"] == 6
