"""A checkpoint of the generative demo models in transformers as something that answers chat messages."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import (
    AutoTokenizer,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    VideoLlavaForConditionalGeneration,
    VideoLlavaImageProcessor,
)

from demo.generative_cases import Message, Shown

_MOST_TOKENS = 160


class Answerer:
    """Greedy answers of one checkpoint in float32; the prompt is what its chat template writes."""

    model_class: Any
    folder: Path

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = self.model_class.from_pretrained(folder, dtype=torch.float32).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)

    def __call__(self, messages: Sequence[Message], seen: Sequence[Shown]) -> str:
        """The answer to the last message."""
        text = self.tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
        inputs = self.inputs(text, seen)
        with torch.inference_mode():
            produced = self.model.generate(**inputs, do_sample=False, max_new_tokens=_MOST_TOKENS)
        answer: str = self.tokenizer.decode(produced[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return answer.strip()

    def inputs(self, text: str, seen: Sequence[Shown]) -> dict[str, torch.Tensor]:
        """What the model takes for a prompt and its pictures or clips."""
        raise NotImplementedError


class Llava(Answerer):
    """LLaVA through its own processor."""

    model_class = LlavaForConditionalGeneration

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.processor = LlavaProcessor.from_pretrained(folder)

    def inputs(self, text: str, seen: Sequence[Shown]) -> dict[str, torch.Tensor]:
        """Pictures in the order of their placeholders."""
        return dict(self.processor(images=list(seen) or None, text=text, return_tensors="pt"))


class Blip2(Answerer):
    """BLIP-2 through its own processor."""

    model_class = Blip2ForConditionalGeneration

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.processor = Blip2Processor.from_pretrained(folder)

    def inputs(self, text: str, seen: Sequence[Shown]) -> dict[str, torch.Tensor]:
        """One picture, whose tokens the processor puts in front of the text."""
        return dict(self.processor(images=list(seen), text=text, return_tensors="pt"))


class VideoLlava(Answerer):
    """Video-LLaVA with its image processor alone, since its video processor exists only beside torchvision."""

    model_class = VideoLlavaForConditionalGeneration

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.images = VideoLlavaImageProcessor.from_pretrained(folder)

    def inputs(self, text: str, seen: Sequence[Shown]) -> dict[str, torch.Tensor]:
        """Pictures and clips, whose placeholders are spelled out here as the full processor would."""
        vision = self.model.config.vision_config
        patches = (vision.image_size // vision.patch_size) ** 2
        pictures = [item for item in seen if isinstance(item, Image.Image)]
        clips = [item for item in seen if not isinstance(item, Image.Image)]
        found: dict[str, torch.Tensor] = {}
        text = text.replace("<image>", "<image>" * patches)
        if pictures:
            found |= self.images(pictures, return_tensors="pt")
        if clips:
            frames = [[Image.fromarray(frame) for frame in np.asarray(clip)] for clip in clips]
            pixels = [self.images(pictures, return_tensors="pt")["pixel_values_images"] for pictures in frames]
            found["pixel_values_videos"] = torch.stack(pixels)
            text = text.replace("<video>", "<video>" * (len(clips[0]) * (patches + 1)))
        return dict(self.tokenizer(text, return_tensors="pt")) | found


_CLASSES = {"llava": Llava, "blip-2": Blip2, "video_llava": VideoLlava}


def load_answerer(folder: Path) -> Answerer:
    """The answerer for a checkpoint's model type."""
    kind = json.loads((folder / "config.json").read_text())["model_type"]
    return _CLASSES[kind](folder)
