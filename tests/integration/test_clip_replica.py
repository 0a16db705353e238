"""The CLIP deployment's class in this process, over real checkpoints: the demo's, and tiny ones of other kinds."""

from __future__ import annotations

import asyncio
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from transformers import (
    AutoProcessor,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
)

from deployments.clip import ClipReplica
from deployments.clip_preprocess import fast_path
from deployments.messages import Call, ClassifyRequest, EmbedRequest, EncodedImage, PixelValues, RawImage, Scores
from serve.config.load import DEMO_CHECKPOINTS
from serve.config.models import ClipModel
from serve.errors import ArgusError, ConfigError, InvalidMedia, InvalidRequest
from serve.media.image import ImageLimits

DEMO = DEMO_CHECKPOINTS / "clip"
CALL = Call("test", 60.0)
LABELS = ("a red star", "a blue circle", "a green square")
PIXELS: npt.NDArray[np.uint8] = np.random.default_rng(5).integers(0, 256, (90, 130, 3), dtype=np.uint8)


def replica(checkpoint: Path, **options: Any) -> ClipReplica:
    return ClipReplica("clip", ClipModel(kind="clip", checkpoint=str(checkpoint), **options), ImageLimits())


def encoded(pixels: npt.NDArray[np.uint8], format: str = "PNG") -> EncodedImage:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format)
    return EncodedImage(buffer.getvalue())


def scores(result: Scores | Exception) -> Scores:
    assert isinstance(result, Scores), result
    return result


