"""Chat with the demo models through real clients: what they answer, and what happens when something breaks."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import json
import os
import signal
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import openai
import psutil
import pytest
import tritonclient.grpc.aio as triton
from PIL import Image

from benchmarks.accuracy import lossless_video
from demo.scenes import MOTIONS, Scene, render, render_video, sample_scene
from tests.e2e.cluster import KEY, Cluster
from tests.e2e.test_observability import scrape, total
from tests.support.waiting import until

pytestmark = pytest.mark.cluster
SCHEMA = {
    "type": "object",
    "properties": {"colour": {"type": "string"}, "shape": {"type": "string"}},
    "required": ["colour", "shape"],
    "additionalProperties": False,
}


def easy(index: int) -> Scene:
    return sample_scene(index, split="test", difficulty="easy", seed=0)


def png_of(scene: Scene) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(render(scene, 224)).save(buffer, "PNG")
    return buffer.getvalue()


def uri(data: bytes, media_type: str = "image/png") -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def shown(scene: Scene) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": uri(png_of(scene))}}


def text(content: str) -> dict[str, Any]:
    return {"type": "text", "text": content}


def user(*parts: dict[str, Any]) -> Any:
    return {"role": "user", "content": list(parts)}


def said(answer: Any) -> str:
    """The first answer's text; models of LLaVA's kind begin with a space, as in their training."""
    return (answer.choices[0].message.content or "").strip()


@pytest.fixture
def client(cluster: Cluster) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{cluster.http}/v1", api_key=KEY, max_retries=0, timeout=120) as made:
        yield made


def test_one_image(client: openai.OpenAI) -> None:
    """Most of twenty easy scenes are named right: the pixels arrive, not only the words."""
    right = 0
    for index in range(20):
        scene = easy(index)
        answer = client.chat.completions.create(
            model="llava",
            messages=[user(shown(scene), text("What colour is the object?"))],
            temperature=0,
            max_tokens=16,
        )
        assert answer.choices[0].finish_reason == "stop"
        right += said(answer) == scene.subject.colour
    assert right >= 16


def test_two_images_are_told_apart(client: openai.OpenAI) -> None:
    right = 0
    for index in range(0, 10, 2):
        first, second = easy(index), easy(index + 1)
        answer = client.chat.completions.create(
            model="llava",
            messages=[user(shown(first), shown(second), text("In the second image, what colour is the object?"))],
            temperature=0,
            max_tokens=16,
        )
        right += said(answer) == second.subject.colour
    assert right >= 3, "of five; the demo model mixes pictures up now and then"


def test_five_turns_about_an_image(client: openai.OpenAI) -> None:
    scene = easy(3)
    asked = ["What colour is the object?", "What shape is the object?"] * 2 + ["Describe the image."]
    messages: list[Any] = []
    answers: list[str] = []
    for number, question in enumerate(asked):
        messages.append(user(*([shown(scene)] if number == 0 else []), text(question)))
        answer = client.chat.completions.create(model="llava", messages=messages, temperature=0, max_tokens=48)
        answers.append(said(answer))
        messages.append({"role": "assistant", "content": answers[-1]})
    assert all(answers)
    assert answers[0] == answers[2] == scene.subject.colour, "also when asked again, later in the conversation"
    assert answers[1] == answers[3] == scene.subject.shape
    usage = answer.usage
    assert usage is not None
    assert usage.prompt_tokens_details is not None
    assert usage.prompt_tokens_details.cached_tokens is not None
    assert usage.prompt_tokens_details.cached_tokens > 0, "the turns before are in the prefix cache"


async def test_a_stream_says_what_the_whole_answer_says(cluster: Cluster) -> None:
    ask: dict[str, Any] = {
        "model": "llava",
        "messages": [user(shown(easy(5)), text("Describe the image."))],
        "temperature": 0,
        "max_tokens": 48,
    }
    async with openai.AsyncOpenAI(base_url=f"{cluster.http}/v1", api_key=KEY, max_retries=0) as client:
        whole = await client.chat.completions.create(**ask)
        stream = await client.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True})
        chunks = [chunk async for chunk in stream]
    content = [choice.delta.content or "" for chunk in chunks for choice in chunk.choices]
    assert "".join(content) == whole.choices[0].message.content
    assert len([piece for piece in content if piece]) > 1, "it came in pieces"
    assert chunks[-1].usage is not None
    assert whole.usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_an_answer_that_fits_a_schema(client: openai.OpenAI) -> None:
    scene = easy(7)
    answer = client.chat.completions.create(
        model="llava",
        messages=[user(shown(scene), text("Answer as JSON with keys colour and shape."))],
        temperature=0,
        max_tokens=48,
        response_format={"type": "json_schema", "json_schema": {"name": "object", "schema": SCHEMA}},
    )
    assert json.loads(said(answer)) == {"colour": scene.subject.colour, "shape": scene.subject.shape}


@pytest.mark.parametrize("model", ["llava", "blip2"])
def test_what_was_written_by_the_deadline_is_sent(client: openai.OpenAI, model: str) -> None:
    """One engine is vLLM, the other transformers; either would go on for much longer."""
    endless = {"type": "array", "items": {"type": "integer"}, "minItems": 5000}
    asked: dict[str, Any] = {
        "model": model,
        "messages": [user(shown(easy(3)), text("What is it?"))],
        "response_format": {"type": "json_schema", "json_schema": {"name": "endless", "schema": endless}},
        "n": 8,
        "temperature": 0,
    }
    client.chat.completions.create(**asked, max_tokens=1)  # whatever comes first takes longer
    hurry = {"X-Argus-Timeout-Ms": "8000"}
    whole = client.chat.completions.create(**asked, extra_headers=hurry)
    assert [choice.finish_reason for choice in whole.choices] == ["length"] * 8
    assert all((choice.message.content or "").startswith("[") for choice in whole.choices)
    stream = client.chat.completions.create(**asked, extra_headers=hurry, stream=True)
    ends = [choice.finish_reason for chunk in stream for choice in chunk.choices if choice.finish_reason]
    assert ends == ["length"] * 8


def test_the_same_seed_gives_the_same_answer(client: openai.OpenAI) -> None:
    """A long text that no training prepared, hot: two draws of it alike are no accident."""
    schema = {"name": "text", "schema": {"type": "string", "minLength": 80}}

    def asked(seed: int) -> list[str | None]:
        answer = client.chat.completions.create(
            model="llava",
            messages=[user(text("Hello."))],
            temperature=2.0,
            seed=seed,
            n=3,
            max_tokens=32,
            response_format={"type": "json_schema", "json_schema": schema},  # type: ignore[typeddict-item]
        )
        return [choice.message.content for choice in answer.choices]

    assert asked(5) == asked(5)
    assert asked(5) != asked(6)


def test_captions_and_questions(cluster: Cluster) -> None:
    files = [("images", (f"{i}.png", png_of(easy(i)), "image/png")) for i in range(4)]
    files.insert(2, ("images", ("broken.png", png_of(easy(9))[:200], "image/png")))
    with cluster.client() as client:
        captions = client.post("/v1/caption", files=files).raise_for_status().json()
        answers = client.post("/v1/vqa", files=files, data={"question": "What colour is the object?"})
    assert captions["model"] == "blip2"
    good = [result for result in captions["results"] if "caption" in result]
    assert [result["error"]["code"] for result in captions["results"] if "error" in result] == ["truncated_image"]
    named = sum(easy(i).subject.colour in result["caption"] for i, result in enumerate(good))
    assert named >= 3
    found = [result.get("answer") for result in answers.raise_for_status().json()["results"]]
    assert found[2] is None
    assert sum(easy(i).subject.colour == said for i, said in enumerate(found[:2] + found[3:])) >= 3


def test_a_video(client: openai.OpenAI) -> None:
    """Most clips of every motion are named right: frames arrive in order."""
    right = 0
    for index, motion in enumerate(MOTIONS):
        scene = sample_scene(index, split="test", difficulty="easy", seed=0, motion=motion)
        clip = lossless_video(render_video(scene, 224, 8, 4.0))
        part = {"type": "video_url", "video_url": {"url": uri(clip, "video/x-matroska")}}
        answer = client.chat.completions.create(
            model="video_llava",
            messages=[user(part, text("How does the object move?"))],
            temperature=0,
            max_tokens=24,
        )
        right += motion in (answer.choices[0].message.content or "")
    assert right >= len(MOTIONS) // 2


async def test_tokens_over_grpc(cluster: Cluster) -> None:
    def tensor(name: str, values: list[bytes]) -> triton.InferInput:
        made = triton.InferInput(name, [len(values)], "BYTES")
        made.set_data_from_numpy(np.array(values, np.object_))
        return made

    inputs = [tensor("TEXT", [b"Describe the image."]), tensor("IMAGE", [png_of(easy(5))])]
    settings = {"temperature": "0", "max_tokens": 48}
    headers = {"x-api-key": KEY}

    async def requests() -> Any:
        yield {"model_name": "llava.chat", "inputs": inputs, "parameters": settings, "request_id": "one"}

    async with triton.InferenceServerClient(cluster.grpc) as client:
        whole = await client.infer("llava.chat", inputs, parameters=settings, headers=headers)
        pieces = []
        async for result, error in client.stream_infer(requests(), headers=headers):
            assert error is None
            pieces.append(result)
    assert b"".join(piece.as_numpy("TEXT")[0] for piece in pieces) == whole.as_numpy("TEXT")[0]
    assert len(pieces) > 1
    assert [piece.as_numpy("FINISH_REASON")[0] for piece in pieces][-1] == b"stop"
    assert pieces[-1].get_response().parameters["triton_final_response"].bool_param


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"messages": [{"role": "user", "content": "word " * 20_000}]}, 400, "prompt_too_long"),
        ({"messages": [user(*[shown(easy(1))] * 5)]}, 400, "too_many_images"),
        ({"messages": [user({"type": "image_url", "image_url": {"url": uri(b"x" * 50)}})]}, 400, "not_an_image"),
        ({"messages": [user(text("x"))], "model": "blip2"}, 400, "image_required"),
        (
            {
                "messages": [user(text("x"))],
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "x", "schema": {"type": "no such type"}},
                },
            },
            400,
            "invalid_json_schema",
        ),
    ],
)
def test_what_the_model_cannot_do(cluster: Cluster, body: dict[str, Any], status: int, code: str) -> None:
    with cluster.client() as client:
        response = client.post("/v1/chat/completions", json={"model": "llava", **body})
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)


def test_a_corrupt_picture_spoils_its_own_request_only(cluster: Cluster) -> None:
    good = {"model": "llava", "messages": [user(shown(easy(2)), text("What colour is the object?"))], "max_tokens": 16}
    cut = uri(png_of(easy(2))[:300])
    bad = {"model": "llava", "messages": [user({"type": "image_url", "image_url": {"url": cut}}, text("?"))]}

    async def ask_all() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=cluster.http, headers=cluster.headers, timeout=120) as client:
            bodies = [bad if i % 4 == 3 else good for i in range(16)]
            return await asyncio.gather(*(client.post("/v1/chat/completions", json=body) for body in bodies))

    statuses = [response.status_code for response in asyncio.run(ask_all())]
    assert statuses == [400 if i % 4 == 3 else 200 for i in range(16)]


def no_generation_is_left(cluster: Cluster) -> bool:
    """In the end: Ray's agent exports every few seconds."""
    return until(
        lambda: total(scrape(cluster).get("ray_argus_generations_in_flight", []), model="llava") == 0, every_s=0.5
    )


