"""Choosing the next token of each row of a batch by that row's own rules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from deployments.generation.grammar import Matcher
from deployments.generation.messages import Sampling, TokenLogprob
from deployments.generation.token_bytes import TokenBytes

# Lowest temperature but 0, which is greedy: dividing by less overflows. vLLM raises what is lower to the same.
_COLDEST = 1e-2
_NOT_NUMBERS = "the model's logits are not numbers"


@dataclass(frozen=True, slots=True)
class Chosen:
    """A token, and its log-probability where the request wants it."""

    token: int
    logprob: TokenLogprob | None = None


class RowSampler:
    """The rules of one row.

    Args:
        sampling: temperature, nucleus, logprobs.
        seed: of this row's generator, so that neighbours cannot change its answer; None takes one from the system.
        matcher: for constrained answers.
        device: where the logits are.
    """

    def __init__(self, sampling: Sampling, seed: int | None, matcher: Matcher | None, device: torch.device) -> None:
        self.temperature = max(sampling.temperature, _COLDEST) if sampling.temperature else 0.0
        self.top_p = sampling.top_p
        self.logprobs = sampling.logprobs
        self.matcher = matcher
        self.begun = False
        self.generator = torch.Generator(device)
        if seed is None:
            self.generator.seed()
        else:
            self.generator.manual_seed(seed)


def choose(logits: torch.Tensor, samplers: Sequence[RowSampler], tokens: TokenBytes) -> list[Chosen | Exception]:
    """The next token of each row.

    Log-probabilities are those of the model (Holtzman's nucleus, temperature and grammar not applied), as OpenAI and
    vLLM report them.

    Args:
        logits: (rows, vocabulary) float32.
        tokens: of the model's tokenizer.

    Returns:
        As many as rows; an exception in a row's place is that row's alone.
    """
    scores = logits.clone() if any(sampler.matcher for sampler in samplers) else logits
    not_numbers = torch.isnan(logits).any(-1).tolist()
    broken: list[Exception | None] = [ArithmeticError(_NOT_NUMBERS) if is_so else None for is_so in not_numbers]
    results: list[Chosen | Exception] = []
    for row, sampler in enumerate(samplers):
        if sampler.matcher is not None:
            try:
                sampler.matcher.restrict(scores[row : row + 1])
            except Exception as error:
                broken[row] = error
    best = scores.argmax(-1).tolist()
    for row, sampler in enumerate(samplers):
        if (why := broken[row]) is not None:
            results.append(why)
            continue
        try:
            token = _draw(scores[row], sampler) if sampler.temperature else int(best[row])
            if sampler.matcher is not None:
                sampler.matcher.accept(token)
            results.append(Chosen(token, _logprob(logits[row], token, sampler, tokens)))
            sampler.begun = True
        except Exception as error:
            results.append(error)
    return results


def _draw(scores: torch.Tensor, sampler: RowSampler) -> int:
    probabilities = torch.softmax(scores / sampler.temperature, -1)
    if sampler.top_p < 1:
        # The smallest set of likeliest tokens whose mass reaches top_p (Holtzman et al. 2020, section 3.1).
        ordered, tokens = probabilities.sort(descending=True)
        outside = ordered.cumsum(-1) - ordered >= sampler.top_p
        outside[0] = False
        probabilities[tokens[outside]] = 0
    return int(torch.multinomial(probabilities, 1, generator=sampler.generator))


def _logprob(logits: torch.Tensor, token: int, sampler: RowSampler, tokens: TokenBytes) -> TokenLogprob | None:
    if sampler.logprobs is None:
        return None
    logs = torch.log_softmax(logits, -1)
    values, likeliest = logs.topk(min(sampler.logprobs, logs.numel()))
    top = zip(likeliest.tolist(), values.tolist(), strict=True)
    return tokens.logprob(token, float(logs[token]), top, first=not sampler.begun)
