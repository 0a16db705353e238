"""JSON that was asked for: what is said to a model to get it, and the check of what came back."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import jsonschema
import orjson
import referencing

from deployments.generation.messages import Constraint
from serve.errors import InvalidOutput, InvalidRequest

_FENCED = re.compile(r"\A\s*```(?:json)?\s*\n(.*?)\n?\s*```\s*\Z", re.DOTALL)
# Nothing is fetched for a schema that refers to another one.
_REGISTRY: referencing.Registry[Any] = referencing.Registry()


def _pass(*_: Any) -> None:
    return None


# Patterns are not tried: a client chooses them, and Python's regular expressions can be made to run for hours.
_Validator = jsonschema.validators.extend(jsonschema.Draft202012Validator, {"pattern": _pass})


def schema_of(constraint: Constraint) -> dict[str, Any] | None:
    """The schema as an object; None when any JSON object will do.

    Raises:
        InvalidRequest: `invalid_schema`: the text is no JSON object.
    """
    if constraint.json_schema is None:
        return None
    try:
        schema = orjson.loads(constraint.json_schema)
    except orjson.JSONDecodeError:
        schema = None
    if not isinstance(schema, dict):
        raise InvalidRequest("The JSON schema is no JSON object.", code="invalid_schema", param="response_format")
    return schema


def instruction(constraint: Constraint) -> str:
    """What a model is told where its API cannot be made to answer in JSON."""
    schema = constraint.json_schema
    if schema is None:
        return "Answer with one JSON object and nothing else."
    return f"Answer with JSON that fits this JSON schema, and nothing else: {schema}"


def is_strict(schema: Any) -> bool:
    """Whether OpenAI takes a schema as strict.

    Its objects must forbid further properties and require all that they have
    (https://platform.openai.com/docs/guides/structured-outputs#supported-schemas); others are sent as a hint.
    """
    return is_closed(schema) and all(
        set(part.get("required", ())) == set(part.get("properties", {})) for part in _objects(schema)
    )


def is_closed(schema: Any) -> bool:
    """Whether every object in a schema forbids further properties, as Anthropic's structured outputs want it.

    https://platform.claude.com/docs/en/build-with-claude/structured-outputs, "JSON Schema limitations".
    """
    return all(part.get("additionalProperties") is False for part in _objects(schema))


def _objects(schema: Any) -> Iterator[dict[str, Any]]:
    """The parts of a schema that describe objects."""
    if isinstance(schema, list):
        for part in schema:
            yield from _objects(part)
    elif isinstance(schema, dict):
        if schema.get("type") == "object":
            yield schema
        for key, part in schema.items():
            if key not in ("enum", "const", "default", "examples"):
                yield from _objects(part)


def unfenced(text: str) -> str:
    """The text without the Markdown fence that models put around JSON."""
    found = _FENCED.match(text)
    return found[1] if found else text


def check(text: str, constraint: Constraint) -> None:
    """Checks an answer against what was asked for.

    Raises:
        InvalidOutput: `not_json`, or `schema_mismatch` with the place.
        InvalidRequest: `invalid_schema`.
    """
    schema = schema_of(constraint)
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        raise InvalidOutput("The model answered with something that is not JSON.", code="not_json") from None
    if schema is None:
        if not isinstance(value, dict):
            raise InvalidOutput("The model answered with JSON that is no object.", code="not_json")
        return
    if "patternProperties" in (constraint.json_schema or ""):  # these too would be tried
        return
    try:
        error = next(_Validator(schema, registry=_REGISTRY).iter_errors(value), None)
    except Exception as cause:  # unresolvable references, keywords of the wrong type, endless recursion
        raise InvalidRequest(
            f"The JSON schema cannot be used: {type(cause).__name__}.", code="invalid_schema", param="response_format"
        ) from None
    if error is not None:
        place = "/".join(str(part) for part in error.absolute_path) or "the top"
        raise InvalidOutput(
            f"The model answered with JSON that does not fit the schema at {place[:200]}.", code="schema_mismatch"
        )
