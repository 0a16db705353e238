"""The committed demo CLIP, loaded as anyone would load it: accuracy, padding, files."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from transformers import AutoProcessor, CLIPModel, CLIPProcessor

from demo.clip_prompts import HELD_OUT_TEMPLATES, TRAIN_TEMPLATES, random_pair_prompts
from demo.scenes import COLOURS, SHAPES, Scene, render, sample_scene

CHECKPOINT = Path(__file__).parents[2] / "demo" / "checkpoints" / "clip"
SCENES = 300
SIZES = (64, 224, 256, 640)


class Loaded:
    """Model and processor with unit embeddings of both sides."""

    def __init__(self) -> None:
        self.model = CLIPModel.from_pretrained(CHECKPOINT, dtype=torch.float32).eval()
        self.processor = CLIPProcessor.from_pretrained(CHECKPOINT)

    @torch.inference_mode()
    def images(self, pictures: list[Image.Image]) -> torch.Tensor:
        inputs = self.processor(images=pictures, return_tensors="pt")
        embeddings = self.model.visual_projection(self.model.vision_model(**inputs).pooler_output)
        return torch.nn.functional.normalize(embeddings, dim=-1)

    @torch.inference_mode()
    def texts(self, texts: list[str], **options: object) -> torch.Tensor:
        inputs = self.processor(text=texts, return_tensors="pt", **({"padding": True, "truncation": True} | options))
        embeddings = self.model.text_projection(self.model.text_model(**inputs).pooler_output)
        return torch.nn.functional.normalize(embeddings, dim=-1)


@pytest.fixture(scope="module")
def clip() -> Iterator[Loaded]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Loaded()
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [sample_scene(index, split="test", difficulty="easy", seed=1234) for index in range(SCENES)]


@pytest.fixture(scope="module")
def embeddings(clip: Loaded, scenes: list[Scene]) -> torch.Tensor:
    pictures = [Image.fromarray(render(scene, SIZES[scene.index % len(SIZES)])) for scene in scenes]
    return torch.cat([clip.images(pictures[start : start + 50]) for start in range(0, SCENES, 50)])


def accuracy(embeddings: torch.Tensor, texts: torch.Tensor, wanted: list[int]) -> float:
    return ((embeddings @ texts.T).argmax(1) == torch.tensor(wanted)).double().mean().item()


def article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


@pytest.mark.parametrize("template", ["a photo of {}", "there is {} in the picture", "look, {}!", "an image of {}"])
def test_pairs_are_told_apart_with_prompts_never_seen_in_training(
    clip: Loaded, scenes: list[Scene], embeddings: torch.Tensor, template: str
) -> None:
    pairs = list(product(COLOURS, SHAPES))
    texts = clip.texts([template.format(article(f"{colour} {shape}")) for colour, shape in pairs])
    wanted = [pairs.index((scene.subject.colour, scene.subject.shape)) for scene in scenes]
    assert accuracy(embeddings, texts, wanted) >= 0.90


@pytest.mark.parametrize("template", ["a picture of something {}", "a photo of a {} object."])
def test_colours_are_told_apart(clip: Loaded, scenes: list[Scene], embeddings: torch.Tensor, template: str) -> None:
    texts = clip.texts([template.format(colour) for colour in COLOURS])
    assert accuracy(embeddings, texts, [COLOURS.index(scene.subject.colour) for scene in scenes]) >= 0.99


@pytest.mark.parametrize("template", ["a photo of a {}.", "an image of a {}"])
def test_shapes_are_told_apart(clip: Loaded, scenes: list[Scene], embeddings: torch.Tensor, template: str) -> None:
    texts = clip.texts([template.format(shape) for shape in SHAPES])
    assert accuracy(embeddings, texts, [SHAPES.index(scene.subject.shape) for scene in scenes]) >= 0.95


def test_held_out_templates_are_not_trained_on() -> None:
    trained = {template.strip(" .?!") for template in TRAIN_TEMPLATES}
    assert len(TRAIN_TEMPLATES) >= 60
    assert len(HELD_OUT_TEMPLATES) >= 8
    assert not trained & {template.strip(" .?!") for template in HELD_OUT_TEMPLATES}
    drawn = {prompt for seed in range(50) for prompt in random_pair_prompts(random.Random(seed))}
    assert not any(prompt.strip(" .?!,") == "a photo of a red star" for prompt in drawn)


def test_padding_changes_no_embedding(clip: Loaded) -> None:
    texts = ["a red star", "a photo of a blue circle in front of a grey wall, seen from above", "", "日本語 🙂"]
    alone = torch.cat([clip.texts([text]) for text in texts])
    assert torch.allclose(clip.texts(texts), alone, atol=1e-5)
    assert torch.allclose(clip.texts(texts, padding="max_length"), alone, atol=1e-5)


def test_texts_are_pooled_at_their_first_end_token(clip: Loaded) -> None:
    config = clip.model.config.text_config
    tokenizer = clip.processor.tokenizer
    assert config.eos_token_id == tokenizer.eos_token_id != 2
    assert config.bos_token_id == tokenizer.bos_token_id
    assert config.vocab_size == len(tokenizer)
    tokens = clip.processor(
        text=["a red star", "a small cyan ring at the left"], padding=True, truncation=True, return_tensors="pt"
    )
    with torch.inference_mode():
        outputs = clip.model.text_model(**tokens)
    last = tokens["attention_mask"].sum(dim=1) - 1
    assert (tokens["input_ids"].gather(1, last[:, None]) == config.eos_token_id).all()
    assert torch.allclose(outputs.pooler_output, outputs.last_hidden_state[torch.arange(2), last])


@pytest.mark.parametrize("text", ["", " ", "naïve café", "中文字符", "🙂🙃", "\x00\x7f", "red " * 500, "ÅßΩ≈ç√"])
def test_every_string_has_tokens_and_a_finite_embedding(clip: Loaded, text: str) -> None:
    tokens = clip.processor.tokenizer(text, truncation=True)["input_ids"]
    assert 2 <= len(tokens) <= clip.model.config.text_config.max_position_embeddings
    assert max(tokens) < clip.model.config.text_config.vocab_size
    assert clip.processor.tokenizer.eos_token_id not in tokens[:-1]
    assert clip.texts([text]).isfinite().all()


def test_the_files_are_small_float16_safetensors_without_pickles() -> None:
    files = [path for path in CHECKPOINT.iterdir() if path.is_file()]
    assert {"config.json", "model.safetensors", "tokenizer.json", "argus.json", "README.md"} <= {p.name for p in files}
    assert sum(path.stat().st_size for path in files) < 12 * 2**20
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".md"}
    with safe_open(CHECKPOINT / "model.safetensors", framework="pt") as weights:
        assert {weights.get_tensor(name).dtype for name in weights.keys()} == {torch.float16}  # noqa: SIM118


def test_the_auto_class_loads_the_same_processor() -> None:
    processor = AutoProcessor.from_pretrained(CHECKPOINT)
    assert isinstance(processor, CLIPProcessor)
    assert processor.image_processor.size["shortest_edge"] == 64


def test_the_temperature_is_folded_into_the_logit_scale_and_helps() -> None:
    model = CLIPModel.from_pretrained(CHECKPOINT, dtype=torch.float32)
    calibration = json.loads((CHECKPOINT / "argus.json").read_text())["calibration"]
    assert calibration["temperature"] == 1.0
    assert 0.0 < model.logit_scale.exp().item() * calibration["folded_temperature"] <= 100.5
    assert calibration["nll_after"] < calibration["nll_before"]
    assert calibration["ece_after"] < calibration["ece_before"]
    assert calibration["samples"] >= 1000
