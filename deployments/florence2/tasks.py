"""The tasks of Florence-2, as the published processor knows them; see `Florence2Processor` in transformers.

Source of tasks and prompts: Xiao et al. 2024, "Florence-2: Advancing a unified representation for a variety of vision
tasks", and the processor of its published checkpoints.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Needs = Literal["nothing", "text", "region"]
Answers = Literal["text", "boxes", "quads", "polygons", "boxes_or_polygons"]


@dataclass(frozen=True, slots=True)
class Task:
    """One task.

    Attributes:
        name: in the API.
        token: in the published processor.
        needs: what a request must give beside the image, and nothing else.
        answers: which fields of `messages.Answer` it fills.
    """

    name: str
    token: str
    needs: Needs
    answers: Answers
    summary: str


TASKS: Mapping[str, Task] = {
    task.name: task
    for task in (
        Task("caption", "<CAPTION>", "nothing", "text", "A caption."),
        Task("detailed-caption", "<DETAILED_CAPTION>", "nothing", "text", "A caption of some sentences."),
        Task("more-detailed-caption", "<MORE_DETAILED_CAPTION>", "nothing", "text", "A caption of a paragraph."),
        Task("object-detection", "<OD>", "nothing", "boxes", "Objects with their categories."),
        Task("dense-region-caption", "<DENSE_REGION_CAPTION>", "nothing", "boxes", "Regions, each with a caption."),
        Task("region-proposal", "<REGION_PROPOSAL>", "nothing", "boxes", "Regions that hold something, without names."),
        Task(
            "phrase-grounding",
            "<CAPTION_TO_PHRASE_GROUNDING>",
            "text",
            "boxes",
            "Where each phrase of a caption is seen; the text is the caption.",
        ),
        Task("ocr", "<OCR>", "nothing", "text", "The printed text."),
        Task("ocr-with-region", "<OCR_WITH_REGION>", "nothing", "quads", "Lines of printed text with their places."),
        Task(
            "referring-segmentation",
            "<REFERRING_EXPRESSION_SEGMENTATION>",
            "text",
            "polygons",
            "The outline of what the text refers to.",
        ),
        Task(
            "region-segmentation", "<REGION_TO_SEGMENTATION>", "region", "polygons", "The outline of what a box holds."
        ),
        Task(
            "open-vocabulary-detection",
            "<OPEN_VOCABULARY_DETECTION>",
            "text",
            "boxes_or_polygons",
            "Objects of the category that the text names.",
        ),
        Task("region-category", "<REGION_TO_CATEGORY>", "region", "text", "The category of what a box holds."),
        Task("region-description", "<REGION_TO_DESCRIPTION>", "region", "text", "A description of what a box holds."),
        Task("region-ocr", "<REGION_TO_OCR>", "region", "text", "The text printed in a box."),
    )
}
_BY_TOKEN = {task.token: task for task in TASKS.values()}


def find_task(name: str) -> Task | None:
    """The task of that name or token; None when there is none."""
    return TASKS.get(name) or _BY_TOKEN.get(name)
