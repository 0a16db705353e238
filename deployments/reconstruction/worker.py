"""`python -m deployments.reconstruction.worker FOLDER PARENT`: works on one folder until it is done.

PARENT is the id of the process that starts it.

A process of its own, since COLMAP may end its process, and since a process can be stopped at any moment. It ends when
its parent does.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Final

from deployments.jobs.types import Failure
from deployments.reconstruction.folder import WorkFolder
from deployments.reconstruction.messages import Status
from serve.errors import ArgusError, ModelFailed

# prctl(2).
_PR_SET_PDEATHSIG: Final = 1
# Serving goes first.
_NICE: Final = 10


def main() -> None:
    """Exit status 0 when the status says how it ended, whether well or not."""
    folder = WorkFolder(Path(sys.argv[1]))
    _end_with_parent(int(sys.argv[2]))
    os.nice(_NICE)
    logging.basicConfig(level=logging.WARNING)
    try:
        _run(folder)
    except ArgusError as error:
        _fail(folder, error)
    except Exception as error:
        logging.exception("a reconstruction failed")
        _fail(folder, ModelFailed(f"The reconstruction failed: {type(error).__name__}: {str(error)[:300]}"))


def _run(folder: WorkFolder) -> None:
    import cv2
    import pycolmap

    from deployments.gpu import cap_allocator
    from deployments.reconstruction.pipeline import Pipeline

    spec = folder.spec()
    if spec.gpu_memory_gb:
        cap_allocator(spec.gpu_memory_gb)
    # The log is a file that nobody rotates.
    pycolmap.logging.minloglevel = pycolmap.logging.WARNING.value
    cv2.setNumThreads(spec.threads)
    Pipeline(folder).run()


def _fail(folder: WorkFolder, error: ArgusError) -> None:
    status: Status = folder.status()
    failed = Failure(type(error).__name__, error.code, error.message, error.param)
    folder.tell(replace(status, state="failed", failure=failed, eta_s=None))


def _end_with_parent(parent: int) -> None:
    """The kernel kills this process when its parent is gone; and it may be gone already."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


if __name__ == "__main__":
    main()
