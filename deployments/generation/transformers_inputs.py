"""From prompts to what a language model reads: tensors by the checkpoint's processor, those of several requests as one
left-padded batch, and its embeddings, media in their places."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch.nn.functional import pad

from deployments.generation.engine import Prompt
from serve.errors import InvalidMedia, InvalidRequest

Inputs = dict[str, torch.Tensor]

_TOKENS = ("input_ids", "attention_mask")
# What models call the pixels of a medium.
_PIXELS = {"image": ("pixel_values", "pixel_values_images"), "video": ("pixel_values_videos",)}


class Preparer:
    """Runs in the replica's CPU pool, in several threads at once.

    Args:
        processor: the checkpoint's.
        blip2_image: (image token id, query tokens) of a BLIP-2, whose processor writes the placeholders by itself.
        max_model_len: prompt and answer together, in tokens.
    """

    def __init__(self, processor: Any, blip2_image: tuple[int, int] | None, max_model_len: int) -> None:
        self._processor, self._blip2_image, self._max_model_len = processor, blip2_image, max_model_len
        vocabulary = processor.tokenizer.get_vocab()
        self._longest_token = max((len(token) for token in vocabulary), default=1)
        # Of each media tensor, what must be equal for two of them to be put together, as first seen.
        self._usual: dict[str, tuple[int, ...]] = {}

    def prepare(self, prompt: Prompt) -> Inputs:
        """The processor's tensors: token ids and mask (1, length), media as the model wants them.

        Raises:
            InvalidRequest: `prompt_too_long`; BLIP-2 with a placeholder in its text.
            InvalidMedia: the processor refuses the media.
        """
        # Tokenising a book only to say that it is too long would be a gift to whoever sends books.
        if (least := len(prompt.text) // self._longest_token) > self._max_model_len:
            raise self._too_long(f"at least {least}")
        media: dict[str, Any] = {}
        if prompt.images:
            media["images"] = list(prompt.images)
        if prompt.videos:
            media["videos"] = list(prompt.videos)
        try:
            made = self._processor(text=[prompt.text], return_tensors="pt", **media)
        except Exception as error:
            if not media:
                raise
            raise InvalidMedia(f"The model's processor refuses the media: {error}", param="messages") from error
        inputs: Inputs = {name: value for name, value in made.items() if isinstance(value, torch.Tensor)}
        length = inputs["input_ids"].shape[1]
        if length >= self._max_model_len:
            raise self._too_long(str(length))
        if self._blip2_image is not None:
            token, queries = self._blip2_image
            if int((inputs["input_ids"] == token).sum()) != queries * len(prompt.images):
                raise InvalidRequest("The text holds an image placeholder of its own.", param="messages")
        return inputs

    def lane(self, inputs: Inputs) -> Hashable:
        """Rows of different lanes never share a batch: their media tensors do not fit together.

        Nearly all rows have the usual shapes (or no media) and the same lane. How many images a row has is no
        obstacle: models place features by the order of placeholders.
        """
        shapes = {name: _fixed_shape(name, value) for name, value in inputs.items() if name not in _TOKENS}
        return tuple(
            sorted((name, shape) for name, shape in shapes.items() if shape != self._usual.setdefault(name, shape))
        )

    def _too_long(self, length: str) -> InvalidRequest:
        return InvalidRequest(
            f"The prompt has {length} tokens, media included; this model takes {self._max_model_len} together with the "
            "answer.",
            code="prompt_too_long",
            param="messages",
        )


def _fixed_shape(name: str, value: torch.Tensor) -> tuple[int, ...]:
    """Without the first dimension, along which media are joined, and the tiles of LLaVA-NeXT, which are padded."""
    return tuple(value.shape[2 if _has_tiles(name, value) else 1 :])


def _has_tiles(name: str, value: torch.Tensor) -> bool:
    return name == "pixel_values" and value.ndim == 5


def collate(rows: Sequence[Inputs], pad_token: int, device: torch.device, dtype: torch.dtype) -> Inputs:
    """One batch: tokens padded on the left, media one after the other.

    Returns:
        `input_ids`, `attention_mask`: (rows, longest) int64; media tensors: first dimension summed over the rows.
    """
    longest = max(row["input_ids"].shape[1] for row in rows)
    batch: Inputs = {}
    for name in _TOKENS:
        fill = pad_token if name == "input_ids" else 0
        batch[name] = torch.cat([pad(row[name], (longest - row[name].shape[1], 0), value=fill) for row in rows])
    for name in dict.fromkeys(name for row in rows for name in row if name not in _TOKENS):
        values = [row[name] for row in rows if name in row]
        if _has_tiles(name, values[0]):
            tiles = max(value.shape[1] for value in values)
            values = [pad(value, (0, 0) * 3 + (0, tiles - value.shape[1])) for value in values]
        batch[name] = torch.cat(values)
    return {name: value.to(device, dtype if value.is_floating_point() else None) for name, value in batch.items()}


def embed(model: Any, batch: Inputs) -> torch.Tensor:
    """Embeddings of a batch of `collate`, (rows, longest, hidden): words, and encoded media where placeholders stand.

    Raises:
        ValueError: placeholders and media differ in number.
    """
    ids = batch["input_ids"]
    embeds: torch.Tensor = model.get_input_embeddings()(ids)
    # LLaVA-NeXT cuts the padding of tiles off by the image's size.
    sizes = {"image": {"image_sizes": batch["image_sizes"]} if "image_sizes" in batch else {}, "video": {}}
    for medium, names in _PIXELS.items():
        for name in names:
            if name not in batch:
                continue
            encode = getattr(model.base_model, f"get_{medium}_features")
            made = encode(batch[name], **sizes[medium], return_dict=True).pooler_output
            features = torch.cat([item.flatten(0, -2) for item in made])
            places = (ids == getattr(model.config, f"{medium}_token_id")).unsqueeze(-1)
            if (wanted := int(places.sum())) != len(features):
                raise ValueError(f"the prompts hold {wanted} {medium} tokens, their media make {len(features)}")
            embeds = embeds.masked_scatter(places, features.to(embeds.device, embeds.dtype))
    return embeds
