"""BLIP-2: a question about one new picture."""

from __future__ import annotations

from benchmarks.loadtest.user import Answer, Due
from benchmarks.workloads.asking import MixUser, Requests, check, knows_scenes, post_jpeg
from benchmarks.workloads.chosen import pictures

_MODEL = "blip2"
_MAX_TOKENS = 16


class Ask(Requests):
    """Colour or shape of the only object."""

    def prepare(self) -> None:
        self.pictures = pictures("easy")
        self.truth = knows_scenes(self.client, _MODEL)

    def send(self, kind: str, due: Due) -> Answer:
        picture, image = self.pictures.take(due.number)
        asked, wanted = ("colour", picture.colour) if due.number % 2 else ("shape", picture.shape)
        question = f"What {asked} is the object?"
        body = post_jpeg(self.client, "/v1/vqa", image, model=_MODEL, question=question, max_tokens=_MAX_TOKENS)
        said = body["results"][0]["answer"].strip()
        check(said == wanted if self.truth else bool(said), said, wanted)
        return Answer(kind, path=_MODEL, tokens=body["usage"]["completion_tokens"])


class Blip2Vqa(MixUser):
    """See the module's text."""

    workload = "blip2_vqa"
    requests = Ask
