"""Providers where only models of ours were thought of: in sessions, and as the stronger model of support."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from serve.config.load import ConfigErrors, parse
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
