"""`/v1/videos`: chunks side by side and merged in order, fallback, events, estimates, and what is refused."""

from __future__ import annotations

import asyncio
import base64
import json
import math
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from deployments.generation.messages import VideoPart
from deployments.video_classifier.actions import windows
from serve.context import RequestContext
from serve.errors import ArgusError, DeadlineExceeded, InvalidMedia, ModelFailed, Overloaded, Unavailable
from serve.protocol.video_bodies import video_request
from serve.videos.types import Progress
from tests.unit.fakes import Site, cluster
from tests.unit.video_files import encode, greys, shots, webp
from tests.unit.video_site import MODELS, VideoSite

# Three seconds: frame i of thirty is grey i, so that a chunk says which frames it holds.
VIDEO = encode(greys(30))
SHORT = encode(greys(8))


@pytest.fixture(scope="module")
def built() -> VideoSite:
    return VideoSite()


@pytest.fixture
def site(built: VideoSite) -> VideoSite:
    built.reset()
    for fake in (built.watcher, built.other, built.looker):
        fake.reset()
    built.classifier.__init__()  # type: ignore[misc]
    built.reading.calls.clear()
    return built


@pytest.fixture
async def client(site: VideoSite) -> AsyncIterator[httpx.AsyncClient]:
    async with site.client() as made:
        yield made


async def send(client: httpx.AsyncClient, operation: str, video: bytes = VIDEO, **fields: Any) -> httpx.Response:
    body = {"video": base64.b64encode(video).decode(), **fields.pop("more", {}), **fields}
    return await client.post(f"/v1/videos/{operation}", json=body)


async def ask(client: httpx.AsyncClient, operation: str, video: bytes = VIDEO, **fields: Any) -> dict[str, Any]:
    response = await send(client, operation, video, **fields)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def error_of(response: httpx.Response, status: int) -> tuple[str, str | None]:
    assert response.status_code == status, response.text
    error = response.json()["error"]
    return error["code"], error["param"]


async def test_a_longer_video_is_described_in_chunks_in_order(client: httpx.AsyncClient, site: VideoSite) -> None:
    answer = await ask(client, "describe")
    assert answer["object"] == "video.describe"
    assert [segment["text"] for segment in answer["segments"]] == [
        "Frames 0 to 9.",
        "Frames 8 to 19.",
        "Frames 18 to 29.",
    ]
    assert [(segment["start"], segment["end"]) for segment in answer["segments"]] == [
        ("00:00.000", "00:01.000"),
        ("00:00.800", "00:02.000"),
        ("00:01.800", "00:03.000"),
    ]
    assert {segment["model"] for segment in answer["segments"]} == {"watcher"}
    assert answer["segments"][0]["confidence"] == pytest.approx(math.exp(-0.1))
    assert answer["usage"] == {"prompt_tokens": 300, "completion_tokens": 9, "total_tokens": 309, "usd": 0.0}
    assert answer["video"]["duration_s"] == pytest.approx(3.0) and answer["request_id"]
    prompts = {part.text for request in site.watcher.requests for part in request.messages[0].parts[1:]}  # type: ignore[union-attr]
    assert prompts == {"Describe the video."}
    assert {request.sampling.max_tokens for request in site.watcher.requests} == {20}


async def test_chunks_run_side_by_side_within_their_bound(client: httpx.AsyncClient, site: VideoSite) -> None:
    await ask(client, "describe")
    assert site.watcher.most == 2
    site.watcher.most = 0
    await ask(client, "describe", concurrency=1)
    assert site.watcher.most == 1
    await ask(client, "describe", concurrency=64, chunk_s=1)
    assert site.watcher.most == 2  # the cluster's bound


async def test_a_short_video_is_sent_as_it_is(client: httpx.AsyncClient, site: VideoSite) -> None:
    answer = await ask(client, "describe", SHORT)
    assert [segment["text"] for segment in answer["segments"]] == ["Frames 0 to 7."]
    assert site.watcher.requests[0].messages[0].parts[0].data == SHORT  # type: ignore[union-attr]
    assert site.reading.calls == ["inspect"]


