"""The video classifier's replica in this process, over tiny checkpoints with random weights."""

from __future__ import annotations

import asyncio
import io
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from transformers import (
    AutoModelForVideoClassification,
    TimesformerConfig,
    TimesformerForVideoClassification,
    VideoMAEConfig,
    VideoMAEForVideoClassification,
    ViTConfig,
)
from transformers.models.videomae.image_processing_pil_videomae import VideoMAEImageProcessorPil

from demo.scenes.video_file import write_video
from deployments.messages import Call
from deployments.video.decode import open_video
from deployments.video_classifier.actions import WindowScores, put_together
from deployments.video_classifier.adapter import ClipOutput, ShapedClip, VideoClassifierAdapter
from deployments.video_classifier.clips import Part, Shaping, Sliding, read_windows
from deployments.video_classifier.messages import (
    ClassifiedClip,
    ClassifyClips,
    ClipFeatures,
    DetectActions,
)
from deployments.video_classifier.replica import VideoClassifierReplica
from serve.config.models import VideoClassifierModel
from serve.errors import ArgusError, ConfigError, InvalidMedia, InvalidRequest
from serve.videos.plan import window_chunks

CALL = Call("test", 60.0)
FPS = 8.0
SIDE, LABELS = 32, ("bright", "dark", "rest")
SMALL: dict[str, Any] = {
    "image_size": SIDE,
    "patch_size": 8,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "id2label": dict(enumerate(LABELS)),
    "label2id": {label: number for number, label in enumerate(LABELS)},
}
MODELS: dict[str, Callable[[], Any]] = {
    "videomae": lambda: VideoMAEForVideoClassification(VideoMAEConfig(num_frames=8, tubelet_size=2, **SMALL)),
    "videomae with a class token": lambda: VideoMAEForVideoClassification(
        VideoMAEConfig(num_frames=8, tubelet_size=2, use_mean_pooling=False, **SMALL)
    ),
    "timesformer": lambda: TimesformerForVideoClassification(TimesformerConfig(num_frames=4, **SMALL)),
}


def save(model: Any, folder: Path, **processor: Any) -> Path:
    model.save_pretrained(folder)
    sizes = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}} | processor
    VideoMAEImageProcessorPil(**sizes).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    torch.manual_seed(0)
    made = {}
    for name, build in MODELS.items():
        model = build()
        torch.nn.init.normal_(model.classifier.weight, std=0.5)  # answers that differ from clip to clip
        made[name] = save(model, tmp_path_factory.mktemp("model"))
    return made


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def config(checkpoint: Path, **options: Any) -> VideoClassifierModel:
    return VideoClassifierModel(kind="video_classifier", checkpoint=str(checkpoint), **options)


def replica(checkpoint: Path, **options: Any) -> VideoClassifierReplica:
    return VideoClassifierReplica("video", config(checkpoint, **options), 50_000_000)


def film(levels: list[int], side: int = 48) -> bytes:
    """A lossless clip at 8 frames a second whose frame n is a grey of `levels[n]`."""
    buffer = io.BytesIO()
    frames = (np.full((side, side, 3), level, np.uint8) for level in levels)
    write_video(buffer, frames, FPS, options={"qp": "0", "preset": "ultrafast"})
    return buffer.getvalue()