@pytest.fixture(scope="module")
def siglip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny SigLIP with random weights, the demo's tokenizer and SigLIP's own preprocessing."""
    folder = tmp_path_factory.mktemp("siglip")
    vocabulary = CLIPConfig.from_pretrained(DEMO).text_config.vocab_size
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(3)
    config = SiglipConfig(
        text_config={**small, "vocab_size": vocabulary, "max_position_embeddings": 16, "projection_size": 32},
        vision_config={**small, "image_size": 32, "patch_size": 8},
    )
    model = SiglipModel(config)
    with torch.no_grad():
        model.logit_scale.fill_(2.0)
        model.logit_bias.fill_(-1.5)
    model.save_pretrained(folder)
    shutil.copy(DEMO / "tokenizer.json", folder / "tokenizer.json")
    tokenizer = json.loads((DEMO / "tokenizer_config.json").read_text())
    tokenizer["tokenizer_class"] = "PreTrainedTokenizerFast"
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    SiglipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    processor = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps({**processor, "processor_class": "SiglipProcessor"}))
    return folder


async def test_siglip_equals_transformers_and_scores_each_label_by_itself(siglip: Path) -> None:
    processor: Any = AutoProcessor.from_pretrained(siglip, backend="pil")
    model = SiglipModel.from_pretrained(siglip).eval()
    prompts = [f"a photo of a {label}." for label in LABELS]
    inputs = processor(
        text=prompts, images=Image.fromarray(PIXELS), padding="max_length", max_length=16, return_tensors="pt"
    )
    inputs.pop("attention_mask", None)
    with torch.inference_mode():
        expected = model(**inputs)
    served = replica(siglip)
    multi = await served.classify(ClassifyRequest((encoded(PIXELS),), LABELS, "default", True), CALL)
    single = await served.classify(ClassifyRequest((RawImage(PIXELS),), LABELS), CALL)
    logits = expected.logits_per_image[0]
    np.testing.assert_allclose(scores(multi.images[0]).logits, logits.numpy(), atol=1e-4)
    np.testing.assert_allclose(scores(multi.images[0]).probabilities, torch.sigmoid(logits).numpy(), atol=1e-5)
    np.testing.assert_allclose(scores(single.images[0]).probabilities, logits.softmax(-1).numpy(), atol=1e-5)
    vectors = await served.embed(EmbedRequest((encoded(PIXELS), prompts[0])), CALL)
    np.testing.assert_allclose(vectors.vectors[0], expected.image_embeds[0].numpy(), atol=1e-5)
    np.testing.assert_allclose(vectors.vectors[1], expected.text_embeds[0].numpy(), atol=1e-5)


async def test_texts_of_siglip_stay_padded_while_others_are_counted(siglip: Path) -> None:
    served = replica(siglip)
    alone = (await served.embed(EmbedRequest(("a photo of a star.",)), CALL)).vectors[0]
    asked = (served.embed(EmbedRequest(("a photo of a star.",) * 4), CALL) for _ in range(100))
    for answer in await asyncio.gather(*asked):
        for vector in answer.vectors:
            np.testing.assert_allclose(vector, alone, atol=1e-5)


async def test_pixels_of_which_the_model_makes_no_numbers_are_an_error_of_their_own() -> None:
    served = replica(DEMO)
    huge = PixelValues(np.full((3, 64, 64), 3e38, np.float32))
    vectors = (await served.embed(EmbedRequest((huge, RawImage(PIXELS))), CALL)).vectors
    assert isinstance(vectors[0], InvalidRequest) and np.isfinite(vectors[1]).all()
    images = (await served.classify(ClassifyRequest((RawImage(PIXELS), huge), LABELS), CALL)).images
    assert isinstance(images[1], InvalidRequest) and np.isfinite(scores(images[0]).logits).all()


async def test_a_calibrated_checkpoint_uses_its_temperature(tmp_path: Path) -> None:
    folder = shutil.copytree(DEMO, tmp_path / "clip")
    (folder / "argus.json").write_text(json.dumps({"calibration": {"temperature": 4.0}}))
    request = ClassifyRequest((RawImage(PIXELS),), LABELS)
    calibrated = await replica(folder).classify(request, CALL)
    (folder / "argus.json").unlink()
    plain = await replica(folder).classify(request, CALL)
    assert (calibrated.temperature, plain.temperature) == (4.0, 1.0)
    logits = scores(plain.images[0]).logits
    np.testing.assert_allclose(scores(calibrated.images[0]).logits, logits, atol=1e-5)
    expected = torch.tensor(logits / 4.0).softmax(-1).numpy()
    np.testing.assert_allclose(scores(calibrated.images[0]).probabilities, expected, atol=1e-6)


@pytest.mark.parametrize("wrong", [0, -1, "hot"])
def test_a_wrong_temperature_is_refused(tmp_path: Path, wrong: object) -> None:
    folder = shutil.copytree(DEMO, tmp_path / "clip")
    (folder / "argus.json").write_text(json.dumps({"calibration": {"temperature": wrong}}))
    with pytest.raises(ConfigError, match="temperature"):
        replica(folder)


async def test_multi_label_probabilities_do_not_depend_on_the_other_labels() -> None:
    served = replica(DEMO)
    many = await served.classify(ClassifyRequest((RawImage(PIXELS),), LABELS, "default", True), CALL)
    one = await served.classify(ClassifyRequest((RawImage(PIXELS),), LABELS[:1], "default", True), CALL)
    np.testing.assert_allclose(
        scores(many.images[0]).probabilities[0], scores(one.images[0]).probabilities[0], atol=1e-6
    )
    assert len(scores(many.images[0]).probabilities) == len(LABELS)


async def test_a_thousand_labels_are_served_to_all_who_ask_at_once() -> None:
    labels = tuple(f"class {number}" for number in range(1000))
    served = replica(DEMO, batching={"max_items": 16})
    asked = (served.classify(ClassifyRequest((RawImage(PIXELS),), labels), CALL) for _ in range(3))
    first, *others = [scores(answer.images[0]) for answer in await asyncio.gather(*asked)]
    few = scores((await served.classify(ClassifyRequest((RawImage(PIXELS),), labels[-3:]), CALL)).images[0])
    assert first.logits.shape == (1000,)
    np.testing.assert_allclose(first.logits[-3:], few.logits, atol=1e-4)
    for other in others:
        np.testing.assert_allclose(other.logits, first.logits, atol=1e-4)


async def test_many_prompts_and_many_images_of_one_request_are_all_served() -> None:
    labels = tuple(f"class {number}" for number in range(80))
    images = (RawImage(PIXELS),) * 256
    result = await replica(DEMO).classify(ClassifyRequest(images, labels, "ensemble"), CALL)
    assert [scores(image).logits.shape for image in result.images] == [(80,)] * 256


async def test_a_bad_image_among_good_ones_is_the_only_one_to_fail() -> None:
    good = encoded(PIXELS, "JPEG")
    request = ClassifyRequest((good, EncodedImage(good.data[: len(good.data) // 2]), good), LABELS)
    result = await replica(DEMO).classify(request, CALL)
    np.testing.assert_allclose(
        scores(result.images[0]).probabilities, scores(result.images[2]).probabilities, atol=1e-6
    )
    assert isinstance(result.images[1], InvalidMedia) and result.images[1].code == "truncated_image"


async def test_a_text_longer_than_the_model_reads_is_refused_by_name() -> None:
    served = replica(DEMO)
    with pytest.raises(InvalidRequest) as caught:
        await served.classify(ClassifyRequest((RawImage(PIXELS),), ("star " * 500,)), CALL)
    assert (caught.value.code, caught.value.param) == ("text_too_long", "labels")
    result = await served.embed(EmbedRequest(("star " * 500, "a star")), CALL)
    assert isinstance(result.vectors[0], ArgusError) and not isinstance(result.vectors[1], Exception)


async def test_scaled_decoding_changes_pixels_a_little_and_the_embedding_hardly() -> None:
    from demo.scenes import render, sample_scene

    scene = render(sample_scene(3, split="test", difficulty="easy"), 640)
    image = encoded(scene, "JPEG")
    exact = (await replica(DEMO).embed(EmbedRequest((image,)), CALL)).vectors[0]
    scaled = (await replica(DEMO, image_decode="scaled").embed(EmbedRequest((image,)), CALL)).vectors[0]
    assert isinstance(exact, np.ndarray) and isinstance(scaled, np.ndarray)
    assert 0.95 < float(exact @ scaled) < 1 - 1e-7


async def test_info_and_health_come_from_the_real_path() -> None:
    served = replica(DEMO)
    await served.check_health()
    info = await served.info()
    assert (info.dimension, info.image_size, info.device) == (128, 64, "cpu")


def test_another_kind_of_checkpoint_is_refused(tmp_path: Path) -> None:
    from transformers import BertConfig, BertModel

    BertModel(BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=50)).save_pretrained(
        tmp_path
    )
    with pytest.raises(ConfigError, match="bert"):
        replica(tmp_path)


def test_weights_in_pickle_are_not_loaded(tmp_path: Path) -> None:
    folder = shutil.copytree(DEMO, tmp_path / "clip")
    (folder / "model.safetensors").unlink()
    torch.save(CLIPModel.from_pretrained(DEMO).state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        replica(folder)


@pytest.mark.parametrize(
    "size", [(64, 64), (65, 64), (64, 65), (224, 224), (333, 57), (57, 333), (900, 640), (70, 1000)]
)
@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_fast_preprocessing_equals_the_processor(size: tuple[int, int], kind: str) -> None:
    processor: Any = (
        CLIPImageProcessorPil(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64})
        if kind == "clip"
        else SiglipImageProcessorPil(size={"height": 48, "width": 48})
    )
    path = fast_path(processor)
    assert path is not None
    pixels = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    expected = np.asarray(processor(images=image, return_tensors="np")["pixel_values"][0])
    np.testing.assert_allclose(path.normalized(path.pixels(image)), expected, atol=1e-5)


def test_a_processor_with_other_steps_is_left_to_itself() -> None:
    assert fast_path(CLIPImageProcessorPil(do_normalize=False)) is None
    assert fast_path(CLIPImageProcessorPil(do_center_crop=False)) is None
    assert fast_path(CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 64, "width": 64})) is None


def test_a_thin_strip_does_not_blow_up() -> None:
    path = fast_path(CLIPImageProcessorPil(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64}))
    assert path is not None
    strip = Image.new("RGB", (16_384, 4), (10, 200, 30))
    assert path.pixels(strip).shape == (64, 64, 3) and (path.pixels(strip) == (10, 200, 30)).all()