async def test_a_part_of_a_video(client: httpx.AsyncClient, site: VideoSite) -> None:
    answer = await ask(client, "describe", start_s=0.5, end_s=1.2)
    assert [segment["text"] for segment in answer["segments"]] == ["Frames 5 to 11."]


async def test_chunks_begin_where_shots_do() -> None:
    site = VideoSite({"scene_aware": True})
    async with site.client() as client:
        answer = await ask(client, "describe", encode(shots([12, 10, 8])))
    spans = [(segment["start_s"], segment["end_s"]) for segment in answer["segments"]]
    assert spans == [(0.0, 1.2), (1.2, 2.2), (2.2, pytest.approx(3.0))]


async def test_a_summary_says_everything_once(client: httpx.AsyncClient, site: VideoSite) -> None:
    site.watcher.says = lambda first, last, prompt: f"It is grey. Frame {last} is last."
    answer = await ask(client, "summary")
    assert answer["summary"] == "It is grey. Frame 9 is last. Frame 19 is last. Frame 29 is last."
    assert (answer["merged_by"], len(answer["segments"])) == (None, 3)


async def test_a_summariser_merges_and_is_not_needed() -> None:
    site = VideoSite({"summariser": "looker"})
    site.looker.says = lambda first, last, prompt: f"Merged: {prompt}"
    async with site.client() as client:
        answer = await ask(client, "summary")
        assert answer["merged_by"] == "looker"
        assert "[00:00.000 - 00:01.000] Frames 0 to 9.\n[00:00.800" in answer["summary"]
        assert answer["usage"]["prompt_tokens"] == 400
        assert (await ask(client, "summary", SHORT))["merged_by"] is None  # of one chunk there is nothing to merge
        site.looker.fails = lambda first, last: ModelFailed("no")
        assert (await ask(client, "summary"))["summary"] == "Frames 0 to 9. Frames 8 to 19. Frames 18 to 29."


async def test_a_question_is_decided_by_those_who_saw(client: httpx.AsyncClient, site: VideoSite) -> None:
    site.watcher.says = lambda first, last, prompt: "I don't know." if first == 0 else "Grey!" if last < 25 else "grey"
    answer = await ask(client, "ask", question="Which colour?")
    assert (answer["question"], answer["answer"], answer["agreement"]) == ("Which colour?", "Grey!", 1.0)
    assert answer["supported_by"] == [1, 2]
    assert site.watcher.requests[0].messages[0].parts[1].text == "Which colour?"  # type: ignore[union-attr]


async def test_a_question_about_a_moment_looks_around_it() -> None:
    site = VideoSite({"moment_s": 0.8})
    async with site.client() as client:
        answer = await ask(client, "ask", question="What?", at_s=1.5)
        assert answer["answer"] == "Frames 11 to 18."
        assert (answer["video"]["start_s"], answer["video"]["end_s"]) == (1.1, 1.9)
        assert (await ask(client, "ask", question="What?", at_s=0.0))["answer"] == "Frames 0 to 3."
        assert (await ask(client, "ask", question="What?", at_s="00:01.500"))["answer"] == "Frames 11 to 18."
        assert error_of(await send(client, "ask", question="What?", at_s=3.0), 400) == ("outside_video", "at_s")
        assert error_of(await send(client, "ask", question="What?", at_s="1:2"), 400) == ("invalid_field", "at_s")


async def test_a_question_may_name_its_moment() -> None:
    site = VideoSite({"moment_s": 0.8})
    question = "What happens at 0:01?"
    async with site.client() as client:
        answer = await ask(client, "ask", question=question)
        assert (answer["answer"], answer["at_s"], answer["question"]) == ("Frames 6 to 13.", 1.0, question)
        (text,) = (part.text for part in site.watcher.requests[0].messages[0].parts[1:])  # type: ignore[union-attr]
        assert text == f"This is the part from 00:00.600 to 00:01.400 of a longer video. {question}"
        late = await send(client, "ask", question="What happens after 75 seconds?")
        assert error_of(late, 400) == ("outside_video", "question")
        # Other fields say what is watched.
        assert (await ask(client, "ask", question=question, at_s=2.0))["at_s"] == 2.0
        asked = await ask(client, "ask", question=question, start_s=2.0)
        assert (asked["answer"], asked["at_s"]) == ("Frames 20 to 29.", None)
        assert (await ask(client, "ask", question="What?"))["at_s"] is None


