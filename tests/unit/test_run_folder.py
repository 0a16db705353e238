"""`state.run_dir`: the folder of a cluster that runs, and what it leaves alone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from serve.cli import app
from serve.config.load import ConfigErrors
from serve.errors import ConfigError
from serve.runtime import state


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_what_is_made_is_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tmp_path / "a" / "run"
    monkeypatch.setenv("ARGUS_RUN_DIR", str(base))
    assert state.run_dir("demo") == base / "demo"
    assert (mode(base), mode(base / "demo")) == (0o700, 0o700)
    assert state.run_dir("demo") == base / "demo"


@pytest.mark.parametrize("shared", [0o755, 0o1777])
def test_a_folder_that_was_there_keeps_its_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared: int) -> None:
    monkeypatch.setenv("ARGUS_RUN_DIR", str(tmp_path))
    tmp_path.chmod(shared)
    state.run_dir("demo")
    assert (tmp_path.stat().st_mode & 0o7777, mode(tmp_path / "demo")) == (shared, 0o700)


def test_a_cluster_s_own_folder_that_others_can_read_is_refused_and_left_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARGUS_RUN_DIR", str(tmp_path))
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo").chmod(0o755)
    with pytest.raises(ConfigError, match="chmod 700"):
        state.run_dir("demo")
    assert mode(tmp_path / "demo") == 0o755


@pytest.mark.parametrize("name", ["/etc", "../x", "..", "", "a/b", "UP", "demo\n"])
def test_a_name_cannot_leave_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    base = tmp_path / "run"
    monkeypatch.setenv("ARGUS_RUN_DIR", str(base))
    for command in ("status", "down"):
        ran = CliRunner().invoke(app, [command, "--name", name])
        assert isinstance(ran.exception, ConfigErrors)
        assert "is no name of a cluster" in ran.exception.message
    assert not base.exists()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_a_folder_inside_somebody_else_s_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tmp_path / "run"
    base.mkdir(mode=0o700)
    os.chown(base, 4242, 4242)
    monkeypatch.setenv("ARGUS_RUN_DIR", str(base))
    with pytest.raises(ConfigError, match="belongs to another user"):
        state.run_dir("demo")
