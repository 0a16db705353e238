"""JSON by construction: at each step only tokens that keep the answer valid can be chosen (xgrammar, Dong et al. 2024).

Both engines are given the same grammar: JSON on one line with a space after `,` and `:`, as `json.dumps` writes it and
models have mostly read it. Where any amount of white space is allowed, a small model tends to write nothing else until
it runs out of tokens; without any, it leaves what it has learned.
"""

from __future__ import annotations

import json
import re
from typing import Any

import torch
import xgrammar

from deployments.generation import json_schema
from deployments.generation.messages import Constraint
from serve.errors import InvalidRequest

# Where in its source xgrammar found the error.
_PLACE = re.compile(r"^\[[\d:]+\] \S+:\d+: ")
# xgrammar (0.2) writes a character below U+0100 with two digits, but reads as many as follow: `ße` in a schema would
# become U+0DFE. With four digits it reads four. An escaped backslash is no beginning of an escape.
_TWO_DIGITS = re.compile(r"\\(?:\\|x([0-9a-f]{2}))")
_ANY_OBJECT = '{"type": "object"}'
# Characters of a schema: compiling one of this length takes a fifth of a second.
_MOST = 65_536
# Compiled grammars kept, in bytes; agents send the same few schemas over and over.
_CACHE_BYTES = 64 * 1024 * 1024


def grammar_of(constraint: Constraint) -> str:
    """The grammar of a constraint, as EBNF.

    Raises:
        InvalidRequest: `invalid_json_schema`.
    """
    schema = _ANY_OBJECT if constraint.json_schema is None else constraint.json_schema
    if len(schema) > _MOST:
        raise unusable(f"it has {len(schema)} characters, {_MOST} are allowed")
    try:
        json_schema.check(json.loads(schema))
        grammar = xgrammar.Grammar.from_json_schema(schema, any_whitespace=False, separators=(", ", ": "))
        return _TWO_DIGITS.sub(lambda found: found[0] if found[1] is None else f"\\u00{found[1]}", str(grammar))
    except Exception as error:  # whatever it is, it is the schema's
        raise unusable(str(error)) from error


def unusable(why: str) -> InvalidRequest:
    """What is said of a schema that cannot be used."""
    return InvalidRequest(
        f"The JSON schema cannot be used: {_PLACE.sub('', why).strip()[:300]}",
        code="invalid_json_schema",
        param="response_format",
    )


class GrammarCompiler:
    """Compiles constraints for one tokenizer; may be called from several threads.

    Args:
        tokenizer: of transformers.
        vocabulary: width of the model's logits.
        stop_tokens: ids that end an answer.
    """

    def __init__(self, tokenizer: Any, vocabulary: int, stop_tokens: list[int]) -> None:
        info = xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=vocabulary, stop_token_ids=stop_tokens)
        self._compiler = xgrammar.GrammarCompiler(info, max_threads=1, cache_limit_bytes=_CACHE_BYTES)
        self._vocabulary = vocabulary

    def matcher(self, constraint: Constraint) -> Matcher:
        """A matcher at the start of its answer.

        Raises:
            InvalidRequest: `invalid_json_schema`.
        """
        try:
            return Matcher(self._compiler.compile_grammar(grammar_of(constraint)), self._vocabulary)
        except RuntimeError as error:
            raise unusable(str(error)) from error


class Matcher:
    """Where one answer stands in its grammar."""

    def __init__(self, compiled: xgrammar.CompiledGrammar, vocabulary: int) -> None:
        self._matcher = xgrammar.GrammarMatcher(compiled)
        self._mask = xgrammar.allocate_token_bitmask(1, vocabulary)

    def restrict(self, scores: torch.Tensor) -> None:
        """Sets the scores (1, vocabulary) of all tokens that may not come next to minus infinity, in place.

        Raises:
            InvalidRequest: `invalid_json_schema`: no token may.
        """
        if self._matcher.fill_next_token_bitmask(self._mask):
            if not self._mask.any():
                raise unusable("nothing that the model can write fits it")
            xgrammar.apply_token_bitmask_inplace(scores, self._mask.to(scores.device))

    def accept(self, token: int) -> None:
        """Moves on by the chosen token."""
        if not self._matcher.is_terminated():
            self._matcher.accept_token(token)
