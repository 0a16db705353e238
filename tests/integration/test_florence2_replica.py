"""The Florence-2 deployment's class in this process, over random weights: what it answers equals plain transformers."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoProcessor, Florence2ForConditionalGeneration

from deployments.base import Pipeline
from deployments.batching import BatchLimits
from deployments.florence2.adapter import Florence2Adapter
from deployments.florence2.items import Question, Watch, Written
from deployments.florence2.messages import Answer, Box, SeenImage, VisionRequest, VisionResult, VisionTask
from deployments.florence2.replica import Florence2Replica
from deployments.florence2.tasks import TASKS
from deployments.messages import Call, EncodedImage, RawImage
from serve.config.load import DEMO_CHECKPOINTS
from serve.config.models import Florence2Model
from serve.errors import ArgusError, ConfigError, DeadlineExceeded, InvalidMedia, InvalidRequest
from serve.media.image import ImageLimits
from tests.support import tiny_florence2

DEMO = DEMO_CHECKPOINTS / "florence2"
CALL = Call("test", 60.0)
TOKENS = 24
# Sizes (height, width) of the pictures asked about.
SIZES = ((100, 150), (300, 120), (64, 64))
TEXT = "a red star and a blue circle"
# What each kind of task is given, beside the same as the published processor takes it.
GIVEN: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({}, ""),
    "text": ({"text": TEXT}, TEXT),
    "region": ({"region": (6.1, 8.3, 40.0, 59.99)}, "<loc_{0}><loc_{1}><loc_{2}><loc_{3}>"),
}


def picture(size: tuple[int, int], seed: int = 0) -> npt.NDArray[np.uint8]:
    """A smooth pattern with some noise: pictures of one colour would all look alike to a random model."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0 : size[0], 0 : size[1]]
    waves = [128 + 100 * np.sin(rows * rng.uniform(0.02, 0.3) + columns * rng.uniform(0.02, 0.3)) for _ in range(3)]
    return np.clip(np.stack(waves, -1) + rng.normal(0, 9, (*size, 3)), 0, 255).astype(np.uint8)


PICTURES = [picture(size, seed) for seed, size in enumerate(SIZES)]


def encoded(pixels: npt.NDArray[np.uint8], **options: Any) -> EncodedImage:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", **options)
    return EncodedImage(buffer.getvalue())


def prompt_of(task: str, pixels: npt.NDArray[np.uint8]) -> str:
    """The published prompt; a region's bins are thousandths of the sides, rounded down."""
    given, text = GIVEN[TASKS[task].needs]
    if "region" in given:
        height, width = pixels.shape[:2]
        bins = [int(edge * 1000 / side) for edge, side in zip(given["region"], (width, height) * 2, strict=True)]
        text = text.format(*bins)
    return TASKS[task].token + text


class Reference:
    """Plain transformers, one picture and one prompt at a time."""

    def __init__(self, checkpoint: Path) -> None:
        self._model = Florence2ForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32).eval()
        self.processor: Any = AutoProcessor.from_pretrained(checkpoint, backend="pil")

    def tokens(self, task: str, pixels: npt.NDArray[np.uint8], beams: int, tokens: int = TOKENS) -> list[int]:
        """Ids without the one that starts the decoder, up to the one that ends the answer."""
        inputs = self.processor(text=prompt_of(task, pixels), images=Image.fromarray(pixels), return_tensors="pt")
        with torch.inference_mode():
            row = self._model.generate(**inputs, num_beams=beams, max_new_tokens=tokens, do_sample=False)[0].tolist()
        ends = self.processor.tokenizer.eos_token_id
        return row[1 : row.index(ends, 1) + 1] if ends in row[1:] else row[1:]

    def score(self, task: str, pixels: npt.NDArray[np.uint8], ids: Sequence[int]) -> float:
        """Mean natural-log probability of an answer's tokens after the first, which is forced."""
        inputs = self.processor(text=prompt_of(task, pixels), images=Image.fromarray(pixels), return_tensors="pt")
        start = self._model.config.text_config.decoder_start_token_id
        written = torch.tensor([[start, *ids]])
        with torch.inference_mode():
            logits = self._model(**inputs, decoder_input_ids=written[:, :-1]).logits[0].double()
        told = logits.log_softmax(-1).gather(1, written[0, 1:, None])[1:]
        return float(told.mean())


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_florence2.small(tmp_path_factory.mktemp("florence2"))


@pytest.fixture(scope="module")
def reference(checkpoint: Path) -> Reference:
    return Reference(checkpoint)


def settings(checkpoint: Path, **options: Any) -> Florence2Model:
    return Florence2Model(kind="florence2", checkpoint=str(checkpoint), **options)


def replica(checkpoint: Path, **options: Any) -> Florence2Replica:
    return Florence2Replica("florence2", settings(checkpoint, **options), ImageLimits())