@pytest.mark.parametrize("error", [Unavailable("gone"), Overloaded("full"), ModelFailed("broken")])
async def test_the_next_back_end_answers_for_one_that_fails(
    client: httpx.AsyncClient, site: VideoSite, error: ArgusError
) -> None:
    site.watcher.fails = lambda first, last: error if first == 8 else None
    segments = (await ask(client, "describe"))["segments"]
    assert [segment["model"] for segment in segments] == ["watcher", "other", "watcher"]
    assert [segment["text"] for segment in segments] == ["Frames 0 to 9.", "Frames 8 to 19.", "Frames 18 to 29."]
    assert [len(segment["fallbacks"]) for segment in segments] == [0, 1, 0]
    assert segments[1]["fallbacks"][0]["model"] == "watcher"


async def test_a_named_model_answers_alone(client: httpx.AsyncClient, site: VideoSite) -> None:
    site.other.fails = lambda first, last: ModelFailed("broken")
    response = await send(client, "describe", SHORT, model="other")
    assert error_of(response, 500) == ("model_failed", None)
    assert site.watcher.requests == []


async def test_what_is_wrong_with_a_picture_is_not_asked_of_the_next(
    client: httpx.AsyncClient, site: VideoSite
) -> None:
    site.watcher.fails = lambda first, last: InvalidMedia("bad", code="invalid_video")
    assert error_of(await send(client, "describe"), 400)[0] == "invalid_video"
    assert site.other.requests == []


async def test_a_chunk_that_fails_everywhere_hurts_no_other(client: httpx.AsyncClient, site: VideoSite) -> None:
    for fake in (site.watcher, site.other):
        fake.fails = lambda first, last: ModelFailed("broken") if first == 8 else None
    answer = await ask(client, "summary")
    assert answer["summary"] == "Frames 0 to 9. Frames 18 to 29."
    assert answer["segments"][1]["error"]["code"] == "model_failed" and "text" not in answer["segments"][1]
    for fake in (site.watcher, site.other):
        fake.fails = lambda first, last: ModelFailed("broken")
    assert error_of(await send(client, "summary"), 500)[0] == "model_failed"


async def test_key_frames_have_times_and_descriptions(client: httpx.AsyncClient, site: VideoSite) -> None:
    site.looker.says = lambda first, last, prompt: f"A picture. {prompt}"
    answer = await ask(client, "keyframes", strategy="uniform", count=3, images=True)
    assert [(frame["at"], frame["at_s"]) for frame in answer["keyframes"]] == [
        ("00:00.000", 0.0),
        ("00:01.400", 1.4),
        ("00:02.900", 2.9),
    ]
    assert {frame["description"] for frame in answer["keyframes"]} == {"A picture. Describe the image."}
    assert all(frame["image"].startswith("data:image/jpeg;base64,/9j/") for frame in answer["keyframes"])
    assert answer["model"] == "looker" and answer["usage"]["prompt_tokens"] == 300
    bare = await ask(client, "keyframes", strategy="uniform", count=2, describe=False)
    assert [frame["description"] for frame in bare["keyframes"]] == [None, None] and bare["model"] is None


