"""The moderation cascade: pictures that CLIP is sure of, and a twentieth of which it is not."""

from __future__ import annotations

from typing import ClassVar

from benchmarks.loadtest.user import Answer, Due
from benchmarks.workloads.asking import MixUser, Requests, check, infer, knows_scenes, post_jpeg
from benchmarks.workloads.chosen import pictures


class Moderate(Requests):
    """What the cascade says of the largest object's colour, and which step said it."""

    cascade: ClassVar[str] = "moderation"
    last_model: ClassVar[str | None] = "llava"

    def prepare(self) -> None:
        self.pictures = {"easy": pictures("easy"), "hard": pictures("hard")}
        self.truth = all(knows_scenes(self.client, model) for model in ("clip", self.last_model) if model)
        card = self.client.accept(self.client.http.get(f"/v1/cascades/{self.cascade}"))
        self.first_step = card["steps"][0]["name"]
        self.labels = tuple(card["labels"] or ())

    def send(self, kind: str, due: Due) -> Answer:
        level, _, grpc = kind.partition("_")
        picture, image = self.pictures[level].take(due.number)
        said, answer = self._over_grpc(kind, image) if grpc else self._over_http(kind, image)
        wanted = (picture.colour,) if self.truth else self.labels
        check(said in wanted, said, wanted)
        return answer

    def _over_http(self, kind: str, image: bytes) -> tuple[str, Answer]:
        body = post_jpeg(self.client, f"/v1/cascades/{self.cascade}", image, explain=False)
        result = body["results"][0]
        usage, step = result["usage"], result["step"]
        answer = Answer(kind, step, usage["usd"], usage["completion_tokens"], escalated=step != self.first_step)
        return result["answer"], answer

    def _over_grpc(self, kind: str, image: bytes) -> tuple[str, Answer]:
        outputs = infer(self.client, f"{self.cascade}.cascade", {"IMAGE": [image]}, {"explain": False})
        step = outputs["STEP"][0].decode()
        return outputs["ANSWER"][0].decode(), Answer(kind, step, escalated=step != self.first_step)


class Moderation(MixUser):
    """See the module's text."""

    workload = "moderation"
    requests = Moderate
