"""Spans of a generating replica on real engines, with small random checkpoints."""

from __future__ import annotations

import importlib.util
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from deployments.generation.messages import ChatRequest, ImagePart, Message, Sampling, Text
from deployments.generation.replica import GenerativeReplica
from deployments.messages import Call, EncodedImage
from deployments.tracing import traced
from serve.config.models import GenerativeModel
from serve.config.tracing import Tracing
from serve.media.image import ImageLimits
from tests.support import transformers_cases, vllm_cases
from tests.support.spans import SAMPLED, TRACE, Recorded, attribute, recording, trace_of
from tests.unit.fakes import png

# pytest finds fixtures by the names of a module.
checkpoint = vllm_cases.checkpoint
forked_engines = vllm_cases.forked_engines
folders = transformers_cases.folders

ASKED = ChatRequest(
    (Message("user", (ImagePart(EncodedImage(png(size=(40, 40)))), Text("private words"))),),
    Sampling(max_tokens=5, temperature=0.0),
)


@asynccontextmanager
async def running(config: GenerativeModel) -> AsyncIterator[Any]:
    """A replica as Ray Serve makes it."""
    kind: Any = traced(GenerativeReplica, Tracing(endpoint="http://127.0.0.1:9"), "test", "llava")
    replica = kind.__new__(kind)
    await replica.__init__("llava", config, ImageLimits())
    try:
        yield replica
    finally:
        await replica.__del__()


def check_answer(spans: Recorded) -> None:
    """What both engines say of an answer."""
    server = spans.one("llava.chat", model="llava", method="chat")
    assert trace_of(server) == TRACE
    assert spans.below(server) == ["render", "generate"]
    generate = spans.one("generate")
    assert attribute(generate, "gen_ai.usage.output_tokens") == 5
    assert int(str(attribute(generate, "gen_ai.usage.input_tokens"))) > 5
    assert attribute(generate, "gen_ai.response.finish_reasons") == ("length",)
    assert 0 < float(str(attribute(generate, "gen_ai.response.time_to_first_chunk"))) < 600
    assert "private" not in "".join(span.to_json() for span in spans.spans)


async def test_on_transformers_the_batch_shows(folders: dict[str, Path]) -> None:
    with recording() as spans:
        async with running(transformers_cases.config_of(folders["llava"])) as replica:
            spans.exporter.clear()
            await replica.chat(ASKED, Call("r", 60.0, SAMPLED))
    check_answer(spans)
    assert spans.below(spans.one("generate")) == ["queue", "forward"]
    assert attribute(spans.one("batch"), "argus.batch.items") == 1


@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
async def test_on_vllm_the_engines_own_stages_show(checkpoint: Path) -> None:
    with recording() as spans:
        async with running(vllm_cases.model(checkpoint)) as replica:
            spans.exporter.clear()
            await replica.chat(ASKED, Call("r", 60.0, SAMPLED))
            check_answer(spans)
            assert spans.below(spans.one("generate")) == ["queue", "prefill"]
            queue, prefill, generate = (spans.one(name) for name in ("queue", "prefill", "generate"))
            assert generate.start_time <= queue.start_time <= queue.end_time == prefill.start_time
            assert prefill.end_time <= generate.end_time
            spans.exporter.clear()
            assert len((await replica.chat(ASKED, Call("r", 60.0))).answers) == 1
            assert spans.spans == []
