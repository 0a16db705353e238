"""No two calls that differ share a key (DESIGN rule 8)."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.generation.messages import (
    ChatRequest,
    Constraint,
    ImagePart,
    Message,
    Sampling,
    Text,
    VideoPart,
)
from deployments.messages import ClassifyRequest, EmbedRequest, EncodedImage, PixelValues, RawImage
from serve.config.load import parse
from serve.resilience.cache_key import CacheKeys, call_key, identities_of
from tests.unit.resilience_fakes import context

# Few letters and short pieces: what is near to each other is what could collide.
TEXTS = st.text("ab\x00:", max_size=3)
BYTES = st.binary(max_size=2)
PARTS = st.one_of(
    TEXTS.map(Text),
    BYTES.map(VideoPart),
    st.builds(ImagePart, BYTES.map(EncodedImage), st.sampled_from(["low", "high", "auto"])),
)
SAMPLINGS = st.builds(
    Sampling,
    max_tokens=st.none() | st.integers(1, 2),
    temperature=st.just(0.0),
    top_p=st.sampled_from([0.5, 1.0]),
    seed=st.none() | st.integers(0, 1) | st.just(2**63),
    stop=st.lists(TEXTS, max_size=2).map(tuple),
    n=st.integers(1, 2),
    constraint=st.none() | st.builds(Constraint, st.none() | TEXTS),
)
REQUESTS = st.builds(
    ChatRequest,
    st.lists(
        st.builds(Message, st.sampled_from(["user", "assistant"]), st.lists(PARTS, max_size=3).map(tuple)), max_size=3
    ).map(tuple),
    SAMPLINGS,
)
CALLS = st.fixed_dictionaries(
    {
        "identity": BYTES,
        "task": st.sampled_from(["chat", "cha"]),
        "request": REQUESTS,
        "tenant": TEXTS,
        "gear": TEXTS,
    }
)


@settings(max_examples=600, deadline=None)
@given(CALLS, CALLS)
def test_keys_are_equal_exactly_when_the_calls_are(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert (call_key(**one) == call_key(**other)) == (one == other)


@settings(max_examples=300, deadline=None)
@given(CALLS, st.data())
def test_one_difference_makes_another_key(call: dict[str, Any], data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(call)))
    other = {**call, name: data.draw({"request": REQUESTS, "identity": BYTES}.get(name, TEXTS))}
    assert (call_key(**call) == call_key(**other)) == (call == other)


@settings(max_examples=300, deadline=None)
@given(st.binary(min_size=1, max_size=64), st.binary(min_size=1, max_size=64), TEXTS)
def test_one_prompt_with_two_images_has_two_keys(one: bytes, other: bytes, prompt: str) -> None:
    def key(*images: bytes) -> bytes:
        parts = (*(ImagePart(EncodedImage(image)) for image in images), Text(prompt))
        return call_key(b"model", "chat", ChatRequest((Message("user", parts),)), tenant="t")

    assert (key(one) == key(other)) == (one == other)
    assert key(one, other) != key(one + other)
    assert (key(one, other) == key(other, one)) == (one == other)


def test_a_text_cannot_pose_as_an_image() -> None:
    image = b"\x89PNG"
    digest = hashlib.blake2b(image, digest_size=32, person=b"argus-medium-1").digest()
    keys = {
        call_key(b"model", "embed", EmbedRequest((part,)), tenant="t")
        for part in (EncodedImage(image), image.decode("latin-1"), digest.decode("latin-1"), digest.hex())
    }
    assert len(keys) == 4


def test_pixels_differ_by_value_shape_and_type() -> None:
    pixels = np.zeros((4, 6, 3), np.uint8)
    other = pixels.copy()
    other[0, 0, 0] = 1
    images = [
        RawImage(pixels),
        RawImage(other),
        RawImage(pixels.reshape(6, 4, 3)),
        PixelValues(pixels.astype(np.float32)),
    ]
    assert len({call_key(b"m", "classify", ClassifyRequest((i,), ("a",)), tenant="t") for i in images}) == 4
    strided = np.zeros((8, 6, 3), np.uint8)[::2]
    assert call_key(b"m", "embed", EmbedRequest((RawImage(strided),)), tenant="t") == call_key(
        b"m", "embed", EmbedRequest((RawImage(pixels),)), tenant="t"
    )


def test_labels_do_not_run_together() -> None:
    def key(*labels: str) -> bytes:
        return call_key(b"m", "classify", ClassifyRequest((EncodedImage(b"x"),), labels), tenant="t")

    assert len({key("a", "bc"), key("ab", "c"), key("abc"), key("a", "b", "c"), key("bc", "a")}) == 5


def test_a_number_is_its_value() -> None:
    request = ChatRequest((Message("user", (Text("x"),)),), Sampling(temperature=0))
    same = replace(request, sampling=replace(request.sampling, temperature=0.0, top_p=1))
    assert call_key(b"m", "chat", request, tenant="t") == call_key(b"m", "chat", same, tenant="t")


def test_what_has_no_encoding_is_refused() -> None:
    with pytest.raises(TypeError, match="set"):
        call_key(b"m", "chat", {1}, tenant="t")


def test_only_greedy_chats_have_keys() -> None:
    keys = CacheKeys({"model": b"id"})
    chat = ChatRequest((Message("user", (Text("x"),)),), Sampling(temperature=0.0))
    drawn = replace(chat, sampling=Sampling(temperature=0.7, seed=1))
    assert keys.chat("model", chat, context()) is not None
    assert keys.chat("model", drawn, context()) is None
    assert keys.chat("unknown", chat, context()) is None


def test_tenants_gears_and_tasks_have_their_own_keys() -> None:
    keys = CacheKeys({"model": b"id", "other": b"other"})
    request = EmbedRequest(("x",))
    chat = ChatRequest((Message("user", (Text("x"),)),), Sampling(temperature=0.0))
    found = {
        keys.embed("model", request, context("a")),
        keys.embed("model", request, context("b")),
        keys.embed("model", request, context("a"), gear="low"),
        keys.embed("other", request, context("a")),
        keys.chat("model", chat, context("a")),
        keys.chat("model", chat, context("a"), gear="low"),
    }
    assert len(found) == 6


def _identities(folder: Path, **changes: Any) -> dict[str, bytes]:
    model = {"kind": "clip", "checkpoint": str(folder), **changes}
    return identities_of(
        parse(
            {
                "name": "test",
                "node_pools": {"cpu": {}},
                "models": {"clip": model},
                "providers": {"gpt": {"kind": "openai", "model": "gpt-4o"}},
            }
        )
    )


def test_a_model_is_another_when_its_weights_or_settings_are(tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"one")
    before = _identities(tmp_path)
    assert _identities(tmp_path) == before
    assert _identities(tmp_path, batching={"max_items": 7}) == before
    assert _identities(tmp_path, image_decode="scaled")["clip"] != before["clip"]
    os.utime(weights, ns=(1, 1))
    after = _identities(tmp_path)
    assert after["clip"] != before["clip"]
    assert after["gpt"] == before["gpt"]
