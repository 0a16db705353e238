"""Sessions and support chat on a real cluster, with a small LLaVA of random weights: what it says is nonsense, but the
same nonsense each time."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import time
from collections.abc import Iterator
from typing import Any

import httpx
import psutil
import pytest

from tests.e2e.cluster import Cluster
from tests.e2e.routers.site import CONTEXT, Routers
from tests.support.waiting import until

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def running(two_routers: Routers) -> Cluster:
    return two_routers.cluster


@pytest.fixture
def client(running: Cluster) -> Iterator[httpx.Client]:
    with running.client() as made:
        yield made


def say(client: httpx.Client, session: str, content: Any, **fields: Any) -> dict[str, Any]:
    body = {"content": content, "max_tokens": 8, "temperature": 0, **fields}
    response = client.post(f"/v1/sessions/{session}/messages", json=body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def users_texts(client: httpx.Client, session: str) -> list[str]:
    response = client.get(f"/v1/sessions/{session}/messages")
    assert response.status_code == 200, response.text
    said = [message for message in response.json()["data"] if message["role"] == "user"]
    return [part["text"] for message in said for part in message["content"] if part["type"] == "text"]


def kill(running: Cluster, deployment: str) -> None:
    """Ends every replica's process as a crash would."""
    found = replicas(running, deployment)
    assert found
    for pid in found:
        os.kill(pid, signal.SIGKILL)


def replicas(running: Cluster, deployment: str) -> list[int]:
    """The processes of a deployment's replicas."""
    return [pid for pid in running.pids() if re.search(rf"ServeReplica:.*:{deployment}\b", title(pid))]


def title(pid: int) -> str:
    try:
        return " ".join(psutil.Process(pid).cmdline())
    except psutil.NoSuchProcess:
        return ""


def until_answered(client: httpx.Client, path: str) -> httpx.Response:
    """The first answer that is no 5xx."""
    for _ in range(1200):
        try:
            response = client.get(path, headers={"X-Argus-Timeout-Ms": "5000"})
        except httpx.TransportError:
            response = None
        if response is not None and response.status_code < 500:
            return response
        time.sleep(0.5)
    raise AssertionError(f"{path} was not answered again")


def test_five_turns_over_restarts_of_store_and_router(running: Cluster, client: httpx.Client, scene_png: bytes) -> None:
    made = client.post("/v1/sessions", json={"system": "Be brief.", "max_turns": 10}).json()
    session = made["id"]
    url = "data:image/png;base64," + base64.b64encode(scene_png).decode()
    picture = {"type": "image_url", "image_url": {"url": url}}
    first = say(client, session, [picture, {"type": "text", "text": "What is this?"}])
    assert first["object"] == "chat.completion" and first["session"]["images"] == 1
    second = say(client, session, "And its colour?")
    assert second["usage"]["prompt_tokens"] > first["usage"]["prompt_tokens"]
    assert second["session"]["tokens"] == second["usage"]["total_tokens"]

    kill(running, "sessions")
    third = say(client, session, "And its shape?")  # waits for the store, and asks again
    assert third["session"]["turns"] == 3 and third["usage"]["prompt_tokens"] > second["usage"]["prompt_tokens"]

    kill(running, "router")
    assert until_answered(client, f"/v1/sessions/{session}").json()["turns"] == 3
    fourth = say(client, session, "And its size?")

    kill(running, "sessions")
    until_answered(client, f"/v1/sessions/{session}")
    fifth = say(client, session, "Thank you.")
    assert fifth["session"]["turns"] == 5 and fifth["session"]["dropped"] == 0
    assert fifth["usage"]["prompt_tokens"] > fourth["usage"]["prompt_tokens"]
    questions = ["What is this?", "And its colour?", "And its shape?", "And its size?", "Thank you."]
    assert users_texts(client, session) == questions

    # The same conversation sent in one piece is the same prompt: the model was shown all that was said.
    said = client.get(f"/v1/sessions/{session}/messages").json()["data"]
    answers = [message["content"] for message in said if message["role"] == "assistant"]
    messages: list[dict[str, Any]] = [{"role": "system", "content": "Be brief."}]
    for i, (question, answer) in enumerate(zip(questions, answers, strict=True)):
        content: Any = [picture, {"type": "text", "text": question}] if i == 0 else question
        messages += [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]
    body = {"model": "llava", "messages": messages[:-1], "max_tokens": 8, "temperature": 0}
    whole = client.post("/v1/chat/completions", json=body).json()
    assert whole["usage"] == fifth["usage"] and whole["choices"] == fifth["choices"]
    assert client.delete(f"/v1/sessions/{session}").json()["deleted"] is True
    assert client.get(f"/v1/sessions/{session}").status_code == 404


