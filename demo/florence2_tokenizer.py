"""The tokenizer of the demo Florence-2: BART's byte-level BPE with the tokens that the published processor adds.

Words of the scene language are whole, upper-case letters and digits stand alone: a printed word is spelt letter by
letter, so that words never seen can be read. Every other text falls apart into bytes, so that none fails.
"""

from __future__ import annotations

from collections.abc import Iterator

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from demo.scenes import BACKGROUNDS, COLOURS, SHAPES

BOS, PAD, EOS, UNK, IMAGE = "<s>", "<pad>", "</s>", "<unk>", "<image>"
LOCATIONS = 1000
MAX_LENGTH = 448

#: What Florence-2 adds to BART's vocabulary, in the published order (one name is misspelt there too).
ADDED = (
    "<od>", "</od>", "<ocr>", "</ocr>",
    *(f"<loc_{number}>" for number in range(LOCATIONS)),
    "<cap>", "</cap>", "<ncap>", "</ncap>", "<dcap>", "</dcap>", "<grounding>", "</grounding>", "<seg>", "</seg>",
    "<sep>", "<region_cap>", "</region_cap>", "<region_to_desciption>", "</region_to_desciption>", "<proposal>",
    "</proposal>", "<poly>", "</poly>", "<and>",
)  # fmt: skip

#: The words of captions, phrases and prompts beside colours, shapes and backgrounds.
_WORDS = (
    "a", "an", "the", "one", "two", "three", "four", "no", "object", "objects", "picture", "of", "and", "in",
    "on", "at", "to", "is", "are", "there", "There", "The", "This", "shows", "with", "word", "printed", "top",
    "bottom", "left", "right", "centre", "above", "below", "large", "medium", "sized", "small", "background",
    "it", "its", "everything", "What", "does", "image", "describe", "Describe", "detail", "what", "shown",
    "paragraph", "Locate", "category", "name", "their", "descriptions", "region", "proposals", "text",
    "regions", "phrases", "caption", "mask", "polygon",
)  # fmt: skip


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer; <s> is 0, <pad> 1, </s> 2 and <unk> 3 as in BART, <image> is the last."""
    tokenizer = Tokenizer(models.BPE(unk_token=UNK))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=2000,
        min_frequency=1,
        special_tokens=[BOS, PAD, EOS, UNK],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in (*ADDED, IMAGE)])
    ends = [(token, tokenizer.token_to_id(token)) for token in (BOS, EOS)]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A {EOS}", pair=f"{BOS} $A {EOS} {EOS} $B {EOS}", special_tokens=ends
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNK,
        padding_side="right",
        model_max_length=MAX_LENGTH,
        clean_up_tokenization_spaces=False,
        extra_special_tokens={"image_token": IMAGE},
    )


def _corpus() -> Iterator[str]:
    """Every word by itself, with and without a space before it, and the punctuation."""
    plurals = [f"{shape}es" if shape.endswith("s") else f"{shape}s" for shape in SHAPES]
    backgrounds = [word for name in BACKGROUNDS for word in name.split()]
    for word in dict.fromkeys((*_WORDS, *COLOURS, *SHAPES, *plurals, *backgrounds)):
        yield word
        yield f" {word}"
