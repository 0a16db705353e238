"""The demo Florence-2: its tokenizer, what it is taught, and that the published processor reads the targets back."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from transformers import AutoProcessor, Florence2ForConditionalGeneration, Florence2Processor, PreTrainedTokenizerFast

from demo import florence2_cases as cases
from demo.florence2_batches import LESSONS, Lessons, Packer, draw_picture, patch_contents, trainable
from demo.florence2_cases import Case, Outcome
from demo.florence2_lessons import TASKS, Lesson, describe, lesson, locations, page_lessons
from demo.florence2_model import IMAGE_TOKENS, build_model, build_processor, first_location, save_checkpoint
from demo.florence2_outlines import outline
from demo.florence2_tokenizer import LOCATIONS, build_tokenizer
from demo.florence2_words import draw_page, glyph_boxes, is_seen, random_word, scene_lines
from demo.scenes import COLOURS, DIFFICULTIES, SHAPES, Scene, coverage, label, object_box, render, sample_scene
from demo.train_florence2 import Settings, Trainer, place_losses

SIZE = 224
#: Half a bin of rounding, and the processor's cut to whole pixels.
TOLERANCE = 1.0 + SIZE / LOCATIONS


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer()


@pytest.fixture(scope="module")
def processor(tokenizer: PreTrainedTokenizerFast) -> Florence2Processor:
    return build_processor(tokenizer)


def scenes(count: int = 12) -> list[Scene]:
    return [
        sample_scene(index, difficulty=difficulty, word=index % 2 == 0)
        for difficulty in DIFFICULTIES
        for index in range(count)
    ]


def read(processor: Florence2Processor, text: str, task: str) -> cases.Result:
    return processor.post_process_generation(text=f"<s>{text}</s>", task=task, image_size=(SIZE, SIZE))[task]


def edges(scene: Scene, number: int) -> tuple[float, ...]:
    box = object_box(scene.objects[number], SIZE)
    return (box.left, box.top, box.right, box.bottom)


def drawn(scene: Scene, task: str, seed: int = 0) -> Lesson:
    return lesson(scene, SIZE, task, random.Random(seed))


# The tokenizer


@pytest.mark.parametrize(
    "text",
    ["a red star at the top left", "red starsblue ring", "ZYX QQ 0123", "naïve Ærø, 東京 <b>", "", "  a  b ", "\n"],
)
def test_every_text_survives_the_tokenizer(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    assert tokenizer.decode(tokenizer(text).input_ids) == f"<s>{text}</s>"


def test_special_tokens_are_as_published(tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer.convert_tokens_to_ids(["<s>", "<pad>", "</s>", "<unk>"]) == [0, 1, 2, 3]
    assert tokenizer.image_token == "<image>"
    first = first_location(tokenizer)
    places = [f"<loc_{number}>" for number in range(LOCATIONS)]
    assert tokenizer.convert_tokens_to_ids(places) == list(range(first, first + LOCATIONS))
    assert tokenizer("<poly><loc_999></poly><sep>", add_special_tokens=False).input_ids == (
        tokenizer.convert_tokens_to_ids(["<poly>", "<loc_999>", "</poly>", "<sep>"])
    )


def test_the_words_of_scenes_are_whole_and_printed_words_are_spelt(tokenizer: PreTrainedTokenizerFast) -> None:
    for word in (*COLOURS, *SHAPES):
        assert tokenizer.tokenize(word) == [word]
        assert tokenizer.tokenize(f" {word}") == [f"Ġ{word}"]
    assert tokenizer.tokenize("THESTAR") == list("THESTAR")


# Targets, read back by the processor


@pytest.mark.parametrize("task", ["<OD>", "<DENSE_REGION_CAPTION>"])
def test_detections_are_read_back(processor: Florence2Processor, task: str) -> None:
    name = label if task == "<OD>" else describe
    for scene in scenes():
        found = read(processor, drawn(scene, task).answer, task)
        said = sorted(zip(found["labels"], found["bboxes"], strict=True))
        wanted = sorted((name(item), list(edges(scene, number))) for number, item in enumerate(scene.objects))
        assert [text for text, _ in said] == [text for text, _ in wanted]
        for (_, box), (_, truth) in zip(said, wanted, strict=True):
            assert box == pytest.approx(truth, abs=TOLERANCE)


def test_proposals_hold_the_objects_and_the_word(processor: Florence2Processor) -> None:
    for scene in scenes():
        boxes = read(processor, drawn(scene, "<REGION_PROPOSAL>").answer, "<REGION_PROPOSAL>")["bboxes"]
        wanted = [edges(scene, number) for number in range(len(scene.objects))]
        wanted += [(line.box.left, line.box.top, line.box.right, line.box.bottom) for line in scene_lines(scene, SIZE)]
        assert len(boxes) == len(wanted)
        for box, truth in zip(boxes, wanted, strict=True):
            assert box == pytest.approx(truth, abs=TOLERANCE)


def test_grounded_phrases_stand_in_the_caption(processor: Florence2Processor) -> None:
    task = "<CAPTION_TO_PHRASE_GROUNDING>"
    for scene in scenes():
        for seed in range(6):
            taught = drawn(scene, task, seed)
            found = read(processor, taught.answer, task)
            places = [edges(scene, number) for number in range(len(scene.objects))]
            for phrase, box in zip(found["labels"], found["bboxes"], strict=True):
                assert phrase in taught.given
                assert any(box == pytest.approx(place, abs=TOLERANCE) for place in places)


def test_words_are_read_back_with_their_corners(processor: Florence2Processor) -> None:
    for scene in scenes():
        taught = drawn(scene, "<OCR_WITH_REGION>")
        assert drawn(scene, "<OCR>").answer == ("" if scene.word is None else scene.word.text)
        found = read(processor, taught.answer, "<OCR_WITH_REGION>")
        lines = scene_lines(scene, SIZE)
        assert found["labels"] == [line.text for line in lines]
        for quad, line in zip(found["quad_boxes"], lines, strict=True):
            assert quad == pytest.approx(np.ravel(line.box.quad).tolist(), abs=TOLERANCE)


@pytest.mark.parametrize("task", ["<REFERRING_EXPRESSION_SEGMENTATION>", "<REGION_TO_SEGMENTATION>"])
def test_polygons_are_read_back(processor: Florence2Processor, task: str) -> None:
    for scene in scenes():
        for seed in range(4):
            found = read(processor, drawn(scene, task, seed).answer, task)["polygons"]
            truths = [(outline(item) * SIZE).ravel().tolist() for item in scene.objects]
            for (polygon,) in found:
                assert any(polygon == pytest.approx(truth, abs=TOLERANCE) for truth in truths)
        if task == "<REGION_TO_SEGMENTATION>":
            assert len(found) == 1


def test_open_vocabulary_finds_all_that_a_phrase_names_and_nothing_else(processor: Florence2Processor) -> None:
    task = "<OPEN_VOCABULARY_DETECTION>"
    empty = 0
    for scene in scenes():
        for seed in range(6):
            taught = drawn(scene, task, seed)
            found = read(processor, taught.answer, task)
            assert set(found["bboxes_labels"]) <= {taught.given}
            empty += not found["bboxes"]
            if not found["bboxes"]:
                assert taught.given.split(" ", 1)[-1] not in {label(item) for item in scene.objects}
    assert empty > 0


def test_regions_of_a_word_and_of_objects_are_told_apart(processor: Florence2Processor) -> None:
    scene = sample_scene(0, difficulty="medium", word=True)
    (line,) = scene_lines(scene, SIZE)
    seen = {drawn(scene, "<REGION_TO_OCR>", seed) for seed in range(30)}
    assert Lesson("<REGION_TO_OCR>", locations(line.box, SIZE), line.text) in seen
    assert "" in {taught.answer for taught in seen}


@pytest.mark.parametrize("task", TASKS)
def test_prompts_are_the_processors_own(processor: Florence2Processor, task: str) -> None:
    taught = drawn(sample_scene(0, difficulty="medium", word=True), task)
    picture = Image.new("RGB", (30, 20))
    ids = processor(images=picture, text=f"{task}{taught.given}", return_tensors="pt").input_ids[0].tolist()
    packed = Packer()
    assert ids[IMAGE_TOKENS:] == packed.tokenizer(packed.prompt(taught)).input_ids
    assert ids[:IMAGE_TOKENS] == [processor.image_token_id] * IMAGE_TOKENS


# Outlines, words and patches


@pytest.mark.parametrize("shape", SHAPES)
def test_an_outline_covers_its_shape(shape: str) -> None:
    found = [s for i in range(120) if (s := sample_scene(i, difficulty="easy")).subject.shape == shape]
    assert found
    for scene in found:
        image = Image.new("1", (400, 400))
        ImageDraw.Draw(image).polygon((outline(scene.subject) * 400).ravel().tolist(), fill=1)
        polygon, shown = np.asarray(image), coverage(scene, 400)[0] > 0.5
        # A polygon fills a ring's hole; a crescent's thin tips are cut off.
        least = {"ring": 0.63, "crescent": 0.85}.get(shape, 0.93)
        assert (polygon & shown).sum() / (polygon | shown).sum() > least


def test_training_never_shows_a_word_that_is_kept_for_measurements() -> None:
    rng = random.Random(0)
    trained = {
        scene.word.text
        for index in range(300)
        if (scene := trainable(sample_scene(index, difficulty="medium", word=True), rng)).word is not None
    }
    pages = [line for i in range(40) for line in draw_page(sample_scene(i), SIZE, rng)[1]]
    trained |= {word for line in pages for word in line.text.split()}
    measured = {
        case.scene.word.text
        for case in cases.cases_of("medium", 80, 0)
        if case.scene.word is not None and not is_seen(case.scene.word.text)
    }
    assert len(trained) > 250
    assert len(measured) >= 20
    assert all(map(is_seen, trained))
    assert not trained & measured


def test_measured_scenes_are_of_the_test_split() -> None:
    assert {case.scene.split for case in cases.cases_of("easy", 4, 0)} == {"test"}
    assert {sample_scene(index).split for index in range(3)} == {"train"}


def test_letters_of_a_page_lie_side_by_side_in_their_lines() -> None:
    rng = random.Random(1)
    for index in range(20):
        picture, lines = draw_page(sample_scene(index), SIZE, rng)
        assert picture.shape == (SIZE, SIZE, 3)
        for line in lines:
            assert 0.0 <= line.box.left < line.box.right <= SIZE
            assert 0.0 <= line.box.top < line.box.bottom <= SIZE
            boxes = glyph_boxes(line)
            assert "".join(letter for letter, _ in boxes) == line.text.replace(" ", "")
            assert all(one[1].right <= other[1].left + 1e-6 for one, other in pairwise(boxes))


def test_patches_name_the_shape_that_they_show() -> None:
    scene = sample_scene(2, difficulty="easy")
    found = patch_contents(scene, (), SIZE)
    item = scene.subject
    wanted = {(0, 0), (1 + SHAPES.index(item.shape), 1 + COLOURS.index(item.colour))}
    assert set(map(tuple, found.reshape(-1, 2).tolist())) == wanted


def test_page_lessons_ask_for_lines_by_place() -> None:
    _, lines = draw_page(sample_scene(0), SIZE, random.Random(0))
    taught = page_lessons(lines, SIZE, 4, random.Random(0))
    assert [one.task for one in taught] == ["<OCR>", "<OCR_WITH_REGION>", "<REGION_TO_OCR>", "<REGION_TO_OCR>"]
    assert taught[2].answer in {line.text for line in lines}


# Training


def test_a_place_is_learned_with_its_neighbours() -> None:
    logits = torch.zeros(3, 1200)
    wanted = torch.tensor([100, 99, 600])
    flat = place_losses(logits, wanted, 100, 2.0)
    assert flat.tolist() == pytest.approx([np.log(1200)] * 3, rel=1e-5)
    logits[:, 598] = 5.0
    near = place_losses(logits, wanted, 100, 2.0)
    assert near[2] < flat[2]
    assert near[1] > flat[1]


def test_training_forward_is_the_models_own(tokenizer: PreTrainedTokenizerFast, processor: Florence2Processor) -> None:
    """The packed groups, behind pictures encoded once, give the loss that the model gives each lesson by itself."""
    torch.manual_seed(0)
    model = build_model(tokenizer).eval()
    batch = next(iter(Lessons(2, 0)))
    trainer = Trainer(model, processor, Settings(2, 0.0, 1.0, jitter=0.0), torch.device("cpu"))
    trainer.step(batch, 0.99)
    packed = trainer.sums[:-1].double()
    rng = random.Random(0)
    total, count = 0.0, 0
    model.eval()
    for index in range(2):
        picture, _, taught = draw_picture(index, rng)
        assert len(taught) == LESSONS
        for one in taught:
            inputs = processor(images=Image.fromarray(picture), text=f"{one.task}{one.given}", return_tensors="pt")
            labels = torch.tensor([tokenizer(one.answer).input_ids])
            with torch.no_grad():
                logits = model(**inputs, labels=labels).logits
            losses = place_losses(logits[0], labels[0], first_location(tokenizer), 1.5)
            total, count = total + losses.sum().item(), count + len(losses)
    assert packed[:, 1].sum() == count
    assert packed[:, 0].sum().item() == pytest.approx(total, rel=1e-4)


def test_a_saved_folder_loads_as_anyone_would_load_it(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, processor: Florence2Processor
) -> None:
    model = build_model(tokenizer)
    save_checkpoint(tmp_path, model, processor)
    assert (tmp_path / "model.safetensors").stat().st_size < 10_200_000
    loaded = Florence2ForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.float32)
    for name, weights in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weights.half().float()), name
    both = AutoProcessor.from_pretrained(tmp_path)
    assert isinstance(both, Florence2Processor)
    inputs = both(images=Image.new("RGB", (640, 200)), text="<OD>", return_tensors="pt")
    written = loaded.generate(**inputs, max_new_tokens=8)
    assert written[0, :2].tolist() == [2, 0]
    said = "red star<loc_100><loc_200><loc_300><loc_400>"
    found = both.post_process_generation(text=said, task="<OD>", image_size=(1000, 1000))["<OD>"]
    assert found == {"bboxes": [[100, 200, 300, 400]], "labels": ["red star"]}


# Scoring


def truthful(processor: Florence2Processor, case: Case) -> cases.Result:
    """The answer that training would show for a case whose prompt leaves nothing open."""
    return read(processor, lesson(case.scene, case.size, case.task, random.Random(0)).answer, case.task)


def test_true_answers_score_one_and_those_of_another_scene_do_not(processor: Florence2Processor) -> None:
    plain = set(processor.task_prompts_without_inputs)
    asked = [case for case in cases.cases_of("medium", 12, 0) if case.task in plain]
    outcomes = cases.run(asked, lambda some: [truthful(processor, case) for case in some])
    assert {outcome.case.task for outcome in outcomes} == plain
    assert all(outcome.right == 1.0 for outcome in outcomes)
    assert cases.mean_average_precision(outcomes) == pytest.approx(1.0)
    last: dict[str, cases.Result] = {}
    wrong = []
    for case in asked:
        said = last.get(case.task)
        last[case.task] = truthful(processor, case)
        if said is not None:
            wrong.append(Outcome(case, said, cases.score(case, said)))
    assert np.mean([outcome.right for outcome in wrong if "OCR" not in outcome.case.task]) < 0.2
    assert cases.mean_average_precision(wrong) < 0.1


def test_precision_falls_with_boxes_that_are_not_there(processor: Florence2Processor) -> None:
    case = next(case for case in cases.cases_of("easy", 1, 0) if case.task == "<OD>")
    said = truthful(processor, case)
    twice = {"labels": said["labels"] * 2, "bboxes": [[0, 0, 5, 5], *said["bboxes"]]}
    assert cases.mean_average_precision([Outcome(case, said, 1.0)]) == 1.0
    assert cases.mean_average_precision([Outcome(case, twice, 1.0)]) == 0.5
    assert cases.mean_average_precision([Outcome(case, {"labels": [], "bboxes": []}, 0.0)]) == 0.0


def test_a_case_shows_its_scene() -> None:
    case = cases.cases_of("easy", 1, 0)[0]
    assert np.array_equal(np.asarray(case.picture), render(case.scene, case.size))
    assert random_word(random.Random(0), 4, seen=False) != random_word(random.Random(0), 4)