def noise(frames: int, seed: int, shape: tuple[int, int] = (50, 70)) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (frames, *shape, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", MODELS)
def test_a_batch_equals_plain_transformers(checkpoints: dict[str, Path], name: str) -> None:
    adapter = VideoClassifierAdapter(config(checkpoints[name]))
    clips = [noise(adapter.frame_count, seed) for seed in range(3)]
    outputs = adapter.forward([adapter.preprocess(clip) for clip in clips])
    model = AutoModelForVideoClassification.from_pretrained(checkpoints[name]).eval()
    processor = VideoMAEImageProcessorPil.from_pretrained(checkpoints[name])
    inputs = processor([list(clip) for clip in clips], return_tensors="pt")
    with torch.inference_mode():
        logits = model(**inputs).logits
        hidden = model.base_model(**inputs).last_hidden_state
        pooled = model.fc_norm(hidden.mean(1)) if name == "videomae" else hidden[:, 0]
    probabilities = np.stack([output.probabilities for output in outputs])
    assert probabilities == pytest.approx(logits.softmax(-1).numpy(), abs=1e-5)
    assert np.ptp(probabilities, axis=0).max() > 1e-4
    features = np.stack([output.features for output in outputs])
    assert features == pytest.approx(pooled.numpy(), abs=1e-4)
    assert features.dtype == probabilities.dtype == np.float32


def test_settings_that_only_the_processor_knows_are_left_to_it(tmp_path: Path) -> None:
    torch.manual_seed(1)
    folder = save(MODELS["timesformer"](), tmp_path, do_normalize=False)
    adapter = VideoClassifierAdapter(config(folder))
    clip = noise(4, 0)
    (output,) = adapter.forward([adapter.preprocess(clip)])
    inputs = VideoMAEImageProcessorPil.from_pretrained(folder)(list(clip), return_tensors="pt")
    model = AutoModelForVideoClassification.from_pretrained(folder).eval()
    with torch.inference_mode():
        expected = model(**inputs).logits.softmax(-1)[0].numpy()
    assert output.probabilities == pytest.approx(expected, abs=1e-5)


def test_a_clip_of_another_length_is_refused(checkpoints: dict[str, Path]) -> None:
    adapter = VideoClassifierAdapter(config(checkpoints["videomae"]))
    with pytest.raises(InvalidRequest, match="has 5 frames; this model takes 8"):
        adapter.preprocess(noise(5, 0))


def test_other_checkpoints_are_refused(tmp_path: Path) -> None:
    ViTConfig().save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="is a 'vit' checkpoint; kind video_classifier serves videomae, timesformer"):
        VideoClassifierAdapter(config(tmp_path))


def test_a_background_that_is_no_class_is_refused(checkpoints: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match="has no class 'nothing'"):
        replica(checkpoints["videomae"], background=("rest", "nothing"))


def test_quantised_weights_are_refused() -> None:
    with pytest.raises(ValueError, match="must be none"):
        config(Path("x"), quantization="int8")


async def test_info_tells_the_models_sizes(checkpoints: dict[str, Path]) -> None:
    info = await replica(checkpoints["timesformer"]).info()
    assert (info.device, info.dimension, info.image_size) == ("cpu", 32, SIDE)


async def test_the_health_check_runs_the_model(checkpoints: dict[str, Path]) -> None:
    await replica(checkpoints["videomae"]).check_health()


@pytest.mark.parametrize("name", MODELS)
async def test_a_video_is_seen_as_evenly_spaced_frames(checkpoints: dict[str, Path], name: str) -> None:
    served = replica(checkpoints[name])
    adapter = VideoClassifierAdapter(config(checkpoints[name]))
    video = film(list(range(0, 250, 10)))
    numbers = np.linspace(0, 24, adapter.frame_count).astype(int).tolist()
    with open_video(video) as opened:
        frames = dict(opened.frames(numbers, 1024))
    (expected,) = adapter.forward([adapter.preprocess(np.stack([frames[number] for number in numbers]))])

    classified = await served.classify_clips(ClassifyClips((video,), top_k=2), CALL)
    (answer,) = classified.videos
    assert isinstance(answer, ClassifiedClip)
    order = np.argsort(-expected.probabilities)[:2]
    assert [label.label for label in answer.labels] == [LABELS[place] for place in order]
    assert [label.probability for label in answer.labels] == pytest.approx(expected.probabilities[order], abs=1e-5)

    (vector,) = (await served.clip_features(ClipFeatures((video,)), CALL)).vectors
    assert vector == pytest.approx(expected.features, abs=1e-4)
    (unit,) = (await served.clip_features(ClipFeatures((video,), normalize=True), CALL)).vectors
    assert isinstance(unit, np.ndarray)
    assert float(np.linalg.norm(unit)) == pytest.approx(1.0, abs=1e-5)
    assert unit == pytest.approx(expected.features / np.linalg.norm(expected.features), abs=1e-4)


