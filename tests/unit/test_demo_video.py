"""Long videos of the scene world, what a classifier is trained on, and how found actions are scored."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from itertools import islice, pairwise
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers import AutoImageProcessor, AutoModelForVideoClassification

from demo.evaluate_video_classifier import HeldOut, draw_held_out, measure
from demo.scenes import MOTIONS, Difficulty, MotionKind, render_video, sample_scene
from demo.scenes.story import Segment, sample_story
from demo.scenes.video_file import write_video
from demo.video_classifier_augment import BACKWARDS, MIRRORED, TRANSPOSED, UPSIDE_DOWN, augment
from demo.video_classifier_model import FRAMES, GRID, NORMALISATIONS, SIDE, build_model, load_model, look, save_model
from demo.video_classifier_pool import CLIP, LENGTH, STATE, Pool, draw_strip
from demo.video_classifier_scores import Watched, average_precision, mean_average_precision
from deployments.video_classifier.actions import Action

STILL = MOTIONS.index("still")


@pytest.mark.parametrize("difficulty", ["easy", "medium"])
@pytest.mark.parametrize("index", range(3))
def test_a_storys_actions_are_apart_and_inside_it(difficulty: Difficulty, index: int) -> None:
    story = sample_story(index, duration_s=90.0, split="test", difficulty=difficulty)
    assert len(story.segments) > 5
    assert all(0.0 < segment.start_s < segment.end_s <= 90.0 for segment in story.segments)
    assert all(segment.end_s - segment.start_s >= 1.6 - 1e-9 for segment in story.segments)
    assert all(after.start_s - before.end_s >= 0.8 for before, after in pairwise(story.segments))
    assert story.cuts
    assert all(0.0 < cut < 90.0 and story.label_at(cut) == "still" for cut in story.cuts)
    for segment in story.segments:
        assert story.label_at((segment.start_s + segment.end_s) / 2) == segment.label
        assert story.label_at(segment.start_s - 0.1) == "still"
        assert not any(segment.start_s <= cut <= segment.end_s for cut in story.cuts)


def test_the_subject_stays_in_the_picture_and_moves_as_labelled() -> None:
    story = sample_story(4, duration_s=300.0, split="test", difficulty="medium")
    assert {segment.label for segment in story.segments} == set(MOTIONS) - {"still"}
    for segment in story.segments:
        first, last = story.subject_at(segment.start_s), story.subject_at(segment.end_s - 1e-6)
        for subject in (first, last):
            assert all(subject.size / 2 <= place <= 1.0 - subject.size / 2 for place in (subject.x, subject.y))
        change: dict[MotionKind, float] = {
            "left": first.x - last.x,
            "right": last.x - first.x,
            "up": first.y - last.y,
            "down": last.y - first.y,
            "grow": last.size / first.size - 1.0,
            "shrink": first.size / last.size - 1.0,
            "rotate clockwise": last.rotation - first.rotation,
            "rotate counter-clockwise": first.rotation - last.rotation,
        }
        assert change[segment.label] > 0.1


def test_stories_follow_from_their_number_and_split() -> None:
    def told(index: int, split: str) -> tuple[Segment, ...]:
        return sample_story(index, duration_s=60.0, split=split).segments  # type: ignore[arg-type]

    assert told(1, "test") == told(1, "test")
    assert len({told(1, "test"), told(2, "test"), told(1, "train"), told(1, "val")}) == 4
    first, again = (list(sample_story(1, duration_s=2.0).frames(48, 4.0)) for _ in range(2))
    assert np.array_equal(first, again)


def test_frames_come_one_by_one_and_change_at_a_cut() -> None:
    story = sample_story(0, duration_s=3600.0, split="test")
    assert len(list(islice(story.frames(32, 8.0), 3))) == 3
    cut = round(story.cuts[0] * 8.0)
    frames = [frame.astype(np.int16) for frame in islice(story.frames(32, 8.0), cut + 3)]
    changes = [float(np.abs(after - before).mean()) for before, after in pairwise(frames)]
    assert changes.index(max(changes)) in (cut - 1, cut)


def test_a_story_becomes_a_video_file(tmp_path: Path) -> None:
    story = sample_story(3, duration_s=4.0, split="test")
    pictures = list(story.frames(64, 8.0))
    target = io.BytesIO()
    write_video(target, iter(pictures), 8.0)
    write_video(tmp_path / "story.mp4", iter(pictures), 8.0)
    for source in (io.BytesIO(target.getvalue()), str(tmp_path / "story.mp4")):
        with av.open(source) as container:
            frames = list(container.decode(video=0))
        assert [float(frame.time) for frame in frames] == [number / 8.0 for number in range(32)]
        assert np.abs(frames[20].to_ndarray(format="rgb24").astype(int) - pictures[20]).mean() < 6.0
    with pytest.raises(ValueError, match="a picture or more"):
        write_video(io.BytesIO(), iter([]), 8.0)


@pytest.mark.parametrize("seed", range(4))
def test_a_strips_states_say_what_its_labels_say(seed: int) -> None:
    strip = draw_strip(np.random.default_rng(seed))
    assert strip.frames.shape == (LENGTH, SIDE, SIDE, 3)
    assert strip.labels.shape == (LENGTH,)
    assert strip.states.shape == (LENGTH, STATE)
    blocks = range(0, LENGTH, CLIP) if strip.clips else range(LENGTH - 4)
    for start in blocks:
        stop = start + (CLIP if strip.clips else 4)
        if len(set(strip.labels[start:stop])) == 1 and strip.labels[start] != STILL:
            assert _moving(strip.states[start:stop]) == MOTIONS[strip.labels[start]]


def _moving(states: np.ndarray) -> MotionKind:
    """The motion that a series of states shows."""
    x, y, size, turn, _ = (states[-1] - states[0]).tolist()
    # Growing also pushes a subject inwards, so that its size counts first.
    if abs(size) > 0.05:
        return "grow" if size > 0.0 else "shrink"
    if abs(turn) > 0.05:
        return "rotate clockwise" if turn > 0.0 else "rotate counter-clockwise"
    if abs(x) > abs(y):
        return "right" if x > 0.0 else "left"
    return "down" if y > 0.0 else "up"


def test_changed_windows_keep_pixels_labels_and_states_together() -> None:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    strips = []
    while len(strips) < 6:
        strip = draw_strip(rng)
        if strip.clips:
            strips.append(strip)
    frames = torch.from_numpy(np.stack([strip.frames for strip in strips])).unflatten(1, (-1, CLIP)).flatten(0, 1)
    labels = (
        torch.from_numpy(np.stack([strip.labels for strip in strips])).long().unflatten(1, (-1, CLIP)).flatten(0, 1)
    )
    states = torch.from_numpy(np.stack([strip.states for strip in strips])).unflatten(1, (-1, CLIP)).flatten(0, 1)
    changed, kept = 0, 0
    for _ in range(4):
        seen = augment(frames, labels, states)
        assert seen.pixels.shape == (len(frames), CLIP, 3, SIDE, SIDE)
        assert 0.0 <= float(seen.pixels.min()) <= float(seen.pixels.max()) <= 1.0
        for row in range(len(frames)):
            kind = MOTIONS[int(seen.labels[row, 0])]
            assert (seen.labels[row] == seen.labels[row, 0]).all()
            assert float(seen.shares()[row, MOTIONS.index(kind)]) == 1.0
            if kind != "still":
                assert _moving(seen.states[row].numpy()) == kind
            changed += int(seen.labels[row, 0] != labels[row, 0])
            kept += int(seen.labels[row, 0] == labels[row, 0])
    assert changed > 20
    assert kept > 20


def test_a_change_of_pixels_moves_the_states_place_with_it() -> None:
    torch.manual_seed(1)
    scene = sample_scene(5, motion="right")
    clip = torch.from_numpy(render_video(scene, SIDE, CLIP, 8.0))[None]
    subject = (clip[0].float() - torch.tensor(scene.background.start)).abs().sum(-1) > 120.0
    grid = (torch.arange(SIDE) + 0.5) / SIDE * 2.0 - 1.0
    places = torch.stack(
        [
            (subject * grid).sum((1, 2)) / subject.sum((1, 2)),
            (subject * grid[:, None]).sum((1, 2)) / subject.sum((1, 2)),
        ],
        -1,
    )
    states = torch.cat([places, torch.full((CLIP, 1), float(np.log2(scene.subject.size))), torch.zeros(CLIP, 2)], -1)
    # The subject painted white on black, so that it is found again whatever has happened to the picture.
    painted = (subject[None, ..., None] * 255).expand_as(clip).to(torch.uint8)
    for _ in range(12):
        seen = augment(painted, torch.ones(1, CLIP, dtype=torch.int64), states[None])
        bright = seen.pixels[0].mean(1) > 0.5
        found = torch.stack(
            [
                (bright * grid).sum((1, 2)) / bright.sum((1, 2)),
                (bright * grid[:, None]).sum((1, 2)) / bright.sum((1, 2)),
            ],
            -1,
        )
        assert (found - seen.states[0, :, :2]).abs().max() < 0.05


@pytest.mark.parametrize("meaning", [MIRRORED, UPSIDE_DOWN, TRANSPOSED, BACKWARDS])
def test_a_change_done_twice_is_none(meaning: dict[MotionKind, MotionKind]) -> None:
    assert all(meaning.get(meaning.get(kind, kind), meaning.get(kind, kind)) == kind for kind in MOTIONS)


def test_workers_fill_a_pool_whose_windows_are_one_clip_or_one_stretch() -> None:
    with Pool(6, 1, torch.device("cpu"), seed=3) as pool:
        pool.fill(6)
        frames, labels, states = pool.windows(64, (1.0, 4.0))
    assert frames.shape == (64, CLIP, SIDE, SIDE, 3)
    assert labels.shape == (64, CLIP)
    assert states.shape == (64, CLIP, STATE)
    # At most an action, a rest and an action: never the clips of a whole strip.
    assert max(len(torch.unique(row)) for row in labels) <= 3


@pytest.mark.parametrize("architecture", ["videomae", "timesformer"])
def test_a_saved_model_is_the_trained_one(architecture: str, tmp_path: Path) -> None:
    model = build_model(architecture).eval()  # type: ignore[arg-type]
    assert model.num_parameters() < 3_000_000
    pixels = torch.randn(2, FRAMES[architecture], 3, SIDE, SIDE)  # type: ignore[index]
    with torch.inference_mode():
        seen = look(model, pixels)
        logits = seen.logits
        assert torch.allclose(logits, model(pixels).logits, atol=1e-5)
        assert {tuple(tokens.shape) for tokens in seen.layers} == {(2, 8, GRID**2, 192)}
        assert len(seen.layers) == model.config.num_hidden_layers
        save_model(tmp_path, model)
        loaded = load_model(tmp_path).eval()
        assert torch.allclose(loaded(pixels).logits, logits, atol=0.02)  # rounded to 16 bits
    assert loaded.config.id2label == dict(enumerate(MOTIONS))


def _found(label: str, start: float, end: float, score: float) -> Action:
    return Action(label, start, end, score)


def test_average_precision_by_hand() -> None:
    truth = (Segment("left", 0.0, 2.0), Segment("left", 10.0, 12.0))
    found = (
        _found("left", 0.0, 2.0, 0.9),  # right
        _found("left", 0.1, 2.1, 0.8),  # the same once more: wrong
        _found("left", 10.5, 12.5, 0.7),  # overlaps by 1.5 / 2.5: right at 0.5
        _found("left", 30.0, 31.0, 0.6),  # wrong
    )
    video = Watched(truth, found)
    # Precision 1 at the first hit, 2/3 at the second.
    assert average_precision([video], "left", 0.5) == pytest.approx((1.0 + 2 / 3) / 2)
    assert average_precision([video], "left", 0.7) == pytest.approx(0.5)
    assert average_precision([Watched(truth, ())], "left", 0.5) == 0.0


def test_mean_average_precision_asks_every_label_that_happens_and_its_own_video() -> None:
    first = Watched((Segment("left", 0.0, 2.0), Segment("up", 4.0, 6.0)), (_found("left", 0.0, 2.0, 0.9),))
    other = Watched((), (_found("up", 4.0, 6.0, 0.9), _found("down", 0.0, 2.0, 0.9)))
    # What is found in another video, or never happens, does not count for `up`.
    assert mean_average_precision([first, other]) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="no video has an action"):
        mean_average_precision([other])


CHECKPOINTS = Path(__file__).parents[2] / "demo" / "checkpoints"


@pytest.fixture(scope="module")
def held_out() -> HeldOut:
    with ThreadPoolExecutor(1) as executor:
        return draw_held_out(executor, clips=36, stories=1, story_s=40.0)


@pytest.mark.parametrize(
    ("architecture", "top1", "temporal_map"), [("videomae", 0.94, 0.75), ("timesformer", 0.94, 0.75)]
)
def test_the_committed_models_name_motions_and_find_actions(
    architecture: str, top1: float, temporal_map: float, held_out: HeldOut
) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        model = load_model(CHECKPOINTS / architecture).eval()
        measured = measure(model, held_out, window_s=2.0, stride_s=0.5)
    finally:
        torch.set_num_threads(threads)
    assert min(measured.top1.values()) >= top1
    assert measured.temporal_map >= temporal_map


@pytest.mark.parametrize("architecture", ["videomae", "timesformer"])
def test_the_committed_models_are_what_transformers_writes(architecture: str) -> None:
    folder = CHECKPOINTS / architecture
    with safe_open(folder / "model.safetensors", "pt") as weights:
        assert {str(weights.get_tensor(name).dtype) for name in weights.keys()} == {"torch.float16"}  # noqa: SIM118
    _, report = AutoModelForVideoClassification.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values())
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    assert type(processor).__name__ == "VideoMAEImageProcessorPil"
    assert tuple(processor.image_mean) == NORMALISATIONS[architecture].mean  # type: ignore[index]
