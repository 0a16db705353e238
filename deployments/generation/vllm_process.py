"""Where vLLM's engine process comes from, and that it never outlives us.

vLLM spawns: a new interpreter imports torch, transformers and vLLM again, 12 s of CPU time on the build machine. On a
CPU a fork server that has imported them already serves instead. It starts while this process imports vLLM itself, and
stays, so that an engine that died is back within seconds. It has run no model and started no thread when it forks,
which is what makes forking safe. With CUDA, vLLM's own way is kept: there, loading weights decides.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import forkserver
from typing import Any

_PRELOAD = "deployments.generation.vllm_preload"
_users: set[int] = set()


def use_fork_server(user: object) -> None:
    """Starts the fork server, unless it runs. The environment at this moment is that of every engine it makes."""
    _users.add(id(user))
    multiprocessing.set_forkserver_preload([_PRELOAD])
    forkserver.ensure_running()


def leave_fork_server(user: object) -> None:
    """Ends the fork server once its last user has left; it holds 0.3 GB of its own. Blocks for a moment."""
    _users.discard(id(user))
    # The standard library ends it with this process only; these are the names by which its own tests do it.
    server: Any = forkserver._forkserver
    if not _users and server._forkserver_pid is not None:
        # It holds nothing to save, and taking down an interpreter with that many modules takes seconds.
        os.kill(server._forkserver_pid, signal.SIGKILL)
        server._stop()


@contextmanager
def engine_from_fork_server() -> Iterator[None]:
    """Inside, vLLM makes its engine process with the fork server.

    vLLM (0.32) has no setting for this: it knows `fork` and `spawn`, and forces the latter on a CPU.
    """
    import vllm.v1.engine.utils

    utils: Any = vllm.v1.engine.utils
    original = utils.get_mp_context
    utils.get_mp_context = lambda: multiprocessing.get_context("forkserver")
    try:
        yield
    finally:
        utils.get_mp_context = original


def end_with_parent() -> None:
    """In an engine process: ends it when the process that asked for it is gone, however that went.

    vLLM's engine notices a parent that closes it, not one that is killed; it would keep its memory for ever.
    """
    parent = multiprocessing.parent_process()
    if parent is None or not multiprocessing.current_process().name.startswith("EngineCore"):
        return

    def watch() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True, name="end-with-parent").start()
