"""The demo VideoMAE and TimeSformer: their sizes, their files and what their processors do."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from transformers import (
    PreTrainedModel,
    TimesformerConfig,
    TimesformerForVideoClassification,
    VideoMAEConfig,
    VideoMAEForVideoClassification,
)

from demo.scenes import MOTIONS

Architecture = Literal["videomae", "timesformer"]

ARCHITECTURES: tuple[Architecture, ...] = get_args(Architecture)
SIDE, PATCH = 64, 8
GRID = SIDE // PATCH
WIDTH, _HEADS, _MLP = 192, 6, 576
_LABELS = {"id2label": dict(enumerate(MOTIONS)), "label2id": {label: number for number, label in enumerate(MOTIONS)}}


@dataclass(frozen=True, slots=True)
class Normalisation:
    """Mean and standard deviation of each colour, of values from 0 to 1."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


#: As the published checkpoints have it: VideoMAE's from ImageNet, TimeSformer's its authors' own.
NORMALISATIONS: dict[Architecture, Normalisation] = {
    "videomae": Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "timesformer": Normalisation((0.45, 0.45, 0.45), (0.225, 0.225, 0.225)),
}
FRAMES: dict[Architecture, int] = {"videomae": 16, "timesformer": 8}


@dataclass(frozen=True, slots=True)
class Look:
    """What a model makes of clips: logits (B, classes), and tokens (B, moments, places, width) after every layer."""

    logits: Tensor
    layers: list[Tensor]


def build_model(architecture: Architecture) -> PreTrainedModel:
    """The untrained model, below three million parameters."""
    sizes = {
        "image_size": SIDE,
        "patch_size": PATCH,
        "num_frames": FRAMES[architecture],
        "hidden_size": WIDTH,
        "num_attention_heads": _HEADS,
        "intermediate_size": _MLP,
        **_LABELS,
    }
    if architecture == "videomae":
        return VideoMAEForVideoClassification(VideoMAEConfig(num_hidden_layers=6, tubelet_size=2, **sizes))
    model = TimesformerForVideoClassification(TimesformerConfig(num_hidden_layers=5, **sizes))
    with torch.no_grad():  # they start as zeros, from which nothing this small learns where and when soon enough
        for table in (model.timesformer.embeddings.position_embeddings, model.timesformer.embeddings.time_embeddings):
            nn.init.trunc_normal_(table, std=0.3)
    return model


def look(model: PreTrainedModel, pixels: Tensor) -> Look:
    """What the model's own call gives of clips (B, T, 3, side, side), and the tokens on the way."""
    found = model(pixels, output_hidden_states=True)
    layers = found.hidden_states[1:]
    if model.config.model_type == "videomae":  # a moment is two pictures; moments one after the other
        return Look(found.logits, [tokens.unflatten(1, (-1, GRID**2)) for tokens in layers])
    # The class token, then all moments of a place together.
    return Look(found.logits, [tokens[:, 1:].unflatten(1, (GRID**2, -1)).transpose(1, 2) for tokens in layers])


def load_model(folder: Path) -> PreTrainedModel:
    """A saved model, by plain transformers, as float32.

    Raises:
        ValueError: the checkpoint is neither a VideoMAE nor a TimeSformer.
    """
    kind = json.loads((folder / "config.json").read_text())["model_type"]
    if kind == "videomae":
        return VideoMAEForVideoClassification.from_pretrained(folder, dtype=torch.float32)
    if kind == "timesformer":
        return TimesformerForVideoClassification.from_pretrained(folder, dtype=torch.float32)
    raise ValueError(f"{folder} holds a {kind}")


def save_model(folder: Path, model: PreTrainedModel) -> None:
    """Write weights as float16 safetensors, configuration, and the processor's settings as published ones are."""
    copy.deepcopy(model).half().save_pretrained(folder)
    normalisation = NORMALISATIONS[model.config.model_type]
    settings = {
        "image_processor_type": "VideoMAEImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": SIDE},
        "resample": 2,
        "do_center_crop": True,
        "crop_size": {"height": SIDE, "width": SIDE},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(normalisation.mean),
        "image_std": list(normalisation.std),
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(settings, indent=2) + "\n")
