"""Makes `.peers/bargain`, the environment of the BARGAIN peer: `python -m benchmarks.peers.bargain_setup`.

It is apart from ours because the peer wants pandas and openai, whose versions are no business of its.
"""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

from benchmarks.peers.setup import ROOT, PeerUnavailable

FOLDER = ROOT / ".peers" / "bargain"
REQUIREMENT = "bargain==0.1.3"


def bargain_python() -> Path:
    """The interpreter of the peer.

    Raises:
        PeerUnavailable: the environment is not there.
    """
    if not (FOLDER / "complete").is_file():
        raise PeerUnavailable("not installed; make it with: python -m benchmarks.peers.bargain_setup")
    return FOLDER / "bin" / "python"


def set_up() -> None:
    """Makes the environment.

    Raises:
        PeerUnavailable: pip failed.
    """
    venv.create(FOLDER, with_pip=True)
    command = [str(FOLDER / "bin" / "pip"), "install", "--quiet", REQUIREMENT]
    if subprocess.run(command, check=False).returncode:
        raise PeerUnavailable(f"{' '.join(command)} failed")
    (FOLDER / "complete").touch()


if __name__ == "__main__":
    try:
        set_up()
    except PeerUnavailable as problem:
        sys.exit(str(problem))
    print(f"The BARGAIN peer is installed in {FOLDER}.")
