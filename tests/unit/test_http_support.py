"""`/v1/knowledge` and `/v1/support` over a scripted model and real stores."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from deployments.generation.messages import Text
from serve.errors import InvalidRequest, ModelFailed, Unavailable
from tests.support import support_site
from tests.support.support_site import (
    MODELS,
    RETURNS,
    ROOT,
    SHIPPING,
    WARRANTY,
    SupportSite,
    done,
    error_of,
    put,
    search,
)
from tests.unit.fakes import KEYS, Site, cluster

# pytest finds fixtures by the names of a module.
built = support_site.built
site = support_site.site
client = support_site.client
QUESTION = "May I return unworn shoes within 30 days?"


async def ask(client: httpx.AsyncClient, message: str = QUESTION, **fields: Any) -> dict[str, Any]:
    body = {"knowledge": "shop", "message": message, **fields}
    return await done(await client.post("/v1/support", json=body))


async def test_an_answer_cites_what_was_offered(client: httpx.AsyncClient, site: SupportSite) -> None:
    await put(client, title="Terms")
    site.chats["llava"].says = "Yes [1], so it is [7]. Also [1]."
    reply = await ask(client)
    assert (reply["object"], reply["model"], reply["answer"]) == (
        "support.answer",
        "llava",
        "Yes [1], so it is. Also [1].",
    )
    (citation,) = reply["citations"]
    assert (citation["number"], citation["document"], citation["title"]) == (1, "terms", "Terms")
    assert re.fullmatch(r"terms/[0-9a-f]{16}/[0-2]", citation["id"])
    assert (reply["intent"], reply["sentiment"]) == ("question", "neutral")
    assert (reply["escalated"], reply["reasons"], reply["session"]) == (False, [], None)
    assert reply["confidence"] == pytest.approx(0.9)
    assert reply["usage"] == {"prompt_tokens": 110, "completion_tokens": 5, "total_tokens": 115}
    (prompt,) = site.chats["llava"].prompts()
    assert f"[1] (Terms) {citation['text']}\n[2] (Terms) " in prompt and prompt.endswith(f"Message: {QUESTION}")
    assert all(chunk in prompt for chunk in (RETURNS, SHIPPING, WARRANTY))
    reading, answering = site.chats["llava"].requests
    schema = json.loads(reading.sampling.constraint.json_schema)  # type: ignore[union-attr,arg-type]
    assert "angry" in schema["properties"]["sentiment"]["enum"] and "human" in schema["properties"]["intent"]["enum"]
    assert (answering.sampling.logprobs, answering.sampling.max_tokens) == (0, 256)


@pytest.mark.parametrize(
    ("read", "message", "why"),
    [
        ({"intent": "human", "sentiment": "neutral"}, QUESTION, "human_requested"),
        ({"intent": "complaint", "sentiment": "angry"}, QUESTION, "angry"),
        ({"intent": "question", "sentiment": "neutral"}, "Do zebras sing?", "nothing_relevant"),
    ],
)
async def test_the_stronger_model_answers_at_once(
    client: httpx.AsyncClient, site: SupportSite, read: dict[str, str], message: str, why: str
) -> None:
    await put(client)
    site.chats["llava"].read = json.dumps(read)
    reply = await ask(client, message)
    assert (reply["model"], reply["escalated"], reply["reasons"]) == ("big", True, [why])
    assert len(site.chats["llava"].prompts()) == 0 and len(site.chats["big"].prompts()) == 1


async def test_the_stronger_model_answers_where_the_first_was_not_sure(
    client: httpx.AsyncClient, site: SupportSite
) -> None:
    await put(client)
    site.chats["llava"].probability, site.chats["big"].says = 0.4, "Surely [1]."
    reply = await ask(client)
    assert (reply["model"], reply["answer"]) == ("big", "Surely [1].")
    assert (reply["escalated"], reply["reasons"]) == (True, ["low_confidence"])
    assert reply["usage"]["prompt_tokens"] == 210
    site.chats["llava"].probability = None  # an engine without probabilities says nothing
    assert (await ask(client))["reasons"] == [] and (await ask(client))["confidence"] is None


async def test_the_request_names_its_models(client: httpx.AsyncClient, site: SupportSite) -> None:
    await put(client)
    site.chats["big"].probability = 0.1
    reply = await ask(client, model="big", escalate_to="llava")
    assert (reply["model"], reply["escalated"], reply["reasons"]) == ("llava", True, ["low_confidence"])
    reply = await ask(client, model="big")  # the stronger one itself: nobody is left to ask
    assert (reply["model"], reply["escalated"], reply["reasons"]) == ("big", False, ["low_confidence"])


@pytest.mark.parametrize("cut", ['{"intent": "question", "sent', "", "[]"])
async def test_a_reading_that_was_cut_says_nothing(client: httpx.AsyncClient, site: SupportSite, cut: str) -> None:
    await put(client)
    site.chats["llava"].read = cut
    reply = await ask(client)
    assert (reply["intent"], reply["sentiment"], reply["reasons"]) == ("other", "neutral", [])


async def test_a_session_remembers_what_was_said_and_not_the_excerpts(
    client: httpx.AsyncClient, site: SupportSite
) -> None:
    await put(client)
    session = (await done(await client.post("/v1/sessions", json={})))["id"]
    site.chats["llava"].says = "Yes [1], truly [9]."
    reply = await ask(client, session=session)
    assert (reply["session"]["id"], reply["session"]["turns"], reply["session"]["kept"]) == (session, 1, True)
    site.chats["llava"].probability = 0.1  # the stronger model answers over the same history
    second = await ask(client, "And shipping, how many working days?", session=session)
    assert (second["model"], second["session"]["turns"]) == ("big", 2)
    said = (await done(await client.get(f"/v1/sessions/{session}/messages")))["data"]
    assert [message["content"] for message in said if message["role"] == "assistant"] == [
        "Yes [1], truly.",
        "Within 30 days [1].",
    ]
    users = [message["content"][0]["text"] for message in said if message["role"] == "user"]
    assert users == [QUESTION, "And shipping, how many working days?"]
    shown = site.chats["big"].requests[-1].messages
    assert [message.role for message in shown] == ["user", "assistant", "user"]
    assert shown[0].parts == (Text(QUESTION),) and SHIPPING in shown[-1].parts[0].text  # type: ignore[union-attr]


async def test_a_failed_turn_leaves_its_session_as_it_was(client: httpx.AsyncClient, site: SupportSite) -> None:
    await put(client)
    session = (await done(await client.post("/v1/sessions", json={})))["id"]
    site.chats["llava"].script = [(9, None), (0, ModelFailed("It broke."))]  # type: ignore[list-item]
    body = {"knowledge": "shop", "message": QUESTION, "session": session}
    assert error_of(await client.post("/v1/support", json=body), 500)[0] == "model_failed"
    assert (await done(await client.get(f"/v1/sessions/{session}")))["turns"] == 0
    assert (await ask(client, session=session))["session"]["turns"] == 1


async def test_a_busy_session_is_said(client: httpx.AsyncClient, site: SupportSite) -> None:
    await put(client)
    session = (await done(await client.post("/v1/sessions", json={})))["id"]
    await site.stores["sessions"].replica.begin(session, "alice", "another turn", 30)
    body = {"knowledge": "shop", "message": QUESTION, "session": session}
    assert error_of(await client.post("/v1/support", json=body), 409) == ("session_busy", "session")


@pytest.mark.parametrize(
    ("fields", "status", "code", "param"),
    [
        ({"knowledge": "nothing"}, 404, "knowledge_not_found", "knowledge"),
        ({"message": " "}, 400, "empty_text", "message"),
        ({"message": "x" * 201}, 400, "text_too_long", "message"),
        ({"message": None}, 400, "invalid_field", "message"),
        ({"session": "sess_x"}, 404, "session_not_found", "session"),
        ({"model": "nope"}, 404, "model_not_found", "model"),
        ({"model": "clip"}, 400, "task_not_supported", "model"),
        ({"escalate_to": "nope"}, 404, "model_not_found", "escalate_to"),
        ({"stream": True}, 400, "unknown_field", "stream"),
    ],
)
async def test_a_message_that_cannot_be(
    client: httpx.AsyncClient, site: SupportSite, fields: dict[str, Any], status: int, code: str, param: str
) -> None:
    await put(client)
    body = {"knowledge": "shop", "message": QUESTION, **fields}
    assert error_of(await client.post("/v1/support", json=body), status) == (code, param)
    assert site.chats["llava"].prompts() == []


async def test_a_prompt_that_is_too_long_is_the_messages_fault(client: httpx.AsyncClient, site: SupportSite) -> None:
    await put(client)
    too_long = InvalidRequest("Too long.", code="prompt_too_long", param="messages")
    for fields in ({}, {"session": (await done(await client.post("/v1/sessions", json={})))["id"]}):
        site.chats["llava"].script = [(9, None), (0, too_long)]  # type: ignore[list-item]
        body = {"knowledge": "shop", "message": QUESTION, **fields}
        assert error_of(await client.post("/v1/support", json=body), 400) == ("prompt_too_long", "message")


async def test_stores_that_are_away_for_a_moment_are_waited_for(client: httpx.AsyncClient, site: SupportSite) -> None:
    site.stores["docs"].lost["put"] = [Unavailable("gone")]
    await put(client)
    site.stores["docs"].failing["search"] = [Unavailable("gone")]
    assert (await ask(client))["citations"]


async def test_a_document_deleted_with_its_answer_lost_leaves_no_vectors(
    client: httpx.AsyncClient, site: SupportSite
) -> None:
    await put(client)
    index = site.stores["index"].replica
    assert [info.count > 0 for info in await index.list_indexes()] == [True]
    site.stores["docs"].lost["delete"] = [Unavailable("gone")]
    assert (await client.delete(f"{ROOT}/shop/documents/terms")).status_code == 200
    assert [info.count for info in await index.list_indexes()] == [0]


async def test_without_an_embedding_model_words_alone_find(tmp_path: Path) -> None:
    site = SupportSite({"knowledge": "docs", "chat_model": "llava"})
    site.open(tmp_path)
    async with site.client(headers={"X-API-Key": KEYS["alice"]}) as client:
        await put(client)
        found = await search(client, "returned shoes")
        assert (found["similarity"], [chunk["text"] for chunk in found["chunks"]]) == (None, [RETURNS])
        assert site.stores["index"].calls == [] and site.model.calls == []
        assert (await search(client, "zebra"))["chunks"] == []
        reply = await ask(client, "Do zebras sing?")
        assert (reply["escalated"], reply["reasons"]) == (False, ["nothing_relevant"])
        assert "(There are none.)" in site.chats["llava"].prompts()[0] and reply["citations"] == []
        assert (await done(await client.delete(f"{ROOT}/shop/documents/terms")))["deleted"] is True
    await site.close()


async def test_documents_from_before_the_embedding_model_are_found_by_words(
    client: httpx.AsyncClient, site: SupportSite
) -> None:
    await put(client)
    await site.stores["index"].replica.drop("kb-shop")
    found = await search(client, "returned shoes", 1)
    assert (found["similarity"], found["chunks"][0]["text"]) == (None, RETURNS)


async def test_documents_whose_vectors_are_of_another_checkpoint_are_found_by_words_until_they_are_sent_again(
    client: httpx.AsyncClient, site: SupportSite
) -> None:
    await put(client)
    index = site.stores["index"].replica
    made = (await index.info("kb-shop")).spec
    await index.drop("kb-shop")
    await index.create(replace(made, checkpoint="openai/clip-vit-large-patch14@before"))
    found = await search(client, "returned shoes", 1)
    assert (found["similarity"], found["chunks"][0]["text"]) == (None, RETURNS)
    refused = await client.put(f"{ROOT}/shop/documents/more", json={"text": "More words."})
    assert error_of(refused, 409)[0] == "index_of_another_checkpoint"
    await done(await client.delete(f"{ROOT}/shop"))
    await put(client)
    assert (await search(client, "returned shoes", 1))["similarity"] is not None


async def test_without_the_section_there_is_no_support() -> None:
    site = Site(cluster(models={"clip": MODELS["clip"]}))
    async with site.client() as client:
        for response in (
            await client.post("/v1/support", json={"knowledge": "shop", "message": "hello"}),
            await client.get(ROOT),
            await client.get(f"{ROOT}/shop"),
            await client.delete(f"{ROOT}/shop"),
            await client.put(f"{ROOT}/shop/documents/a", json={"text": "x"}),
            await client.get(f"{ROOT}/shop/documents/a"),
            await client.post(f"{ROOT}/shop/search", json={"query": "x"}),
        ):
            assert error_of(response, 404) == ("not_configured", None)
