"""What is dropped from a conversation: as little as possible, oldest first, whole exchanges."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serve.history import Size, own_tokens, to_drop

counts = st.integers(0, 5)
exchanges = st.builds(Size, st.just(1), counts, counts, *[st.integers(0, 100)] * 3)
messages = st.builds(Size, st.just(1), counts, counts, st.just(0), st.integers(0, 100), st.just(0))
bounds = st.builds(Size, st.integers(1, 8), st.integers(0, 12), st.integers(0, 12), *[st.integers(0, 400)] * 3)


def total(sizes: list[Size], new: Size) -> Size:
    for size in sizes:
        new = new + size
    return new


@given(st.lists(exchanges, max_size=12), messages, bounds)
def test_what_stays_fits_and_one_more_would_not(history: list[Size], new: Size, bound: Size) -> None:
    drop = to_drop(history, new, bound)
    assert 0 <= drop <= len(history)
    if drop < len(history):
        assert total(history[drop:], new).within(bound)
    if drop:
        assert not total(history[drop - 1 :], new).within(bound)


@given(st.lists(exchanges, max_size=12), messages, bounds)
def test_nothing_is_dropped_twice(history: list[Size], new: Size, bound: Size) -> None:
    drop = to_drop(history, new, bound)
    assert to_drop(history[drop:], new, bound) == 0 or drop == len(history)


@given(st.lists(exchanges, max_size=8), messages, bounds, st.sampled_from(["turns", "images", "tokens"]))
def test_a_tighter_bound_keeps_no_more(history: list[Size], new: Size, bound: Size, name: str) -> None:
    values = {field: getattr(bound, field) for field in Size.__dataclass_fields__}
    tighter = Size(**{**values, name: max(0, values[name] - 1)})
    assert to_drop(history, new, tighter) >= to_drop(history, new, bound)


def test_each_figure_is_bounded() -> None:
    history = [Size(1, 1, 1, 10, 100, 1000)] * 4
    new = Size(1, 1, 0, 0, 50)
    plenty = {"turns": 99, "images": 99, "videos": 99, "tokens": 999, "characters": 9999, "media_bytes": 9999}
    assert to_drop(history, new, Size(**plenty)) == 0
    for name, most, dropped in [
        ("turns", 5, 0),
        ("turns", 4, 1),
        ("turns", 1, 4),
        ("images", 4, 1),
        ("videos", 2, 2),
        ("tokens", 39, 1),
        ("characters", 449, 1),
        ("characters", 10, 4),
        ("media_bytes", 3999, 1),
    ]:
        assert to_drop(history, new, Size(**{**plenty, name: most})) == dropped, (name, most)


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(0, 50)), min_size=1, max_size=20), st.data())
def test_own_tokens_add_up_to_what_was_counted_last(said: list[tuple[int, int]], data: st.DataObject) -> None:
    """However exchanges are dropped: each prompt is a frame of 9 tokens, what is kept, and the new message."""
    texts: list[int] = []
    owned: list[int] = []
    for message, answer in said:
        drop = data.draw(st.integers(0, len(texts)))
        texts, owned = texts[drop:], owned[drop:]
        prompt = 9 + sum(texts) + message
        owned.append(own_tokens(prompt, answer, owned))
        texts.append(message + answer)
        assert sum(owned) == prompt + answer
