"""What this cluster's OpenAPI document says beyond the routes: which models there are, what follows from what, keys.

Names of models are fixed when the router starts, so they are an enumeration; an index is there once it has been
created, so its creation links to what can be done with it (OpenAPI 3.1, "Link Object"). Clients that are generated from
the document, and testers that read it, then know values that exist.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

_INDEX = "/v1/indexes/{name}"
# Operations on an index that its creation leads to: (path, method).
_AFTER_CREATION = (
    (_INDEX, "get"),
    (_INDEX, "delete"),
    (f"{_INDEX}/items", "post"),
    (f"{_INDEX}/search", "post"),
    (f"{_INDEX}/delete", "post"),
)
# The two headers that a key may come in; see serve.auth.
_SCHEMES: Final[Mapping[str, dict[str, str]]] = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key, as OpenAI's clients send theirs."},
    "api_key": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The same key."},
}


def completed(
    document: dict[str, Any], names: Mapping[str, Sequence[str]], is_open: Callable[[str], bool]
) -> dict[str, Any]:
    """The document with values, links and ways to send a key, changed in place.

    Args:
        names: for a path prefix that ends in a parameter, such as `/v1/models/{name}`, the values that this may have.
        is_open: whether a path is answered without a key, wherever the others need one.
    """
    paths = document["paths"]
    document.setdefault("components", {})["securitySchemes"] = dict(_SCHEMES)
    for operation in (one for path, operations in paths.items() if is_open(path) for one in operations.values()):
        operation["security"] = []
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


def security(needs_key: bool) -> list[dict[str, list[str]]]:
    """The document's own `security`: any one of the schemes or, where no key is needed, none (OpenAPI 3.1, "Security
    Requirement Object")."""
    schemes: list[dict[str, list[str]]] = [{name: []} for name in _SCHEMES]
    return schemes if needs_key else [*schemes, {}]


def _enumerate(operation: dict[str, Any], parameter: str, values: Sequence[str]) -> None:
    for one in operation.get("parameters", ()):
        if one["in"] == "path" and one["name"] == parameter:
            one["schema"] = {"type": "string", "enum": list(values)}
