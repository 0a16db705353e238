"""`/v1/knowledge` and `/v1/support` over a scripted model and real stores."""

from __future__ import annotations

import json
import math
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from deployments.generation.messages import ChatEvent, ChatRequest, Text, TokenLogprob
from deployments.knowledge_store import KnowledgeStoreReplica
from deployments.session_store import SessionStoreReplica
from deployments.vector_index import VectorIndex
from serve.config.models import KnowledgeStoreModel, SessionStoreModel
from serve.errors import InvalidRequest, ModelFailed, Unavailable
from tests.unit.fakes import KEYS, FakeGenerator, Site, cluster
from tests.unit.local_stores import LocalStore

ROOT = "/v1/knowledge"
MODELS: dict[str, Any] = {
    "clip": {"kind": "clip", "checkpoint": "openai/clip-vit-large-patch14"},
    "index": {"kind": "vector_index"},
    "llava": {"kind": "llava", "checkpoint": "llava-hf/llava-1.5-7b-hf"},
    "big": {"kind": "llava", "checkpoint": "llava-hf/llava-v1.6-mistral-7b-hf"},
    "sessions": {"kind": "session_store"},
    "docs": {"kind": "knowledge_store", "chunk_chars": 50, "chunk_overlap": 0, "max_document_chars": 2000},
}
SUPPORT = {"knowledge": "docs", "chat_model": "llava", "escalation_model": "big", "embedding_model": "clip"}
LIMITS = {"max_inputs": 4, "max_text_chars": 200, "max_prompt_chars": 2000}
RETURNS = "Unworn shoes may be returned within 30 days."
SHIPPING = "Shipping takes three to five working days."
WARRANTY = "The warranty on watches lasts two years."
TEXT = f"{RETURNS}\n\n{SHIPPING}\n\n{WARRANTY}"
QUESTION = "May I return unworn shoes within 30 days?"


class ScriptedChat(FakeGenerator):
    """Reads messages as it is told, and answers with a text whose tokens have a probability."""

    def reset(self) -> None:
        super().reset()
        self.read = json.dumps({"intent": "question", "sentiment": "neutral"})
        self.says = "Within 30 days [1]."
        self.probability: float | None = 0.9

    def events(self, request: ChatRequest) -> list[ChatEvent]:
        if request.sampling.constraint is not None:
            return [ChatEvent(0, self.read, (1, 2), finish_reason="stop", prompt_tokens=10)]
        sure = () if self.probability is None else (TokenLogprob("x", math.log(self.probability)),) * 3
        return [ChatEvent(0, self.says, (1, 2, 3), sure, "stop", prompt_tokens=100)]

    def prompts(self) -> list[str]:
        """The last text of each conversation that asked for an answer."""
        asked = [request.messages[-1] for request in self.requests if request.sampling.constraint is None]
        return ["".join(part.text for part in message.parts if isinstance(part, Text)) for message in asked]


class SupportSite(Site):
    """A site with support; new stores for each test."""

    def __init__(self, support: dict[str, Any]) -> None:
        self.chats = {"llava": ScriptedChat(), "big": ScriptedChat()}
        self.stores = {name: LocalStore(None) for name in ("index", "sessions", "docs")}
        config = cluster(models=MODELS, limits=LIMITS, support=support, keys=True)
        super().__init__(config, more={**self.chats, **self.stores})

    def open(self, folder: Path) -> None:
        """Empty stores in `folder`."""
        self.reset()
        for chat in self.chats.values():
            chat.reset()
        docs = KnowledgeStoreModel.model_validate({**MODELS["docs"], "path": str(folder / "docs")})
        sessions = SessionStoreModel(kind="session_store", path=str(folder / "sessions"))
        for name, replica in {
            "index": VectorIndex(str(folder / "index"), 100_000_000),
            "sessions": SessionStoreReplica(sessions),
            "docs": KnowledgeStoreReplica(docs),
        }.items():
            self.stores[name].__init__(replica)  # type: ignore[misc]

    async def close(self) -> None:
        for store in self.stores.values():
            await store.replica.close()


