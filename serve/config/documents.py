"""The `documents` section of a cluster file: who reads documents (`/v1/documents`), and who sums them up."""

from __future__ import annotations

from pydantic import Field

from serve.config.model_base import Name, Section


class Documents(Section):
    """Back ends in the order in which they are asked: the next one when one fails or its answer cannot be used.

    A model of kind ocr opens every document, also for the others, which see its pages as pictures.
    """

    ocr: tuple[Name, ...] = Field(
        (),
        description="Who reads text and tables: models of kind ocr or florence2, chat models that take images, "
        "providers. Empty for the first model of kind ocr.",
    )
    summary: tuple[Name, ...] = Field(
        ("extractive",),
        min_length=1,
        description="Who sums up: chat models that take images, providers, or `extractive`, which picks the document's "
        "own sentences and needs no language model.",
    )
    image_side: int = Field(2048, ge=256, le=8192, description="Longest side of a page's picture, in pixels.")
    max_images: int = Field(8, ge=1, le=64, description="Most pages that a chat model is shown for a summary.")
    max_tokens: int = Field(4096, ge=64, le=65_536, description="Most tokens of a chat model's answer.")
    concurrency: int = Field(4, ge=1, le=64, description="Pages of one document that a model reads at the same time.")
