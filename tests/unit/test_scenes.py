"""The scene world, through its public interface."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from demo.scenes import (
    BACKGROUNDS,
    CAPTION_LEVELS,
    COLOURS,
    DIFFICULTIES,
    MAX_OBJECTS,
    MAX_WORD_LENGTH,
    MOTIONS,
    PALETTE,
    QUESTION_KINDS,
    SHAPES,
    SPLITS,
    Difficulty,
    MotionKind,
    Scene,
    Split,
    attributes,
    caption,
    contrast,
    coverage,
    detections,
    grounded_caption,
    label,
    object_box,
    printed_text,
    questions,
    render,
    render_video,
    sample_scene,
)

scenes = st.builds(
    sample_scene,
    st.integers(0, 10**9),
    split=st.sampled_from(SPLITS),
    difficulty=st.sampled_from(DIFFICULTIES),
    seed=st.integers(0, 2**31),
    word=st.sampled_from([None, True, False]),
)


def quiet(scene: Scene) -> Scene:
    """The same scene under flat light and without noise."""
    return dataclasses.replace(scene, lighting=dataclasses.replace(scene.lighting, gain=1.0, tilt=0.0, noise=0.0))


def changed_by_objects(scene: Scene, size: int) -> NDArray[np.bool_]:
    """Where the rendered objects differ from the bare background: (size, size)."""
    with_objects = render(scene, size).astype(int)
    without = render(dataclasses.replace(scene, objects=()), size).astype(int)
    changed: NDArray[np.bool_] = np.abs(with_objects - without).max(axis=-1) > 12
    return changed


@given(st.integers(0, 10**9), st.sampled_from(SPLITS), st.sampled_from(DIFFICULTIES), st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_the_same_arguments_give_the_same_scene_and_pixels(
    index: int, split: Split, difficulty: Difficulty, seed: int
) -> None:
    one = sample_scene(index, split=split, difficulty=difficulty, seed=seed)
    other = sample_scene(index, split=split, difficulty=difficulty, seed=seed)
    assert one == other
    assert np.array_equal(render(one, 64), render(other, 64))
    assert (one.index, one.split, one.difficulty, one.seed) == (index, split, difficulty, seed)


def test_splits_difficulties_seeds_and_indices_never_share_a_picture() -> None:
    drawn = [
        render(sample_scene(index, split=split, difficulty=difficulty, seed=seed), 32).tobytes()
        for index in range(40)
        for split in SPLITS
        for difficulty in DIFFICULTIES
        for seed in (0, 1)
    ]
    assert len(set(drawn)) == len(drawn)


def test_every_shape_colour_and_motion_is_drawn_about_equally_often() -> None:
    drawn = [sample_scene(index) for index in range(2000)]
    sets: list[tuple[list[str], tuple[str, ...]]] = [
        ([scene.subject.shape for scene in drawn], SHAPES),
        ([scene.subject.colour for scene in drawn], COLOURS),
        ([scene.motion.kind for scene in drawn], MOTIONS),
    ]
    for values, names in sets:
        counts = [values.count(name) for name in names]
        assert min(counts) > 0.6 * len(drawn) / len(names)
        assert max(counts) < 1.5 * len(drawn) / len(names)


def test_difficulties_keep_their_promises() -> None:
    for index in range(300):
        easy = sample_scene(index, difficulty="easy")
        medium = sample_scene(index, difficulty="medium")
        hard = sample_scene(index, difficulty="hard")
        assert len(easy.objects) == 1
        assert easy.word is None
        assert easy.subject.size >= 0.3
        assert 1 <= len(medium.objects) <= MAX_OBJECTS
        assert 1 <= len(hard.objects) <= MAX_OBJECTS
        assert hard.subject.size <= 0.24
        for scene, least in ((easy, 120.0), (medium, 100.0), (hard, 45.0)):
            back = scene.background
            assert all(min(contrast(o.rgb, back.start), contrast(o.rgb, back.end)) >= least for o in scene.objects)


def test_no_background_looks_like_a_colour_of_the_palette() -> None:
    assert min(contrast(a, b) for a in PALETTE.values() for b in BACKGROUNDS.values()) > 80.0


@given(scenes)
@settings(max_examples=60, deadline=None)
def test_boxes_hold_their_objects_tightly(scene: Scene) -> None:
    size = 160
    for item in scene.objects:
        alone = quiet(dataclasses.replace(scene, objects=(dataclasses.replace(item, opacity=1.0),), word=None))
        rows, columns = np.nonzero(changed_by_objects(alone, size))
        box = object_box(item, size)
        assert abs(columns.min() - box.left) <= 2.0
        assert abs(columns.max() + 1 - box.right) <= 2.0
        assert abs(rows.min() - box.top) <= 2.0
        assert abs(rows.max() + 1 - box.bottom) <= 2.0
        assert 0.0 <= box.left < box.right <= size
        assert 0.0 <= box.top < box.bottom <= size


@given(scenes)
@settings(max_examples=30, deadline=None)
def test_coverage_marks_the_pixels_that_objects_change(scene: Scene) -> None:
    bare = quiet(dataclasses.replace(scene, word=None))
    shown = coverage(bare, 96)
    assert shown.shape == (len(scene.objects), 96, 96)
    assert shown.dtype == np.float32
    assert shown.sum(axis=0).max() <= 1.0 + 1e-5
    changed = changed_by_objects(bare, 96)
    assert not changed[shown.sum(axis=0) == 0.0].any()


@given(scenes)
@settings(max_examples=20, deadline=None)
def test_a_large_picture_shrinks_to_the_small_one(scene: Scene) -> None:
    still = quiet(dataclasses.replace(scene, word=None))
    small = render(still, 64).astype(float)
    large = Image.fromarray(render(still, 256)).resize((64, 64), Image.Resampling.BOX)
    assert np.abs(np.asarray(large, float) - small).mean() < 2.0


@pytest.mark.parametrize("size", [16, 64, 224, 640])
def test_pictures_have_the_shape_and_type_that_was_asked_for(size: int) -> None:
    picture = render(sample_scene(3, difficulty="medium", word=True), size)
    assert picture.shape == (size, size, 3)
    assert picture.dtype == np.uint8


@given(scenes)
@settings(max_examples=40, deadline=None)
def test_the_printed_word_lies_in_its_box(scene: Scene) -> None:
    text = printed_text(scene, 224)
    if scene.word is None:
        assert text is None
        return
    assert text is not None
    assert text.text == scene.word.text
    assert 1 <= len(text.text) <= MAX_WORD_LENGTH
    bare = quiet(dataclasses.replace(scene, objects=()))
    blank = dataclasses.replace(bare, word=None)
    rows, columns = np.nonzero(np.abs(render(bare, 224).astype(int) - render(blank, 224)).max(axis=-1) > 12)
    box = text.box
    assert box.left <= columns.min() <= box.left + 4
    assert box.right - 4 <= columns.max() + 1 <= box.right
    assert box.top <= rows.min()
    assert rows.max() + 1 <= box.bottom
    assert box.quad == (
        (box.left, box.top),
        (box.right, box.top),
        (box.right, box.bottom),
        (box.left, box.bottom),
    )
    for detection in detections(scene, 224):
        assert detection.box.bottom <= box.top + 3 or detection.box.top >= box.bottom - 3


@given(scenes)
@settings(max_examples=60, deadline=None)
def test_captions_name_everything_and_their_phrases_are_grounded(scene: Scene) -> None:
    for level in CAPTION_LEVELS:
        grounded = grounded_caption(scene, 224, level)
        assert grounded.text == caption(scene, level)
        boxes = {box for phrase in grounded.phrases for box in phrase.boxes}
        assert boxes == {detection.box for detection in detections(scene, 224)}
        for phrase in grounded.phrases:
            assert grounded.text[phrase.start : phrase.end] == phrase.phrase
        for item in scene.objects:
            assert item.colour in grounded.text
            assert item.shape in grounded.text
        if scene.word is not None and level != "brief":
            assert scene.word.text in grounded.text
    assert len(caption(scene, "brief")) < len(caption(scene, "detailed")) <= len(caption(scene, "exhaustive"))


@given(scenes)
@settings(max_examples=80, deadline=None)
def test_answers_agree_with_the_attributes(scene: Scene) -> None:
    facts = attributes(scene)
    assert json.loads(json.dumps(facts)) == facts
    labels = [f"{item['colour']} {item['shape']}" for item in facts["objects"]]
    asked = questions(scene)
    assert asked == questions(scene)
    for question in asked:
        text = question.question.rstrip("?")
        match question.kind:
            case "count" if text == "How many objects are there":
                assert question.answer == str(facts["count"])
            case "count":
                assert 1 <= int(question.answer) <= facts["count"]
            case "existence":
                name = text.removeprefix("Is there ").split(" ", 1)[1]
                assert (question.answer == "yes") == (name in labels)
            case "colour":
                assert question.answer in {item["colour"] for item in facts["objects"]}
            case "shape":
                assert question.answer in {item["shape"] for item in facts["objects"]}
            case "left or right" | "above or below":
                first, second = (
                    next(item for item, name in zip(facts["objects"], labels, strict=True) if f"the {name}" in part)
                    for part in (text.split(" or ")[0], text.split(" or ")[1])
                )
                if question.kind == "left or right":
                    assert question.answer == ("left" if first["x"] < second["x"] else "right")
                else:
                    assert question.answer == ("above" if first["y"] < second["y"] else "below")
            case "word":
                assert question.answer == facts["word"]
    answers = [question.answer for question in asked if question.kind == "existence"]
    assert answers.count("yes") == answers.count("no") > 0


def test_every_kind_of_question_is_asked_somewhere() -> None:
    kinds = {q.kind for index in range(50) for q in questions(sample_scene(index, difficulty="medium"))}
    assert kinds == set(QUESTION_KINDS)


def test_labels_run_from_the_largest_object_to_the_smallest() -> None:
    for index in range(50):
        scene = sample_scene(index, difficulty="hard")
        sizes = [item.size for item in scene.objects]
        assert sizes == sorted(sizes, reverse=True)
        assert [d.label for d in detections(scene, 64)] == [label(item) for item in scene.objects]


def subject_mask(scene: Scene, picture: NDArray[np.uint8]) -> NDArray[np.bool_]:
    bare = dataclasses.replace(scene, objects=())
    difference: NDArray[np.bool_] = np.abs(picture.astype(int) - render(bare, picture.shape[0])).max(axis=-1) > 12
    return difference


@pytest.mark.parametrize("motion", MOTIONS)
@pytest.mark.parametrize("index", range(4))
def test_the_subject_moves_as_its_class_says(motion: MotionKind, index: int) -> None:
    scene = quiet(sample_scene(index, motion=motion))
    clip = render_video(scene, 96, 8, 4.0)
    assert clip.shape == (8, 96, 96, 3)
    assert clip.dtype == np.uint8
    masks = [subject_mask(scene, picture) for picture in clip]
    centres = np.array([np.argwhere(mask).mean(axis=0) for mask in masks])
    areas = np.array([mask.sum() for mask in masks])
    down, across = centres[-1] - centres[0]
    expected = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}
    if motion in expected:
        wanted_down, wanted_across = expected[motion]
        assert wanted_down * down + wanted_across * across > 6.0
        assert abs(wanted_across * down) + abs(wanted_down * across) < 1.5
    elif motion == "grow":
        assert (np.diff(areas) > 0).all()
    elif motion == "shrink":
        assert (np.diff(areas) < 0).all()
    elif motion == "still":
        assert (clip == clip[0]).all()
    else:
        assert abs(areas[-1] / areas[0] - 1.0) < 0.1
        assert not np.array_equal(masks[0], masks[-1])


def test_clockwise_means_clockwise_on_the_screen() -> None:
    scene = quiet(next(s for s in (sample_scene(i, motion="rotate clockwise") for i in range(99)) if is_moon(s)))
    clip = render_video(scene, 128, 5, 4.0)
    angles = []
    for picture in clip:
        points = np.argwhere(subject_mask(scene, picture))
        rows, columns = points.mean(axis=0) - np.array([scene.subject.y, scene.subject.x]) * 128
        angles.append(np.arctan2(rows, columns))
    assert (np.diff(np.unwrap(angles)) > 0.02).all()


def is_moon(scene: Scene) -> bool:
    return scene.subject.shape == "crescent"


def test_a_clip_of_one_frame_is_a_picture_and_of_none_an_error() -> None:
    scene = sample_scene(5, motion="left")
    assert render_video(scene, 64, 1, 4.0).shape == (1, 64, 64, 3)
    with pytest.raises(ValueError, match="frame"):
        render_video(scene, 64, 0, 4.0)
    with pytest.raises(ValueError, match="rate"):
        render_video(scene, 64, 2, 0.0)
