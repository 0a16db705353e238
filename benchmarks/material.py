"""What the benchmarks send and serve: real photos as JPEG files, and a CLIP of the usual size with random weights."""

from __future__ import annotations

import importlib.util
import io
import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from benchmarks.servers import ROOT, cache_dir
from serve.errors import Unavailable

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DEMO_CLIP = ROOT / "demo" / "checkpoints" / "clip"
# Photos in the scikit-image wheel.
_PHOTOS = (
    *("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png", "motorcycle_right.png"),
    *("ihc.png", "hubble_deep_field.jpg", "retina.jpg"),
)
_LONG_SIDE = 1024


def jpegs(count: int, size_bytes: int, *, long_side: int = _LONG_SIDE) -> list[Path]:
    """`count` distinct JPEG files of about `size_bytes`, the same ones on every machine; kept in the cache folder.

    Each is a random crop of a photo, scaled to `long_side`, at the quality that comes nearest to the size.

    Raises:
        Unavailable: scikit-image, which brings the photos, is not installed.
    """
    folder = cache_dir() / f"jpeg-{count}-{size_bytes}-{long_side}"
    paths = [folder / f"{i:03d}.jpg" for i in range(count)]
    if all(path.is_file() for path in paths):
        return paths
    folder.mkdir(exist_ok=True)
    photos = [Image.open(path).convert("RGB") for path in _photo_paths()]
    for i, path in enumerate(paths):
        path.write_bytes(_encode(_crop(photos[i % len(photos)], random.Random(i), long_side), size_bytes))
    return paths


def _photo_paths() -> list[Path]:
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        raise Unavailable("scikit-image, whose photos are the test images, is not installed: pip install scikit-image")
    return [Path(spec.origin).parent / "data" / name for name in _PHOTOS]


def _crop(photo: Image.Image, draw: random.Random, long_side: int) -> Image.Image:
    share = draw.uniform(0.6, 1.0)
    width, height = round(photo.width * share), round(photo.height * share)
    left, top = draw.randint(0, photo.width - width), draw.randint(0, photo.height - height)
    scale = long_side / max(width, height)
    box = (left, top, left + width, top + height)
    return photo.resize((round(width * scale), round(height * scale)), Image.Resampling.LANCZOS, box=box)


def _encode(image: Image.Image, size_bytes: int) -> bytes:
    """The JPEG whose size is nearest, by bisection over the quality."""
    low, high = 5, 97
    candidates: list[bytes] = []
    while low <= high:
        quality = (low + high) // 2
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        candidates.append(buffer.getvalue())
        low, high = (quality + 1, high) if len(candidates[-1]) < size_bytes else (low, quality - 1)
    return min(candidates, key=lambda data: abs(len(data) - size_bytes))


def mean_bytes(paths: Sequence[Path]) -> float:
    """Mean file size."""
    return sum(path.stat().st_size for path in paths) / len(paths)


def random_vit_b32() -> Path:
    """A CLIP ViT-B/32 (Radford et al. 2021, table 20: 151 M parameters) with seeded random weights, kept in the cache.

    Weights do not change how long a forward pass takes; what they say is not looked at.
    """
    folder = cache_dir() / "clip-vit-b32-random"
    if (folder / "complete").is_file():
        return folder
    import torch
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor

    torch.manual_seed(0)
    # transformers' defaults are the ViT-B/32 of openai/clip-vit-base-patch32.
    CLIPModel(CLIPConfig()).save_pretrained(folder)
    CLIPProcessor(CLIPImageProcessorPil(), _tokenizer()).save_pretrained(folder)
    (folder / "complete").touch()
    return folder


def _tokenizer() -> PreTrainedTokenizerBase:
    """CLIP's byte-level BPE without any merge: valid, tiny, and no image needs it."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    letters = sorted(ByteLevel.alphabet())
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[])


def random_llava() -> Path:
    """A LLaVA of 100 M parameters with seeded random weights, kept in the cache folder: CLIP ViT-B/32's tower in half
    its depth and a Llama of 12 layers, with the demo LLaVA's tokenizer and processor.

    Raises:
        Unavailable: the demo LLaVA is not there.
    """
    source = ROOT / "demo" / "checkpoints" / "llava"
    folder = cache_dir() / "llava-100m-random"
    if (folder / "complete").is_file():
        return folder
    if not (source / "model.safetensors").is_file():
        raise Unavailable(f"{source} does not exist; demo/train_llava.py makes it")
    import torch
    from transformers import AutoConfig, AutoTokenizer, LlavaForConditionalGeneration

    from demo.generative_checkpoints import save_llava

    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(source)
    text, vision = config.text_config, config.vision_config
    text.hidden_size, text.intermediate_size, text.num_hidden_layers = 768, 2048, 12
    text.num_attention_heads = text.num_key_value_heads = 12
    text.head_dim = 64
    vision.hidden_size, vision.intermediate_size, vision.num_hidden_layers, vision.num_attention_heads = 384, 1536, 6, 6
    folder.mkdir(exist_ok=True)
    save_llava(folder, LlavaForConditionalGeneration(config), AutoTokenizer.from_pretrained(source))
    (folder / "complete").touch()
    return folder
