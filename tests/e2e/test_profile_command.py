"""`argus profile` on the demo's CLIP, from the command line to a file that simulator and planner can read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.capacity.profiles import HardwareProfile, load_profile, shipped_profiles

ROOT = Path(__file__).parents[2]

# Slow: six loads of a cluster of its own; the arithmetic is in tests/unit/test_profiler*.py.
pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, HardwareProfile]:
    """The file, which had another model in it before, and what the command printed."""
    path = tmp_path_factory.mktemp("profile") / "mine.yaml"
    command = [sys.executable, "-m", "serve", "profile", "clip", "--seconds", "6", "--out", str(path), "--json"]
    done = subprocess.run(command, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return path, HardwareProfile.model_validate(json.loads(done.stdout.splitlines()[-1]))


def test_the_file_holds_what_was_printed(written: tuple[Path, HardwareProfile]) -> None:
    path, printed = written
    found = load_profile(path)
    assert set(found.models) == set(printed.models) == {"demo:clip"}
    assert found.models["demo:clip"].start_s == pytest.approx(printed.models["demo:clip"].start_s, rel=1e-3)
    assert path.read_text().splitlines()[0] == "# Measured by argus profile; each entry's provenance has its command."


def test_larger_batches_take_longer_and_an_item_of_them_less(written: tuple[Path, HardwareProfile]) -> None:
    forward = written[1].models["demo:clip"].forward
    seconds = {one.items: one.seconds.seconds[5] for one in forward}
    assert 1 in seconds and 32 in seconds
    assert seconds[1] < seconds[8] < seconds[32]
    assert seconds[32] / 32 < seconds[1]


def test_everything_around_the_model_was_measured(written: tuple[Path, HardwareProfile]) -> None:
    profile = written[1]
    clip = profile.models["demo:clip"]
    assert clip.provenance.kind == "measured" and "argus profile" not in clip.provenance.machine
    assert clip.preprocess.samples and clip.overhead.samples and profile.router.latency.samples
    assert 0.1 < clip.memory_gb < 8
    assert clip.start_s > 1
    assert clip.cores == 1 and profile.cores == (os.cpu_count() or 1)
    assert 0 < profile.router.cpu.mean < 0.1
    assert profile.router.ingress_cpu_s > 0 and profile.router.client_cpu_s > 0
    assert 0 <= clip.imbalance <= 1


def test_the_shipped_file_is_of_the_same_kind(written: tuple[Path, HardwareProfile]) -> None:
    shipped = shipped_profiles()["cpu-demo"]
    assert shipped.models["demo:clip"].kind == written[1].models["demo:clip"].kind
    assert [one.items for one in shipped.models["demo:clip"].forward] == [
        one.items for one in written[1].models["demo:clip"].forward
    ]
