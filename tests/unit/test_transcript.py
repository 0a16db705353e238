"""The page of conversations that `demo.transcript` writes: what is asked and answered, and nothing that varies."""

from __future__ import annotations

import json
import re
from pathlib import Path

import openai

from demo import transcript
from tests.support import session_site
from tests.support.session_site import SessionSite
from tests.unit.fakes import KEYS

# pytest finds fixtures by the names of a module.
built = session_site.built
site = session_site.site


PICTURES = [transcript.picture(index) for index in transcript.SCENES]


async def written(site: SessionSite) -> str:
    async with site.client() as http:
        client = openai.AsyncOpenAI(base_url="http://argus/v1", api_key=KEYS["alice"], http_client=http, max_retries=0)
        return await transcript.transcript(client, "llava", PICTURES, "page")


async def test_it_shows_every_kind_of_request(site: SessionSite) -> None:
    page = await written(site)
    titles = ["One image", "Two images", "A session of five turns", "Streaming", "An answer that fits a JSON schema"]
    assert re.findall(r"^## (.*)$", page, re.MULTILINE) == titles
    assert len(site.llava.requests) == 4 + len(transcript.TURNS) == 9
    assert {request.sampling.temperature for request in site.llava.requests} == {0}
    assert sum(request.sampling.constraint is not None for request in site.llava.requests) == 1
    blocks = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", page, re.DOTALL)]
    # The fake engine says what it was asked, and how many media it was shown.
    said = [block["content"] for block in blocks if "finish_reason" in block]
    assert said[:2] == [
        "What colour is the object? (1 media)",
        "In the second image, what colour is the object? (2 media)",
    ]
    streamed = next(block for block in blocks if "last chunk" in block)
    assert streamed["deltas with text, joined"] == "Describe the image. (1 media)"
    assert streamed["last chunk"]["usage"]["completion_tokens"] == 4
    for number, question in enumerate(transcript.TURNS, 1):
        assert re.search(rf"^\| {number} \| .*{re.escape(question)} \|", page, re.MULTILINE)
    assert '"turns": 4, "images": 0' in page and '"dropped": 1' in page, "the test's store keeps four turns"


async def test_the_same_server_writes_the_same_page(site: SessionSite) -> None:
    assert await written(site) == await written(site)


async def test_pictures_lie_beside_the_page_and_not_in_it(site: SessionSite, tmp_path: Path) -> None:
    page = await written(site)
    transcript.save(page, PICTURES, tmp_path / "page.md")
    assert set(re.findall(r"page/(scene-\d+\.png)", page)) == {path.name for path in (tmp_path / "page").iterdir()}
    assert max(map(len, page.splitlines())) < 500
