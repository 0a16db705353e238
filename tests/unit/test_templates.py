"""Prompt templates: named sets, the caller's own, and what they make of labels."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.templates import ANYTHING, TEMPLATE_SETS, prompts, resolve
from serve.errors import InvalidRequest


@pytest.mark.parametrize("name", TEMPLATE_SETS)
def test_every_set_resolves_to_usable_templates(name: str) -> None:
    templates = resolve(name)
    assert templates
    assert len(set(templates)) == len(templates)
    assert resolve(templates) == templates


def test_named_sets() -> None:
    assert resolve("default") == ("a photo of a {}.",)
    assert resolve("plain") == ("{}",)
    assert len(resolve("ensemble")) > 1


@pytest.mark.parametrize(
    ("templates", "code", "said"),
    [
        ("nope", "unknown_template_set", "default, plain, ensemble"),
        ("", "unknown_template_set", "default, plain, ensemble"),
        ("a photo of {}", "unknown_template_set", "default, plain, ensemble"),
        ((), "invalid_request", "at least one"),
        (("a photo",), "invalid_template", "'a photo'"),
        (("{} {}",), "invalid_template", "exactly one {}"),
        (("",), "invalid_template", "exactly one {}"),
        (("{0}",), "invalid_template", "'{0}'"),
        (("{label}",), "invalid_template", "'{label}'"),
        (("fine {}", "not"), "invalid_template", "'not'"),
    ],
)
def test_what_is_no_template(templates: tuple[str, ...] | str, code: str, said: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        resolve(templates)
    assert (caught.value.code, caught.value.param) == (code, "templates")
    assert said in caught.value.message


def test_label_by_label() -> None:
    assert prompts(("cat", "dog"), ("a {}", "the {}!")) == ["a cat", "the cat!", "a dog", "the dog!"]


LABELS = st.lists(st.text(max_size=10), max_size=4).map(tuple)
TEMPLATES = st.lists(
    st.tuples(st.text("ab {:", max_size=5), st.text("cd }", max_size=5)).map("{}".join), max_size=3
).map(tuple)


@given(LABELS, TEMPLATES)
def test_a_label_is_put_in_as_it_is(labels: tuple[str, ...], templates: tuple[str, ...]) -> None:
    """Braces and formatting in a label mean nothing."""
    made = prompts(labels, templates)
    assert len(made) == len(labels) * len(templates)
    for i, label in enumerate(labels):
        for j, template in enumerate(templates):
            before, _, after = template.partition("{}")
            if template.count("{}") == 1:
                assert made[i * len(templates) + j] == before + label + after


def test_a_label_with_braces() -> None:
    assert prompts(("{}", "{0.__class__}"), ("a {}.",)) == ["a {}.", "a {0.__class__}."]


def test_the_word_for_anything_fits_the_templates() -> None:
    assert prompts((ANYTHING,), resolve("default")) == ["a photo of a something."]
