"""JSON by construction: at each step only tokens that keep the answer valid can be chosen (xgrammar, Dong et al. 2024).

vLLM uses the same library, so both engines accept the same schemas.
"""

from __future__ import annotations

import json
import re
from typing import Any

import torch
import xgrammar

from deployments.generation.messages import Constraint
from serve.errors import InvalidRequest

# Where in its source xgrammar found the error.
_PLACE = re.compile(r"^\[[\d:]+\] \S+:\d+: ")
_ANY_OBJECT = '{"type": "object"}'
# Compiled grammars kept, in bytes; agents send the same few schemas over and over.
_CACHE_BYTES = 64 * 1024 * 1024


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

        White space is fixed (one line, a space after `,` and `:`): where any amount is allowed, a small model tends
        to write nothing else until it runs out of tokens.

        Raises:
            InvalidRequest: `invalid_json_schema`.
        """
        schema = _ANY_OBJECT if constraint.json_schema is None else constraint.json_schema
        try:
            if not isinstance(json.loads(schema), dict | bool):
                raise ValueError("a schema is an object")
            compiled = self._compiler.compile_json_schema(schema, any_whitespace=False)
        except (ValueError, RuntimeError, TypeError) as error:
            raise InvalidRequest(
                f"The JSON schema cannot be used: {_PLACE.sub('', str(error)).strip()[:300]}",
                code="invalid_json_schema",
                param="response_format",
            ) from error
        return Matcher(compiled, self._vocabulary)


class Matcher:
    """Where one answer stands in its grammar."""

    def __init__(self, compiled: xgrammar.CompiledGrammar, vocabulary: int) -> None:
        self._matcher = xgrammar.GrammarMatcher(compiled)
        self._mask = xgrammar.allocate_token_bitmask(1, vocabulary)

    def restrict(self, scores: torch.Tensor) -> None:
        """Sets the scores (1, vocabulary) of all tokens that may not come next to minus infinity, in place."""
        if self._matcher.fill_next_token_bitmask(self._mask):
            xgrammar.apply_token_bitmask_inplace(scores, self._mask.to(scores.device))

    def accept(self, token: int) -> None:
        """Moves on by the chosen token."""
        if not self._matcher.is_terminated():
            self._matcher.accept_token(token)