async def test_a_part_is_classified_as_a_video_of_its_own(checkpoints: dict[str, Path]) -> None:
    served = replica(checkpoints["videomae"])
    levels = list(range(0, 240, 5))
    part = ClassifyClips((film(levels),), 3, start_s=2.0, end_s=4.0)
    alone = ClassifyClips((film(levels[16:32]),), 3)
    (one,), (other,) = [(await served.classify_clips(request, CALL)).videos for request in (part, alone)]
    assert isinstance(one, ClassifiedClip)
    assert isinstance(other, ClassifiedClip)
    assert [label.probability for label in one.labels] == pytest.approx(
        [label.probability for label in other.labels], abs=1e-5
    )


async def test_a_bad_video_does_not_hurt_its_neighbours(checkpoints: dict[str, Path]) -> None:
    served = replica(checkpoints["videomae"])
    good = film([10, 200] * 8)
    (first, broken, cut, last) = (
        await served.classify_clips(ClassifyClips((good, b"no video", good[:300], good)), CALL)
    ).videos
    assert isinstance(broken, InvalidMedia)
    assert broken.code == "invalid_video"
    assert isinstance(cut, InvalidMedia)
    assert isinstance(first, ClassifiedClip)
    assert isinstance(last, ClassifiedClip)
    vectors = (await served.clip_features(ClipFeatures((b"no video", good)), CALL)).vectors
    assert isinstance(vectors[0], InvalidMedia)
    assert isinstance(vectors[1], np.ndarray)


