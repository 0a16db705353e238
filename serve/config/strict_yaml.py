"""YAML as all files of ours are read: what is written twice or in an old spelling is an error, not a surprise."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from serve.errors import ConfigError

_TAG = "tag:yaml.org,2002:"

#: What a plain scalar is besides text, by the characters it may begin with: what YAML 1.1, in which PyYAML and most
#: writers quote, and 1.2's core schema (section 10.3.2) read alike. And `<<`, which 1.2 has not and everybody uses.
_KINDS = (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        "float",
        r"(?:[-+]?[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+][0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
    ("merge", r"<<", ["<"]),
)


class StrictLoader(yaml.SafeLoader):
    """YAML in which a key that stands twice is an error: the second would silently replace the first.

    And what the versions of YAML read differently is text: in 1.1 a label `no` is false, `1:30` is 90 and `010` is 8.
    So is a date, which PyYAML's own loader makes a date of until another library changes that for all who use it.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.YAMLError(f"key {key!r} stands twice in one mapping, line {node.start_mark.line + 1}")
        return super().construct_mapping(node, deep)


StrictLoader.yaml_implicit_resolvers = {}
for _name, _pattern, _first in _KINDS:
    StrictLoader.add_implicit_resolver(_TAG + _name, re.compile(f"^(?:{_pattern})$"), _first)


def read_yaml(path: Path, param: str | None = None) -> Any:
    """What a file holds.

    Args:
        param: of the error.

    Raises:
        ConfigError: it cannot be read, or is not YAML.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), StrictLoader)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}", param=param) from None
    # A ValueError is of bytes that are no UTF-8, or of a tag whose text is none of its kind (`!!int one`).
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: is not YAML: {' '.join(str(error).split())}", param=param) from None
