"""Where HAProxy's sockets lie: within what a unix socket's path may be, however a cluster is called."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from serve.errors import ConfigError
from serve.runtime.ingress import socket_folder

# Below it Ray makes a folder of a node's id, and HAProxy takes no more than 97 bytes.
BELOW = f"/{'f' * 56}/admin"


@pytest.mark.parametrize("name", ["demo", "load-classification", "n" * 60])
def test_sockets_of_a_cluster_have_short_paths(name: str) -> None:
    folder = socket_folder(Path("/tmp/argus-1000") / name)
    assert len(os.fsencode(f"{folder}{BELOW}")) <= 97
    assert folder.is_relative_to("/tmp/argus-1000"), "which nobody else may read"


def test_clusters_have_folders_of_their_own() -> None:
    folders = {socket_folder(Path("/tmp/argus-0") / name) for name in ("a" * 30, "a" * 31, "a", "b")}
    assert len(folders) == 4


def test_a_base_that_is_too_long_is_named() -> None:
    base = Path("/tmp/" + "x" * 30)
    with pytest.raises(ConfigError, match=f"{base} is too long .* at most 22 bytes") as raised:
        socket_folder(base / "demo")
    assert raised.value.param == "ARGUS_RUN_DIR"
    assert socket_folder(Path("/tmp/" + "x" * 17) / ("n" * 60)).name.startswith("ha-")