async def test_key_frames_are_described_by_the_next_when_the_captioner_fails() -> None:
    site = VideoSite()  # of its own: models that fail so often are asked less
    for fake in (site.looker, site.watcher):
        fake.fails = lambda first, last: ModelFailed("broken")
    site.other.says = lambda first, last, prompt: f"Another's. {prompt}"
    async with site.client() as client:
        answer = await ask(client, "keyframes", strategy="uniform", count=2)
        assert answer["model"] == "looker"
        for frame in answer["keyframes"]:
            assert (frame["description"], frame["model"]) == ("Another's. Describe the image.", "other")
            assert [fallback["model"] for fallback in frame["fallbacks"]] == ["looker", "watcher"]
        assert error_of(await send(client, "keyframes", model="looker"), 500)[0] == "model_failed"
        site.other.fails = lambda first, last: ModelFailed("broken")
        assert error_of(await send(client, "keyframes"), 500)[0] == "model_failed"


async def test_who_takes_no_image_is_asked_about_no_key_frame() -> None:
    models = {**MODELS, "watcher": {**MODELS["watcher"], "max_images": 0}, "other": MODELS["other"]}
    site = VideoSite({"captioner": "blip2", "summariser": "other"}, models=models)
    async with site.client() as client:
        answer = await ask(client, "keyframes", strategy="uniform", count=2, dry_run=True)
    assert [row["model"] for row in answer["backends"]] == ["blip2", "other"]


async def test_blip2_captions_a_picture_that_comes_alone(client: httpx.AsyncClient, site: VideoSite) -> None:
    answer = await ask(client, "keyframes", strategy="uniform", count=1, model="blip2")
    assert answer["keyframes"][0]["description"] == "(1 media)"


async def test_classes_and_features(client: httpx.AsyncClient, site: VideoSite) -> None:
    answer = await ask(client, "classify", top_k=2)
    assert (answer["object"], answer["model"], answer["label"]) == ("video.classification", "clips", "class 0")
    assert [score["label"] for score in answer["scores"]] == ["class 0", "class 1"]
    vectors = [(await ask(client, "features", normalize=normalize))["vector"] for normalize in (False, True)]
    assert len(vectors[0]) == 4 and vectors[0] != vectors[1]
    site.classifier.fails = InvalidMedia("bad", code="invalid_video")
    assert error_of(await send(client, "classify"), 400) == ("invalid_video", "video")


NARROW = {"window_s": 0.4, "stride_s": 0.2, "enter": 0.6, "leave": 0.5}
JUMPS = [(0.3, 0.8), (1.05, 2.15), (2.3, 3.0)]


async def test_actions_are_looked_for_in_chunks_and_are_those_of_one_look(
    client: httpx.AsyncClient, site: VideoSite
) -> None:
    site.classifier.jumps = JUMPS
    answer = await ask(client, "actions", **NARROW, merge_gap_s=0.2)
    # Each begins with the last window of the one before; thirteen windows, two of them looked at twice.
    assert sorted(site.classifier.parts) == [
        (0.0, pytest.approx(1.2)),
        (pytest.approx(0.8), pytest.approx(2.0)),
        (pytest.approx(1.6), 3.0),
    ]
    assert (answer["windows"], answer["chunks"], answer["errors"]) == (16, 3, [])
    assert [(action["start"], action["end"]) for action in answer["actions"]] == [
        ("00:00.300", "00:00.800"),
        ("00:01.050", "00:03.000"),
    ]
    whole = VideoSite({"chunk_s": 30.0})
    whole.classifier.jumps = JUMPS
    async with whole.client() as other:
        at_once = await ask(other, "actions", **NARROW, merge_gap_s=0.2)
    assert (at_once["chunks"], len(whole.classifier.parts)) == (1, 1)
    for one, same in zip(answer["actions"], at_once["actions"], strict=True):
        assert {**one, "score": pytest.approx(one["score"])} == same


async def test_windows_longer_than_a_chunk_are_as_long_as_was_asked(client: httpx.AsyncClient, site: VideoSite) -> None:
    await ask(client, "actions", window_s=2.0, stride_s=0.5)
    assert site.classifier.parts == [(0.0, 2.5), (0.5, 3.0)]


