"""What tests of the transformers engine need beside `tiny_models`: BLIP-2 on T5, and a way to hold a model still."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import torch
from tokenizers import processors
from transformers import AutoModelForImageTextToText, Blip2Config, Blip2ForConditionalGeneration, Blip2Processor
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from tests.support.tiny_models import IMAGE_SIZE, PATCH, tokenizer

# A token that the tokenizer of `with_poison` knows and the model does not: it breaks every batch that holds it.
POISON = "<poison>"
_CONTEXT = 256


def blip2_t5(folder: Path, *, seed: int = 0) -> Path:
    """BLIP-2 on a T5: its language model is an encoder-decoder."""
    words = tokenizer("<image>", bos=False)
    words.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", words.eos_token_id)]
    )
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    t5 = {
        "model_type": "t5",
        "architectures": ["T5ForConditionalGeneration"],
        "d_model": 64,
        "d_kv": 32,
        "d_ff": 128,
        "num_layers": 2,
        "num_heads": 2,
        "vocab_size": len(words),
        "n_positions": _CONTEXT,
        "pad_token_id": words.pad_token_id,
        "eos_token_id": words.eos_token_id,
        "decoder_start_token_id": words.pad_token_id,
        "tie_word_embeddings": False,
    }
    config = Blip2Config(
        vision_config={**size, "image_size": IMAGE_SIZE, "patch_size": PATCH},
        qformer_config={**size, "encoder_hidden_size": 32, "vocab_size": len(words)},
        text_config=t5,
        num_query_tokens=4,
        image_token_index=words.convert_tokens_to_ids("<image>"),
    )
    model = Blip2ForConditionalGeneration(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.normal_(0.0, 0.25, generator=generator)
    model.save_pretrained(folder)
    images = BlipImageProcessorPil(size={"height": IMAGE_SIZE, "width": IMAGE_SIZE})
    Blip2Processor(images, words, num_query_tokens=4).save_pretrained(folder)
    return folder


def with_poison(folder: Path) -> Path:
    """Gives a saved checkpoint's tokenizer the token `POISON`."""
    from transformers import AutoTokenizer

    words = AutoTokenizer.from_pretrained(folder)
    words.add_tokens([POISON])
    words.save_pretrained(folder)
    return folder


class Gate:
    """Stands before every forward pass of the models loaded while it is in place.

    Attributes:
        steps: forward passes that have begun.
        pictures: that a LLaVA's vision tower has encoded.
        failing: raised instead of the next pass.
        broken_rows: whose next logits are not numbers, by number in the batch.
        entered: released by each pass that begins.
    """

    def __init__(self, monkeypatch: Any) -> None:
        self.steps = self.pictures = 0
        self.failing: Exception | None = None
        self.broken_rows: tuple[int, ...] = ()
        self._left = threading.Semaphore(0)
        self._shut = False
        self.entered = threading.Semaphore(0)
        load = AutoModelForImageTextToText.from_pretrained

        def gated(*args: Any, **kwargs: Any) -> Any:
            model = load(*args, **kwargs)
            model.register_forward_pre_hook(self._before)
            model.register_forward_hook(self._after)
            if (tower := getattr(model.base_model, "vision_tower", None)) is not None:
                tower.register_forward_pre_hook(self._encoding)
            return model

        monkeypatch.setattr(AutoModelForImageTextToText, "from_pretrained", gated)

    def shut(self) -> None:
        """From here on a pass waits for `let`, after releasing `entered`."""
        self.entered = threading.Semaphore(0)
        self._left = threading.Semaphore(0)
        self._shut = True

    def let(self, passes: int) -> None:
        """Lets so many passes through."""
        self._left.release(passes)

    def open(self) -> None:
        """Lets all through."""
        self._shut = False
        self._left.release(1000)

    def _before(self, model: Any, args: Any) -> None:
        self.steps += 1
        self.entered.release()
        if self._shut:
            assert self._left.acquire(timeout=60)
        if self.failing is not None:
            failing, self.failing = self.failing, None
            raise failing

    def _encoding(self, tower: Any, args: Any) -> None:
        self.pictures += len(args[0])

    def _after(self, model: Any, args: Any, output: Any) -> None:
        for row in self.broken_rows:
            output.logits[row] = float("nan")
        self.broken_rows = ()
