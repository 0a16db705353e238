"""What is no good YAML is refused wherever we read some: catalogues, profiles, targets, cluster files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import targets
from benchmarks.capacity import profiles
from benchmarks.capacity.planner import catalogue
from serve.config.load import load_file
from serve.errors import ConfigError

_READERS: tuple[Callable[[Path], object], ...] = (
    catalogue.load_catalogue,
    profiles.load_profile,
    targets.load_targets,
    load_file,
)


@pytest.mark.parametrize("read", _READERS, ids=lambda read: read.__module__)
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"version: 1\nnodes:\n  t4: {cpus: 1, cpus: 2}\n", "key 'cpus' stands twice in one mapping, line 3"),
        (b"name: caf\xe9\n", "is not YAML: 'utf-8' codec can't decode"),
        (b"date: 2026-13-45\n", "is not YAML: month must be in 1..12"),
        (b"[" * 5000, "is not YAML"),
        (b"nodes: [\n", "is not YAML"),
    ],
    ids=["twice", "latin-1", "date", "deep", "open"],
)
def test_a_file_that_is_no_good_yaml_is_refused(
    tmp_path: Path, read: Callable[[Path], object], content: bytes, says: str
) -> None:
    path = tmp_path / "file.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as error:
        read(path)
    assert error.value.message.startswith(f"{path}: ")
    assert says in error.value.message


@pytest.mark.parametrize("read", _READERS, ids=lambda read: read.__module__)
def test_a_file_that_is_not_there_is_refused(tmp_path: Path, read: Callable[[Path], object]) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        read(tmp_path / "none.yaml")
