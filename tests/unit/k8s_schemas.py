"""A custom resource's definition as a JSON schema.

Structural schemas of Kubernetes are OpenAPI v3 with extensions
(https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/); an API server drops
unknown fields silently, here they are errors. Rules in CEL are not looked at.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import yaml

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_PLAIN = ("enum", "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems", "pattern", "required")


def problems(definition: Path, custom: dict[str, Any]) -> list[str]:
    """What is wrong with a custom object, one line each."""
    version = custom["apiVersion"].rpartition("/")[2]
    crd = yaml.load(definition.read_text(encoding="utf-8"), _Loader)
    (schema,) = [one["schema"]["openAPIV3Schema"] for one in crd["spec"]["versions"] if one["name"] == version]
    validator = jsonschema.Draft202012Validator(json_schema(schema))
    return [f"{'.'.join(map(str, error.path))}: {error.message}" for error in validator.iter_errors(custom)]


def json_schema(schema: dict[str, Any], key: str = "") -> dict[str, Any]:
    """The part of a structural schema that says what a value looks like."""
    made: dict[str, Any] = {name: schema[name] for name in _PLAIN if name in schema}
    if schema.get("x-kubernetes-int-or-string"):
        made["type"] = ["integer", "string"]
    elif "type" in schema:
        made["type"] = [schema["type"], "null"] if schema.get("nullable") else schema["type"]
    if "items" in schema:
        made["items"] = json_schema(schema["items"])
    if "properties" in schema:
        made["properties"] = {name: json_schema(inner, name) for name, inner in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            made["additionalProperties"] = False
    if isinstance(schema.get("additionalProperties"), dict):
        made["additionalProperties"] = json_schema(schema["additionalProperties"])
    if key == "metadata" and "properties" not in schema:
        made.pop("additionalProperties", None)  # of the object itself: the API server knows it
    return made
