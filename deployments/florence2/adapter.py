"""Florence-2 as an adapter: a picture and a task in, the answer's tokens out.

A picture is encoded once, in the first batch that meets it, and serves all its tasks. Prompts of all tasks share a
batch: they differ in words only. Answers are those of `model.generate(**processor(text=task, images=image))` alone.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image as PilImage
from transformers import (
    AutoConfig,
    AutoProcessor,
    Florence2ForConditionalGeneration,
    GenerationConfig,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.modeling_outputs import BaseModelOutput

from deployments.base import Adapter
from deployments.clip_preprocess import FastPath, fast_path
from deployments.florence2.items import Picture, Prepared, Question, Watch, Written
from deployments.florence2.messages import MOST_SIDE
from deployments.florence2.tasks import TASKS
from deployments.gpu import cap_allocator
from deployments.messages import EncodedImage, RawImage
from serve.config.models import Florence2Model
from serve.errors import ConfigError, DeadlineExceeded, InvalidRequest
from serve.media.image import ImageLimits, decode_image

# Tokens of a probe's answer: enough to run every part of the model.
_PROBE_TOKENS = 4
# A sentence has about so many tokens; tasks that usually write more are batched apart from those that write less.
_LONG = 16
# Share of a new answer in a task's mean length.
_NEW_SHARE = 0.1


class Florence2Adapter(Adapter[Question, Prepared, Written, Written]):
    """See the module's text.

    Args:
        config: checkpoint and dtype.
        limits: bounds under which an image is decoded.

    Raises:
        ConfigError: the checkpoint is not a Florence-2 in transformers' own layout.
    """

    def __init__(self, config: Florence2Model, limits: ImageLimits) -> None:
        torch.set_num_threads(config.placement.threads)
        self._device = torch.device("cuda" if config.gpu_memory_gb and torch.cuda.is_available() else "cpu")
        if self._device.type == "cuda":
            cap_allocator(config.gpu_memory_gb)
        # Half precision is for the GPU; on a CPU it is slower and less exact than float32.
        self._dtype = getattr(torch, config.dtype) if self._device.type == "cuda" else torch.float32
        self._model = _load(config, self._dtype).to(self._device).eval()
        options = {"revision": config.revision, "trust_remote_code": False}
        self.processor: Any = AutoProcessor.from_pretrained(config.checkpoint, backend="pil", **options)
        self._tokenizer = self.processor.tokenizer
        self._added = frozenset(self._tokenizer.get_added_vocab().values())
        self._fast: FastPath | None = fast_path(self.processor.image_processor)
        if self._fast is not None:
            self._mean = torch.tensor(self._fast.mean, device=self._device).view(1, 3, 1, 1)
            self._std = torch.tensor(self._fast.std, device=self._device).view(1, 3, 1, 1)
        self._limits = limits
        self._image_tokens = int(self.processor.num_image_tokens)
        self._positions: int = self._model.config.text_config.max_position_embeddings
        self._most_new = min(config.max_new_tokens, self._positions)
        self._lengths: dict[str, float] = {}
        self.last_step = 0.0

    @property
    def device(self) -> str:
        """`cpu` or `cuda`."""
        return self._device.type

    @property
    def image_size(self) -> int:
        """Side of the model's input, in pixels."""
        return int(self.processor.image_processor.size["height"])

    @property
    def positions(self) -> int:
        """Most tokens of image and prompt, and most of an answer."""
        return self._positions

    @property
    def weights_bytes(self) -> int:
        """Memory of the weights."""
        return sum(weight.nbytes for weight in (*self._model.parameters(), *self._model.buffers()))

    def open(self, image: EncodedImage | RawImage, *, keep: bool = False) -> Picture:
        """Decodes an image and shapes it for the model.

        Args:
            keep: the image as well, to be drawn on.

        Raises:
            InvalidMedia: it does not decode.
        """
        if isinstance(image, RawImage):
            decoded = PilImage.fromarray(image.pixels)
        else:
            decoded = decode_image(image.data, self._limits)
        if self._fast is not None:
            shaped = self._fast.pixels(decoded)
        else:
            values = self.processor.image_processor(images=decoded, return_tensors="np")["pixel_values"][0]
            shaped = np.asarray(values, np.float32)
        size = decoded.size
        if keep:
            decoded.thumbnail((MOST_SIDE, MOST_SIDE), PilImage.Resampling.BICUBIC)
        return Picture(shaped, size, decoded if keep else None)

    def preprocess(self, item: Question) -> Prepared:
        """Writes and tokenises the prompt.

        Raises:
            InvalidRequest: a text that is too long or holds special tokens, a region beyond the image.
        """
        begins, ends = self._tokenizer.bos_token, self._tokenizer.eos_token
        ids = self._tokenizer(f"{begins}{self._prompt(item)}{ends}", add_special_tokens=False)["input_ids"]
        if (total := self._image_tokens + len(ids)) > self._positions:
            raise InvalidRequest(
                f"Image and text have {total} tokens; this model reads at most {self._positions}.",
                code="text_too_long",
                param="text",
            )
        most = min(item.max_new_tokens, self._most_new)
        return Prepared(item.picture, item.task.name, np.asarray(ids, np.int64), item.beams, most, item.watch)

    def _prompt(self, item: Question) -> str:
        """The published sentence of the task."""
        if item.task.needs == "nothing":
            return str(self.processor.task_prompts_without_inputs[item.task.token])
        given = self._text(item.text or "") if item.task.needs == "text" else self._places(item)
        return str(self.processor.task_prompts_with_input[item.task.token].format(input=given))

    def _text(self, text: str) -> str:
        """The text, unless it says something that only the prompt may say.

        The tokens of places, of the text's end and the like would be read as such; the names of tasks are what the
        published processor refuses too.
        """
        found = self._added.intersection(self._tokenizer(text, add_special_tokens=False)["input_ids"])
        reserved = [task.token for task in TASKS.values() if task.token in text]
        if found or reserved:
            name = reserved[0] if reserved else self._tokenizer.convert_ids_to_tokens(min(found))
            message = f"The text holds {name!r}, which has a meaning of its own to this model."
            raise InvalidRequest(message, code="invalid_field", param="text")
        return text.strip()

    def _places(self, item: Question) -> str:
        width, height = item.picture.size
        box = item.region
        assert box is not None, "checked at the edge"
        left, top, right, bottom = box
        if not (0 <= left < right <= width and 0 <= top < bottom <= height):
            raise InvalidRequest(
                f"The region {list(box)} must be x1 < x2, y1 < y2 within the image of {width} x {height} pixels.",
                code="invalid_field",
                param="region",
            )
        bins = self.processor.post_processor.quantize(torch.tensor([box], dtype=torch.float64), (width, height))
        return "".join(f"<loc_{number}>" for number in bins[0].tolist())

    def lane(self, prepared: Prepared) -> Hashable:
        """Beams and the token limit are settings of a whole `generate` call.

        It also lasts as long as its longest answer. So tasks of few and of many tokens, as they have been here so far,
        go apart: a caption does not wait for a page of text, and no rows are computed that have long ended.
        """
        return prepared.beams, prepared.max_new_tokens, self._lengths.get(prepared.task, 0.0) > _LONG

    def cost(self, prepared: Prepared) -> float:
        """Tokens that are read, once for each beam."""
        return float((self._image_tokens + len(prepared.prompt)) * prepared.beams)

    def forward(self, batch: Sequence[Prepared]) -> Sequence[Written | DeadlineExceeded]:
        """Encodes what is new, reads the prompts, writes the answers; all of one lane."""
        with torch.inference_mode():
            embeds, mask = self._inputs(batch)
            encoder = self._model.model.language_model.encoder
            encoded = encoder(inputs_embeds=embeds, attention_mask=mask).last_hidden_state
            sequences = self._model.generate(
                encoder_outputs=BaseModelOutput(last_hidden_state=encoded),
                attention_mask=mask,
                generation_config=self._generation(batch[0].beams, batch[0].max_new_tokens),
                stopping_criteria=StoppingCriteriaList([_Abandoned([item.watch for item in batch], self._beat)]),
            )
        return [self._result(item, row) for item, row in zip(batch, sequences.tolist(), strict=True)]

    def _result(self, item: Prepared, row: list[int]) -> Written | DeadlineExceeded:
        if item.watch.over:
            return DeadlineExceeded("The deadline passed before the answer was written.")
        ids = row[1:]
        end = self._tokenizer.eos_token_id
        if end in ids:
            ids = ids[: ids.index(end) + 1]
        mean = self._lengths.get(item.task, float(len(ids)))
        self._lengths[item.task] = mean + _NEW_SHARE * (len(ids) - mean)
        return Written(tuple(ids), len(ids) >= item.max_new_tokens)

    def _inputs(self, batch: Sequence[Prepared]) -> tuple[torch.Tensor, torch.Tensor]:
        """What the encoder reads, (rows, tokens, hidden), and (rows, tokens) ones where it does.

        Padding stands behind: positions are absolute, so a row reads as if it were alone.
        """
        fresh = list({id(item.picture): item.picture for item in batch if item.picture.features is None}.values())
        if fresh:
            pixels = self._pixel_values(fresh).to(self._dtype)
            features = self._model.get_image_features(pixel_values=pixels).pooler_output
            for picture, tokens in zip(fresh, features, strict=True):
                picture.features = tokens
        lengths = [self._image_tokens + len(item.prompt) for item in batch]
        longest = max(len(item.prompt) for item in batch)
        prompts = np.full((len(batch), longest), self._tokenizer.pad_token_id, np.int64)
        for row, item in enumerate(batch):
            prompts[row, : len(item.prompt)] = item.prompt
        words = self._model.get_input_embeddings()(torch.from_numpy(prompts).to(self._device))
        seen = torch.stack([item.picture.features for item in batch if item.picture.features is not None])
        mask = torch.arange(self._image_tokens + longest) < torch.tensor(lengths)[:, None]
        return torch.cat([seen.to(words.dtype), words], dim=1), mask.long().to(self._device)

    def _pixel_values(self, pictures: Sequence[Picture]) -> torch.Tensor:
        pixels = torch.from_numpy(np.stack([picture.shaped for picture in pictures])).to(self._device)
        if self._fast is None:
            return pixels
        scaled = pixels.permute(0, 3, 1, 2).float().mul_(self._fast.scale)
        return scaled.sub_(self._mean).div_(self._std).contiguous()

    def _generation(self, beams: int, max_new_tokens: int) -> GenerationConfig:
        """The checkpoint's own settings (what it forces and forbids), searched as asked."""
        settings: GenerationConfig = copy.deepcopy(self._model.generation_config)
        settings.update(
            num_beams=beams,
            early_stopping=settings.early_stopping if beams > 1 else None,
            length_penalty=settings.length_penalty if beams > 1 else None,
            max_new_tokens=max_new_tokens,
            do_sample=False,
        )
        return settings

    def _beat(self) -> None:
        self.last_step = time.monotonic()

    def probe(self) -> Question:
        pixels = np.full((self.image_size, self.image_size, 3), 127, np.uint8)
        picture = self.open(RawImage(pixels))
        return Question(picture, TASKS["caption"], None, None, 1, _PROBE_TOKENS, Watch(float("inf")))


