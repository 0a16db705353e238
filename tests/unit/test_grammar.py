"""JSON schemas of strangers, as grammars."""

from __future__ import annotations

import json
import random
from typing import Any

import jsonschema
import pytest
import xgrammar

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


A, B = {"type": "integer"}, {"type": "string"}
KEPT: list[Any] = [
    True,
    {"type": "string", "minLength": 2, "maxLength": 4},
    {"type": "string", "pattern": "^[a-c]{2,5}$"},
    {"type": "string", "format": "date"},
    {"type": "integer", "minimum": -3, "exclusiveMaximum": 12},
    {"type": "number", "exclusiveMinimum": 0.5, "maximum": 2},
    {"type": ["integer", "null"], "multipleOf": 7},
    {"type": ["string", "integer"], "maxLength": 3, "minimum": 5},
    {"type": "array", "items": A, "minItems": 1, "maxItems": 3},
    {"type": "array", "prefixItems": [A, B], "items": False, "minItems": 2},
    {"properties": {"a": A, "b": B}, "required": ["a"], "additionalProperties": False},
    {"type": "object", "properties": {"a": A}, "additionalProperties": {"type": "boolean"}, "maxProperties": 2},
    {"type": "object", "propertyNames": {"pattern": "^[ab]$"}, "additionalProperties": A},
    {"type": "object", "patternProperties": {"^x": A}, "additionalProperties": False},
    {"enum": ["a", 1, None, {"b": [2]}]},
    {"type": "string", "enum": ["red", "blue"], "default": "red", "title": "Colour"},
    {"const": 3, "type": "integer", "minimum": 2},
    {"anyOf": [{"type": "integer", "minimum": 4}, {"type": "null"}], "default": None},
    {"oneOf": [{"type": "number"}, B, {"type": "array", "items": A}]},
    {
        "oneOf": [{"$ref": "#/$defs/circle"}, {"$ref": "#/$defs/box"}],
        "discriminator": {"propertyName": "kind"},
        "$defs": {
            "circle": {
                "type": "object",
                "properties": {"kind": {"const": "circle"}, "radius": {"type": "integer", "minimum": 1}},
                "required": ["kind", "radius"],
                "additionalProperties": False,
            },
            "box": {
                "type": "object",
                "properties": {"kind": {"const": "box"}, "sides": {"type": "array", "items": A, "maxItems": 2}},
                "required": ["kind", "sides"],
                "additionalProperties": False,
            },
        },
    },
    {"type": "object", "properties": {"shape": {"allOf": [{"enum": ["star"]}], "description": "of it"}}},
]
VOCABULARY = [chr(code) for code in range(32, 127)]
END = len(VOCABULARY)
COMPILER = xgrammar.GrammarCompiler(xgrammar.TokenizerInfo([*VOCABULARY, "</s>"], stop_token_ids=[END]), max_threads=1)


