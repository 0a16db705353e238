"""JSON schemas of strangers, as grammars."""

from __future__ import annotations

import json
from typing import Any

import pytest

from deployments.generation.grammar import grammar_of
from deployments.generation.messages import Constraint
from serve.errors import InvalidRequest


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "http://127.0.0.1/schema.json"},
        {"type": "object", "properties": {"a": {"anyOf": [{"$ref": "other.json#/a"}]}}},
        {"$ref": "file:///etc/passwd"},
    ],
)
def test_a_schema_that_leads_elsewhere_is_refused_not_taken_for_anything(schema: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        grammar_of(Constraint(json.dumps(schema)))
    assert caught.value.code == "invalid_json_schema"


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b~1c"}, "b/c": {"$ref": "#/%24defs/a"}}},
        {"allOf": [{"type": "object"}, {"$ref": "#"}]},
        {"anyOf": [{"type": "integer"}, {"$ref": "#/anyOf/1"}]},
        {"type": "object", "properties": {"a": {"oneOf": [{"$ref": "#/properties/a"}]}}, "required": ["a"]},
    ],
)
def test_a_schema_that_is_defined_by_itself_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        grammar_of(Constraint(json.dumps(schema)))
    assert caught.value.code == "invalid_json_schema"
    assert "defined by itself" in caught.value.message


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"next": {"$ref": "#"}}},
        {"type": "array", "items": {"anyOf": [{"type": "integer"}, {"$ref": "#"}]}},
        {"$ref": "#/$defs/a", "$defs": {"a": {"type": "object", "properties": {"a": {"$ref": "#/$defs/a"}}}}},
    ],
)
def test_a_schema_may_name_itself_within_what_it_describes(schema: dict[str, Any]) -> None:
    assert "root" in str(grammar_of(Constraint(json.dumps(schema))))


def test_a_place_in_the_schema_itself_is_followed() -> None:
    schema = {"$defs": {"a": {"type": "integer"}}, "type": "object", "properties": {"x": {"$ref": "#/$defs/a"}}}
    assert "root" in str(grammar_of(Constraint(json.dumps(schema))))
