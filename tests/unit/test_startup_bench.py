"""`argus bench startup`: what its table says of the starts that were measured."""

from __future__ import annotations

import pytest

from benchmarks import startup

OURS = {"python": 0.1, "imports": 10.0, "process": 2.0, "weights": 1.0, "warm_up": 1.0, "first_answer": 0.1}
PLAIN = {"python": 0.1, "imports": 9.0, "process": 25.0, "first_answer": 3.0}


def test_sums_are_of_each_start_and_medians_over_them() -> None:
    starts = [{**OURS, "imports": imports, "weights": weights} for imports, weights in ((10, 1), (30, 2), (11, 9))]
    row = startup.row("llava", "vllm", starts)
    assert (row["imports"], row["weights"]) == (11, 2)
    assert row["ready"] == pytest.approx(23.1), "of the sums 14.1, 35.1 and 23.1"
    assert row["answered"] == pytest.approx(23.2)
    assert row["rounds_answered"] == pytest.approx([14.2, 35.2, 23.2])


def test_what_a_system_does_not_say_is_left_out() -> None:
    row = startup.row("llava", "plain vllm", [PLAIN])
    assert row["weights"] is None and row["warm_up"] is None
    assert row["ready"] == pytest.approx(34.1)


def test_the_goal_is_a_sooner_first_answer_on_vllm() -> None:
    rows = [startup.row("llava", "vllm", [OURS]), startup.row("llava", "plain vllm", [PLAIN])]
    rows.append(startup.row("llava", "transformers", [{**OURS, "imports": 90.0}]))
    assert startup.misses(rows) == []
    late = startup.row("blip2", "vllm", [{**OURS, "imports": 40.0}])
    assert startup.misses([*rows, late]) == [], "nothing to compare with"
    (miss,) = startup.misses([*rows, late, startup.row("blip2", "plain vllm", [PLAIN])])
    assert miss.startswith("blip2: the first answer came after 44.2 s, after 37.1 s")