async def test_no_action_is_found_where_a_chunk_failed(client: httpx.AsyncClient, site: VideoSite) -> None:
    site.classifier.jumps = [(0.0, 3.0)]
    site.classifier.breaks = lambda start_s: 0.5 < start_s < 1.0
    answer = await ask(client, "actions", **NARROW, merge_gap_s=0.2)
    assert [(action["start"], action["end"]) for action in answer["actions"]] == [
        ("00:00.000", "00:01.200"),
        ("00:01.600", "00:03.000"),
    ]
    assert [error["error"]["code"] for error in answer["errors"]] == ["model_failed"]


async def test_actions_of_a_job_that_an_older_version_began_are_looked_for_again(site: VideoSite) -> None:
    request = video_request("actions", NARROW, SHORT)
    context = RequestContext("r", "job", asyncio.get_running_loop().time() + 1e6)
    done = {"0000:0.000-0.800": {"index": 0, "start_s": 0.0, "end_s": 0.8, "windows": 3, "actions": []}}
    site.classifier.jumps = [(0.0, 0.8)]
    body = await site.services.videos.run(request, context, done=done)
    assert [action["label"] for action in body["actions"]] == ["jump"]


async def test_classifiers_need_no_videos_section() -> None:
    site = VideoSite()
    bare = Site(cluster(models={"clips": MODELS["clips"]}), more={"clips": site.classifier})
    async with bare.client() as client:
        assert (await ask(client, "actions"))["chunks"] == 1
        assert site.classifier.parts == [(0.0, None)]
        assert error_of(await send(client, "describe"), 404) == ("not_configured", None)


@pytest.mark.parametrize("headers", [{}, {"accept": "text/event-stream"}])
async def test_events_tell_progress_parts_and_result(
    client: httpx.AsyncClient, site: VideoSite, headers: dict[str, str]
) -> None:
    body = {"video": base64.b64encode(VIDEO).decode(), **({} if headers else {"stream": True})}
    response = await client.post("/v1/videos/summary", json=body, headers=headers)
    assert response.headers["content-type"].startswith("text/event-stream")
    events = parsed(response.text)
    assert events[-1][0] == "result" and [name for name, _ in events].count("result") == 1
    told = [content for name, content in events if name == "progress"]
    assert told[0] == {"stage": "reading", "done": 0, "total": 0}
    assert [each["done"] for each in told if each["stage"] == "watching"] == [0, 1, 2, 3]
    assert told[-1] == {"stage": "merging", "done": 3, "total": 3}
    parts = [content for name, content in events if name == "partial"]
    result = events[-1][1]
    assert sorted(part["index"] for part in parts) == [0, 1, 2]
    assert sorted(parts, key=lambda part: int(part["index"])) == result["segments"]
    assert result == (await ask(client, "summary")) | {"request_id": result["request_id"]}


async def test_an_error_is_the_last_event(client: httpx.AsyncClient, site: VideoSite) -> None:
    for fake in (site.watcher, site.other):
        fake.fails = lambda first, last: DeadlineExceeded("too late")
    events = parsed((await send(client, "describe", stream=True)).text)
    name, content = events[-1]
    assert (name, content["error"]["code"]) == ("error", "deadline_exceeded")
    assert "videos.describe" in content["error"]["message"] and "/v1/jobs" in content["error"]["message"]


def parsed(text: str) -> list[tuple[str, dict[str, Any]]]:
    found = []
    for block in text.strip().split("\n\n"):
        name, data = block.split("\n")
        found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


async def test_a_reader_who_leaves_ends_all_work(client: httpx.AsyncClient, site: VideoSite) -> None:
    site.watcher.released.clear()
    sending = asyncio.create_task(send(client, "describe", stream=True))
    await asyncio.wait_for(site.watcher.entered.wait(), 60)
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    for _ in range(100):
        if not site.watcher.running:
            break
        await asyncio.sleep(0.01)
    assert site.watcher.running == 0 and site.watcher.seen == []


