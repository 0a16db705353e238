"""How answers of Florence-2 are read: what the published processor gets right stays, the rest is set right."""

from __future__ import annotations

from typing import Any

import pytest

from demo.florence2_model import build_processor
from demo.florence2_tokenizer import build_tokenizer
from deployments.florence2.answers import AnswerReader
from deployments.florence2.items import Written
from deployments.florence2.messages import Answer, LabelledBox, Polygons, Quad
from deployments.florence2.tasks import TASKS, find_task

SIZE = (2000, 1000)


@pytest.fixture(scope="module")
def processor() -> Any:
    return build_processor(build_tokenizer())


@pytest.fixture(scope="module")
def reader(processor: Any) -> AnswerReader:
    return AnswerReader(processor)


def locations(*bins: int) -> str:
    return "".join(f"<loc_{number}>" for number in bins)


def read(
    reader: AnswerReader,
    processor: Any,
    task: str,
    said: str,
    *,
    text: str | None = None,
    size: tuple[int, int] = SIZE,
) -> Answer:
    ids = processor.tokenizer(f"<s>{said}</s>", add_special_tokens=False)["input_ids"]
    return reader.read(TASKS[task], text, Written(tuple(ids), False), size)


def box(left: float, top: float, right: float, bottom: float) -> tuple[float, float, float, float]:
    """Centres of bins, in pixels of a picture of `SIZE`."""
    return ((left + 0.5) * 2, top + 0.5, (right + 0.5) * 2, bottom + 0.5)


def test_every_task_of_the_published_processor_is_here(processor: Any) -> None:
    published = processor.tasks_answer_post_processing_type
    assert {task.token for task in TASKS.values()} == set(published)
    for name, task in TASKS.items():
        assert find_task(name) == find_task(task.token) == task
        assert (task.needs == "nothing") == (task.token in processor.task_prompts_without_inputs)
        assert (task.answers == "text") == (published[task.token] == "pure_text")
    assert find_task("<NOTHING>") is None


def test_a_caption_is_its_text(reader: AnswerReader, processor: Any) -> None:
    assert read(reader, processor, "caption", " A red star. ").text == "A red star."


def test_padding_and_places_are_no_text(reader: AnswerReader, processor: Any) -> None:
    assert read(reader, processor, "ocr", "ARGUS<loc_5></ocr><pad><pad>").text == "ARGUS"


@pytest.mark.parametrize("task", ["object-detection", "dense-region-caption", "phrase-grounding"])
def test_boxes_keep_labels_order_and_repeats(reader: AnswerReader, processor: Any, task: str) -> None:
    said = f"red star{locations(10, 20, 30, 40)}{locations(50, 60, 70, 80)}blue circle{locations(1, 2, 3, 4)}"
    assert read(reader, processor, task, said).boxes == (
        LabelledBox(box(10, 20, 30, 40), "red star"),
        LabelledBox(box(50, 60, 70, 80), "red star"),
        LabelledBox(box(1, 2, 3, 4), "blue circle"),
    )


def test_boxes_equal_the_published_ones_to_the_pixel(reader: AnswerReader, processor: Any) -> None:
    said = f"red star{locations(0, 333, 998, 999)}blue circle{locations(7, 11, 13, 17)}"
    size = (1337, 877)
    published = processor.post_process_generation(said, task="<OD>", image_size=size)["<OD>"]
    ours = read(reader, processor, "object-detection", said, size=size)
    assert [[int(edge) for edge in found.box] for found in ours.boxes] == published["bboxes"]
    assert [found.label for found in ours.boxes] == published["labels"]


def test_boxes_lie_within_the_image(reader: AnswerReader, processor: Any) -> None:
    [found] = read(reader, processor, "object-detection", f"a{locations(0, 0, 999, 999)}", size=(64, 48)).boxes
    left, top, right, bottom = found.box
    assert 0 <= left < 0.064 and 0 <= top < 0.048 and 63.9 < right <= 64 and 47.9 < bottom <= 48


@pytest.mark.parametrize(
    "label",
    ["café crème", "星 と 月", "Ω мир", 'say "hi"', "back\\slash", "a < b > c", "<loc_12", "line\nbreak", "🦊"],
)
@pytest.mark.parametrize("task", ["object-detection", "phrase-grounding", "open-vocabulary-detection"])
def test_labels_of_all_scripts_come_whole(reader: AnswerReader, processor: Any, task: str, label: str) -> None:
    [found] = read(reader, processor, task, f"{label}{locations(1, 2, 3, 4)}").boxes
    assert found == LabelledBox(box(1, 2, 3, 4), label)


