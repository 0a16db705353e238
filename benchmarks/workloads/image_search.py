"""Image search: a new shot of a scene must find that scene among others and among random vectors.

The index `load-test` stays on the target: other load generators may be asking it, and the next run uses it again.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson

from benchmarks.loadtest.user import Answer, Due
from benchmarks.workloads.asking import JSON, MixUser, Requests, check, knows_scenes, post, post_jpeg
from benchmarks.workloads.chosen import pictures

_MODEL = "clip"
_INDEX = "load-test"
_HITS = 5
_RANDOM = 2000
_A_REQUEST = 250


class Search(Requests):
    """The five nearest items of a picture."""

    def prepare(self) -> None:
        self.pictures = pictures("easy")
        self.truth = knows_scenes(self.client, _MODEL)
        self._create()
        for picture in self.pictures:
            # Always the same shot, by a salt that no request's has.
            self._add_image(str(picture.scene.index), picture.shot(2**63 - picture.scene.index, b"gallery"))
        self._add_random()

    def send(self, kind: str, due: Due) -> Answer:
        picture, image = self.pictures.take(due.number)
        body = post_jpeg(self.client, f"/v1/indexes/{_INDEX}/search", image, k=_HITS)
        found = [hit["id"] for hit in body["hits"]]
        check(len(found) == _HITS, found, f"{_HITS} hits")
        if self.truth:
            check(found[0] == str(picture.scene.index), found[0], str(picture.scene.index))
        return Answer(kind, path=_MODEL)

    def _create(self) -> None:
        """Several load generators may prepare the same index: what they say of it, and add to it, is the same.

        Raises:
            Failed: `index_exists`: there is one of this name that is something else.
        """
        self.client.accept(self.client.http.put(f"/v1/indexes/{_INDEX}", '{"model": "clip"}', headers=JSON))

    def _add_image(self, name: str, image: bytes) -> None:
        post_jpeg(self.client, f"/v1/indexes/{_INDEX}/items", image, id=name)

    def _add_random(self) -> None:
        dimension = self.client.accept(self.client.http.get(f"/v1/indexes/{_INDEX}"))["dimension"]
        items = _random(dimension)
        for first in range(0, len(items), _A_REQUEST):
            body = orjson.dumps({"items": items[first : first + _A_REQUEST]}, option=orjson.OPT_SERIALIZE_NUMPY)
            self.client.accept(post(self.client, f"/v1/indexes/{_INDEX}/items", body))


def _random(dimension: int) -> list[dict[str, Any]]:
    vectors = np.random.default_rng(0).standard_normal((_RANDOM, dimension), np.float32)
    return [{"id": f"random-{number}", "vector": vector} for number, vector in enumerate(vectors)]


class ImageSearch(MixUser):
    """See the module's text."""

    workload = "image_search"
    requests = Search
