"""What this cluster's OpenAPI document says beyond the routes: which models there are, and what follows from what.

Names of models are fixed when the router starts, so they are an enumeration; an index is there once it has been
created, so its creation links to what can be done with it (OpenAPI 3.1, "Link Object"). Clients that are generated from
the document, and testers that read it, then know values that exist.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_INDEX = "/v1/indexes/{name}"
# Operations on an index that its creation leads to: (path, method).
_AFTER_CREATION = (
    (_INDEX, "get"),
    (_INDEX, "delete"),
    (f"{_INDEX}/items", "post"),
    (f"{_INDEX}/search", "post"),
    (f"{_INDEX}/delete", "post"),
)


def completed(document: dict[str, Any], names: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """The document with values and links, changed in place.

    Args:
        names: for a path prefix that ends in a parameter, such as `/v1/models/{name}`, the values that this may have.
    """
    paths = document["paths"]
    for prefix, values in names.items():
        parameter = prefix.rpartition("{")[2].rstrip("}")
        for path, operations in paths.items():
            if values and (path == prefix or path.startswith(f"{prefix}/")):
                for operation in operations.values():
                    _enumerate(operation, parameter, values)
    if _INDEX in paths:
        paths[_INDEX]["put"]["responses"]["200"]["links"] = {
            f"{method} {path}": {
                "operationId": paths[path][method]["operationId"],
                "parameters": {"path.name": "$request.path.name"},
            }
            for path, method in _AFTER_CREATION
        }
    return document


def _enumerate(operation: dict[str, Any], parameter: str, values: Sequence[str]) -> None:
    for one in operation.get("parameters", ()):
        if one["in"] == "path" and one["name"] == parameter:
            one["schema"] = {"type": "string", "enum": list(values)}