@pytest.fixture
def served(checkpoint: Path) -> Florence2Replica:
    return replica(checkpoint, batching={"max_items": 8})


def images_of(result: VisionResult) -> list[SeenImage]:
    for image in result.images:
        assert isinstance(image, SeenImage), image
    return [image for image in result.images if isinstance(image, SeenImage)]


def answer_of(answer: Answer | Exception) -> Answer:
    assert isinstance(answer, Answer), answer
    return answer


class Counting(Pipeline[Any, Any, Any, Any]):
    """A pipeline over an adapter that remembers the sizes of its batches."""

    def __init__(self, adapter: Florence2Adapter, most: int) -> None:
        self.sizes: list[int] = []
        forward = adapter.forward

        def counted(batch: Any) -> Any:
            self.sizes.append(len(batch))
            return forward(batch)

        adapter.forward = counted  # type: ignore[method-assign]
        super().__init__(adapter, BatchLimits(max_items=most, max_wait_s=0.5))


async def written(
    checkpoint: Path, asked: list[tuple[npt.NDArray[np.uint8], str]], beams: int, tokens: int = TOKENS
) -> tuple[list[Written], list[int]]:
    """What the pipeline writes about pictures, all asked at once, and how many ran together."""
    adapter = Florence2Adapter(settings(checkpoint), ImageLimits())
    pipeline = Counting(adapter, len(asked))
    opened = {id(pixels): adapter.open(RawImage(pixels)) for pixels, _ in asked}
    questions = []
    for pixels, task in asked:
        given, _ = GIVEN[TASKS[task].needs]
        questions.append(
            Question(
                opened[id(pixels)],
                TASKS[task],
                given.get("text"),
                given.get("region"),
                beams,
                tokens,
                Watch(float("inf")),
            )
        )
    results = await pipeline.run_all(questions, float("inf"))
    await pipeline.close()
    for result in results:
        assert isinstance(result, Written), result
    return results, pipeline.sizes


@pytest.mark.parametrize("beams", [3, 1])
@pytest.mark.parametrize("weights", ["random", "demo"])
async def test_a_batch_of_all_tasks_and_sizes_equals_transformers_alone(
    checkpoint: Path, weights: str, beams: int
) -> None:
    folder = checkpoint if weights == "random" else DEMO
    asked = [(PICTURES[i % len(PICTURES)], task) for i, task in enumerate(TASKS)]
    asked += [(PICTURES[0], "caption"), (PICTURES[1], "ocr")]
    results, sizes = await written(folder, asked, beams)
    assert max(sizes) > len(asked) // 2  # they did share batches
    plain = Reference(folder)
    for (pixels, task), result in zip(asked, results, strict=True):
        assert list(result.ids) == plain.tokens(task, pixels, beams), task
    assert len({result.ids for result in results}) > len(asked) // 2  # and do not all say the same


@pytest.mark.slow
@pytest.mark.parametrize("beams", [3, 1])
async def test_the_published_size_equals_transformers(tmp_path_factory: pytest.TempPathFactory, beams: int) -> None:
    folder = tiny_florence2.base(tmp_path_factory.mktemp("base"))
    asked = [(PICTURES[0], "object-detection"), (PICTURES[0], "phrase-grounding"), (PICTURES[1], "region-category")]
    results, _ = await written(folder, asked, beams, 10)
    plain = Reference(folder)
    for (pixels, task), result in zip(asked, results, strict=True):
        expected = plain.tokens(task, pixels, beams, 10)
        if list(result.ids) != expected:
            # Random weights hardly tell one order of tokens from another: beams that tie fall either way by rounding.
            assert beams > 1 and len(result.ids) == len(expected), task
            assert plain.score(task, pixels, result.ids) == pytest.approx(plain.score(task, pixels, expected), abs=1e-3)


async def test_answers_of_a_replica_are_what_the_published_processor_reads(
    served: Florence2Replica, reference: Reference
) -> None:
    tasks = ("caption", "detailed-caption", "ocr")
    images = tuple(encoded(pixels) for pixels in PICTURES)
    request = VisionRequest(images, tuple(map(VisionTask, tasks)), max_new_tokens=TOKENS)
    seen = images_of(await served.vision(request, CALL))
    tokenizer = reference.processor.tokenizer
    for pixels, image in zip(PICTURES, seen, strict=True):
        assert (image.height, image.width) == pixels.shape[:2]
        for task, answer in zip(tasks, image.answers, strict=True):
            ids = reference.tokens(task, pixels, 3)
            expected = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
            assert answer_of(answer).text == expected.strip()
            assert answer_of(answer).tokens == len(ids)