def long_story(stream: bool) -> dict[str, Any]:
    """An answer that takes the whole context window: hot enough never to end by itself soon."""
    return {
        "model": "llava",
        "messages": [user(text("Hello."))],
        "temperature": 2.0,
        "stream": stream,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "x", "schema": {"type": "string", "minLength": 600}},
        },
    }


def test_a_client_that_leaves_ends_its_generation(cluster: Cluster) -> None:
    with (
        cluster.client() as client,
        client.stream("POST", "/v1/chat/completions", json=long_story(stream=True)) as response,
    ):
        lines = response.iter_lines()
        for _ in range(5):
            next(lines)
    assert no_generation_is_left(cluster)


def engine_process(cluster: Cluster, model: str) -> psutil.Process:
    """The process of the model's vLLM engine: a child of the replica that serves it."""
    for pid in cluster.pids():
        with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended
            process = psutil.Process(pid)
            if "EngineCore" in " ".join(process.cmdline()):
                ancestors = " ".join(" ".join(one.cmdline()) for one in process.parents())
                if f":{model}" in ancestors:
                    return process
    raise AssertionError(f"no engine of {model}")


async def test_a_killed_engine_comes_back_and_only_begun_streams_notice(cluster: Cluster, scene_png: bytes) -> None:
    async with httpx.AsyncClient(base_url=cluster.http, headers=cluster.headers, timeout=300) as client:
        begun = asyncio.Event()

        async def streamed() -> list[str]:
            lines = []
            async with client.stream("POST", "/v1/chat/completions", json=long_story(stream=True)) as response:
                async for line in response.aiter_lines():
                    if line:
                        lines.append(line)
                        begun.set()
            return lines

        patience = {"x-argus-timeout-ms": "280000"}
        stream = asyncio.create_task(streamed())
        whole = asyncio.create_task(client.post("/v1/chat/completions", json=long_story(False), headers=patience))
        await begun.wait()
        dead = engine_process(cluster, "llava")
        os.kill(dead.pid, signal.SIGKILL)
        lines = await stream
        assert json.loads(lines[-1].removeprefix("data: "))["error"]["code"] == "engine_died"
        # Neighbours are unhurt, and what arrives while the engine is away waits for it.
        other = await client.post("/v1/classify?labels=a,b", content=scene_png, headers={"content-type": "image/png"})
        assert other.status_code == 200
        question = {"model": "llava", "messages": [user(shown(easy(2)), text("What colour is the object?"))]}
        late = await client.post("/v1/chat/completions", json={**question, "temperature": 0}, headers=patience)
        assert late.status_code == 200
        assert (await whole).status_code == 200
    assert engine_process(cluster, "llava").pid != dead.pid
    assert no_generation_is_left(cluster)
