"""A router with a session store, and what tests ask of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from deployments.session_store import SessionStoreReplica
from serve.config.models import SessionStoreModel
from serve.errors import InvalidRequest
from tests.unit.fakes import KEYS, Site, cluster, png
from tests.unit.local_stores import LocalStore

ROOT = "/v1/sessions"
URL = "https://pictures.example/a.png"
MODELS = {
    "clip": {"kind": "clip", "checkpoint": "openai/clip-vit-large-patch14"},
    "llava": {"kind": "llava", "checkpoint": "llava-hf/llava-1.5-7b-hf", "max_images": 2},
    "blip2": {"kind": "blip2", "checkpoint": "Salesforce/blip2-opt-2.7b"},
    "sessions": {"kind": "session_store", "max_turns": 4, "max_images": 3, "max_tokens": 1000, "max_sessions": 50},
}
LIMITS = {"max_prompt_chars": 500}
TOO_LONG = InvalidRequest("The prompt has 90 tokens.", code="prompt_too_long", param="messages")


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class SessionSite(Site):
    """A site with sessions; a new store for each test."""

    def __init__(self) -> None:
        self.sessions = LocalStore(None)
        super().__init__(
            cluster(models=MODELS, limits=LIMITS, keys=True), {URL: png("blue")}, more={"sessions": self.sessions}
        )


@pytest.fixture(scope="module")
def built() -> SessionSite:
    return SessionSite()


@pytest.fixture
async def site(built: SessionSite, tmp_path: Path) -> AsyncIterator[SessionSite]:
    built.reset()
    built.pages[URL] = png("blue")
    built.sessions.__init__(open_store(tmp_path))  # type: ignore[misc]
    yield built
    await built.sessions.replica.close()


def open_store(folder: Path, clock: Clock | None = None) -> SessionStoreReplica:
    settings = {**MODELS["sessions"], "path": str(folder)}
    return SessionStoreReplica(SessionStoreModel.model_validate(settings), clock or Clock())


@pytest.fixture
async def client(site: SessionSite) -> AsyncIterator[httpx.AsyncClient]:
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


async def create(client: httpx.AsyncClient, **fields: Any) -> str:
    return str((await done(await client.post(ROOT, json=fields)))["id"])


async def post(client: httpx.AsyncClient, session: str, content: Any, **fields: Any) -> httpx.Response:
    return await client.post(f"{ROOT}/{session}/messages", json={"content": content, **fields})


async def say(client: httpx.AsyncClient, session: str, content: Any, **fields: Any) -> dict[str, Any]:
    return await done(await post(client, session, content, **fields))


async def history(client: httpx.AsyncClient, session: str) -> list[str]:
    """The user's texts that are remembered."""
    data = (await done(await client.get(f"{ROOT}/{session}/messages")))["data"]
    return [message["content"][-1]["text"] for message in data if message["role"] == "user"]


async def released(site: SessionSite) -> None:
    """Returns when the service has given every turn back."""
    await asyncio.gather(*site.services.sessions._releases)