@pytest.fixture(scope="module")
def built() -> SupportSite:
    return SupportSite(SUPPORT)


@pytest.fixture
async def site(built: SupportSite, tmp_path: Path) -> AsyncIterator[SupportSite]:
    built.open(tmp_path)
    yield built
    await built.close()


@pytest.fixture
async def client(site: SupportSite) -> AsyncIterator[httpx.AsyncClient]:
    async with site.client(headers={"X-API-Key": KEYS["alice"]}) as made:
        yield made


async def done(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def error_of(response: httpx.Response, status: int) -> tuple[str, str | None]:
    assert response.status_code == status, response.text
    error = response.json()["error"]
    return error["code"], error["param"]


async def put(client: httpx.AsyncClient, name: str = "terms", text: str = TEXT, **fields: Any) -> dict[str, Any]:
    return await done(await client.put(f"{ROOT}/shop/documents/{name}", json={"text": text, **fields}))


async def search(client: httpx.AsyncClient, query: str, k: int = 3) -> dict[str, Any]:
    return await done(await client.post(f"{ROOT}/shop/search", json={"query": query, "k": k}))


async def ask(client: httpx.AsyncClient, message: str = QUESTION, **fields: Any) -> dict[str, Any]:
    body = {"knowledge": "shop", "message": message, **fields}
    return await done(await client.post("/v1/support", json=body))


async def vectors(site: SupportSite) -> int:
    """Chunks in the vector index."""
    infos = await site.stores["index"].replica.list_indexes()
    return sum(info.count for info in infos)


async def test_documents_are_stored_found_and_deleted(client: httpx.AsyncClient, site: SupportSite) -> None:
    made = await put(client, title="Terms")
    assert (made["object"], made["knowledge"], made["id"], made["title"]) == ("document", "shop", "terms", "Terms")
    assert (made["chunks"], made["characters"]) == (3, len(TEXT)) and await vectors(site) == 3
    assert await done(await client.get(f"{ROOT}/shop/documents/terms")) == {**made, "text": TEXT}
    assert (await done(await client.get(f"{ROOT}/shop/documents")))["data"] == [made]
    base = {"object": "knowledge", "name": "shop", "documents": 1, "chunks": 3}
    assert await done(await client.get(f"{ROOT}/shop")) == base
    assert (await done(await client.get(ROOT)))["data"] == [base]
    assert (await done(await client.delete(f"{ROOT}/shop/documents/terms")))["deleted"] is True
    assert await vectors(site) == 0
    for response in (
        await client.get(f"{ROOT}/shop/documents/terms"),
        await client.delete(f"{ROOT}/shop/documents/terms"),
    ):
        assert error_of(response, 404) == ("document_not_found", "id")
    assert error_of(await client.get(f"{ROOT}/shop"), 404) == ("knowledge_not_found", "knowledge")
    await put(client)
    assert (await done(await client.delete(f"{ROOT}/shop")))["documents"] == 1
    assert (await done(await client.delete(f"{ROOT}/shop")))["deleted"] is False
    assert (await done(await client.get(ROOT)))["data"] == [] and await vectors(site) == 0


async def test_a_replaced_document_leaves_nothing_behind(client: httpx.AsyncClient, site: SupportSite) -> None:
    first = await put(client)
    assert await put(client) == first and await vectors(site) == 3
    await put(client, text=f"{WARRANTY}\n\nNothing else.")
    await put(client, "other", text=SHIPPING)
    found = await search(client, "warranty shoes shipping", 10)
    assert sorted(chunk["text"] for chunk in found["chunks"]) == sorted([WARRANTY, "Nothing else.", SHIPPING])
    assert await vectors(site) == 3


async def test_many_chunks_are_embedded_in_steps(client: httpx.AsyncClient, site: SupportSite) -> None:
    text = "\n\n".join(f"Paragraph number {i} speaks about subject {i}." for i in range(11))
    assert (await put(client, text=text))["chunks"] == 11 and await vectors(site) == 11


async def test_words_and_vectors_find_together(client: httpx.AsyncClient, site: SupportSite) -> None:
    await put(client)
    by_words = await search(client, "warranty watches")
    assert by_words["chunks"][0]["text"] == WARRANTY and by_words["coverage"] == pytest.approx(1)
    # No word in common, so the vectors alone: the fake embeds equal texts alike, and these are all there are.
    by_vector = await search(client, "zebra")
    assert by_vector["coverage"] == 0 and len(by_vector["chunks"]) == 3
    assert -1 <= by_vector["similarity"] <= 1
    exact = await search(client, SHIPPING, 1)
    assert exact["chunks"][0]["text"] == SHIPPING and exact["similarity"] == pytest.approx(1, abs=1e-5)


async def test_a_vector_without_its_chunk_is_not_found(client: httpx.AsyncClient, site: SupportSite) -> None:
    await put(client)
    site.stores["docs"].failing["put"] = [ModelFailed("disk")]
    failed = await client.put(f"{ROOT}/shop/documents/new", json={"text": "An orphan."})
    assert error_of(failed, 500)[0] == "model_failed" and await vectors(site) == 4
    found = await search(client, "An orphan.", 10)
    assert {chunk["document"] for chunk in found["chunks"]} == {"terms"}
    await put(client, "new", "Another text.")
    assert await vectors(site) == 4  # swept with the document's next change


@pytest.mark.parametrize(
    ("path", "fields", "status", "code", "param"),
    [
        ("Shop/documents/a", {"text": "x"}, 400, "invalid_name", "name"),
        ("x" * 61 + "/documents/a", {"text": "x"}, 400, "invalid_name", "name"),
        ("shop/documents/a%20b", {"text": "x"}, 400, "invalid_name", "id"),
        ("shop/documents/a", {}, 400, "missing_field", "text"),
        ("shop/documents/a", {"text": ""}, 400, "invalid_field", "text"),
        ("shop/documents/a", {"text": " \n"}, 400, "empty_text", "text"),
        ("shop/documents/a", {"text": "x" * 2001}, 400, "text_too_long", "text"),
        ("shop/documents/a", {"text": "x", "title": ""}, 400, "invalid_field", "title"),
        ("shop/documents/a", {"text": "x", "name": "y"}, 400, "unknown_field", "name"),
    ],
)
async def test_a_document_that_cannot_be(
    client: httpx.AsyncClient, path: str, fields: dict[str, Any], status: int, code: str, param: str
) -> None:
    assert error_of(await client.put(f"{ROOT}/{path}", json=fields), status) == (code, param)
    assert (await done(await client.get(ROOT)))["data"] == []


async def test_searches_and_lists_that_cannot_be(client: httpx.AsyncClient) -> None:
    await put(client)
    for body, code, param in (
        ({"query": " "}, "empty_text", "query"),
        ({"query": "x" * 201}, "text_too_long", "query"),
        ({"query": "x", "k": 0}, "invalid_field", "k"),
        ({"query": "x", "k": 51}, "invalid_field", "k"),
        ({}, "missing_field", "query"),
    ):
        assert error_of(await client.post(f"{ROOT}/shop/search", json=body), 400) == (code, param)
    for name in ("nothing", "No%20name"):
        response = await client.post(f"{ROOT}/{name}/search", json={"query": "x"})
        assert error_of(response, 404) == ("knowledge_not_found", "knowledge")
    assert error_of(await client.get(f"{ROOT}/shop/documents?limit=0"), 400) == ("invalid_field", "limit")
    assert (await done(await client.get(f"{ROOT}/shop/documents?after=terms")))["data"] == []


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
