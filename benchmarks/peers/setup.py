"""Makes `.peers/pytriton`, the environment of the Triton peer: `python -m benchmarks.peers.setup`.

It is apart from ours because nvidia-pytriton embeds the interpreter: its backend is linked against the system's
libpython3.11 and does not load under another build of Python.
"""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PYTRITON = ROOT / ".peers" / "pytriton"
SYSTEM_PYTHON = Path("/usr/bin/python3.11")
REQUIREMENTS = (
    "nvidia-pytriton==0.7.0",
    "torch==2.13.0",
    "transformers==5.19.0",
    "pillow>=13.0",
    "pydantic>=2.11",
    "pyyaml>=6.0",
)


class PeerUnavailable(Exception):
    """The peer cannot run here; the message says why and what would help."""


def triton_python() -> Path:
    """The interpreter of the Triton peer.

    Raises:
        PeerUnavailable: the environment is not there.
    """
    python = PYTRITON / "bin" / "python"
    if not (PYTRITON / "complete").is_file():
        raise PeerUnavailable("not installed; make it with: python -m benchmarks.peers.setup")
    return python


def set_up() -> None:
    """Makes the environment, or says why it cannot.

    Raises:
        PeerUnavailable: a Debian package is missing, or pip failed.
    """
    packages = "apt-get install python3.11-venv libpython3.11"
    if not SYSTEM_PYTHON.is_file():
        raise PeerUnavailable(f"{SYSTEM_PYTHON} is missing; on Debian 12: {packages}")
    try:
        ctypes.CDLL("libpython3.11.so.1.0")
    except OSError:
        raise PeerUnavailable(f"libpython3.11.so.1.0 is missing; on Debian 12: {packages}") from None
    PYTRITON.parent.mkdir(exist_ok=True)
    for command in (
        [str(SYSTEM_PYTHON), "-m", "venv", str(PYTRITON)],
        [str(PYTRITON / "bin" / "pip"), "install", "--quiet", *REQUIREMENTS],
    ):
        if subprocess.run(command, check=False).returncode:
            raise PeerUnavailable(f"{' '.join(command)} failed; if venv is missing: {packages}")
    (PYTRITON / "complete").touch()


if __name__ == "__main__":
    try:
        set_up()
    except PeerUnavailable as problem:
        sys.exit(str(problem))
    print(f"The Triton peer is installed in {PYTRITON}.")
