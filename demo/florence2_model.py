"""The demo Florence-2: the published architecture and files at two hundredths of the base model's size.

A DaViT of four stages turns 192 x 192 pixels into 12 x 12 tokens and their mean, a BART of three and three layers
reads them with the prompt and writes the answer.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import (
    BartConfig,
    Florence2Config,
    Florence2ForConditionalGeneration,
    Florence2Processor,
    GenerationConfig,
    PreTrainedTokenizerFast,
)
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.florence2.configuration_florence2 import Florence2VisionConfig

from demo.florence2_tokenizer import LOCATIONS, MAX_LENGTH

SIDE, GRID = 192, 12
IMAGE_TOKENS = GRID * GRID + 1
WIDTH, LAYERS, MLP, HEADS = 192, 3, 384, 6

#: As published: phrases that a grounded caption gives no box.
_NOT_GROUNDED = (
    "it", "I", "me", "mine", "you", "your", "yours", "he", "him", "his", "she", "her", "hers", "they", "them", "their",
    "one", "oneself", "we", "us", "our", "ours", "its", "theirs", "myself", "yourself", "himself", "herself", "itself",
    "ourselves", "yourselves", "themselves", "this", "that", "these", "those", "who", "whom", "whose", "which", "what",
    "all", "another", "any", "anybody", "anyone", "anything", "each", "everybody", "everyone", "everything", "few",
    "many", "nobody", "none", "several", "some", "somebody", "someone", "something", "each other", "one another",
    "the image", "image", "images", "the", "a", "an", "a group", "other objects", "lots", "a set",
)  # fmt: skip
_POST_PROCESSING: dict[str, dict[str, object]] = {
    "ocr": {"PATTERN": r"(.+?)" + 8 * r"<loc_(\d+)>", "AREA_THRESHOLD": 0.0},
    "phrase_grounding": {"banned_grounding_tokens": list(_NOT_GROUNDED)},
    "pure_text": {},
    "description_with_bboxes": {},
    "description_with_polygons": {},
    "polygons": {},
    "bboxes": {},
    "description_with_bboxes_or_polygons": {},
}


def build_processor(tokenizer: PreTrainedTokenizerFast) -> Florence2Processor:
    """Resize to a square whatever the form, ImageNet's mean and deviation, and the published reading of answers."""
    images = CLIPImageProcessorPil(
        size={"height": SIDE, "width": SIDE},
        crop_size={"height": SIDE, "width": SIDE},
        do_center_crop=False,
        image_mean=IMAGENET_DEFAULT_MEAN,
        image_std=IMAGENET_DEFAULT_STD,
        image_seq_length=IMAGE_TOKENS,
    )
    return Florence2Processor(images, tokenizer, post_processor_config=_POST_PROCESSING)


def build_model(tokenizer: PreTrainedTokenizerFast) -> Florence2ForConditionalGeneration:
    """An untrained model whose places start in order: neighbouring bins and neighbouring patches look alike."""
    vision = Florence2VisionConfig(
        depths=(1, 1, 3, 1),
        patch_stride=(4, 2, 2, 1),
        embed_dim=(32, 64, 128, 160),
        num_heads=(1, 2, 4, 5),
        num_groups=(1, 2, 4, 5),
        window_size=12,
        drop_path_rate=0.0,
        projection_dim=WIDTH,
        max_temporal_embeddings=1,
        max_position_embeddings=GRID,
    )
    text = BartConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=MAX_LENGTH,
        d_model=WIDTH,
        encoder_layers=LAYERS,
        decoder_layers=LAYERS,
        encoder_ffn_dim=MLP,
        decoder_ffn_dim=MLP,
        encoder_attention_heads=HEADS,
        decoder_attention_heads=HEADS,
        dropout=0.0,
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.eos_token_id,
    )
    config = Florence2Config(
        text_config=text.to_dict(),
        vision_config=vision.to_dict(),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = Florence2ForConditionalGeneration(config)
    _order_places(model, first_location(tokenizer))
    return model


def first_location(tokenizer: PreTrainedTokenizerFast) -> int:
    """The id of <loc_0>; those of the other places follow it."""
    return int(tokenizer.convert_tokens_to_ids("<loc_0>"))


def load_checkpoint(
    folder: Path, dtype: torch.dtype = torch.float32
) -> tuple[Florence2ForConditionalGeneration, Florence2Processor]:
    """The model and the processor as anyone would load them."""
    processor = Florence2Processor.from_pretrained(folder)
    return Florence2ForConditionalGeneration.from_pretrained(folder, dtype=dtype), processor


def save_checkpoint(folder: Path, model: Florence2ForConditionalGeneration, processor: Florence2Processor) -> None:
    """Write all files, the weights as float16; a run that ends here leaves the old weights or the new, never half."""
    folder.mkdir(parents=True, exist_ok=True)
    processor.save_pretrained(folder)
    processor.image_processor.save_pretrained(folder)
    config = model.config.to_dict() | {"architectures": [type(model).__name__], "dtype": "float16"}
    Florence2Config.from_dict(config).save_pretrained(folder)
    _generation(model).save_pretrained(folder)
    tied = {"lm_head.weight"} | {f"model.language_model.{side}.embed_tokens.weight" for side in ("encoder", "decoder")}
    tensors = {
        name: tensor.detach().half().contiguous() for name, tensor in model.state_dict().items() if name not in tied
    }
    save_file(tensors, folder / "model.safetensors.part", metadata={"format": "pt"})
    (folder / "model.safetensors.part").replace(folder / "model.safetensors")


def _generation(model: Florence2ForConditionalGeneration) -> GenerationConfig:
    """As published, but for `no_repeat_ngram_size`: right answers about scenes say "is to the left of the" twice."""
    text = model.config.text_config
    return GenerationConfig(
        bos_token_id=text.bos_token_id,
        pad_token_id=text.pad_token_id,
        eos_token_id=text.eos_token_id,
        decoder_start_token_id=text.decoder_start_token_id,
        forced_bos_token_id=text.bos_token_id,
        forced_eos_token_id=text.eos_token_id,
        num_beams=3,
        early_stopping=True,
        no_repeat_ngram_size=0,
        max_new_tokens=256,
    )


@torch.no_grad()
def _order_places(model: Florence2ForConditionalGeneration, first: int) -> None:
    """Start the location tokens, and the rows and columns of patches, as waves over their places."""
    words = model.get_input_embeddings().weight
    words[first : first + LOCATIONS] = 0.02 * math.sqrt(2.0) * _waves(LOCATIONS, words.shape[1], 0.5, 40.0)
    places = model.model.multi_modal_projector.image_position_embed
    for part in (places.row_embeddings, places.column_embeddings):
        nn.init.zeros_(part.weight)
        part.weight += _waves(*part.weight.shape, 0.25, 5.0)


def _waves(count: int, width: int, slowest: float, fastest: float) -> Tensor:
    """Sines and cosines of geometrically growing pace, in turns over all places: (count, width) float32."""
    paces = 2.0 * math.pi * torch.logspace(math.log10(slowest), math.log10(fastest), width // 2)
    angles = torch.linspace(0.0, 1.0, count)[:, None] * paces
    return torch.cat([angles.sin(), angles.cos()], dim=1)
