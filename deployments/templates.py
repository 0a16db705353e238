"""Prompt templates: a label becomes several sentences, their mean is the label's feature.

Ensembling over prompts is section 3.1.4 of Radford et al. 2021, "Learning Transferable Visual Models From Natural
Language Supervision"; the wording of the sets is ours.
"""

from __future__ import annotations

from collections.abc import Mapping

from serve.errors import InvalidRequest

# What stands in a label's place when multi-label scores ask "this, or anything?".
ANYTHING = "something"

TEMPLATE_SETS: Mapping[str, tuple[str, ...]] = {
    "default": ("a photo of a {}.",),
    "plain": ("{}",),
    "ensemble": (
        "a photo of a {}.",
        "a picture of a {}.",
        "a close view of a {}.",
        "a small {} in the scene.",
        "a large {} in the scene.",
        "a blurry photo of a {}.",
        "an image showing the {}.",
    ),
}


def resolve(templates: tuple[str, ...] | str) -> tuple[str, ...]:
    """The prompts of a named set, or the caller's own after a check.

    Raises:
        InvalidRequest: an unknown set, no template, or one without exactly one `{}`.
    """
    if isinstance(templates, str):
        if templates not in TEMPLATE_SETS:
            raise InvalidRequest(
                f"Template set {templates!r} does not exist; there are {', '.join(TEMPLATE_SETS)}. "
                "Or give prompts of your own, with one {} for the label in each.",
                code="unknown_template_set",
                param="templates",
            )
        return TEMPLATE_SETS[templates]
    if not templates:
        raise InvalidRequest("The list of templates is empty; give at least one.", param="templates")
    for template in templates:
        if template.count("{}") != 1:
            raise InvalidRequest(
                f"Template {template!r} must hold exactly one {{}} for the label.",
                code="invalid_template",
                param="templates",
            )
    return templates


def prompts(labels: tuple[str, ...], templates: tuple[str, ...]) -> list[str]:
    """Every label in every template, label by label."""
    return [template.replace("{}", label) for label in labels for template in templates]