def test_a_conversation_longer_than_the_context_goes_on(client: httpx.Client) -> None:
    session = client.post("/v1/sessions", json={}).json()["id"]
    for _ in range(3):
        assert say(client, session, "x" * 250)["session"]["dropped"] == 0
    answer = say(client, session, "y" * 250)
    assert answer["session"]["dropped"] >= 1 and answer["usage"]["total_tokens"] <= CONTEXT
    assert users_texts(client, session)[-1] == "y" * 250
    alone = client.post(f"/v1/sessions/{session}/messages", json={"content": "z" * 2000})
    assert (alone.status_code, alone.json()["error"]["code"]) == (400, "prompt_too_long")
    assert alone.json()["error"]["param"] == "content" and users_texts(client, session)[-1] == "y" * 250


def test_streams_and_readers_who_leave(running: Cluster, client: httpx.Client) -> None:
    session = client.post("/v1/sessions", json={}).json()["id"]
    path = f"/v1/sessions/{session}/messages"
    body = {"content": "hello", "max_tokens": 8, "temperature": 0, "stream": True}
    with client.stream("POST", path, json=body) as response:
        lines = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    assert lines[-1] == "[DONE]"
    chunks = [json.loads(line) for line in lines[:-1]]
    streamed = "".join(choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"])
    assert chunks[-1]["session"]["turns"] == 1
    (answer,) = [m["content"] for m in client.get(path).json()["data"] if m["role"] == "assistant"]
    assert answer == streamed

    (pid,) = replicas(running, "llava")
    model = psutil.Process(pid)
    model.suspend()  # so that no answer comes before the reader has left
    try:
        with pytest.raises(httpx.ReadTimeout):
            client.post(path, json={**body, "content": "leave"}, timeout=2)
        time.sleep(5)  # until all on the way know that the reader has left
    finally:
        model.resume()

    def said_again() -> bool:
        again = client.post(path, json={**body, "stream": False, "content": "again"})
        assert again.is_success or again.json()["error"]["code"] == "session_busy", again.text
        return again.is_success

    assert until(said_again), "the server notices that nobody reads, and gives the turn back"
    assert users_texts(client, session) == ["hello", "again"]


def test_support_answers_from_documents_in_a_session(running: Cluster, client: httpx.Client) -> None:
    terms = "Unworn shoes may be returned within 30 days.\n\nShipping takes five days.\n\nGift cards never expire."
    document = client.put("/v1/knowledge/shop/documents/terms", json={"text": terms, "title": "Terms"}).json()
    assert (document["chunks"], document["characters"]) == (3, len(terms))
    found = client.post("/v1/knowledge/shop/search", json={"query": "return unworn shoes", "k": 3}).json()
    assert "shoes" in next(chunk["text"] for chunk in found["chunks"] if "returned" in chunk["text"])
    assert found["coverage"] > 0.9 and found["similarity"] is not None

    session = client.post("/v1/sessions", json={}).json()["id"]
    body = {"knowledge": "shop", "message": "return unworn shoes within 30 days", "session": session}
    reply = client.post("/v1/support", json=body)
    assert reply.status_code == 200, reply.text
    answer = reply.json()
    assert answer["intent"] in ("question", "problem", "request", "complaint", "human", "other")
    assert answer["sentiment"] in ("positive", "neutral", "negative", "angry")
    assert "nothing_relevant" not in answer["reasons"] and 0 < answer["confidence"] <= 1
    assert answer["escalated"] == bool(answer["reasons"]) == (answer["model"] == "stronger")
    assert all(citation["document"] == "terms" for citation in answer["citations"])
    assert answer["session"]["turns"] == 1

    kill(running, "docs")  # what was stored is there again with the store
    beyond = client.post("/v1/support", json={**body, "message": "zebra trombone"}).json()
    assert (beyond["model"], beyond["escalated"]) == ("stronger", True)
    assert "nothing_relevant" in beyond["reasons"] and beyond["session"]["turns"] == 2
    assert users_texts(client, session) == [body["message"], "zebra trombone"]
    assert client.get("/v1/knowledge/shop/documents/terms").json()["text"] == terms
    assert client.delete("/v1/knowledge/shop").json()["documents"] == 1
