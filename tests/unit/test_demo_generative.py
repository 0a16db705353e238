"""The committed generative demo models, loaded as anyone would load them, and the dialogues that teach them."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import (
    AutoTokenizer,
    Blip2ForConditionalGeneration,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    VideoLlavaForConditionalGeneration,
)

from demo import dialogues
from demo import generative_cases as cases
from demo.dialogue_phrases import HELD_OUT, TRAIN
from demo.dialogues import Turn
from demo.generative_answers import Answerer, load_answerer
from demo.packing import BLIP, LLAVA, NOTHING, Packer
from demo.scenes import DIFFICULTIES, MOTIONS, sample_scene

CHECKPOINTS = Path(__file__).parents[2] / "demo" / "checkpoints"
CLASSES = {
    "llava": LlavaForConditionalGeneration,
    "blip2": Blip2ForConditionalGeneration,
    "video_llava": VideoLlavaForConditionalGeneration,
}
#: Where published files keep these parts, and vLLM looks for them.
PUBLISHED = {
    "llava": (
        "vision_tower.vision_model.embeddings.class_embedding",
        "vision_tower.vision_model.encoder.layers.4.mlp.fc1.weight",
        "multi_modal_projector.linear_1.weight",
        "language_model.model.embed_tokens.weight",
        "language_model.lm_head.weight",
    ),
    "blip2": (
        "vision_model.embeddings.class_embedding",
        "vision_model.encoder.layers.0.self_attn.qkv.weight",
        "query_tokens",
        "qformer.encoder.layer.0.crossattention.attention.key.weight",
        "language_projection.weight",
        "language_model.model.decoder.embed_tokens.weight",
    ),
    "video_llava": (
        "image_tower.vision_model.embeddings.class_embedding",
        "video_tower.vision_model.embeddings.class_embedding",
        "multi_modal_projector.linear_1.weight",
        "language_model.model.embed_tokens.weight",
        "language_model.lm_head.weight",
    ),
}
PARTS = {
    "llava": ("vision_tower.vision_model.", "multi_modal_projector.", "language_model."),
    "blip2": ("vision_model.", "query_tokens", "qformer.", "language_projection.", "language_model."),
    "video_llava": (
        "image_tower.vision_model.",
        "video_tower.vision_model.",
        "multi_modal_projector.",
        "language_model.",
    ),
}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", params=CLASSES)
def answerer(request: pytest.FixtureRequest) -> Answerer:
    return load_answerer(CHECKPOINTS / request.param)


@pytest.mark.parametrize("name", CLASSES)
def test_every_weight_finds_its_place(name: str) -> None:
    _, info = CLASSES[name].from_pretrained(CHECKPOINTS / name, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]


@pytest.mark.parametrize("name", CLASSES)
def test_files_are_small_float16_and_laid_out_as_published(name: str) -> None:
    files = [path for path in (CHECKPOINTS / name).iterdir() if path.is_file()]
    wanted = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "processor_config.json"}
    assert wanted | {"chat_template.jinja", "README.md"} <= {path.name for path in files}
    assert sum(path.stat().st_size for path in files) < 12 * 2**20
    with safe_open(CHECKPOINTS / name / "model.safetensors", framework="pt") as weights:
        keys = set(weights.keys())
        assert {weights.get_slice(key).get_dtype() for key in keys} == {"F16"}
        assert all(weights.get_tensor(key).isfinite().all() for key in keys)
    assert set(PUBLISHED[name]) <= keys
    assert all(key.startswith(PARTS[name]) for key in keys)


@pytest.mark.parametrize("name", CLASSES)
def test_the_tokenizer_takes_any_text_and_gives_it_back(name: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINTS / name)
    assert tokenizer.convert_tokens_to_ids(["<s>", "</s>", "<pad>", "<image>", "<video>"]) == [0, 1, 2, 3, 4]
    for text in ("", "What colour is the star?", "naïve café", "日本語 🙂", "\x00\x7f", "  two  spaces\n"):
        tokens = tokenizer(text)["input_ids"]
        assert tokens[0] == tokenizer.bos_token_id
        assert max(tokens) < len(tokenizer) == 1280
        assert tokenizer.decode(tokens, skip_special_tokens=True) == text


def test_the_chat_templates_write_the_published_prompt_forms() -> None:
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "What is it?"}, {"type": "image"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "a red star"}]},
        {"role": "user", "content": "And its colour?"},
    ]
    written = {
        name: AutoTokenizer.from_pretrained(CHECKPOINTS / name).apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
        for name in CLASSES
    }
    llava = "USER: <image>\nWhat is it? ASSISTANT: a red star</s>USER: And its colour? ASSISTANT:"
    assert written["llava"] == written["video_llava"] == llava
    assert written["blip2"] == "Question: What is it? Answer: a red star Question: And its colour? Answer:"


def test_the_processor_counts_one_token_a_patch() -> None:
    processor = LlavaProcessor.from_pretrained(CHECKPOINTS / "llava")
    pictures = cases.shown(cases.subject_cases([sample_scene(0)])[0])
    inputs = processor(images=pictures, text="USER: <image>\nHi ASSISTANT:", return_tensors="pt")
    assert (inputs["input_ids"] == processor.image_token_id).sum() == 144
    assert inputs["pixel_values"].shape == (1, 3, 96, 96)


def test_questions_about_held_out_scenes_are_answered(answerer: Answerer) -> None:
    asked = cases.subject_cases(cases.scenes_of("easy", 4, seed=99))
    right = [outcome.right for outcome in cases.run(asked, answerer)]
    assert sum(right) >= 0.75 * len(right)


def test_motions_of_held_out_clips_are_named() -> None:
    clips = cases.motion_cases("easy", len(MOTIONS), seed=99, held_out=False)
    asked = [case for case in clips if case.turns[0].form == "motion"]
    right = [outcome.right for outcome in cases.run(asked, load_answerer(CHECKPOINTS / "video_llava"))]
    # By chance it would be one in nine.
    assert sum(right) >= 0.5 * len(right)


def test_dialogues_follow_from_their_seed() -> None:
    scenes = [sample_scene(index, difficulty=DIFFICULTIES[index % 3]) for index in range(30)]

    def drawn() -> list[Turn]:
        rng = random.Random(5)
        return [dialogues.draw_turn(scene, rng) for scene in scenes] + [
            dialogues.draw_images_turn(scenes[:2], rng),
            dialogues.draw_motion_turn(scenes[0], rng),
            dialogues.draw_chat(rng),
        ]

    assert drawn() == drawn()
    assert cases.question_cases(scenes, 1, held_out=True) == cases.question_cases(scenes, 1, held_out=True)


def test_held_out_wordings_are_never_trained_on() -> None:
    assert set(TRAIN) == set(HELD_OUT)
    trained = {wording.casefold() for wordings in TRAIN.values() for wording in wordings}
    assert not trained & {wording.casefold() for wordings in HELD_OUT.values() for wording in wordings}
    measured = cases.scenes_of("easy", 3, seed=0)
    assert all(scene.split == "test" for scene in measured)


def test_answers_are_scored_by_what_they_say() -> None:
    one = Turn("colour of the object", "", "red")
    assert cases.is_right(one, " Red.")
    assert not cases.is_right(one, "red star")
    told = Turn("json of the object", "", json.dumps({"colour": "red", "shape": "star"}))
    assert cases.is_right(told, '{"shape": "star", "colour": "red"}')
    assert not cases.is_right(told, '{"colour": "red"')
    several = Turn("caption", "", "two red stars, a blue cross and an orange ring")
    assert cases.is_right(several, "an orange ring, a blue cross and two red stars")
    assert not cases.is_right(several, "a red star, a blue cross and an orange ring")


@pytest.mark.parametrize("style", [LLAVA, BLIP])
def test_chains_see_their_picture_and_not_each_other(style: object) -> None:
    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINTS / "llava")
    packer = Packer(tokenizer, style)  # type: ignore[arg-type]
    turn = Turn("colour of the object", "What colour is the object?", "red")
    chains = [packer.chain([turn, turn]), packer.chain([turn]), packer.chain([turn], blind=True)]
    prefix = [3] * 5
    packed = packer.pack([(prefix, chains)])
    mask, first = packed.mask[0, 0], len(prefix)
    second = first + len(chains[0].tokens)
    blind = second + len(chains[1].tokens)
    assert mask[second, :first].all()
    assert not mask[second, first:second].any()
    assert not mask[blind, :blind].any()
    assert not mask.triu(1).any()
    assert packed.positions[0, first] == packed.positions[0, second] == first
    assert packed.positions[0, blind] == 0
    said = [token for token in chains[0].targets if token != NOTHING]
    red = tokenizer.encode(" red", add_special_tokens=False)
    assert said == [*red, tokenizer.eos_token_id] * 2
