"""Views of a scene of Gaussians, each from a camera of its own."""

from __future__ import annotations

import io

import orjson
from PIL import Image, ImageStat

from benchmarks.loadtest.user import Answer, Due, Failed
from benchmarks.workloads.asking import MixUser, Requests, check, post
from benchmarks.workloads.mix import draw

_SCENE = "table"
_WIDTH, _HEIGHT = 320, 240
# Standard deviation of the grey levels of an eighth of the pixels: an empty picture has 0.
_LEAST_CONTRAST = 8.0


class View(Requests):
    """One picture from somewhere around the scene."""

    def send(self, kind: str, due: Due) -> Answer:
        orbit = {
            "azimuth_deg": 360 * draw("azimuth", due.number),
            "elevation_deg": 10 + 50 * draw("elevation", due.number),
        }
        body = {"camera": {"orbit": orbit}, "width": _WIDTH, "height": _HEIGHT, "format": "jpeg"}
        response = post(self.client, f"/v1/scenes/{_SCENE}/render", orjson.dumps(body))
        if response.status_code != 200:
            self.client.accept(response)
        check_view(response.content)
        return Answer(kind, path="splat")


def check_view(jpeg: bytes) -> None:
    """Decodes an eighth of the picture, which costs the load generator next to nothing.

    Raises:
        Failed: `wrong_answer`: it is no JPEG of the size asked for, or empty.
    """
    try:
        with Image.open(io.BytesIO(jpeg), formats=["JPEG"]) as image:
            check(image.size == (_WIDTH, _HEIGHT), image.size, (_WIDTH, _HEIGHT))
            image.draft("L", (_WIDTH // 8, _HEIGHT // 8))
            contrast = ImageStat.Stat(image).stddev[0]
    except OSError as error:
        raise Failed("wrong_answer", f"the answer is no JPEG: {error}") from None
    check(contrast > _LEAST_CONTRAST, f"contrast {contrast:.1f}", f"above {_LEAST_CONTRAST}")


class Splat(MixUser):
    """See the module's text."""

    workload = "splat"
    requests = View
