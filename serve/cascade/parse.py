"""From what a chat model wrote to the answer that was asked for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jsonschema
import orjson

from deployments.generation.messages import TokenLogprob
from serve.errors import InvalidOutput

_SHOWN = 120
_QUOTES = "\"'`"


def label_schema(labels: Sequence[str]) -> str:
    """JSON Schema of an object that names one of the labels, as text."""
    return orjson.dumps(
        {
            "type": "object",
            "properties": {"label": {"enum": list(labels)}},
            "required": ["label"],
            "additionalProperties": False,
        }
    ).decode()


def label_from_text(text: str, labels: Sequence[str]) -> str:
    """The label that the text is, case, quotes and a full stop aside.

    Raises:
        InvalidOutput: it is none of them.
    """
    said = text.strip().strip(_QUOTES).rstrip(".!").strip(_QUOTES).casefold().strip()
    for label in labels:
        if label.casefold().strip() == said:
            return label
    raise InvalidOutput(f"The model answered {text.strip()[:_SHOWN]!r}, which is none of the labels.")


def label_from_json(text: str, labels: Sequence[str]) -> str:
    """The label in an object of `label_schema`.

    Raises:
        InvalidOutput: no such object, or a label that is none of them.
    """
    value = json_value(text)
    if not isinstance(value, dict) or not isinstance(value.get("label"), str):
        raise InvalidOutput(f"The model answered {text[:_SHOWN]!r}; it should be an object with a label.")
    return label_from_text(value["label"], labels)


def json_value(text: str) -> Any:
    """What JSON text holds; a fence of Markdown around it is taken off.

    Raises:
        InvalidOutput: it is no JSON.
    """
    body = text.strip()
    if body.startswith("```"):
        body = body.removeprefix("```json").removeprefix("```").removesuffix("```")
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        raise InvalidOutput(f"The model answered {text[:_SHOWN]!r}, which is no JSON.") from None


def schema_problem(value: Any, schema: Mapping[str, Any] | None) -> str | None:
    """Why a value does not fit; None when it does, or when there is nothing to fit."""
    if schema is None:
        return None
    error = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(schema).iter_errors(value))
    if error is None:
        return None
    where = ".".join(str(part) for part in error.absolute_path)
    return f"the JSON does not fit the schema{f' at {where}' if where else ''}: {error.message[:_SHOWN]}"


def joint(logprobs: Sequence[TokenLogprob]) -> float | None:
    """The probability of a whole text, the product of its tokens'; None without any.

    For one of several labels this is its probability; what a grammar or a schema forces is certain and changes nothing.
    """
    return math.exp(sum(token.logprob for token in logprobs)) if logprobs else None