async def test_what_is_done_is_not_done_again(site: VideoSite) -> None:
    request = video_request("describe", {}, VIDEO)
    kept: dict[str, dict[str, Any]] = {}
    told: list[Progress] = []

    async def keep(progress: Progress) -> None:
        told.append(progress)
        if progress.chunk is not None:
            kept[progress.chunk.key] = progress.chunk.value

    loop = asyncio.get_running_loop()
    context = RequestContext("r", "job", loop.time() + 1e6)
    for fake in (site.watcher, site.other):
        fake.fails = lambda first, last: Unavailable("gone") if first == 18 else None
    first = await site.services.videos.run(request, context, keep)
    assert sorted(kept) == ["0000:0.000-1.000", "0001:0.800-2.000"] and "error" in first["segments"][2]
    for fake in (site.watcher, site.other):
        fake.fails = lambda first, last: None
    site.watcher.seen.clear()
    kept = json.loads(json.dumps(kept))  # as a job store keeps it
    told.clear()
    second = await site.services.videos.run(request, context, keep, kept)
    assert site.watcher.seen == [(18, 29)]
    assert second["segments"][:2] == first["segments"][:2] and second["segments"][2]["text"] == "Frames 18 to 29."
    assert [(each.done, each.total) for each in told if each.stage == "watching"] == [(2, 3), (3, 3)]


async def test_an_estimate_asks_no_model() -> None:
    providers = {"gemini": {"kind": "gemini", "model": "gemini-2.5-flash"}}
    site = VideoSite({"backends": ["watcher", "gemini"], "summariser": "looker"}, providers=providers)
    async with site.client() as client:
        answer = await ask(client, "summary", dry_run=True)
        described = await ask(client, "keyframes", count=4, dry_run=True)
    assert (answer["object"], answer["operation"], answer["chunks"]) == ("video.estimate", "summary", 3)
    ours, hosted = answer["backends"]
    assert (ours["model"], ours["frames"], ours["completion_tokens"], ours["usd"]) == ("watcher", 24, 60, 0.0)
    assert ours["prompt_tokens"] == 24 * 257 + 3 * (7 + 4)
    assert hosted["model"] == "gemini" and hosted["prompt_tokens"] == 263 + 2 * 316 + 3 * (7 + 4)
    assert hosted["usd"] == pytest.approx((hosted["prompt_tokens"] * 0.30 + 60 * 2.50) / 1e6)
    assert answer["summariser"]["model"] == "looker" and answer["seconds"] is None
    assert (described["chunks"], described["backends"][0]["completion_tokens"]) == (4, 256)  # 1 s apart at least
    assert site.watcher.requests == site.looker.requests == []
    assert set(site.reading.calls) == {"inspect"}


async def test_an_estimate_of_key_frames_is_of_those_that_there_can_be() -> None:
    providers = {"seer": {"kind": "openai", "model": "gpt-4o"}}
    site = VideoSite({"captioner": "seer"}, providers=providers)

    async def told(video: bytes, **fields: Any) -> tuple[int, int]:
        answer = await ask(client, "keyframes", video, dry_run=True, **fields)
        return answer["chunks"], answer["backends"][0]["prompt_tokens"] // answer["chunks"]

    async with site.client() as client:
        small, large = encode(greys(30, 64, 48)), encode(greys(30, 1200, 400))
        assert (await told(small, count=64))[0] == 4  # at 0, 1, 2 and 3 s at most
        assert (await told(small, count=64, min_gap_s=0))[0] == 30
        assert (await told(small, count=64, strategy="uniform"))[0] == 30
        assert (await told(encode(greys(1)), count=64, strategy="scene"))[0] == 1
        # GPT-4o takes tiles of 512 pixels: one, or three beside each other.
        assert (await told(large, side=1200))[1] - (await told(small, side=1200))[1] == 2 * 170


