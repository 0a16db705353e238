"""A router with a knowledge base and two chat models, and what tests ask of it."""

from __future__ import annotations

import json
import math
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
