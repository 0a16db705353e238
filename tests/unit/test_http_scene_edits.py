"""`/v1/scenes/{name}/edits` and `/select`: what a request means, what is refused, and what a text names."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest

from deployments.florence2.messages import Answer, LabelledBox, Polygons, SeenImage, VisionRequest, VisionResult
from deployments.messages import ClassifyRequest, ClassifyResult, ModelInfo, RawImage, Scores
from deployments.splat import edits
from deployments.splat.gaussians import Gaussians
from deployments.splat.scene_file import write
from serve.context import RequestContext
from serve.errors import ModelFailed
from tests.unit.scene_site import MODELS, SceneSite
from tests.unit.test_http_skins import body_of, error_of

COUNT = 20
# In a row along x, from 0 to 19.
MEANS = np.stack([np.arange(COUNT), np.zeros(COUNT), np.zeros(COUNT)], axis=1).astype(np.float32)


def scene(means: np.ndarray[Any, np.dtype[np.float32]] = MEANS) -> bytes:
    count = len(means)
    return write(
        Gaussians(
            means,
            np.tile(np.array([1, 0, 0, 0], np.float32), (count, 1)),
            np.full((count, 3), 0.1, np.float32),
            np.full(count, 0.5, np.float32),
            np.zeros((count, 1, 3), np.float32),
        )
    )


class FakeFlorence2:
    """A `ModelHandle`: finds what it is told to find.

    Attributes:
        seen: answers to the pictures, in order.
    """

    def __init__(self) -> None:
        self.seen: list[Answer | Exception] = []
        self.requests: list[VisionRequest] = []

    async def call(self, method: str, context: RequestContext, *args: Any, **kwargs: Any) -> Any:
        if method == "info":
            return ModelInfo("cpu", 1.0)
        request: VisionRequest = args[0]
        self.requests.append(request)
        pictures = [image.pixels for image in request.images if isinstance(image, RawImage)]
        answers = [*self.seen, *([Answer()] * len(pictures))][: len(pictures)]
        return VisionResult(
            tuple(SeenImage(p.shape[1], p.shape[0], (answer,)) for p, answer in zip(pictures, answers, strict=True))
        )


BOX = Answer(boxes=(LabelledBox((100.0, 100.0, 200.0, 200.0), "a hat"),))
OUTLINE = Answer(polygons=(Polygons((((0.0, 0.0), (100.0, 0.0), (100.0, 100.0)),), "a hat"),), boxes=BOX.boxes)
WHOLE = Answer(boxes=(LabelledBox((0.0, 0.0, 384.0, 384.0), "a hat"),))


@pytest.fixture(scope="module")
def made() -> tuple[SceneSite, FakeFlorence2]:
    fake = FakeFlorence2()
    florence = {"kind": "florence2", "checkpoint": "florence-community/Florence-2-base"}
    splat = {"kind": "splat", "scenes": "scenes"}
    models = {**MODELS, "splat": splat, "florence2": florence}
    return SceneSite(models=models, more={"florence2": fake}), fake


@pytest.fixture
def fake(made: tuple[SceneSite, FakeFlorence2]) -> FakeFlorence2:
    made[1].__init__()  # type: ignore[misc]
    return made[1]


@pytest.fixture
def site(made: tuple[SceneSite, FakeFlorence2]) -> SceneSite:
    site, _ = made
    site.reset()
    site.scenes.put_scene("room", scene())
    site.scenes.put_scene("field", b"a field", "nerf")
    return site


@pytest.fixture
async def client(site: SceneSite, fake: FakeFlorence2) -> AsyncIterator[httpx.AsyncClient]:
    async with site.client() as opened:
        yield opened


async def edit(client: httpx.AsyncClient, *given: dict[str, Any], **fields: Any) -> httpx.Response:
    return await client.post("/v1/scenes/room/edits", json={"edits": list(given), **fields})


async def select(client: httpx.AsyncClient, where: dict[str, Any], name: str = "room", **fields: Any) -> httpx.Response:
    return await client.post(f"/v1/scenes/{name}/select", json={"where": where, **fields})


ALL = {"all": True}
BITS = base64.b64encode(np.packbits(np.arange(COUNT) < 3, bitorder="little").tobytes()).decode()
MEANT: list[tuple[dict[str, Any], edits.Edit]] = [
    (
        {"op": "crop", "where": {"box": {"min": [0, 0, 0], "max": [1, 1, 1]}}},
        edits.Crop(edits.Box((0, 0, 0), (1, 1, 1))),
    ),
    (
        {"op": "delete", "where": {"sphere": {"centre": [1, 2, 3], "radius": 4}}},
        edits.Delete(edits.Sphere((1, 2, 3), 4)),
    ),
    ({"op": "duplicate", "where": ALL, "offset": [1, 0, 0]}, edits.Duplicate(edits.All(), (1, 0, 0))),
    ({"op": "translate", "where": ALL, "offset": [1, 0, 0]}, edits.Translate(edits.All(), (1, 0, 0))),
    (
        {
            "op": "rotate",
            "where": {"none_of": {"sphere": {"centre": [0, 0, 0], "radius": 1}}},
            "axis": [0, 0, 1],
            "degrees": 90,
        },
        edits.Rotate(edits.Not(edits.Sphere((0, 0, 0), 1)), (0, 0, 1), 90),
    ),
    ({"op": "scale", "where": ALL, "factor": 2, "centre": [0, 0, 0]}, edits.Scale(edits.All(), 2, (0, 0, 0))),
    ({"op": "recolour", "where": ALL, "rgb": "#ff0000", "flat": True}, edits.Recolour(edits.All(), (1, 0, 0), True)),
    ({"op": "recolour", "where": ALL, "tint": [1, 0.5, 1]}, edits.Recolour(edits.All(), tint=(1, 0.5, 1))),
    (
        {"op": "fade", "where": {"any_of": [ALL, {"mask": {"bits": BITS, "count": COUNT}}]}, "factor": 0.5},
        edits.Fade(edits.AnyOf((edits.All(), edits.Mask(base64.b64decode(BITS), COUNT))), 0.5),
    ),
    (
        {"op": "fade", "where": {"all_of": [ALL, ALL]}, "factor": 0},
        edits.Fade(edits.AllOf((edits.All(), edits.All())), 0),
    ),
    ({"op": "merge", "scene": "hall", "scale": 2, "offset": [1, 2, 3]}, edits.Merge("hall", None, 2, offset=(1, 2, 3))),
]


async def test_what_edits_mean(client: httpx.AsyncClient, site: SceneSite) -> None:
    body = body_of(await edit(client, *(given for given, _ in MEANT)))
    assert (body["version"], len(body["versions"])) == (2, 2)
    assert site.scenes.edits == [tuple(meant for _, meant in MEANT)]


async def test_an_edit_of_a_version_that_has_passed(client: httpx.AsyncClient, site: SceneSite) -> None:
    step = {"op": "translate", "where": ALL, "offset": [1, 0, 0]}
    body_of(await edit(client, step, base_version=1))
    assert error_of(await edit(client, step, base_version=1), 409)["code"] == "version_conflict"
    body_of(await edit(client, step))
    assert error_of(await edit(client, step, base_version=9), 404)["code"] == "version_not_found"


async def test_an_edit_of_a_version_that_is_kept_no_more(client: httpx.AsyncClient, site: SceneSite) -> None:
    step = {"op": "translate", "where": ALL, "offset": [1, 0, 0]}
    body_of(await edit(client, step))
    room = site.scenes.scenes["room"]
    site.scenes.scenes["room"] = replace(room, versions=room.versions[1:])  # the store keeps so many
    error = error_of(await edit(client, step, base_version=1), 409)
    assert (error["code"], error["param"]) == ("version_conflict", "base_version")
    error = error_of(await edit(client, step, base_version=9), 404)
    assert (error["code"], error["param"]) == ("version_not_found", "base_version")


def nested(depth: int) -> dict[str, Any]:
    return ALL if depth == 0 else {"none_of": nested(depth - 1)}


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"op": "explode", "where": ALL}, "edits[0].op"),
        ({"where": ALL}, "edits[0].op"),
        ({"op": "crop"}, "edits[0].where"),
        ({"op": "crop", "where": {}}, "edits[0].where"),
        ({"op": "crop", "where": {"all": True, "text": "hat"}}, "edits[0].where"),
        ({"op": "crop", "where": {"all": False}}, "edits[0].where.all"),
        ({"op": "crop", "where": {"box": {"min": [0, 0, 0]}}}, "edits[0].where.box.max"),
        ({"op": "crop", "where": {"sphere": {"centre": [0, 0, 0], "radius": 0}}}, "edits[0].where.sphere.radius"),
        ({"op": "crop", "where": {"mask": {"bits": "%%", "count": 8}}}, "edits[0].where.mask.bits"),
        ({"op": "crop", "where": {"mask": {"bits": "AAAA", "count": 8}}}, "edits[0].where.mask.bits"),
        ({"op": "crop", "where": {"any_of": [ALL, {"sphere": {}}]}}, "edits[0].where.any_of[1].sphere.centre"),
        ({"op": "crop", "where": {"none_of": {}}}, "edits[0].where.none_of"),
        ({"op": "crop", "where": {"none_of": {"nothing": 1}}}, "edits[0].where.none_of.nothing"),
        ({"op": "crop", "where": nested(20)}, "edits[0].where" + 8 * ".none_of"),
        ({"op": "crop", "where": {"any_of": [{"all_of": [ALL] * 8}] * 8}}, "edits[0].where"),
        ({"op": "scale", "where": ALL, "factor": 0}, "edits[0].factor"),
        ({"op": "translate", "where": ALL}, "edits[0].offset"),
        ({"op": "merge", "scene": "../x"}, "edits[0].scene"),
        ({"op": "merge", "scene": "hall", "scale": -1}, "edits[0].scale"),
        ({"op": "recolour", "where": ALL, "rgb": "red"}, "edits[0].rgb"),
        ({"op": "fade", "where": ALL, "factor": 1, "by": 2}, "edits[0].by"),
    ],
)
async def test_edits_that_are_none(
    client: httpx.AsyncClient, site: SceneSite, given: dict[str, Any], param: str
) -> None:
    assert error_of(await edit(client, given), 400)["param"] == param
    assert site.scenes.edits == []


async def test_how_many_edits(client: httpx.AsyncClient) -> None:
    assert error_of(await edit(client), 400)["param"] == "edits"
    many = [{"op": "fade", "where": ALL, "factor": 1}] * 65
    assert error_of(await edit(client, *many), 400)["param"] == "edits"


async def test_a_selection_is_looked_at(client: httpx.AsyncClient, site: SceneSite) -> None:
    body = body_of(await select(client, {"sphere": {"centre": [5, 0, 0], "radius": 2.5}}))
    assert {key: body[key] for key in ("scene", "version", "gaussians", "of", "texts")} == {
        "scene": "room",
        "version": 1,
        "gaussians": 5,
        "of": COUNT,
        "texts": [],
    }
    assert body["bounds"] == {"min": [3, 0, 0], "max": [7, 0, 0], "centre": [5, 0, 0], "radius": 2}
    assert "mask" not in body
    none = body_of(await select(client, {"sphere": {"centre": [5, 9, 0], "radius": 1}}))
    assert (none["gaussians"], none["bounds"]) == (0, None)
    assert site.scenes.edits == []


async def test_a_mask_that_was_selected_selects_the_same(client: httpx.AsyncClient, site: SceneSite) -> None:
    where = {"box": {"min": [2, -1, -1], "max": [4, 1, 1]}}
    mask = body_of(await select(client, where, mask=True))["mask"]
    assert body_of(await select(client, {"mask": mask}, mask=True))["mask"] == mask
    body_of(await edit(client, {"op": "delete", "where": {"mask": mask}}))
    [[made]] = site.scenes.edits
    assert isinstance(made, edits.Delete) and isinstance(made.where, edits.Mask) and made.where.count == COUNT


async def test_only_the_centres_are_read(client: httpx.AsyncClient, site: SceneSite) -> None:
    await select(client, ALL)
    first = sum(length for _, length in site.scenes.reads)
    assert first < len(scene()) - 4 * COUNT * 9
    await select(client, ALL)
    assert sum(length for _, length in site.scenes.reads) == first  # kept


async def test_selections_that_are_none(client: httpx.AsyncClient) -> None:
    error = error_of(await select(client, {"mask": {"bits": "AA==", "count": 5}}), 400)
    assert (error["code"], error["param"]) == ("invalid_selection", "where")
    assert error_of(await select(client, ALL, "field"), 400)["code"] == "unsupported_edit"
    assert error_of(await select(client, ALL, "hall"), 404)["code"] == "scene_not_found"


async def test_a_text_names_gaussians(client: httpx.AsyncClient, site: SceneSite, fake: FakeFlorence2) -> None:
    fake.seen = [BOX, Answer(), OUTLINE, ModelFailed("once"), WHOLE]
    site.splat.cover = (np.array([1.0] * 4 + [0.1] * 15 + [0.0]), np.array([1.0] * 19 + [0.0]))
    body = body_of(await select(client, {"text": "a hat"}))
    assert (body["gaussians"], body["bounds"]["max"]) == (4, [3, 0, 0])
    [text] = body["texts"]
    assert text.pop("share") == pytest.approx(4 / 5.5)
    assert text == {"param": "where.text", "model": "florence2", "gaussians": 4, "found_in": 2, "looked": 12}
    [request] = fake.requests
    assert {task.text for task in request.tasks} == {"a hat"} and len(request.images) == 12
    [cover] = [one for one in site.splat.requests if type(one).method == "cover"]
    box, outline = cover.masks
    assert box[150, 150] and not box[50, 50] and box.sum() == 101 * 101
    assert outline[10, 50] and not outline[150, 150]
    drawn = [one for one in site.splat.requests if type(one).method == "render"]
    assert {camera.width for one in drawn for camera in one.cameras} == {384}


async def test_a_text_names_gaussians_of_a_small_scene(
    client: httpx.AsyncClient, site: SceneSite, fake: FakeFlorence2
) -> None:
    fake.seen = [BOX, BOX]
    site.splat.cover = (np.ones(COUNT), np.ones(COUNT))
    room = site.scenes.scenes["room"]
    bounds = replace(room.shown.bounds, radius=1e-4)
    site.scenes.scenes["room"] = replace(room, versions=(replace(room.shown, bounds=bounds),))
    assert body_of(await select(client, {"text": "a hat"}))["gaussians"] == COUNT
    for one in site.splat.requests:
        near = one.near if type(one).method == "cover" else one.options.near
        for camera in one.cameras:
            assert near < 0.1 * (np.linalg.norm(camera.position) - 1e-4)


async def test_what_no_picture_shows_goes_with_what_is_around_it(
    client: httpx.AsyncClient, site: SceneSite, fake: FakeFlorence2
) -> None:
    fake.seen = [BOX, BOX]
    total = np.array([1.0, 1, 1, 0, 1, 1, 1] + [1.0] * 12 + [0.0])
    site.splat.cover = (total * (np.arange(COUNT) < 7), total)
    body = body_of(await select(client, {"text": "a hat"}))
    assert body["gaussians"] == 7  # the fourth is hidden inside; the last is hidden elsewhere


async def test_a_text_is_found_once_for_an_edit(
    client: httpx.AsyncClient, site: SceneSite, fake: FakeFlorence2
) -> None:
    fake.seen = [BOX, BOX, BOX]
    site.splat.cover = (np.arange(COUNT) < 2, np.ones(COUNT))
    hat = {"none_of": {"text": "a hat"}}
    body_of(
        await edit(client, {"op": "recolour", "where": {"text": "a hat"}, "rgb": "#0f0"}, {"op": "crop", "where": hat})
    )
    [[first, second]] = site.scenes.edits
    assert first.where == edits.mask_of(np.arange(COUNT) < 2)
    assert second.where == edits.Not(first.where)


@pytest.mark.parametrize("seen", [[], [BOX], [WHOLE, WHOLE, WHOLE]])
async def test_nothing_is_found(
    client: httpx.AsyncClient, site: SceneSite, fake: FakeFlorence2, seen: list[Answer | Exception]
) -> None:
    fake.seen = seen
    site.splat.cover = (np.ones(COUNT), np.ones(COUNT))
    error = error_of(await edit(client, {"op": "delete", "where": {"text": "an elephant"}}), 404)
    assert (error["code"], error["param"]) == ("nothing_found", "edits[0].where.text")
    assert site.scenes.edits == []


async def test_marks_that_do_not_meet_in_space(client: httpx.AsyncClient, site: SceneSite, fake: FakeFlorence2) -> None:
    fake.seen = [BOX, BOX]
    site.splat.cover = (np.full(COUNT, 0.5), np.ones(COUNT))
    assert error_of(await select(client, {"text": "a hat"}), 404)["code"] == "nothing_found"


@pytest.mark.parametrize(("text", "code"), [(" ", "empty_text"), ("a" * 61, "text_too_long")])
async def test_texts_that_are_none(client: httpx.AsyncClient, text: str, code: str) -> None:
    error = error_of(await select(client, {"all_of": [ALL, {"text": text}]}), 400)
    assert (error["code"], error["param"]) == (code, "where.all_of[1].text")


async def test_a_text_behind_an_edit_that_changes_the_order(client: httpx.AsyncClient) -> None:
    step = {"op": "delete", "where": {"text": "a hat"}}
    error = error_of(await edit(client, step, step), 400)
    assert error["param"] == "edits[1].where.text"
    many = {"any_of": [{"text": f"hat {i}"} for i in range(9)]}
    assert error_of(await select(client, many), 400)["code"] == "too_many_inputs"


async def test_clip_looks_for_it_where_there_is_no_other() -> None:
    class Reddish:
        """A `ModelHandle` of a classifier that takes for the thing what is red in its middle."""

        async def call(self, method: str, context: RequestContext, *args: Any, **kwargs: Any) -> Any:
            request: ClassifyRequest = args[0]
            red = [image.pixels[..., 0].mean() > 127 for image in request.images if isinstance(image, RawImage)]
            rows = [np.array([one, 1 - one, *[0] * (len(request.labels) - 2)], np.float32) for one in red]
            return ClassifyResult(tuple(Scores(row, row) for row in rows), 1.0)

    site = SceneSite(models={**MODELS, "splat": {"kind": "splat", "scenes": "scenes"}}, more={"clip": Reddish()})
    site.scenes.put_scene("room", scene())
    site.splat.cover = (np.arange(COUNT) < 2, np.ones(COUNT))
    site.splat.patch = (slice(130, 260), slice(0, 130))
    async with site.client() as client:
        body = body_of(await select(client, {"text": "a red thing"}))
    assert body["texts"][0]["model"] == "clip" and body["gaussians"] == 2
    cover = next(one for one in site.splat.requests if type(one).method == "cover")
    assert all(mask[195, 64] and not mask[195, 300] and not mask[30, 64] for mask in cover.masks)


async def test_a_cluster_that_knows_no_texts() -> None:
    models = {"scenes": {"kind": "scene_store"}, "splat": {"kind": "splat", "scenes": "scenes"}}
    site = SceneSite(models=models)
    site.scenes.put_scene("room", scene())
    async with site.client() as client:
        assert error_of(await select(client, {"text": "a hat"}), 404)["code"] == "not_configured"
