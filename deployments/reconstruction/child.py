"""The worker process of one folder, as its parent sees it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Final

from deployments.jobs.types import Failure
from deployments.reconstruction.folder import WorkFolder
from deployments.reconstruction.messages import Status

# Times in a row that a worker may die without finishing a stage.
_MOST_DEATHS: Final = 3


class Child:
    """See the module's text. Begin it in a thread that lives as long as it shall: it ends with that thread.

    Args:
        threads: of the libraries that read their number from the environment.
    """

    def __init__(self, folder: WorkFolder, threads: int) -> None:
        self.folder = folder
        self._threads = threads
        self._deaths = 0
        self._finished: list[str] = []
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def runs(self) -> bool:
        """Whether there is a process."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        """Of the process."""
        return None if self._process is None else self._process.pid

    def begin(self) -> None:
        """Starts the process, unless there is one or nothing is left to do."""
        if self.runs or self.folder.status().ended:
            return
        self._finished = list(self.folder.finished())
        number = str(self._threads)
        environment = os.environ | {"OMP_NUM_THREADS": number, "MKL_NUM_THREADS": number, "NUMBA_NUM_THREADS": number}
        with self.folder.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "deployments.reconstruction.worker", str(self.folder.root), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                cwd=Path(__file__).parents[2],
                # A terminal's Ctrl-C is for us alone; we end it.
                start_new_session=True,
            )

    def look(self) -> Status:
        """How far the folder is; a process that has died is begun again, up to a bound."""
        status = self.folder.status()
        if status.ended or self._process is None or self.runs:
            return status
        status = self.folder.status()  # it may have ended between the two looks
        if status.ended:
            return status
        if list(self.folder.finished()) == self._finished:
            self._deaths += 1
        else:
            self._deaths = 0
        if self._deaths >= _MOST_DEATHS:
            how = _how(self._process.returncode)
            message = f"The worker {how} in stage {status.stage} {self._deaths} times."
            status = replace(status, state="failed", failure=Failure("ModelFailed", "reconstruction_crashed", message))
            self.folder.tell(status)
            return status
        self.begin()
        return status

    def stop(self) -> None:
        """Ends the process; what it had finished stays. Blocks for a moment."""
        if self._process is None or self._process.poll() is not None:
            return
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        status = self.folder.status()
        if not status.ended:
            self.folder.tell(replace(status, state="paused", eta_s=None))


def _how(code: int) -> str:
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
