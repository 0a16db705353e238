"""Zero-shot classification of one new picture, over HTTP and the Open Inference Protocol."""

from __future__ import annotations

from benchmarks.loadtest.user import Answer, Due
from benchmarks.workloads.asking import MixUser, Requests, check, infer, knows_scenes, post_jpeg
from benchmarks.workloads.chosen import pictures
from demo.scenes import COLOURS

# The label alone: the demo CLIP is right about every scene shown here with it.
_TEMPLATES = "plain"
_MODEL = "clip"


class Classify(Requests):
    """Which of ten colours the largest object has."""

    def prepare(self) -> None:
        self.pictures = pictures("easy")
        self.truth = knows_scenes(self.client, _MODEL)
        self._labels = [colour.encode() for colour in COLOURS]

    def send(self, kind: str, due: Due) -> Answer:
        picture, image = self.pictures.take(due.number)
        said = self._over_grpc(image) if kind == "grpc" else self._over_http(image)
        wanted = picture.colour if self.truth else COLOURS
        check(said in wanted if isinstance(wanted, tuple) else said == wanted, said, wanted)
        return Answer(kind, path=_MODEL)

    def _over_http(self, image: bytes) -> str:
        body = post_jpeg(
            self.client, "/v1/classify", image, model=_MODEL, labels=",".join(COLOURS), templates=_TEMPLATES, top_k=1
        )
        return str(body["results"][0]["label"])

    def _over_grpc(self, image: bytes) -> str:
        inputs = {"IMAGE": [image], "LABELS": self._labels}
        outputs = infer(self.client, f"{_MODEL}.classify", inputs, {"template_set": _TEMPLATES})
        probabilities = outputs["PROBABILITIES"]
        return COLOURS[int(probabilities.argmax())]


class Classification(MixUser):
    """See the module's text."""

    workload = "classification"
    requests = Classify
