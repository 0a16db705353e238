"""One memory budget becomes fractions, caps and a packing; none of them may promise memory that is not there."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.gpu import CONTEXT_GB, Claim, allocator_fraction, gpu_fraction, pack

SIZES = st.sampled_from([8.0, 15.9, 16.0, 24.0, 40.0, 80.0])
BUDGETS = st.floats(0.1, 400, allow_nan=False)
CLAIMS = st.lists(st.tuples(st.floats(0.1, 90, allow_nan=False), st.integers(1, 4)), max_size=8)


@pytest.mark.parametrize(
    ("budget", "memory", "expected"),
    [
        (8, 16, 0.5),
        (16, 16, 1.0),
        (8, 24, 0.3334),  # 0.3333 would leave the third part of the card short
        (4, 80, 0.05),
        (0.001, 80, 0.0001),
        (17, 16, 2.0),
        (32, 16, 2.0),
        (33, 16, 3.0),
    ],
)
def test_fraction(budget: float, memory: float, expected: float) -> None:
    assert gpu_fraction(budget, memory) == expected


@given(BUDGETS, SIZES)
def test_a_fraction_holds_its_budget(budget: float, memory: float) -> None:
    fraction = gpu_fraction(budget, memory)
    assert fraction * memory >= budget * (1 - 1e-9)
    assert round(fraction * 10_000) == pytest.approx(fraction * 10_000), "Ray keeps four decimals"


@given(BUDGETS, SIZES)
def test_a_fraction_wastes_at_most_one_step(budget: float, memory: float) -> None:
    step = memory if budget > memory else memory / 10_000
    assert gpu_fraction(budget, memory) * memory - budget < step * (1 + 1e-6)


@given(st.floats(1.0001, 30), SIZES)
def test_more_than_one_gpu_is_a_whole_number(share: float, memory: float) -> None:
    fraction = gpu_fraction(share * memory, memory)
    assert fraction == int(fraction) >= 2


@given(st.lists(st.floats(0.1, 80), min_size=1, max_size=12))
def test_fractions_that_share_a_gpu_never_exceed_its_memory(budgets: list[float]) -> None:
    memory = 80.0
    together: list[float] = []
    for budget in budgets:
        if sum(gpu_fraction(b, memory) for b in [*together, budget]) <= 1:
            together.append(budget)
    assert sum(together) <= memory * (1 + 1e-9)


@given(st.floats(CONTEXT_GB, 200, exclude_min=True), SIZES)
def test_the_allocator_gets_the_budget_less_the_context(budget: float, memory: float) -> None:
    fraction = allocator_fraction(budget, memory)
    assert 0 < fraction <= 1
    assert fraction * memory + CONTEXT_GB <= budget + 1e-9


def test_allocator_fraction_in_numbers() -> None:
    assert allocator_fraction(4.5, 16) == 0.25
    assert allocator_fraction(100, 16) == 1.0


@pytest.mark.parametrize("budget", [0, 0.1, CONTEXT_GB])
def test_a_budget_that_the_context_fills_is_refused(budget: float) -> None:
    with pytest.raises(ValueError, match=f"gpu_memory_gb is {budget:g}"):
        allocator_fraction(budget, 16)


def claims_of(drawn: list[tuple[float, int]]) -> list[Claim]:
    return [Claim(f"m{i}", budget, replicas) for i, (budget, replicas) in enumerate(drawn)]


@given(CLAIMS, st.integers(0, 5), SIZES)
def test_no_gpu_is_filled_over_its_memory(drawn: list[tuple[float, int]], gpus: int, memory: float) -> None:
    packing = pack(claims_of(drawn), gpus, memory)
    assert len(packing.used_gb) == gpus
    assert all(-1e-9 <= used <= memory + 1e-6 for used in packing.used_gb)


@given(CLAIMS, st.integers(0, 5), SIZES)
def test_what_has_a_home_is_all_there(drawn: list[tuple[float, int]], gpus: int, memory: float) -> None:
    claims = claims_of(drawn)
    packing = pack(claims, gpus, memory)
    if not packing.homeless:
        # A model over several GPUs takes them whole.
        expected = sum(
            claim.replicas
            * (claim.budget_gb if claim.budget_gb <= memory else math.ceil(claim.budget_gb / memory) * memory)
            for claim in claims
        )
        # Ray's fractions have four decimals, and each is rounded up.
        replicas = sum(claim.replicas for claim in claims)
        assert expected - 1e-6 <= packing.total_gb <= expected + replicas * memory / 10_000 + 1e-6
    else:
        assert set(packing.homeless) <= {claim.model for claim in claims}
        assert len(set(packing.homeless)) == len(packing.homeless)


@given(CLAIMS, st.integers(0, 5), SIZES)
def test_homeless_only_when_no_gpu_has_room(drawn: list[tuple[float, int]], gpus: int, memory: float) -> None:
    """GPUs only fill, so what found no room found none either in what is left at the end."""
    claims = {claim.model: claim for claim in claims_of(drawn)}
    packing = pack(list(claims.values()), gpus, memory)
    free = [memory - used for used in packing.used_gb]
    for name in packing.homeless:
        budget = claims[name].budget_gb
        if budget <= memory:
            assert all(left < budget for left in free)
        else:
            assert sum(left == memory for left in free) < math.ceil(budget / memory)


@given(CLAIMS, SIZES)
def test_a_gpu_for_each_whole_part_is_always_enough(drawn: list[tuple[float, int]], memory: float) -> None:
    claims = claims_of(drawn)
    gpus = sum(claim.replicas * math.ceil(claim.budget_gb / memory) for claim in claims)
    assert pack(claims, gpus, memory).homeless == ()


@pytest.mark.parametrize(
    ("claims", "gpus", "used", "homeless"),
    [
        ([], 2, (0, 0), ()),
        ([Claim("a", 10, 1), Claim("b", 6, 1)], 1, (16,), ()),
        ([Claim("small", 6, 1), Claim("large", 16, 1)], 2, (16, 6), ()),  # the large one first
        ([Claim("a", 10, 3)], 2, (10, 10), ("a",)),  # 30 of 32, yet a fraction cannot straddle two GPUs
        ([Claim("two", 20, 1)], 2, (16, 16), ()),
        ([Claim("two", 20, 1), Claim("a", 1, 1)], 2, (16, 16), ("a",)),
        ([Claim("two", 20, 1)], 1, (0,), ("two",)),
        ([Claim("a", 1, 1)], 0, (), ("a",)),
    ],
)
def test_packing_in_numbers(claims: list[Claim], gpus: int, used: tuple[float, ...], homeless: tuple[str, ...]) -> None:
    packing = pack(claims, gpus, 16)
    assert packing.used_gb == pytest.approx(used)
    assert packing.homeless == homeless