async def test_an_estimate_of_what_a_classifier_sees(client: httpx.AsyncClient, site: VideoSite) -> None:
    found = await ask(client, "actions", dry_run=True, window_s=0.5, stride_s=0.25)
    # Chunks from 0 to 1.25, 0.75 to 2 and 1.5 to 3 s: 4, 4 and 5 windows of 16 frames.
    assert found["chunks"] == 3
    row = {"model": "clips", "chunks": 3, "frames": 13 * 16, "prompt_tokens": 0, "completion_tokens": 0, "usd": 0.0}
    assert found["backends"] == [row]
    for operation in ("classify", "features"):
        assert (await ask(client, operation, dry_run=True))["backends"] == [row | {"chunks": 1, "frames": 16}]
    assert site.classifier.parts == []
    await ask(client, "actions", window_s=0.5, stride_s=0.25)
    assert sum(len(windows(start, end or 3.0, 0.5, 0.25)) for start, end in site.classifier.parts) == 13


async def test_what_a_classifier_would_refuse_is_refused_by_an_estimate(client: httpx.AsyncClient) -> None:
    models = {**MODELS, "clips": {**MODELS["clips"], "max_windows": 50}}
    async with VideoSite(models=models).client() as few:
        response = await send(few, "actions", dry_run=True, window_s=0.5, stride_s=0.01)
    assert error_of(response, 400) == ("too_many_windows", "stride_s")
    for field in ("window_s", "stride_s"):
        assert error_of(await send(client, "actions", more={field: 1e-320}), 400) == ("invalid_field", field)


async def test_an_estimate_is_for_as_many_pieces_at_a_time_as_are_asked_for() -> None:
    site = VideoSite({"concurrency": 3})
    async with site.client() as client:
        await ask(client, "describe", SHORT)
        side_by_side = (await ask(client, "describe", dry_run=True))["seconds"]
        one_by_one = (await ask(client, "describe", dry_run=True, concurrency=1))["seconds"]
    assert one_by_one == pytest.approx(3 * side_by_side)


async def test_an_animation_reaches_a_model_as_a_video(client: httpx.AsyncClient, site: VideoSite) -> None:
    await ask(client, "describe", webp(greys(8), [100] * 8))
    (part,) = [one for one in site.watcher.requests[-1].messages[-1].parts if isinstance(one, VideoPart)]
    assert part.data[4:8] == b"ftyp"


async def test_work_that_cannot_end_in_time_is_sent_to_jobs() -> None:
    site = VideoSite({"concurrency": 1})
    async with site.client() as client:
        site.watcher.released.clear()
        asking = asyncio.create_task(ask(client, "describe", SHORT))
        await asyncio.wait_for(site.watcher.entered.wait(), 60)
        await asyncio.sleep(1.5)
        site.watcher.released.set()
        await asking  # a chunk has been seen to take 1.5 s, so that three take 4.5
        body = {"video": base64.b64encode(VIDEO).decode()}
        for fields in ({}, {"stream": True}):
            response = await client.post(
                "/v1/videos/describe", json=body | fields, headers={"x-argus-timeout-ms": "3500"}
            )
            told = parsed(response.text)[-1][1] if fields else response.json()
            assert told["error"]["code"] == "deadline_exceeded"
            message = told["error"]["message"]
            assert "3 chunks" in message and "/v1/jobs" in message and "videos.describe" in message
        assert len(site.watcher.requests) == 1
        assert (await ask(client, "describe", dry_run=True))["seconds"] > 4


async def test_a_video_comes_in_three_ways(client: httpx.AsyncClient, site: VideoSite) -> None:
    file = {"video": ("clip.mp4", SHORT, "video/mp4")}
    form = await client.post("/v1/videos/ask", files=file, data={"question": "What?"})
    raw = await client.post(
        "/v1/videos/ask", params={"question": "What?"}, content=SHORT, headers={"content-type": "video/mp4"}
    )
    for response in (form, raw):
        assert response.status_code == 200, response.text
        assert response.json()["answer"] == "Frames 0 to 7."
    uri = f"data:video/mp4;base64,{base64.b64encode(SHORT).decode()}"
    response = await client.post("/v1/videos/ask", json={"video": uri, "question": "What?"})
    assert response.json()["answer"] == "Frames 0 to 7."


