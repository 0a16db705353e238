"""What both engines make of the same sampling parameters at the edges of their ranges."""

from __future__ import annotations

import pytest
import torch

from deployments.generation.messages import Sampling
from deployments.generation.sampling import RowSampler
from deployments.generation.vllm_output import sampling_params


@pytest.mark.parametrize("seed", [-1, -3, 0, 7, -(2**63), 2**63 - 1])
def test_vllm_takes_every_seed_for_one(seed: int) -> None:
    """It takes -1 for none, also where it makes the seeds of further answers by counting up."""
    taken = sampling_params(Sampling(seed=seed, n=8), 10).seed
    assert taken is not None and 0 <= taken < 2**63 - 8
    assert taken == sampling_params(Sampling(seed=seed, n=8), 10).seed


@pytest.mark.parametrize("temperature", [0.0, 1e-6, 0.005, 0.01, 0.7])
def test_both_engines_are_as_cold(temperature: float) -> None:
    ours = RowSampler(Sampling(temperature=temperature), 1, None, torch.device("cpu")).temperature
    assert ours == pytest.approx(sampling_params(Sampling(temperature=temperature), 10).temperature)
