"""Providers where only models of ours were thought of: in sessions, and as the stronger model of support."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.fake_providers import KEY, FakeAnthropic
from deployments.knowledge_store import KnowledgeStoreReplica
from serve.config.load import ConfigErrors, parse
from serve.config.models import KnowledgeStoreModel
from serve.providers.build import build_providers
from tests.support.provider_servers import KEY_VARIABLE
from tests.support.session_site import LIMITS, MODELS, ROOT, open_store
from tests.unit.fakes import Site, cluster
from tests.unit.local_stores import LocalStore
from tests.unit.test_http_hosted import FakeProvider

HOSTED = {"gpt": {"kind": "openai", "model": "gpt-4o-mini"}}


async def test_a_session_with_a_provider(tmp_path: Path) -> None:
    sessions = LocalStore(None)
    provider = FakeProvider()
    config = cluster(models=MODELS, limits=LIMITS, providers=HOSTED)
    site = Site(config, more={"sessions": sessions}, providers={"gpt": provider})
    sessions.__init__(open_store(tmp_path))  # type: ignore[misc]
    async with site.client() as client:
        made = await client.post(ROOT, json={"model": "gpt"})
        assert made.status_code == 200, made.text
        for said in ("hello", "again"):
            answer = await client.post(f"{ROOT}/{made.json()['id']}/messages", json={"content": said})
            assert answer.status_code == 200, answer.text
    assert [len(request.messages) for request in provider.asked] == [1, 3], "the second is told of the first"
    await sessions.replica.close()


def support(**keys: Any) -> dict[str, Any]:
    return {
        "name": "test",
        "node_pools": {"local": {}},
        "models": {"llava": {"kind": "llava", "checkpoint": "a/b"}, "docs": {"kind": "knowledge_store"}},
        "providers": HOSTED,
        "support": {"knowledge": "docs", "chat_model": "llava", **keys},
    }


def test_support_may_escalate_to_a_provider() -> None:
    section = parse(support(escalation_model="gpt")).support
    assert section is not None
    assert section.escalation_model == "gpt"
    with pytest.raises(ConfigErrors, match=r"escalation_model: got 'gbt'.*llava, gpt"):
        parse(support(escalation_model="gbt"))


def says(body: Any) -> str:
    """What Anthropic's server answers: what it reads in a message as JSON, and otherwise a sentence."""
    return json.dumps({"intent": "human", "sentiment": "neutral"}) if "output_config" in body else "Within 30 days [1]."


async def replies(
    models: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *messages: dict[str, Any]
) -> list[dict[str, Any]]:
    """Support's answers to messages in one session, its models being what `models` says; `claude` is Anthropic's."""
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    async with FakeAnthropic(says) as server:
        hosted = {"kind": "anthropic", "model": "claude-sonnet-4-5", "api_key_env": KEY_VARIABLE}
        config = cluster(
            models={**MODELS, "docs": {"kind": "knowledge_store"}},
            limits={"max_prompt_chars": 5000},
            providers={"claude": hosted | {"base_url": server.base_url}},
            support={"knowledge": "docs", **models},
        )
        docs = KnowledgeStoreReplica(KnowledgeStoreModel(kind="knowledge_store", path=str(tmp_path / "docs")))
        stores = {"sessions": LocalStore(open_store(tmp_path / "sessions")), "docs": LocalStore(docs)}
        providers = build_providers(config.providers)
        site = Site(config, more=stores, providers=providers)
        async with site.client() as client:
            text = {"text": "Unworn shoes may be returned within 30 days."}
            assert (await client.put("/v1/knowledge/shop/documents/terms", json=text)).status_code == 200
            session = (await client.post(ROOT, json={})).json()["id"]
            answers = [
                await client.post("/v1/support", json={"knowledge": "shop", "session": session, **message})
                for message in messages
            ]
        for closed in (docs, stores["sessions"].replica, providers["claude"]):
            await closed.close()
    assert [answer.status_code for answer in answers] == [200] * len(messages), [answer.text for answer in answers]
    return [answer.json() for answer in answers]


async def test_anthropics_model_is_the_stronger_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = {"chat_model": "llava", "escalation_model": "claude"}
    asked = {"message": "Who won the world cup?"}
    (reply,) = await replies(models, tmp_path, monkeypatch, asked)
    assert (reply["model"], reply["escalated"], reply["confidence"]) == ("claude", True, None)
    assert (reply["answer"], reply["reasons"]) == ("Within 30 days.", ["nothing_relevant"])


async def test_anthropics_model_is_the_first_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = {"chat_model": "llava"}
    asked = {"message": "May I return unworn shoes?", "model": "claude"}
    first, second = await replies(models, tmp_path, monkeypatch, asked, asked | {"escalate_to": "llava"})
    assert (first["model"], first["intent"], first["confidence"]) == ("claude", "human", None)
    assert [citation["document"] for citation in first["citations"]] == ["terms"]
    assert (second["model"], second["escalated"], second["session"]["turns"]) == ("llava", True, 2)
