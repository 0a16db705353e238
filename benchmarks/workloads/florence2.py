"""Florence-2: boxes and captions of one new picture."""

from __future__ import annotations

from benchmarks.loadtest.user import Answer, Due
from benchmarks.workloads.asking import MixUser, Requests, check, knows_scenes, post_jpeg
from benchmarks.workloads.chosen import pictures

_MODEL = "florence2"
_TASKS = {"detection": "object-detection", "caption": "caption"}


class See(Requests):
    """A task about the only object, decoded greedily."""

    def prepare(self) -> None:
        self.pictures = pictures("easy")
        self.truth = knows_scenes(self.client, _MODEL)

    def send(self, kind: str, due: Due) -> Answer:
        picture, image = self.pictures.take(due.number)
        body = post_jpeg(self.client, f"/v1/vision/{_TASKS[kind]}", image, model=_MODEL, mode="fast")
        result = body["results"][0]
        wanted = f"{picture.colour} {picture.shape}"
        if kind == "detection":
            labels = [box["label"] for box in result["boxes"]]
            check(labels == [wanted] if self.truth else bool(labels), labels, wanted)
        else:
            check(wanted in result["text"] if self.truth else bool(result["text"]), result["text"], wanted)
        return Answer(kind, path=_MODEL)


class Florence2(MixUser):
    """See the module's text."""

    workload = "florence2"
    requests = See
