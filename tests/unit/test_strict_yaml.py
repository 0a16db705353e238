"""What is no good YAML is refused wherever we read some: catalogues, profiles, targets, cluster files."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import targets
from benchmarks.capacity import profiles
from benchmarks.capacity.planner import catalogue
from serve.config import load
from serve.config.load import load_file
from serve.config.strict_yaml import StrictLoader, read_yaml
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
        (b"[" * 5000, "is not YAML"),
        (b"count: !!int one\n", "is not YAML: invalid literal"),
        (b"nodes: [\n", "is not YAML"),
    ],
    ids=["twice", "latin-1", "deep", "tag", "open"],
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
    ("read", "shipped", "before", "key"),
    [
        (catalogue.load_catalogue, catalogue.SHIPPED, "usd_per_hour: ", "usd_per_hour"),
        (profiles.load_profile, profiles.SHIPPED / "cpu-demo.yaml", "cores: ", "cores"),
        (profiles.load_profile, profiles.SHIPPED / "cpu-demo.yaml", "seconds: [", "router.latency.seconds"),
        (targets.load_targets, targets.SHIPPED, "qps: ", "qps"),
        (targets.load_targets, targets.SHIPPED, "rate_per_s: ", "arrivals.poisson.rate_per_s"),
        (load_file, Path(load.__file__).parent / "profiles/demo.yaml", "cpus: ", "node_pools.local.cpus"),
    ],
    ids=["price", "cores", "in a list", "goal", "arrivals", "cluster file"],
)
def test_true_is_not_the_number_1(
    tmp_path: Path, read: Callable[[Path], object], shipped: Path, before: str, key: str
) -> None:
    path = tmp_path / "file.yaml"
    # Whatever number stands there: these files are measured anew now and then.
    text, replaced = re.subn(rf"(?<=\b{re.escape(before)})[\d.]+", "true", shipped.read_text(encoding="utf-8"), count=1)
    assert replaced
    path.write_text(text)
    with pytest.raises(ConfigError, match=f"{key}.*nput should hold neither true nor false"):
        read(path)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("2026-11-27", "2026-11-27"),
        ("1:30", "1:30"),
        ("no", "no"),
        ("1_000", "1_000"),
        ("=", "="),
        ("010", "010"),
        ("0o17", "0o17"),
        ("12e4567", "12e4567"),
        ("-7", -7),
        ("0", 0),
        ("0xfF", 255),
        ("1.5", 1.5),
        ("1.0e-05", 1e-05),
        (".5", 0.5),
        ("-.inf", -math.inf),
        ("", None),
        ("~", None),
        ("FALSE", False),
        ("{<<: {a: 1}, b: 2}", {"a": 1, "b": 2}),
    ],
)
def test_what_the_versions_of_yaml_read_differently_is_text(tmp_path: Path, written: str, read: object) -> None:
    path = tmp_path / "file.yaml"
    path.write_text(f"key: {written}\n")
    value = read_yaml(path)["key"]
    assert value == read and type(value) is type(read)


@given(st.text(max_size=12) | st.integers() | st.floats(allow_nan=False) | st.none() | st.booleans())
def test_what_pyyaml_writes_is_read_as_it_was(value: object) -> None:
    assert yaml.load(yaml.safe_dump({"key": value}), StrictLoader) == {"key": value}


@pytest.mark.parametrize("text", ["1e3", "0o17", "-.5", "1.5e3", "010", "1_0", "no", "=", "<<", "2026-11-27"])
def test_text_that_looks_like_more_is_read_as_it_was_written(text: str) -> None:
    assert yaml.load(yaml.safe_dump({"key": text}), StrictLoader) == {"key": text}


def test_what_another_library_does_to_the_loader_of_all_is_not_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file.yaml"
    path.write_text("at: 2026-11-27\ncount: 3\n")
    before = read_yaml(path)
    monkeypatch.setitem(yaml.SafeLoader.yaml_constructors, "tag:yaml.org,2002:timestamp", lambda *_: "changed")
    assert read_yaml(path) == before == {"at": "2026-11-27", "count": 3}


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
