"""Stand-ins for hosted models, and how the scenes of the load tests are chosen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml

from benchmarks.capacity.profiles import shipped_profiles
from benchmarks.workloads.chat import messages
from benchmarks.workloads.choose import choose
from benchmarks.workloads.chosen import FILE
from benchmarks.workloads.pictures import note_in, picture
from benchmarks.workloads.serving import latency_of, stand_in
from serve.errors import ConfigError


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARGUS_BENCH_CACHE", str(tmp_path_factory.getbasetemp() / "bench-cache"))


def test_a_stand_in_answers_what_the_picture_shows() -> None:
    with stand_in("gpt-4o") as keys, httpx.Client(trust_env=False, timeout=30) as client:
        authorised = {"Authorization": f"Bearer {Path(keys['api_key_file']).read_text()}"}
        for number in (1, 2):
            shown = picture(number, "hard")
            body = {"model": "gpt-4o", "messages": messages(shown.shot(0, b"salt"), "What colour is it?")}
            answer = client.post(f"{keys['base_url']}/chat/completions", json=body, headers=authorised)
            assert answer.json()["choices"][0]["message"]["content"] == shown.colour


def test_a_stand_in_is_as_fast_as_the_profile_says() -> None:
    assert latency_of("gpt-4o") == shipped_profiles()["t4"].providers["gpt-4o"].latency
    with pytest.raises(ConfigError, match="gpt-4o"):
        latency_of("gpt-17")


def test_scenes_are_chosen_by_what_the_models_say() -> None:
    """Models that are right but for Florence-2 about every third picture, and whose CLIP is sure of every second."""
    seen: list[bytes] = []

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request.content)
        shown = next(one for one in easy + hard if note_in(request.content) == one.colour and same(one, request))
        return httpx.Response(200, json=answered(request, shown))

    def same(one: Any, request: httpx.Request) -> bool:
        return any(request.content == one.shot(number, b"choose") for number in range(3))

    def answered(request: httpx.Request, shown: Any) -> dict[str, Any]:
        index, path = shown.scene.index, request.url.path
        if path.startswith("/v1/cascades"):
            sure = shown.scene.difficulty == "easy" and index % 2 == 0
            trace = [{"confidence": 0.99 if sure else 0.5}]
            return {"results": [{"answer": shown.colour, "step": "screen" if sure else "analyse", "trace": trace}]}
        if path == "/v1/vqa":
            question = request.url.params["question"]
            words = [word for name, word in (("colour", shown.colour), ("shape", shown.shape)) if name in question]
            return {"results": [{"answer": " ".join(words)}]}
        name = f"{shown.colour} {shown.shape}" if index % 3 else "grey cloud"
        return {"results": [{"boxes": [{"label": name}], "text": f"a {name}"}]}

    easy, hard = ([picture(number, level) for number in range(9)] for level in ("easy", "hard"))  # type: ignore[arg-type]
    with httpx.Client(transport=httpx.MockTransport(handle), base_url="http://argus") as client:
        assert choose(client, 3) == {"easy": [2, 4, 8], "hard": [0, 1, 2]}


def test_the_shipped_scenes_are_distinct_and_enough() -> None:
    scenes = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    assert set(scenes) == {"easy", "hard"}
    for chosen in scenes.values():
        assert len(set(chosen)) == len(chosen) == 64
        assert np.all(np.diff(chosen) > 0)
