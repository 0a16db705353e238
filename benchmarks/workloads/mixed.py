"""Production traffic: requests of the other workloads, and a few that must be refused."""

from __future__ import annotations

from dataclasses import replace

import orjson

from benchmarks.loadtest.user import Answer, Due, Failed
from benchmarks.workloads.asking import INVALID, JPEG, WRONG, MixUser, Requests, post, post_jpeg
from benchmarks.workloads.blip2_vqa import Ask
from benchmarks.workloads.classification import Classify
from benchmarks.workloads.florence2 import See
from benchmarks.workloads.image_search import Search
from benchmarks.workloads.llava_chat import Chat
from benchmarks.workloads.mix import chosen, mix_of
from benchmarks.workloads.moderation import Moderate
from benchmarks.workloads.splat import View

_PARTS: dict[str, type[Requests]] = {
    "image_search": Search,
    "classification": Classify,
    "moderation": Moderate,
    "blip2_vqa": Ask,
    "llava_chat": Chat,
    "florence2": See,
    "splat": View,
}


class Traffic(Requests):
    """A request of one of the parts, each with its own mix; or one that is invalid."""

    def prepare(self) -> None:
        self.mix = mix_of("mixed")
        self._parts = {name: _PARTS[name](self.client) for name in self.mix if name in _PARTS}
        for part in self._parts.values():
            part.prepare()
        self.truth = all(part.truth for part in self._parts.values())

    def send(self, kind: str, due: Due) -> Answer:
        if (code := self.mix[kind].refused) is not None:
            return self._refused(kind, code, due.number)
        return replace(self._parts[kind].send(chosen(mix_of(kind), kind, due.number), due), kind=kind)

    def _refused(self, kind: str, code: str, number: int) -> Answer:
        """Sends what must be refused, and is pleased when it is, with the right code."""
        try:
            self._invalid(kind, number)
        except Failed as refusal:
            if refusal.code == code:
                return Answer(INVALID, path="refused")
            raise Failed(WRONG, f"{kind} was refused with {refusal.code!r}, not with {code!r}: {refusal}") from None
        raise Failed(WRONG, f"{kind} was answered; it must be refused with {code!r}")

    def _invalid(self, kind: str, number: int) -> None:
        image = b"no picture at all, number %d" % number
        if kind == "not_an_image":
            post_jpeg(self.client, "/v1/classify", image, labels="red,blue")
        elif kind == "no_labels":
            self.client.accept(post(self.client, "/v1/classify", image, JPEG))
        else:
            body = {"model": f"no-such-{number}", "messages": [{"role": "user", "content": "Hello"}]}
            self.client.accept(post(self.client, "/v1/chat/completions", orjson.dumps(body)))


class Mixed(MixUser):
    """See the module's text."""

    workload = "mixed"
    requests = Traffic
