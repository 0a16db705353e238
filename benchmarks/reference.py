"""The demo CLIP through plain transformers, one image at a time: what serving must agree with."""

from __future__ import annotations

import io
from collections.abc import Sequence

import torch
from PIL import Image
from transformers import AutoProcessor, CLIPModel

from serve.config.load import DEMO_CHECKPOINTS


def predicted_labels(files: Sequence[bytes], labels: Sequence[str]) -> list[str]:
    """The most probable label of each image file, with the template "a photo of a {}."."""
    path = DEMO_CHECKPOINTS / "clip"
    model = CLIPModel.from_pretrained(path, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(path, backend="pil")
    texts = processor(text=[f"a photo of a {label}." for label in labels], return_tensors="pt", padding=True)
    images = [Image.open(io.BytesIO(file)).convert("RGB") for file in files]
    with torch.inference_mode():
        text = torch.nn.functional.normalize(model.get_text_features(**texts).pooler_output, dim=-1)
        pixels = processor(images=images, return_tensors="pt")["pixel_values"]
        image = torch.nn.functional.normalize(model.get_image_features(pixel_values=pixels).pooler_output, dim=-1)
    return [labels[int(i)] for i in (image @ text.T).argmax(dim=-1)]
