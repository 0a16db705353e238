"""The tokenizer of the demo's generative models: byte-level BPE, so that no text fails, whose merges come from the
dialogues and from common English words."""

from __future__ import annotations

import random
from collections.abc import Iterator

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from demo.clip_prompts import FILLERS
from demo.dialogues import draw_chat, draw_images_turn, draw_motion_turn, draw_turn
from demo.scenes import DIFFICULTIES, sample_scene

BOS, EOS, PAD, IMAGE, VIDEO = "<s>", "</s>", "<pad>", "<image>", "<video>"
VOCABULARY = 1280
MAX_LENGTH = 2048


def build_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """Special tokens first (<s> is 0, </s> is 1, <pad> is 2), then bytes and merges; <s> opens every text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[BOS, EOS, PAD, IMAGE, VIDEO],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(random.Random(seed)), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        unk_token=PAD,
        padding_side="left",
        model_max_length=MAX_LENGTH,
        clean_up_tokenization_spaces=False,
        additional_special_tokens=[IMAGE, VIDEO],
    )


def _corpus(rng: random.Random) -> Iterator[str]:
    """Dialogues as the models see them, with the words of the demo CLIP's fillers for everyday English."""
    for number in range(2500):
        scene = sample_scene(number, split="train", difficulty=DIFFICULTIES[number % 3])
        turns = [draw_turn(scene, rng) for _ in range(8)]
        turns += [
            draw_images_turn([scene, sample_scene(number + 1)], rng),
            draw_chat(rng),
            draw_motion_turn(scene, rng),
        ]
        for turn in turns:
            yield f"\n{turn.question} ASSISTANT: {turn.answer}"
            yield f"USER: {turn.question} ASSISTANT: {turn.answer}"
            yield f"Question: {turn.question} Answer: {turn.answer}"
    for _ in range(2500):
        yield "".join(f" {word}" for word in rng.choices(FILLERS, k=8))
