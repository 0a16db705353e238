"""Merging what was written about the chunks of a long video: groups that fit, then groups of groups."""

from __future__ import annotations

import base64
import re
from itertools import chain
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.generation.messages import ChatRequest, Text
from serve.errors import Cancelled, DeadlineExceeded, ModelFailed
from serve.providers.tokens import text_tokens
from serve.videos.summariser import grouped
from tests.unit.video_files import encode, greys
from tests.unit.video_site import VideoSite

# Ten seconds, one frame each: ten chunks.
LONG = base64.b64encode(encode(greys(10), rate=1)).decode()
TEXTS = [f"Frames {i} to {i}." for i in range(10)]
# Of the notes in one request: four of the chunks' own.
ROOM = 64
NOTE = re.compile(r"^\[(\S+) - (\S+)\] (.*)$", re.MULTILINE)


@given(st.lists(st.integers(0, 300)), st.integers(1, 500))
def test_groups_fit_and_are_at_most_half_as_many(sizes: list[int], room: int) -> None:
    notes = [*enumerate(sizes)]
    groups = grouped(notes, room, lambda note: note[1])
    assert [*chain.from_iterable(groups)] == notes
    assert len(groups) <= max(1, -(-len(notes) // 2))
    assert all(len(group) <= 2 or sum(size for _, size in group) <= room for group in groups)


def repeated(prompt: str) -> str:
    """A summariser that leaves nothing out: what it was told, in its order."""
    return " ".join(text for _, _, text in NOTE.findall(prompt))


@pytest.fixture
def site() -> VideoSite:
    made = VideoSite({"summariser": "looker", "merge_tokens": ROOM, "overlap_s": 0})
    made.looker.says = lambda first, last, prompt: repeated(prompt)
    return made


async def send(site: VideoSite, operation: str, **fields: Any) -> httpx.Response:
    async with site.client() as client:
        return await client.post(f"/v1/videos/{operation}", json={"video": LONG, **fields})


async def ask(site: VideoSite, operation: str, **fields: Any) -> dict[str, Any]:
    response = await send(site, operation, **fields)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def prompt_of(request: ChatRequest) -> str:
    [part] = request.messages[-1].parts
    assert isinstance(part, Text)
    return part.text


async def test_a_long_video_is_summed_up_in_groups_and_groups_of_groups(site: VideoSite) -> None:
    answer = await ask(site, "summary")
    assert (answer["summary"], answer["merged_by"]) == (" ".join(TEXTS), "looker")
    prompts = [prompt_of(request) for request in site.looker.requests]
    told = [NOTE.findall(prompt) for prompt in prompts]
    assert sorted(len(notes) for notes in told) == [2, 2, 2, 4, 4]
    for notes in told:
        lines = [f"[{start} - {end}] {text}" for start, end, text in notes]
        assert len(lines) == 2 or sum(map(text_tokens, lines)) <= ROOM
        assert [start for start, _, _ in notes] == sorted(start for start, _, _ in notes)
    # The last request is about everything; those before say that they are about parts.
    assert (told[-1][0][0], told[-1][-1][1]) == ("00:00.000", "00:10.000")
    assert ["whole video" in prompt for prompt in prompts] == [False] * 4 + [True]
    assert answer["usage"]["prompt_tokens"] == 100 * (10 + 5)
    assert site.looker.most == 2  # the cluster's bound on what one request asks at a time


async def test_the_same_video_is_merged_in_the_same_way(site: VideoSite) -> None:
    await ask(site, "summary")
    first = sorted(map(prompt_of, site.looker.requests))
    site.looker.requests.clear()
    await ask(site, "summary", concurrency=1)
    assert sorted(map(prompt_of, site.looker.requests)) == first


async def test_answers_to_a_question_are_merged_likewise(site: VideoSite) -> None:
    answer = await ask(site, "ask", question="Which {frames}?")
    assert (answer["answer"], answer["merged_by"]) == (" ".join(TEXTS), "looker")
    assert len(site.looker.requests) == 5
    assert all("Question: Which {frames}?" in prompt_of(request) for request in site.looker.requests)


async def test_what_fits_one_request_is_one_request() -> None:
    site = VideoSite({"summariser": "looker", "overlap_s": 0})
    site.looker.says = lambda first, last, prompt: repeated(prompt)
    assert (await ask(site, "summary"))["summary"] == " ".join(TEXTS)
    assert len(site.looker.requests) == 1


async def test_a_group_that_fails_leaves_the_notes_and_is_paid_for(site: VideoSite) -> None:
    site.looker.fails = lambda first, last: ModelFailed("no") if len(site.looker.seen) >= 2 else None
    answer = await ask(site, "summary")
    assert (answer["summary"], answer["merged_by"]) == (" ".join(TEXTS), None)
    assert answer["usage"]["prompt_tokens"] == 100 * (10 + 2)


@pytest.mark.parametrize("error", [DeadlineExceeded("late"), Cancelled("gone")])
async def test_a_deadline_that_passes_while_merging_is_the_answer(
    site: VideoSite, error: DeadlineExceeded | Cancelled
) -> None:
    site.looker.fails = lambda first, last: error
    response = await send(site, "summary")
    assert (response.status_code, response.json()["error"]["code"]) == (error.status, error.code)


async def test_an_estimate_counts_the_groups() -> None:
    one = await ask(VideoSite({"summariser": "looker"}), "summary", dry_run=True)
    tree = await ask(VideoSite({"summariser": "looker", "merge_tokens": ROOM}), "summary", dry_run=True)
    # Answers of 20 tokens, their times of 9, and a message's own 4.
    assert (one["summariser"]["prompt_tokens"], one["summariser"]["completion_tokens"]) == (10 * 29 + 4, 20)
    # Two notes fill a request: five groups, three of these (one alone), two, one.
    assert tree["summariser"]["prompt_tokens"] == (10 + 4 + 2 + 2) * 29 + (5 + 2 + 1 + 1) * 4
    assert tree["summariser"]["completion_tokens"] == (5 + 2 + 1 + 1) * 20
