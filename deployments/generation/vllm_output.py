"""Between our messages and vLLM's: sampling parameters in, events out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deployments.generation.grammar import grammar_of, unusable
from deployments.generation.messages import ChatEvent, FinishReason, Sampling, TokenLogprob
from deployments.generation.token_bytes import TokenBytes
from serve.errors import ModelFailed

if TYPE_CHECKING:
    from vllm.outputs import CompletionOutput
    from vllm.sampling_params import SamplingParams

# vLLM takes a seed of -1 for none, and gives each further answer of a request the next one, which must fit 64 bits too.
_SEEDS = 2**62


def sampling_params(sampling: Sampling, room: int) -> SamplingParams:
    """vLLM's form of our parameters; each output holds what is new.

    Args:
        room: tokens that the context window leaves for an answer.

    Raises:
        InvalidRequest: `invalid_json_schema`.
    """
    from vllm.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams

    grammar = None
    if sampling.constraint is not None:
        grammar = StructuredOutputsParams(grammar=grammar_of(sampling.constraint))

    return SamplingParams(
        n=sampling.n,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        seed=None if sampling.seed is None else sampling.seed % _SEEDS,
        stop=list(sampling.stop),
        max_tokens=room if sampling.max_tokens is None else min(room, sampling.max_tokens),
        logprobs=sampling.logprobs,
        structured_outputs=grammar,
        output_kind=RequestOutputKind.DELTA,
    )


def event(
    completion: CompletionOutput, sampling: Sampling, prompt_tokens: int, cached_tokens: int, tokens: TokenBytes
) -> ChatEvent:
    """One delta of one answer.

    Args:
        tokens: of the model's tokenizer.

    Raises:
        InvalidRequest: `invalid_json_schema`: the engine gave this answer up, whose grammar leaves no token.
        ModelFailed: it gave it up for another reason.
    """
    return ChatEvent(
        completion.index,
        completion.text,
        tuple(completion.token_ids),
        _logprobs(completion, sampling.logprobs or 0, tokens),
        _finish_reason(completion.finish_reason, sampling),
        prompt_tokens,
        cached_tokens,
    )


def _finish_reason(reason: str | None, sampling: Sampling) -> FinishReason | None:
    match reason:
        case None | "stop" | "length":
            return reason
        case "abort":  # nobody ends a request that is still read but its deadline; see `vllm_engine`
            return "cut"
        case "error" if sampling.constraint is not None:  # it rejected the token that it had to choose
            raise unusable("nothing that the model can write fits it")
        case _:
            raise ModelFailed(f"The engine gave the answer up ({reason}).")


def _logprobs(completion: CompletionOutput, alternatives: int, tokens: TokenBytes) -> tuple[TokenLogprob, ...]:
    """What vLLM decodes of a token alone is not used: of a character in several tokens, only the last one has text."""
    made = []
    for token_id, ranked in zip(completion.token_ids, completion.logprobs or (), strict=False):
        if ranked is None:
            continue
        values = [(other, choice.logprob) for other, choice in ranked.items()]
        likeliest = sorted(values, key=lambda choice: -choice[1])[:alternatives]
        made.append(tokens.logprob(token_id, ranked[token_id].logprob, likeliest))
    return tuple(made)
