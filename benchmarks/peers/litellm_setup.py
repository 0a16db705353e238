"""Makes `.peers/litellm`, the environment of the LiteLLM peer: `python -m benchmarks.peers.litellm_setup`.

It is apart from ours because LiteLLM is a peer and never a dependency: two of its releases (1.82.7 and 1.82.8, March
2026) carried a credential stealer (github.com/BerriAI/litellm/issues/24518). The version is pinned, and the drill gives
it no key but the fake servers'.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks.peers.setup import PeerUnavailable

LITELLM = Path(__file__).parents[2] / ".peers" / "litellm"
REQUIREMENT = "litellm==1.110.2"


def litellm_python() -> Path:
    """The interpreter of the peer.

    Raises:
        PeerUnavailable: the environment is not there.
    """
    if not (LITELLM / "complete").is_file():
        raise PeerUnavailable("not installed; make it with: python -m benchmarks.peers.litellm_setup")
    return LITELLM / "bin" / "python"


def set_up() -> None:
    """Makes the environment.

    Raises:
        PeerUnavailable: the environment cannot be made, or pip failed.
    """
    LITELLM.parent.mkdir(exist_ok=True)
    for command in (
        [sys.executable, "-m", "venv", str(LITELLM)],
        [str(LITELLM / "bin" / "python"), "-m", "pip", "install", "--quiet", REQUIREMENT],
    ):
        if subprocess.run(command, check=False).returncode:
            raise PeerUnavailable(f"{' '.join(command)} failed")
    (LITELLM / "complete").touch()


if __name__ == "__main__":
    try:
        set_up()
    except PeerUnavailable as problem:
        sys.exit(str(problem))
    print(f"The LiteLLM peer is installed in {LITELLM}.")
