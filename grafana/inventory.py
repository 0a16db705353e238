"""Every metric of Argus, as the code declares it: the one list that rules, dashboards and tests go by.

The source of `serve` and `deployments` is read, not run: a declaration counts wherever it stands, and reading it needs
no Ray. A declaration is a call of `Counter` or `Histogram` of `ray.util.metrics` or of our own `deployments.counters`
and `deployments.gauges`: its name, description and labels must be literals, so that what is listed is what is exported.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import deployments
import serve

Kind = Literal["counter", "gauge", "histogram"]

PREFIX = "ray_"
"""What Ray puts before every name when it exports."""

_MODULES = ("ray.util.metrics", "deployments.counters", "deployments.gauges")
_KINDS: Mapping[str, Kind] = {"Counter": "counter", "Gauge": "gauge", "Histogram": "histogram"}
_SUFFIXES: Mapping[Kind, tuple[str, ...]] = {
    "counter": ("",),
    "gauge": ("",),
    "histogram": ("_bucket", "_sum", "_count"),
}


@dataclass(frozen=True, slots=True)
class Metric:
    """One declared metric.

    Attributes:
        name: without Ray's prefix.
        labels: ours; Ray adds those of the process (`WorkerId`, `NodeAddress`, `SessionName` and so on).
        declared: `module.py:line` below the repository.
    """

    name: str
    kind: Kind
    labels: tuple[str, ...]
    description: str
    declared: str

    @property
    def exported(self) -> str:
        """The name in Prometheus; of a histogram, the part before `_bucket`."""
        return PREFIX + self.name

    @property
    def series(self) -> tuple[str, ...]:
        """Names of the series that a scrape has."""
        return tuple(self.exported + suffix for suffix in _SUFFIXES[self.kind])


@functools.cache
def inventory() -> Mapping[str, Metric]:
    """Every metric of `serve` and `deployments` by its name without prefix, in the order of names."""
    return scan([Path(folder) for package in (serve, deployments) for folder in package.__path__])


def scan(folders: Iterable[Path]) -> Mapping[str, Metric]:
    """Every metric that is declared below some folders.

    Raises:
        ValueError: a declaration that cannot be read, or two of one name.
    """
    found: dict[str, Metric] = {}
    for folder in folders:
        for path in sorted(folder.rglob("*.py")):
            for metric in _declared(path, f"{folder.name}/{path.relative_to(folder)}"):
                if (before := found.get(metric.name)) is not None:
                    raise ValueError(f"{metric.declared}: {metric.name} is also declared in {before.declared}")
                found[metric.name] = metric
    return dict(sorted(found.items()))


def by_series() -> Mapping[str, Metric]:
    """Every metric by each name that a scrape has."""
    return {series: metric for metric in inventory().values() for series in metric.series}


def _parsed(source: str) -> ast.Module:
    try:
        return ast.parse(source)
    except SystemError:
        # CPython before 3.12 counts the depth of all threads' trees in one place (python/cpython#106905).
        return ast.parse(source)


def _declared(path: Path, shown: str) -> Iterator[Metric]:
    tree = _parsed(path.read_text(encoding="utf-8"))
    kinds = {
        alias.asname or alias.name: _KINDS[alias.name]
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module in _MODULES
        for alias in node.names
        if alias.name in _KINDS
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in kinds:
            yield _metric(node, kinds[node.func.id], f"{shown}:{node.lineno}")


def _metric(call: ast.Call, kind: Kind, declared: str) -> Metric:
    keywords = {keyword.arg: keyword.value for keyword in call.keywords}
    try:
        name, description = (ast.literal_eval(argument) for argument in call.args[:2])
        labels = ast.literal_eval(keywords["tag_keys"]) if "tag_keys" in keywords else ()
    except ValueError:
        raise ValueError(
            f"{declared}: name, description and tag_keys must be literals, the first two by place"
        ) from None
    return Metric(name, kind, tuple(labels), description, declared)
