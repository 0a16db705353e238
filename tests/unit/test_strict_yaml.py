"""What is no good YAML is refused wherever we read some: catalogues, profiles, targets, cluster files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from benchmarks import targets
from benchmarks.capacity import profiles
from benchmarks.capacity.planner import catalogue
from serve.config import load
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


@pytest.mark.parametrize(
    ("read", "shipped", "number", "key"),
    [
        (catalogue.load_catalogue, catalogue.SHIPPED, "usd_per_hour: 0.752", "usd_per_hour"),
        (profiles.load_profile, profiles.SHIPPED / "cpu-demo.yaml", "cores: 2.0", "cores"),
        (profiles.load_profile, profiles.SHIPPED / "cpu-demo.yaml", "seconds: [0.0", "router.latency.seconds"),
        (targets.load_targets, targets.SHIPPED, "qps: 60", "qps"),
        (targets.load_targets, targets.SHIPPED, "rate_per_s: 1", "arrivals.poisson.rate_per_s"),
        (load_file, Path(load.__file__).parent / "profiles/demo.yaml", "cpus: 2", "node_pools.local.cpus"),
    ],
    ids=["price", "cores", "in a list", "goal", "arrivals", "cluster file"],
)
def test_true_is_not_the_number_1(
    tmp_path: Path, read: Callable[[Path], object], shipped: Path, number: str, key: str
) -> None:
    text = shipped.read_text(encoding="utf-8")
    assert number in text
    path = tmp_path / "file.yaml"
    value = number.rsplit(" ", 1)[-1]
    path.write_text(text.replace(number, number.replace(value, "[true" if value[0] == "[" else "true"), 1))
    with pytest.raises(ConfigError, match=f"{key}.*nput should hold neither true nor false"):
        read(path)


def test_booleans_stand_where_they_are_meant_and_in_schemas(tmp_path: Path) -> None:
    schema = {"type": "object", "additionalProperties": False}
    step = {"name": "only", "use": "llava", "task": "extract"}
    data = {
        "name": "test",
        "node_pools": {"local": {}},
        "pack_nodes": True,
        "models": {"llava": {"kind": "llava", "checkpoint": "demo:llava"}},
        "cascades": {"one": {"answer": "json", "json_schema": schema, "steps": [step]}},
    }
    path = tmp_path / "file.yaml"
    path.write_text(yaml.safe_dump(data))
    cluster = load_file(path)
    assert cluster.pack_nodes and cluster.cascades["one"].json_schema == schema


@pytest.mark.parametrize("read", _READERS, ids=lambda read: read.__module__)
def test_a_file_that_is_not_there_is_refused(tmp_path: Path, read: Callable[[Path], object]) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        read(tmp_path / "none.yaml")