async def test_an_image_is_encoded_once_for_all_its_tasks(
    served: Florence2Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    encodings: list[int] = []
    encode = Florence2ForConditionalGeneration.get_image_features

    def counted(self: Any, pixel_values: torch.Tensor, **options: Any) -> Any:
        encodings.append(len(pixel_values))
        return encode(self, pixel_values, **options)

    monkeypatch.setattr(Florence2ForConditionalGeneration, "get_image_features", counted)
    images = tuple(encoded(pixels) for pixels in PICTURES)
    tasks = tuple(VisionTask(name) for name, task in TASKS.items() if task.needs == "nothing")
    result = await served.vision(VisionRequest(images, tasks, beams=1, max_new_tokens=8), CALL)
    assert all(isinstance(answer, Answer) for image in images_of(result) for answer in image.answers)
    assert sum(encodings) == len(images)


async def test_a_bad_image_among_good_ones_is_the_only_one_to_fail(served: Florence2Replica) -> None:
    good = encoded(PICTURES[0])
    bad = EncodedImage(good.data[: len(good.data) // 2])
    request = VisionRequest((good, bad, good), (VisionTask("caption"),), max_new_tokens=8)
    first, second, third = (await served.vision(request, CALL)).images
    assert isinstance(second, InvalidMedia) and second.code == "truncated_image"
    assert isinstance(first, SeenImage) and isinstance(third, SeenImage)
    assert answer_of(first.answers[0]) == answer_of(third.answers[0])


@pytest.mark.parametrize(
    ("region", "code"),
    [
        ((0.0, 0.0, 151.0, 50.0), "invalid_field"),
        ((0.0, 0.0, 50.0, 100.5), "invalid_field"),
        ((-1.0, 0.0, 50.0, 50.0), "invalid_field"),
        ((50.0, 0.0, 50.0, 50.0), "invalid_field"),
    ],
)
async def test_a_region_beyond_the_image_is_the_only_task_to_fail(
    served: Florence2Replica, region: Box, code: str
) -> None:
    whole = VisionTask("region-category", region=(0.0, 0.0, 150.0, 100.0))
    tasks = (VisionTask("region-category", region=region), whole)
    [image] = images_of(await served.vision(VisionRequest((encoded(PICTURES[0]),), tasks, max_new_tokens=8), CALL))
    wrong, right = image.answers
    assert isinstance(wrong, InvalidRequest) and (wrong.code, wrong.param) == (code, "region")
    assert isinstance(right, Answer)


@pytest.mark.parametrize("text", ["a star<loc_1>", "</s>", "<image> of a star", "<OD>", "x <REGION_TO_OCR> y", "<pad>"])
async def test_a_text_cannot_speak_for_the_prompt(served: Florence2Replica, text: str) -> None:
    request = VisionRequest((encoded(PICTURES[0]),), (VisionTask("phrase-grounding", text),), max_new_tokens=8)
    [image] = images_of(await served.vision(request, CALL))
    [error] = image.answers
    assert isinstance(error, InvalidRequest) and (error.code, error.param) == ("invalid_field", "text")


async def test_angle_brackets_and_braces_are_plain_text(served: Florence2Replica) -> None:
    request = VisionRequest(
        (encoded(PICTURES[0]),), (VisionTask("phrase-grounding", "a < b {input} <b>x</b> < loc_1 >"),), max_new_tokens=8
    )
    [image] = images_of(await served.vision(request, CALL))
    assert isinstance(image.answers[0], Answer)


async def test_a_text_longer_than_the_model_reads_is_refused(served: Florence2Replica) -> None:
    request = VisionRequest((encoded(PICTURES[0]),), (VisionTask("phrase-grounding", "star " * 500),))
    [image] = images_of(await served.vision(request, CALL))
    assert isinstance(image.answers[0], InvalidRequest) and image.answers[0].code == "text_too_long"


async def test_places_are_of_the_picture_as_displayed(served: Florence2Replica) -> None:
    """EXIF orientation 6 turns the stored picture by a quarter; its answers are those of the turned pixels."""
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = np.ascontiguousarray(np.rot90(PICTURES[0], -1))
    images = (encoded(PICTURES[0], exif=exif.tobytes()), RawImage(upright))
    request = VisionRequest(images, (VisionTask("object-detection"),), max_new_tokens=TOKENS)
    turned, straight = images_of(await served.vision(request, CALL))
    assert turned == straight and (turned.width, turned.height) == (100, 150)


@pytest.mark.parametrize("size", [(64, 64), (700, 900), (6, 900), (3000, 1200)])
async def test_a_drawing_is_legible_whatever_the_size(served: Florence2Replica, size: tuple[int, int]) -> None:
    request = VisionRequest(
        (encoded(picture(size)),), (VisionTask("caption"), VisionTask("object-detection")), 1, 8, render=True
    )
    [image] = images_of(await served.vision(request, CALL))
    for answer in image.answers:
        drawn = answer_of(answer).annotated
        assert drawn is not None
        with Image.open(io.BytesIO(drawn)) as opened:
            opened.load()
            assert opened.format == "PNG" and 640 <= max(opened.size) <= 4096 and min(opened.size) >= 100


async def test_the_token_limit_says_that_it_cut(served: Florence2Replica) -> None:
    request = VisionRequest((encoded(PICTURES[0]),), (VisionTask("caption"),), max_new_tokens=8)
    [image] = images_of(await served.vision(request, CALL))
    answer = answer_of(image.answers[0])
    assert (answer.finish_reason, answer.tokens) == ("length", 8)


async def test_rows_that_nobody_waits_for_end_and_leave_the_others_as_they_were(
    checkpoint: Path, reference: Reference
) -> None:
    adapter = Florence2Adapter(settings(checkpoint), ImageLimits())
    pixels = PICTURES[0]
    opened = adapter.open(RawImage(pixels))
    steps: list[int] = []

    class Leaving(Watch):
        """Leaves after some steps of the search."""

        @property
        def over(self) -> bool:
            steps.append(1)
            return len(steps) > 5

    def question(watch: Watch) -> Question:
        return Question(opened, TASKS["caption"], None, None, 3, TOKENS, watch)

    staying, leaving = question(Watch(float("inf"))), question(Leaving(float("inf")))
    kept, left = adapter.forward([adapter.preprocess(staying), adapter.preprocess(leaving)])
    assert isinstance(left, DeadlineExceeded)
    assert isinstance(kept, Written) and list(kept.ids) == reference.tokens("caption", pixels, 3)
    steps.clear()
    [alone] = adapter.forward([adapter.preprocess(question(Leaving(float("inf"))))])
    assert isinstance(alone, DeadlineExceeded)
    assert len(steps) < TOKENS // 2  # nobody is left: the search ends at once


def test_tasks_of_long_answers_are_batched_apart_once_they_are_known(checkpoint: Path) -> None:
    adapter = Florence2Adapter(settings(checkpoint), ImageLimits())
    opened = adapter.open(RawImage(PICTURES[0]))

    def lane(task: str, beams: int = 1, tokens: int = 8) -> object:
        question = Question(opened, TASKS[task], None, None, beams, tokens, Watch(float("inf")))
        prepared = adapter.preprocess(question)
        before = adapter.lane(prepared)
        adapter.forward([prepared])
        return before

    assert lane("caption") == lane("ocr") == lane("caption")
    assert lane("caption", beams=3) != lane("caption") != lane("caption", tokens=9)
    for _ in range(20):  # a random model writes as much as it may
        lane("ocr", tokens=64)
    assert lane("caption") != lane("ocr")


async def test_a_cancelled_request_stops_the_model_and_the_next_is_served(checkpoint: Path) -> None:
    served = replica(checkpoint)
    await served.info()
    request = VisionRequest((encoded(PICTURES[0]),), (VisionTask("caption"),), max_new_tokens=400)
    task = asyncio.create_task(served.vision(request, CALL))
    await asyncio.sleep(0.3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    short = VisionRequest((encoded(PICTURES[0]),), (VisionTask("caption"),), max_new_tokens=8)
    [image] = images_of(await served.vision(short, CALL))
    assert isinstance(image.answers[0], Answer)


async def test_a_deadline_that_has_passed_is_said_of_the_image(served: Florence2Replica) -> None:
    request = VisionRequest((encoded(PICTURES[0]),), (VisionTask("caption"),))
    [image] = (await served.vision(request, Call("test", -1.0))).images
    assert isinstance(image, DeadlineExceeded)


async def test_info_and_health_come_from_the_real_path(served: Florence2Replica) -> None:
    await served.check_health()
    info = await served.info()
    assert (info.device, info.image_size, info.engine, info.context_tokens) == ("cpu", 192, "transformers", 448)
    assert info.weights_bytes is not None and info.weights_bytes > 1_000_000


def test_a_checkpoint_that_lacks_weights_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    for file in checkpoint.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    renamed = {name.replace("vision_tower", "image_tower"): weight for name, weight in weights.items()}
    save_file(renamed, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match="florence-community"):
        replica(tmp_path)


def test_another_kind_of_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", "hidden_size": 32}))
    with pytest.raises(ConfigError, match="bert"):
        replica(tmp_path)


async def test_an_overlong_item_is_an_error_of_ours(checkpoint: Path) -> None:
    served = replica(checkpoint, batching={"max_items": 2, "max_cost": 10})
    request = VisionRequest((encoded(PICTURES[0]),), (VisionTask("caption"),), max_new_tokens=8)
    [image] = images_of(await served.vision(request, CALL))
    assert isinstance(image.answers[0], ArgusError) and image.answers[0].code == "item_too_large"
