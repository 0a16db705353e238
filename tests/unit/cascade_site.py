"""A router with cascades over scripted models."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from deployments.generation.messages import ChatEvent, ChatRequest, TokenLogprob
from deployments.messages import ClassifyRequest, Scores
from tests.unit.fakes import FakeGenerator, FakeModel, Site, cluster

MODELS = {
    "clip": {"kind": "clip", "checkpoint": "openai/clip-vit-large-patch14"},
    "llava": {"kind": "llava", "checkpoint": "llava-hf/llava-1.5-7b-hf"},
    "index": {"kind": "vector_index"},
}
READ = {"name": "read", "use": "llava", "task": "extract", "accept": {"rule": "schema"}}
ASKED = {"name": "ask", "use": "llava", "task": "answer"}
CAPTIONED = {"name": "say", "use": "llava", "task": "caption"}
SCREENED = {
    "answer": "label",
    "labels": ["safe", "knife"],
    "policy": {"allow": ["safe"], "block": ["knife"]},
    "steps": [
        {"name": "screen", "use": "clip", "task": "classify", "accept": {"rule": "confidence", "at_least": 0.9}},
        {"name": "analyse", "use": "llava", "task": "choose", "prompt": "Safe or knife?"},
    ],
}
CASCADES: dict[str, Any] = {
    "moderation": SCREENED,
    "vqa": {"answer": "text", "steps": [ASKED]},
    "product-caption": {"answer": "text", "steps": [CAPTIONED]},
    "product-attributes": {"answer": "json", "json_schema": {"required": ["colour"]}, "steps": [READ]},
}


class ScriptedClip(FakeModel):
    """Classifies as it is told: logits by label."""

    def reset(self) -> None:
        super().reset()
        self.logits: dict[str, float] = {"safe": 9.0}

    def _scores(self, image: Any, request: ClassifyRequest) -> Scores | Exception:
        found = super()._scores(image, request)
        if isinstance(found, Exception):
            return found
        logits = np.asarray([self.logits.get(label, 0.0) for label in request.labels], np.float32)
        return Scores(logits, logits)


class ScriptedChat(FakeGenerator):
    """Says what it is told."""

    def reset(self) -> None:
        super().reset()
        self.says = "knife"

    def events(self, request: ChatRequest) -> list[ChatEvent]:
        sure = (TokenLogprob(self.says, math.log(0.8)),) if request.sampling.logprobs is not None else ()
        return [ChatEvent(0, self.says, (1, 2), sure, "stop", 7)]


class CascadeSite(Site):
    """A site with the cascades of this module; `screen` and `chat` are its models."""

    def __init__(self, **sections: Any) -> None:
        self.screen, self.chat = ScriptedClip(), ScriptedChat()
        config = cluster(**{"models": MODELS, "cascades": CASCADES, **sections})
        super().__init__(config, more={"clip": self.screen, "llava": self.chat})

    def reset(self) -> None:
        """As new."""
        super().reset()
        self.screen.reset()
        self.chat.reset()
