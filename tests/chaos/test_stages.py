"""The model that dies where it is told to: it dies there, once, and nowhere else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.chaos.model import FOLDER, STAGES, Stage, arm, asked_again

REPOSITORY = Path(__file__).parents[2]
# Requests that come while others are in their pass; each prints its label's probability.
REQUESTS = 8
ASK = f"""
import asyncio
from benchmarks.chaos.model import Staged
from deployments.messages import Call, ClassifyRequest, EncodedImage
from serve.config.models import CustomModel

async def main():
    config = CustomModel(kind="custom", implementation="a:B", tasks=("classify",))
    model = Staged("staged", config)
    await model.check_health()
    print("healthy", flush=True)
    request = ClassifyRequest((EncodedImage(b"image"),), ("a", "b"), ("{{}}",))
    asked = []
    for number in range({REQUESTS}):
        asked.append(asyncio.create_task(model.classify(request, Call(str(number), 30.0))))
        await asyncio.sleep(0.005)
    for answer in await asyncio.gather(*asked):
        print(answer.images[0].probabilities[0], flush=True)

asyncio.run(main())
"""


def ask(folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, FOLDER: str(folder), "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(
        [sys.executable, "-c", ASK], env=environment, cwd=REPOSITORY, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("stage", STAGES)
def test_it_dies_at_its_stage_once(tmp_path: Path, stage: Stage) -> None:
    armed = arm(tmp_path, stage)
    first = ask(tmp_path)
    assert first.returncode == -signal.SIGKILL, first.stderr
    assert first.stdout.splitlines() == ["healthy"], "a probe is not what is to be hit, and no answer came out"
    assert not armed.exists()
    second = ask(tmp_path)
    assert second.returncode == 0, second.stderr
    assert second.stdout.splitlines() == ["healthy", *["0.5"] * REQUESTS]


def test_requests_that_come_again_are_counted(tmp_path: Path) -> None:
    assert asked_again(tmp_path) == 0
    assert ask(tmp_path).returncode == 0
    assert asked_again(tmp_path) == 0
    assert ask(tmp_path).returncode == 0
    assert asked_again(tmp_path) == REQUESTS
