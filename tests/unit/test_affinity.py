"""Consistent hashing with bounded loads, as a pure order of replicas."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serve.affinity import by_affinity


def test_an_idle_owner_comes_first() -> None:
    assert by_affinity(["b", "c", "a"], {}) == ["b", "c", "a"]


def test_an_owner_far_above_the_mean_is_passed_over() -> None:
    # 5 in progress and this one make 2 a replica: 1.25 times that, rounded up, is 3.
    assert by_affinity(["b", "c", "a"], {"b": 3, "c": 2, "a": 0}) == ["c", "a", "b"]
    assert by_affinity(["b", "c", "a"], {"b": 2, "c": 2, "a": 1}) == ["b", "c", "a"]


@given(st.lists(st.integers(0, 50), min_size=1, max_size=12), st.floats(0, 2))
def test_nobody_is_lost_and_the_first_is_within_the_bound(loads: list[int], slack: float) -> None:
    ring = list(range(len(loads)))
    order = by_affinity(ring, dict(enumerate(loads)), slack)
    assert sorted(order) == ring
    mean = (sum(loads) + 1) / len(loads)
    assert loads[order[0]] < (1 + slack) * mean + 1


def test_a_few_requests_overload_no_replica() -> None:
    assert by_affinity(["b", "c", "a"], {"b": 3}, floor=4) == ["b", "c", "a"]
    assert by_affinity(["b", "c", "a"], {"b": 4}, floor=4) == ["c", "a", "b"]