async def test_concurrent_requests_share_batches(checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    prepared = threading.Semaphore(0)
    forward, preprocess = VideoClassifierAdapter.forward, VideoClassifierAdapter.preprocess

    def counted(self: VideoClassifierAdapter, clip: Any) -> ShapedClip:
        prepared.release()
        return preprocess(self, clip)

    def gated(self: VideoClassifierAdapter, batch: Sequence[ShapedClip]) -> list[ClipOutput]:
        # The first pass lasts until all requests have come.
        if not sizes:
            assert all(prepared.acquire(timeout=30) for _ in range(12))
        sizes.append(len(batch))
        return forward(self, batch)

    monkeypatch.setattr(VideoClassifierAdapter, "preprocess", counted)
    monkeypatch.setattr(VideoClassifierAdapter, "forward", gated)
    served = replica(checkpoints["timesformer"], batching={"max_items": 4})
    video = film([5, 60, 150, 220] * 4)
    answers = await asyncio.gather(*(served.classify_clips(ClassifyClips((video,)), CALL) for _ in range(12)))
    (first,) = answers[0].videos
    assert isinstance(first, ClassifiedClip)
    for answer in answers:
        (other,) = answer.videos
        assert isinstance(other, ClassifiedClip)
        assert [label.label for label in other.labels] == [label.label for label in first.labels]
        assert other.labels[0].probability == pytest.approx(first.labels[0].probability, abs=1e-5)
    assert sum(sizes) == 12
    assert max(sizes[1:]) > 1


def by_light(self: VideoClassifierAdapter, batch: Sequence[ShapedClip]) -> list[ClipOutput]:
    """The forward pass of a model that calls a clip bright as far as its frames are, and else rest."""
    shares = [float((clip.frames.mean((1, 2, 3)) > 128).mean()) for clip in batch]
    return [ClipOutput(np.array([share, 0, 1 - share], np.float32), np.zeros(32, np.float32)) for share in shares]


@pytest.fixture
def watcher(checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> VideoClassifierReplica:
    """A replica that sees how bright it is, so that what happens when is known exactly."""
    monkeypatch.setattr(VideoClassifierAdapter, "forward", by_light)
    return replica(checkpoints["videomae"], background=("rest",), batching={"max_items": 4})


DARK, BRIGHT = [20] * 8, [230] * 8  # a second each


async def test_actions_are_found_when_they_happen(watcher: VideoClassifierReplica) -> None:
    video = film(DARK * 4 + BRIGHT * 3 + DARK * 5 + BRIGHT * 2 + DARK * 4)
    found = await watcher.detect_actions(DetectActions(video, window_s=2.0, stride_s=0.5, enter=0.6, leave=0.5), CALL)
    assert [action.label for action in found.actions] == ["bright", "bright"]
    ends = [moment for action in found.actions for moment in (action.start_s, action.end_s)]
    assert ends == pytest.approx([4.0, 7.0, 12.0, 14.0], abs=0.1)
    assert found.duration_s == pytest.approx(18.0)
    assert found.windows == 33  # (18 - 2) / 0.5 and the first
    assert all(0.5 < action.score <= 1.0 for action in found.actions)


async def test_a_part_speaks_of_the_whole_videos_seconds(watcher: VideoClassifierReplica) -> None:
    video = film(DARK * 4 + BRIGHT * 3 + DARK * 5 + BRIGHT * 2 + DARK * 4)
    found = await watcher.detect_actions(
        DetectActions(video, start_s=9.0, end_s=16.0, window_s=2.0, stride_s=0.5, enter=0.6, leave=0.5), CALL
    )
    (action,) = found.actions
    assert (action.start_s, action.end_s) == (pytest.approx(12.0, abs=0.1), pytest.approx(14.0, abs=0.1))
    assert found.windows == 11
    assert found.duration_s == pytest.approx(18.0)


async def test_a_video_looked_at_in_chunks_shows_what_it_shows_at_once(watcher: VideoClassifierReplica) -> None:
    video = film(DARK * 4 + BRIGHT * 3 + DARK * 3 + BRIGHT * 2 + DARK * 4)

    async def seen(start_s: float, end_s: float | None) -> WindowScores:
        asked = DetectActions(video, start_s, end_s, window_s=2.0, stride_s=0.5, enter=0.6, leave=0.5)
        return (await watcher.detect_actions(asked, CALL)).seen

    chunks = window_chunks(0.0, 16.0, 5.0, 2.0, 0.5)
    assert len(chunks) == 4 and any(chunk.start_s < 6.0 < chunk.end_s for chunk in chunks)
    (together,) = put_together([await seen(chunk.start_s, chunk.end_s) for chunk in chunks])
    at_once = await seen(0.0, None)
    assert list(together.spans) == list(at_once.spans)
    assert together.scores == {"bright": pytest.approx(at_once.scores["bright"])}


async def test_windows_are_the_deployments_own_unless_asked(checkpoints: dict[str, Path]) -> None:
    served = replica(checkpoints["videomae"], window_s=4.0, stride_s=1.0)
    video = film(DARK * 10)
    assert (await served.detect_actions(DetectActions(video), CALL)).windows == 7
    assert (await served.detect_actions(DetectActions(video, window_s=2.0), CALL)).windows == 9
    assert (await served.detect_actions(DetectActions(video, window_s=20.0), CALL)).windows == 1


async def test_windows_leave_nothing_out(checkpoints: dict[str, Path]) -> None:
    served = replica(checkpoints["videomae"], window_s=4.0, stride_s=1.0)
    video = film(DARK * 10)
    assert (await served.detect_actions(DetectActions(video, window_s=0.5), CALL)).windows == 20
    for wrong in (DetectActions(video, stride_s=5.0), DetectActions(video, window_s=1.0, stride_s=2.0)):
        with pytest.raises(InvalidRequest) as caught:
            await served.detect_actions(wrong, CALL)
        assert (caught.value.code, caught.value.param) == ("invalid_field", "stride_s")


async def test_requests_that_no_video_can_answer_are_refused(checkpoints: dict[str, Path]) -> None:
    served = replica(checkpoints["videomae"], max_windows=20)
    video = film(DARK * 4)

    async def refused(request: DetectActions) -> ArgusError:
        with pytest.raises(ArgusError) as caught:
            await served.detect_actions(request, CALL)
        return caught.value

    late = await refused(DetectActions(video, start_s=4.5))
    assert (late.code, late.param, late.status) == ("outside_video", "start_s", 400)
    many = await refused(DetectActions(video, stride_s=0.1))
    assert (many.code, many.param, many.status) == ("too_many_windows", "stride_s", 400)
    assert (await refused(DetectActions(b"no video"))).code == "invalid_video"
    (outside,) = (await served.classify_clips(ClassifyClips((video,), start_s=9.0), CALL)).videos
    assert isinstance(outside, InvalidRequest)


async def test_a_window_that_fails_fails_the_request(
    watcher: VideoClassifierReplica, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forward(self: VideoClassifierAdapter, batch: Sequence[ShapedClip]) -> list[ClipOutput]:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(VideoClassifierAdapter, "forward", forward)
    with pytest.raises(ArgusError, match="out of memory"):
        await watcher.detect_actions(DetectActions(film(DARK * 4)), CALL)


async def test_a_caller_that_leaves_stops_the_decoder(
    checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    reached, left = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()
    shape = VideoClassifierAdapter.shape
    shaped = 0

    def gated(self: VideoClassifierAdapter, frame: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
        nonlocal shaped
        shaped += 1
        loop.call_soon_threadsafe(reached.set)
        assert left.wait(30)
        return shape(self, frame)

    monkeypatch.setattr(VideoClassifierAdapter, "shape", gated)
    served = replica(
        checkpoints["videomae"], batching={"max_items": 4096}, placement={"preprocess_workers": 1, "num_cpus": 1}
    )
    # All windows are one batch, so that nothing but leaving ends the decoding before the video does.
    request = asyncio.create_task(served.detect_actions(DetectActions(film(DARK * 60)), CALL))
    await reached.wait()
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    left.set()
    # The one worker is free for whoever comes next.
    await served.detect_actions(DetectActions(film(DARK * 4), window_s=4.0), CALL)
    assert shaped < 60


def test_frames_that_windows_share_are_shaped_once() -> None:
    shaped: list[int] = []

    def shape(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        shaped.append(round(float(pixels.mean())))
        return pixels[:1, :1]

    video = film(list(range(0, 240, 3)))  # 80 frames, 10 seconds
    sliding = Sliding(Part(0.0, None), window_s=2.0, stride_s=0.5, most=100)
    plan, clips = read_windows(open_video(video), sliding, Shaping(8, shape), 1024)
    found = [clip[:, 0, 0, 0].astype(int).tolist() for clip in clips]
    assert len(found) == len(plan.spans) == 17
    # Every quarter of a second, half a part after its start: frames 1, 3, 5, ...
    assert found[0] == pytest.approx([3 * number for number in range(1, 17, 2)], abs=2)
    assert found[16] == pytest.approx([3 * number for number in range(65, 81, 2)], abs=2)
    assert shaped == sorted(shaped)
    assert len(shaped) == 40


def test_a_video_of_one_frame_is_one_window() -> None:
    sliding = Sliding(Part(0.0, None), window_s=2.0, stride_s=0.5, most=100)
    plan, clips = read_windows(open_video(film([90])), sliding, Shaping(4, lambda pixels: pixels), 1024)
    assert [clip.shape for clip in clips] == [(4, 48, 48, 3)]
    assert len(plan.spans) == 1


def test_the_checkpoint_says_how_many_frames(checkpoints: dict[str, Path]) -> None:
    for name, folder in checkpoints.items():
        adapter = VideoClassifierAdapter(config(folder))
        assert adapter.frame_count == json.loads((folder / "config.json").read_text())["num_frames"], name
        assert adapter.labels == LABELS