@pytest.mark.parametrize(
    ("operation", "fields", "status", "code", "param"),
    [
        ("describe", {"video": None}, 400, "missing_field", "video"),
        ("describe", {"video": "aGVsbG8gd29ybGQ="}, 400, "invalid_video", "video"),
        ("describe", {"start_s": 3.0}, 400, "outside_video", "start_s"),
        ("describe", {"start_s": 2.0, "end_s": 1.0}, 400, "invalid_field", "end_s"),
        ("describe", {"start_s": -1}, 400, "invalid_field", "start_s"),
        ("describe", {"model": "looker"}, 200, "", None),
        ("describe", {"model": "blip2"}, 400, "task_not_supported", "model"),
        ("describe", {"model": "clips"}, 400, "task_not_supported", "model"),
        ("describe", {"model": "nope"}, 404, "model_not_found", "model"),
        ("describe", {"question": "?"}, 400, "unknown_field", "question"),
        ("describe", {"chunk_s": 0.5}, 400, "invalid_field", "chunk_s"),
        ("ask", {}, 400, "missing_field", "question"),
        ("ask", {"question": "?", "at_s": 9.0}, 400, "outside_video", "at_s"),
        ("ask", {"question": "   "}, 400, "invalid_field", "question"),
        ("ask", {"question": "?", "at_s": 1.0, "start_s": 0.5}, 400, "invalid_field", "at_s"),
        ("ask", {"question": "?", "at_s": 1.0, "end_s": 2.0}, 400, "invalid_field", "at_s"),
        ("describe", {"prompt": "\t"}, 400, "invalid_field", "prompt"),
        ("actions", {"enter": 0.3, "leave": 0.4}, 400, "invalid_field", "leave"),
        ("actions", {"enter": "x", "leave": 0.4}, 400, "invalid_field", "enter"),
        ("actions", {"enter": 0.3}, 200, "", None),
        ("actions", {"window_s": 1.0, "stride_s": 2.0}, 400, "invalid_field", "stride_s"),
        ("actions", {"stride_s": 2.5}, 400, "invalid_field", "stride_s"),
        ("keyframes", {"strategy": "best"}, 400, "invalid_field", "strategy"),
        ("keyframes", {"count": 0}, 400, "invalid_field", "count"),
        ("classify", {"model": "watcher"}, 400, "task_not_supported", "model"),
        ("nothing", {}, 404, "route_not_found", None),
    ],
)
async def test_what_is_refused(
    client: httpx.AsyncClient,
    site: VideoSite,
    operation: str,
    fields: dict[str, Any],
    status: int,
    code: str,
    param: str | None,
) -> None:
    response = await send(client, operation, more=fields)
    if status == 200:
        assert response.status_code == 200
        return
    assert error_of(response, status) == (code, param)
    assert site.watcher.requests == []


async def test_damaged_files_and_wrong_types(client: httpx.AsyncClient, site: VideoSite) -> None:
    cut = VIDEO[: len(VIDEO) // 2]
    assert error_of(await send(client, "summary", cut), 400) == ("invalid_video", "video")
    bad = bytearray(VIDEO)
    bad[VIDEO.index(b"stsz") : VIDEO.index(b"stsz") + 200] = bytes(200)
    assert error_of(await send(client, "summary", bytes(bad)), 400) == ("invalid_video", "video")
    response = await client.post("/v1/videos/describe", content=b"x", headers={"content-type": "text/plain"})
    assert error_of(response, 415)[1] == "content-type"
    files = {"image": ("a.png", b"x", "image/png")}
    assert error_of(await client.post("/v1/videos/describe", files=files), 400) == ("unknown_field", "image")
    two = [("video", ("a.mp4", SHORT, "video/mp4")), ("video", ("b.mp4", SHORT, "video/mp4"))]
    assert error_of(await client.post("/v1/videos/describe", files=two), 400) == ("too_many_videos", "video")
    long = VideoSite({"max_chunks": 2})
    async with long.client() as other:
        assert error_of(await send(other, "describe"), 400) == ("too_many_chunks", "chunk_s")
        assert error_of(await send(other, "describe", dry_run=True), 400) == ("too_many_chunks", "chunk_s")