def written(schema: Any, rng: random.Random, most: int = 400) -> str | None:
    """An answer of tokens drawn from those that the grammar leaves; None when it does not end soon."""
    matcher = xgrammar.GrammarMatcher(COMPILER.compile_grammar(grammar_of(Constraint(json.dumps(schema)))))
    mask = xgrammar.allocate_token_bitmask(1, END + 1)
    text = ""
    while len(text) < most:
        matcher.fill_next_token_bitmask(mask)
        allowed = [token for token in range(END + 1) if int(mask[0, token // 32]) >> (token % 32) & 1]
        # Whatever closes something comes sooner than by chance, so that answers end.
        closing = [token for token in allowed if token == END or VOCABULARY[token] in '"]}']
        token = rng.choice(closing if closing and rng.random() < 0.3 else allowed)
        if token == END:
            return text
        assert matcher.accept_token(token)
        text += VOCABULARY[token]
        if matcher.is_terminated():
            return text
    return None


@pytest.mark.parametrize("text", ["Grüße", "é1", "ÿff", r"\xdfe", "日b", "\U0001f389a", "a\tb", "\x1fa"])
def test_letters_before_hexadecimal_digits_stay_what_they_are(text: str) -> None:
    named = {"type": "object", "properties": {text: {"type": "null"}}, "required": [text]}
    for schema, value in (({"enum": [text]}, text), ({**named, "additionalProperties": False}, {text: None})):
        matcher = xgrammar.GrammarMatcher(COMPILER.compile_grammar(grammar_of(Constraint(json.dumps(schema)))))
        assert matcher.accept_string(json.dumps(value, ensure_ascii=False))


@pytest.mark.parametrize("schema", KEPT, ids=json.dumps)
def test_whatever_the_grammar_lets_be_written_fits_the_schema(schema: Any) -> None:
    rng = random.Random(3)
    answers = [answer for answer in (written(schema, rng) for _ in range(60)) if answer is not None]
    assert len(answers) >= 10
    for answer in answers:
        jsonschema.Draft202012Validator(schema).validate(json.loads(answer))


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ({"not": B}, "not cannot be kept"),
        ({"type": "object", "properties": {"a": {"if": B, "then": A}}}, "#/properties/a: if cannot be kept"),
        ({"type": "array", "items": A, "uniqueItems": True}, "uniqueItems cannot be kept"),
        ({"type": "array", "contains": A}, "contains cannot be kept"),
        ({"allOf": [A, {"minimum": 5}]}, "allOf of several"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "may fit two members"),
        ({"oneOf": [{"enum": [1, 2]}, {"enum": [2.0, 3]}]}, "may fit two members"),
        ({"oneOf": [{"type": "object"}, {"type": "object", "properties": {"a": A}}]}, "may fit two members"),
        ({"anyOf": [{"type": "integer"}], "type": "integer"}, "type does not count beside anyOf"),
        ({"$ref": "#/$defs/a", "minimum": 5, "$defs": {"a": A}}, "minimum does not count beside $ref"),
        ({"type": "string", "enum": ["a", 1]}, "1 does not fit"),
        ({"enum": [True], "type": "integer"}, "True does not fit"),
        ({"enum": []}, "enum has no value"),
        ({"type": "string", "pattern": "^a+$", "maxLength": 2}, "maxLength does not count beside pattern"),
        ({"type": "string", "pattern": "^(?=a)b"}, "looks ahead"),
        ({"type": "string", "format": "date", "maxLength": 2}, "maxLength does not count beside format"),
        ({"minLength": 2}, "minLength needs a type"),
        ({"type": "number", "multipleOf": 0.5}, "multipleOf can be kept for integers"),
        ({"type": "integer", "multipleOf": 5, "minimum": 7}, "multipleOf does not count beside bounds"),
        ({"type": "object", "properties": {"a": A}, "required": ["a", "b"]}, "required names 'b'"),
        ({"properties": {"xa": B}, "patternProperties": {"^x": {"type": "string", "maxLength": 2}}}, "patternProp"),
        ({"type": "object", "properties": {"a": A}, "dependentRequired": {"a": ["b"]}}, "dependentRequired"),
        ({"type": "object", "properties": {"a": {"type": "text"}}}, "#/properties/a/type: 'text' is not valid"),
        ({"type": "string", "minLength": -1}, "-1 is less than the minimum"),
        ({"$ref": "#/x", "x": A}, "there is no schema at #/x"),
    ],
)
def test_what_would_not_be_kept_is_refused_by_its_keyword(schema: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        grammar_of(Constraint(json.dumps(schema)))
    assert caught.value.code == "invalid_json_schema"
    assert why in caught.value.message


@pytest.mark.parametrize("deep", [20, 40])
def test_a_schema_may_be_deep(deep: int) -> None:
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(deep):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    assert "root" in str(grammar_of(Constraint(json.dumps(schema))))
