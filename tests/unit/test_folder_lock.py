"""Whoever opens a store's folder waits for the process that is about to leave it."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from deployments.folder_lock import FolderLock, wait_for_predecessor
from serve.errors import Conflict

REPOSITORY = Path(__file__).parents[2]
HOLD = """
import sys
from pathlib import Path
from deployments.folder_lock import FolderLock
lock = FolderLock(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def holder(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        try:
            yield process
        finally:
            process.kill()


def test_the_next_opener_waits_until_the_folder_is_left(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        waiting = threading.Thread(target=wait_for_predecessor, args=(tmp_path, 600.0))
        waiting.start()
        waiting.join(0.3)
        assert waiting.is_alive()
        process.kill()
        waiting.join(60)
        assert not waiting.is_alive()
        FolderLock(tmp_path).release()


def test_it_does_not_wait_for_ever(tmp_path: Path) -> None:
    with holder(tmp_path):
        wait_for_predecessor(tmp_path, 0.2)
        with pytest.raises(Conflict) as caught:
            FolderLock(tmp_path)
    assert caught.value.code == "store_locked"


def test_a_folder_that_is_not_there_is_nobodys(tmp_path: Path) -> None:
    wait_for_predecessor(tmp_path / "absent", 600.0)
    assert not (tmp_path / "absent").exists()
