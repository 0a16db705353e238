"""Remote Triton and OIP v2 servers through tritonclient, over HTTP and gRPC."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest

from benchmarks.fake_providers import FakeOip, FakeOipGrpc
from deployments.generation.messages import Constraint, ImagePart, Sampling
from deployments.messages import ClassifyRequest, RawImage, Scores
from serve.errors import InvalidOutput, InvalidRequest, Unsupported
from serve.providers.base import Classifier
from tests.support.provider_servers import WAYS, asking, picture, pointed_at, showing, streamed

LABELS = ["cat", "dog", "fox"]


@pytest.fixture(params=["oip-http", "oip-grpc"])
def way(request: pytest.FixtureRequest) -> str:
    given: str = request.param
    return given


@pytest.fixture
async def server(way: str) -> AsyncIterator[FakeOip]:
    kind = FakeOipGrpc if way == "oip-grpc" else FakeOip
    async with kind(lambda asked: f"{asked.texts[0]} ({asked.images})", needs_key=True) as server:
        yield server


def classifying(way: str) -> dict[str, Any]:
    protocol = WAYS[way][1].get("oip", {})
    return {"oip": {**protocol, "task": "classify", "labels": LABELS, "output": "PROBABILITIES"}}


async def test_a_question_about_several_images(server: FakeOip, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with pointed_at(server, monkeypatch, way) as provider:
        answer = await provider.chat(showing("Which?", images=3), 10)
        assert answer.result.answers[0].text == "Which? (3)"
        assert answer.usage.usd == 0
        events, _ = await streamed(provider, showing("Which?"))
        assert [(event.text, event.finish_reason) for event in events] == [("Which? (1)", "stop")]
        told = await provider.chat(asking("Which?", system="Be brief."), 10)
        assert told.result.answers[0].text == "system: Be brief.\nuser: Which? (0)"
        cut = await provider.chat(showing("Which one", sampling=Sampling(stop=("one", "ich"))), 10)
        assert cut.result.answers[0].text == "Wh"


async def test_decoded_pixels_are_sent_as_a_file(server: FakeOip, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with pointed_at(server, monkeypatch, way) as provider:
        raw = ImagePart(RawImage(np.zeros((40, 30, 3), np.uint8)))
        assert (await provider.chat(asking(raw, "?"), 10)).result.answers[0].text == "? (1)"


async def test_json_is_asked_for_in_words_and_checked(
    server: FakeOip, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema = json.dumps({"type": "object", "required": ["n"]})
    request = asking("?", sampling=Sampling(constraint=Constraint(schema)))
    async with pointed_at(server, monkeypatch, way) as provider:
        server.answer = lambda asked: '{"n": 1}' if schema in asked.texts[0] else "no"
        assert (await provider.chat(request, 10)).result.answers[0].text == '{"n": 1}'
        server.answer = '{"m": 1}'
        with pytest.raises(InvalidOutput):
            await provider.chat(request, 10)


async def test_shapes_with_a_batch_dimension(server: FakeOip, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    more = {"oip": {**WAYS[way][1].get("oip", {}), "batch_dimension": True}}
    async with pointed_at(server, monkeypatch, way, **more) as provider:
        assert (await provider.chat(showing(images=2), 10)).result.answers[0].text == "What is this? (2)"


async def test_names_that_the_server_does_not_have(server: FakeOip, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("image_input", "output"):
        more = {"oip": {**WAYS[way][1].get("oip", {}), name: "OTHER"}}
        async with pointed_at(server, monkeypatch, way, **more) as provider:
            with pytest.raises(InvalidRequest, match="OTHER"):
                await provider.chat(showing(), 10)


async def test_classification(server: FakeOip, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    server.probabilities = [0.1, 0.2, 0.7]
    images = (picture(), picture(colour="blue"))
    async with pointed_at(server, monkeypatch, way, **classifying(way)) as provider:
        assert isinstance(provider, Classifier)
        result = await provider.classify(ClassifyRequest(images, tuple(LABELS)), 10)
        assert len(result.images) == 2
        assert isinstance(result.images[0], Scores)
        np.testing.assert_allclose(result.images[0].probabilities, [0.1, 0.2, 0.7], rtol=1e-6)
        some = await provider.classify(ClassifyRequest(images, ("fox", "cat")), 10)
        assert isinstance(some.images[1], Scores)
        np.testing.assert_allclose(some.images[1].probabilities, [0.875, 0.125], rtol=1e-6)
        np.testing.assert_allclose(np.exp(some.images[1].logits), [0.875, 0.125], rtol=1e-5)
        with pytest.raises(InvalidRequest, match="horse"):
            await provider.classify(ClassifyRequest(images, ("horse",)), 10)
        with pytest.raises(Unsupported):
            await provider.chat(showing(), 10)
        server.probabilities = [0.5, 0.5]
        with pytest.raises(InvalidOutput):
            await provider.classify(ClassifyRequest(images, tuple(LABELS)), 10)


async def test_what_the_protocol_cannot_do(server: FakeOip, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with pointed_at(server, monkeypatch, way) as provider:
        for sampling in (Sampling(n=2), Sampling(logprobs=0)):
            with pytest.raises(Unsupported):
                await provider.chat(showing(sampling=sampling), 10)
        with pytest.raises(Unsupported):
            await provider.classify(ClassifyRequest((picture(),), ("cat",)), 10)
    assert server.calls == 0