def test_degenerate_boxes_are_left_out(reader: AnswerReader, processor: Any) -> None:
    said = f"a{locations(5, 5, 5, 9)}b{locations(9, 5, 5, 9)}c{locations(1, 2, 3, 4)}d{locations(1, 2, 3)}"
    assert [found.label for found in read(reader, processor, "object-detection", said).boxes] == ["c"]


def test_proposals_have_no_labels(reader: AnswerReader, processor: Any) -> None:
    said = locations(1, 2, 3, 4) + locations(5, 6, 7, 8)
    assert read(reader, processor, "region-proposal", said).boxes == (
        LabelledBox(box(1, 2, 3, 4), ""),
        LabelledBox(box(5, 6, 7, 8), ""),
    )


def test_pronouns_are_not_grounded_as_published(reader: AnswerReader, processor: Any) -> None:
    said = f"it{locations(1, 2, 3, 4)}a star{locations(1, 2, 3, 4)}"
    assert [found.label for found in read(reader, processor, "phrase-grounding", said).boxes] == ["a star"]


def test_lines_of_text_have_four_corners(reader: AnswerReader, processor: Any) -> None:
    said = f"ÄRGUS 1{locations(1, 1, 9, 1, 9, 5, 1, 5)}<b>two{locations(1, 6, 9, 6, 9, 9, 1, 9)}"
    first, second = read(reader, processor, "ocr-with-region", said).quads
    assert first == Quad(((3.0, 1.5), (19.0, 1.5), (19.0, 5.5), (3.0, 5.5)), "ÄRGUS 1")
    assert second.text == "<b>two"


def test_left_over_places_are_no_part_of_a_line(reader: AnswerReader, processor: Any) -> None:
    quad = locations(1, 1, 9, 1, 9, 5, 1, 5)
    found = read(reader, processor, "ocr-with-region", f"one{quad}{locations(7, 8)}two{quad}{quad}").quads
    assert [line.text for line in found] == ["one", "two"]


def test_a_line_without_area_is_left_out(reader: AnswerReader, processor: Any) -> None:
    assert read(reader, processor, "ocr-with-region", f"one{locations(1, 1, 2, 2, 3, 3, 4, 4)}").quads == ()


def test_an_expression_labels_what_it_refers_to(reader: AnswerReader, processor: Any) -> None:
    said = locations(1, 1, 9, 1, 9, 9)
    [found] = read(reader, processor, "referring-segmentation", said, text='the "café"').polygons
    assert found == Polygons((((3.0, 1.5), (19.0, 1.5), (19.0, 9.5)),), 'the "café"')


def test_objects_and_rings_are_told_apart(reader: AnswerReader, processor: Any) -> None:
    ring, other = locations(1, 1, 9, 1, 9, 9), locations(20, 20, 30, 20, 30, 30)
    several = read(reader, processor, "region-segmentation", f"<poly>{ring}</poly><poly>{other}</poly>").polygons
    assert [len(found.rings) for found in several] == [1, 1]
    [one] = read(reader, processor, "region-segmentation", f"<poly>{ring}<sep>{other}</poly>").polygons
    assert len(one.rings) == 2


def test_rings_without_area_are_left_out(reader: AnswerReader, processor: Any) -> None:
    said = f"<poly>{locations(1, 1, 2, 2)}</poly><poly>{locations(1, 1, 2, 2, 3, 3)}</poly>"
    assert read(reader, processor, "region-segmentation", said).polygons == ()


def test_an_open_vocabulary_answers_with_boxes_or_polygons(reader: AnswerReader, processor: Any) -> None:
    boxes = read(reader, processor, "open-vocabulary-detection", f"a star{locations(1, 2, 3, 4)}")
    assert [found.label for found in boxes.boxes] == ["a star"] and boxes.polygons == ()
    outlines = read(reader, processor, "open-vocabulary-detection", f"a star<poly>{locations(1, 1, 9, 1, 9, 9)}</poly>")
    assert [found.label for found in outlines.polygons] == ["a star"] and outlines.boxes == ()


@pytest.mark.parametrize("task", list(TASKS))
@pytest.mark.parametrize("said", ["", "words alone", "<loc_1>", "<poly></poly><sep>", "<loc_1><loc_2>x<loc_3>"])
def test_answers_without_sense_are_empty_and_no_error(
    reader: AnswerReader, processor: Any, task: str, said: str
) -> None:
    answer = read(reader, processor, task, said)
    assert not answer.boxes and not answer.quads and not answer.polygons


def test_a_cut_answer_says_so(reader: AnswerReader) -> None:
    answer = reader.read(TASKS["caption"], None, Written((0, 5, 6), True), SIZE)
    assert (answer.finish_reason, answer.tokens) == ("length", 3)