class _Abandoned(StoppingCriteria):
    """Ends the rows that nobody waits for; when all are, `generate` returns.

    A beam search asks about several candidates of each row, which stand together.
    """

    def __init__(self, watches: Sequence[Watch], beat: Callable[[], None]) -> None:
        self._watches, self._beat = watches, beat

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **kwargs: Any) -> torch.BoolTensor:
        self._beat()
        over = torch.tensor([watch.over for watch in self._watches], device=input_ids.device)
        return over.repeat_interleave(len(input_ids) // len(self._watches))  # type: ignore[return-value]


def _load(config: Florence2Model, dtype: torch.dtype) -> Any:
    options: dict[str, Any] = {"revision": config.revision, "trust_remote_code": False}
    kind = AutoConfig.from_pretrained(config.checkpoint, **options).model_type
    if kind != "florence2":
        raise ConfigError(f"{config.checkpoint} is a {kind!r} checkpoint; kind florence2 serves florence2.")
    loaded: Any = Florence2ForConditionalGeneration.from_pretrained(
        config.checkpoint, dtype=dtype, use_safetensors=True, output_loading_info=True, **options
    )
    model, loading = loaded
    if missing := sorted(loading["missing_keys"]):
        # Such as microsoft/Florence-2-*, which names its weights for code of its own: what lacks would be random.
        raise ConfigError(
            f"{config.checkpoint} lacks {len(missing)} weights of transformers' Florence-2, such as {missing[0]}; "
            "the checkpoints in this layout are florence-community/Florence-2-*."
        )
    return model
