"""`/v1/reconstructions` over a real job store and a scripted model: submitted, watched, stored, ended, refused."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import zipfile
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from deployments.jobs.replica import JobStoreReplica
from deployments.jobs.types import Failure
from serve.config.models import JobStoreModel
from serve.context import RequestContext
from serve.errors import Overloaded, Unavailable
from serve.protocol.http import unguarded
from serve.protocol.upload_room import UploadRoom
from tests.unit.fakes import KEYS, MAX_BODY, MAX_UPLOAD, Site, png
from tests.unit.reconstruction_site import REPORT, ReconstructionSite

ROOT = "/v1/reconstructions"
PHOTOS = [("photos", (f"{colour}.png", png(colour), "image/png")) for colour in ("red", "green", "blue")]


@pytest.fixture(scope="module")
def built() -> ReconstructionSite:
    return ReconstructionSite()


@pytest.fixture
async def site(
    built: ReconstructionSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[ReconstructionSite]:
    monkeypatch.setattr("serve.reconstructions._LOOK_S", 0.01)
    built.reset()
    built.jobs.__init__(JobStoreReplica(JobStoreModel(kind="job_store", path=str(tmp_path))))  # type: ignore[misc]
    yield built
    await built.jobs.replica.close()


@pytest.fixture
async def client(site: ReconstructionSite) -> AsyncIterator[httpx.AsyncClient]:
    async with site.client(headers={"X-API-Key": KEYS["alice"]}) as made:
        yield made


def ok(response: httpx.Response, status: int = 200) -> dict[str, Any]:
    assert response.status_code == status, response.text
    answer: dict[str, Any] = response.json()
    return answer


def error_of(response: httpx.Response, status: int) -> tuple[str, str | None]:
    assert response.status_code == status, response.text
    error = response.json()["error"]
    return error["code"], error["param"]


async def submit(client: httpx.AsyncClient, **fields: str) -> str:
    response = await client.post(ROOT, data={"name": "garden", **fields}, files=PHOTOS)
    job = ok(response, 202)
    assert response.headers["location"] == f"{ROOT}/{job['id']}"
    return str(job["id"])


async def until(client: httpx.AsyncClient, job: str, seen: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    async with asyncio.timeout(60):
        while True:
            if seen(found := ok(await client.get(f"{ROOT}/{job}"))):
                return found
            await asyncio.sleep(0.01)


async def test_photos_become_a_scene_of_the_store(client: httpx.AsyncClient, site: ReconstructionSite) -> None:
    options = {"matching": "exhaustive", "mapper": "global", "up": "-y", "max_photos": "3"}
    job = await submit(client, quality="preview", method="3dgs", **options)
    waiting = ok(await client.get(f"{ROOT}/{job}"))
    assert (waiting["object"], waiting["status"], waiting["work"]) == ("reconstruction", "queued", None)
    async with site.runner().started():
        found = await until(client, job, lambda found: found["status"] == "succeeded")
    spec, media = site.reconstruction.started[job]
    assert (spec.quality, spec.matching, spec.up, spec.max_photos) == ("preview", "exhaustive", "-y", 3)
    assert (spec.method, spec.mapper) == ("3dgs", "global")
    assert media == tuple(file for _, (_, file, _) in PHOTOS)
    (put,) = site.scenes.puts
    assert (put["name"], put["data"], put["source"], put["up"]) == (
        "garden",
        b"scene",
        "reconstruction",
        (0.0, -1.0, 0.0),
    )
    result = found["result"]
    assert result["scene"]["name"] == "garden"
    assert result["metrics"] == REPORT["evaluation"]
    assert result["report"] == REPORT
    assert result["turntable"]["media_type"] == "video/mp4"
    assert site.scenes.files[result["turntable"]["id"]][1] == b"film"
    assert ok(await client.get(f"/v1/jobs/{job}/result"))["scene"]["name"] == "garden"


@pytest.mark.parametrize(
    ("said", "names"),
    [
        ({}, ("red.png", "green.png", "blue.png")),
        ({"photo_names": '["one", "two, three", "four"]'}, ("one", "two, three", "four")),
    ],
)
async def test_photos_are_known_by_the_names_that_their_owner_gave_them(
    client: httpx.AsyncClient, site: ReconstructionSite, said: dict[str, str], names: tuple[str, ...]
) -> None:
    job = await submit(client, **said)
    async with site.runner().started():
        await until(client, job, lambda found: found["status"] == "succeeded")
    assert site.reconstruction.names[job] == names


async def test_a_photo_without_a_name_is_numbered(client: httpx.AsyncClient, site: ReconstructionSite) -> None:
    files = [("photos", (f"C:\\walk\\{i}.png", file, "image/png")) for i, (_, (_, file, _)) in enumerate(PHOTOS[:2])]
    files.append(("photos", ("folder/", PHOTOS[2][1][1], "image/png")))
    job = ok(await client.post(ROOT, data={"name": "garden"}, files=files), 202)["id"]
    async with site.runner().started():
        await until(client, job, lambda found: found["status"] == "succeeded")
    assert site.reconstruction.names[job] == ("0.png", "1.png", "photo 3")


async def test_a_radiance_field_is_put_in_as_one(client: httpx.AsyncClient, site: ReconstructionSite) -> None:
    site.reconstruction.kind = "nerf"
    job = await submit(client, method="nerf")
    async with site.runner().started():
        await until(client, job, lambda found: found["status"] == "succeeded")
    assert site.reconstruction.started[job][0].method == "nerf"
    (put,) = site.scenes.puts
    assert (put["data"], put["format"]) == (b"scene", None)  # the store tells it by its content


async def test_while_it_works(client: httpx.AsyncClient, site: ReconstructionSite) -> None:
    job = await submit(client)
    site.reconstruction.last = 2  # else the script may be over before anybody looks
    async with site.runner().started():
        found = await until(client, job, lambda found: (found["progress"] or {}).get("stage") == "training")
        assert found["progress"] == {"stage": "training", "done": 50, "total": 100}
        assert found["work"] == {
            "stage": "training",
            "done": 40,
            "total": 100,
            "percent": 50.0,
            "eta_s": 12.3,
            "elapsed_s": 10.0,
            "advice": ["2 photos are too dark: a.jpg, b.jpg."],
            "preview": 3,
            "preview_url": f"{ROOT}/{job}/preview",
        }
        picture = await client.get(found["work"]["preview_url"])
        assert (picture.status_code, picture.headers["content-type"]) == (200, "image/jpeg")
        assert picture.content == b"\xff\xd8\xffpreview"
        ended = ok(await client.post(f"{ROOT}/{job}/cancel"))
        assert ended["cancel_requested"]
        found = await until(client, job, lambda found: found["status"] == "cancelled")
    assert site.reconstruction.cancelled == [job]
    assert site.scenes.puts == []


async def test_events_are_those_of_jobs(client: httpx.AsyncClient, site: ReconstructionSite) -> None:
    job = await submit(client)
    async with site.runner().started():
        response = await client.get(f"/v1/jobs/{job}/events")
    names = [line.removeprefix("event: ") for line in response.text.splitlines() if line.startswith("event: ")]
    assert names[-1] == "result" and set(names[:-1]) == {"progress"}


async def test_reconstructions_keep_no_other_job_waiting(client: httpx.AsyncClient, site: ReconstructionSite) -> None:
    site.reconstruction.last = 2
    router = unguarded(site.services, site.inference).router
    labels = {"labels": ["red", "green"], "images": ["data:image/png;base64," + base64.b64encode(png("red")).decode()]}
    async with router.lifespan_context(router):
        made = [await submit(client, name=f"scene{number}") for number in range(3)]
        async with asyncio.timeout(60):
            while len(site.reconstruction.started) < 2:  # noqa: ASYNC110 - another task starts them
                await asyncio.sleep(0.01)
        other = ok(await client.post("/v1/jobs", json={"operation": "classify", "request": labels}), 202)["id"]
        async with asyncio.timeout(60):
            answered = await client.get(f"/v1/jobs/{other}/events")
        assert "event: result" in answered.text
        assert [ok(await client.get(f"/v1/jobs/{job}"))["status"] for job in made] == ["running", "running", "queued"]


async def test_a_runner_that_stops_leaves_the_work_to_the_next(
    client: httpx.AsyncClient, site: ReconstructionSite
) -> None:
    job = await submit(client)
    site.reconstruction.last = 0
    async with site.runner().started():
        await until(client, job, lambda found: found["status"] == "running" and found["work"] is not None)
    assert site.reconstruction.cancelled == [job]
    site.reconstruction.last = None
    async with site.runner().started():
        await until(client, job, lambda found: found["status"] == "succeeded")
    assert len(site.reconstruction.started) == 1


async def test_a_replica_that_is_being_replaced_is_waited_for(
    client: httpx.AsyncClient, site: ReconstructionSite
) -> None:
    site.reconstruction.failing = [Unavailable("It is being replaced.", retry_after_s=0.01) for _ in range(8)]
    job = await submit(client)
    async with site.runner().started():
        found = await until(client, job, lambda found: found["status"] in ("succeeded", "failed"))
    assert found["status"] == "succeeded"
    assert found["attempts"] > 1


async def test_why_there_is_no_scene(client: httpx.AsyncClient, site: ReconstructionSite) -> None:
    why = Failure("InvalidMedia", "photos_not_aligned", "Only 2 of 9 photos could be aligned: ...", "photos")
    site.reconstruction.script[-1] = replace(site.reconstruction.script[-1], state="failed", failure=why)
    job = await submit(client)
    async with site.runner().started():
        found = await until(client, job, lambda found: found["status"] == "failed")
    assert (found["error"]["code"], found["error"]["param"]) == ("photos_not_aligned", "photos")
    assert found["error"]["message"].startswith("Only 2 of 9 photos")
    assert site.scenes.puts == []


@pytest.mark.parametrize("kind", ["application/zip", "application/x-zip-compressed", "application/octet-stream"])
async def test_an_archive_is_a_body(client: httpx.AsyncClient, site: ReconstructionSite, kind: str) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for _, (name, file, _) in PHOTOS:
            archive.writestr(name, file)
    headers = {"content-type": kind}
    response = await client.post(f"{ROOT}?name=garden", content=buffer.getvalue(), headers=headers)
    assert ok(response, 202)["status"] == "queued"


async def test_photos_may_be_larger_than_other_bodies(client: httpx.AsyncClient) -> None:
    """Here and at the jobs; what is no picture behind a picture is none of the edge's business."""
    photos = [(field, (name, file + bytes(MAX_BODY), kind)) for field, (name, file, kind) in PHOTOS[:2]] + PHOTOS[2:]
    ok(await client.post(ROOT, data={"name": "garden"}, files=photos), 202)
    fields = {"operation": "reconstructions", "request": json.dumps({"name": "other"})}
    ok(await client.post("/v1/jobs", data=fields, files=photos), 202)
    above = [("photos", ("a.png", bytes(MAX_UPLOAD), "image/png"))]
    assert error_of(await client.post(ROOT, data={"name": "b"}, files=above), 413) == ("payload_too_large", "body")
    assert error_of(await client.post("/v1/jobs", data=fields, files=above), 413) == ("payload_too_large", "body")


async def test_photos_take_room_among_the_uploads(
    client: httpx.AsyncClient, site: ReconstructionSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(room: UploadRoom, count: int) -> None:
        raise Overloaded("full", code="uploads_full", retry_after_s=5.0)

    monkeypatch.setattr(UploadRoom, "take", full)
    fields = {"operation": "reconstructions", "request": json.dumps({"name": "garden"})}
    kind = {"content-type": "application/zip"}
    for answer in (
        await client.post(ROOT, data={"name": "garden"}, files=PHOTOS),
        await client.post("/v1/jobs", data=fields, files=PHOTOS),
        await client.post(f"{ROOT}?name=garden", content=b"PK", headers=kind),
    ):
        assert error_of(answer, 429)[0] == "uploads_full"
    assert error_of(await client.post("/v1/jobs", json={"operation": "sing", "request": {}}), 404)  # no upload


async def test_the_same_key_is_the_same_job(client: httpx.AsyncClient) -> None:
    sent = {"data": {"name": "garden"}, "files": PHOTOS, "headers": {"idempotency-key": "one"}}
    first = ok(await client.post(ROOT, **sent), 202)
    assert ok(await client.post(ROOT, **sent), 202)["id"] == first["id"]


async def test_as_a_job(client: httpx.AsyncClient) -> None:
    fields = {"operation": "reconstructions", "request": json.dumps({"name": "garden"})}
    job = ok(await client.post("/v1/jobs", data=fields, files=PHOTOS), 202)
    assert ok(await client.get(f"{ROOT}/{job['id']}"))["id"] == job["id"]


@pytest.mark.parametrize(
    ("fields", "files", "status", "code", "param"),
    [
        ({}, PHOTOS, 400, "missing_field", "name"),
        ({"name": "Garden!"}, PHOTOS, 400, "invalid_scene_name", "name"),
        ({"name": "garden", "quality": "best"}, PHOTOS, 400, "invalid_field", "quality"),
        ({"name": "garden", "speed": "9"}, PHOTOS, 400, "unknown_field", "speed"),
        ({"name": "garden"}, PHOTOS[:2], 400, "too_few_photos", "photos"),
        ({"name": "garden"}, PHOTOS * 2, 400, "too_many_photos", "photos"),
        ({"name": "garden"}, [("photos", ("a.txt", b"hello world", "text/plain"))], 400, "not_an_image", None),
        ({"name": "garden"}, [("voice", ("a.png", png("red"), "image/png"))], 400, "unknown_field", "voice"),
        ({"name": "taken"}, PHOTOS, 409, "scene_exists", "name"),
        ({"name": "garden", "photo_names": '["a", "b"]'}, PHOTOS, 400, "invalid_field", "photo_names"),
        ({"name": "garden", "photo_names": f'["{"a" * 201}"]'}, PHOTOS, 400, "invalid_field", "photo_names[0]"),
    ],
)
async def test_refused(
    client: httpx.AsyncClient,
    site: ReconstructionSite,
    fields: dict[str, str],
    files: list[Any],
    status: int,
    code: str,
    param: str | None,
) -> None:
    site.scenes.put_scene("taken", b"old")
    assert error_of(await client.post(ROOT, data=fields, files=files), status) == (code, param)
    assert ok(await client.get("/v1/jobs"))["data"] == []


async def test_a_scene_gives_way_when_told(client: httpx.AsyncClient, site: ReconstructionSite) -> None:
    site.scenes.put_scene("garden", b"old")
    job = await submit(client, replace="true")
    async with site.runner().started():
        await until(client, job, lambda found: found["status"] == "succeeded")
    assert site.scenes.puts[-1]["replace"] is True


async def test_a_name_that_another_reconstruction_makes_is_taken(
    client: httpx.AsyncClient, site: ReconstructionSite
) -> None:
    job = await submit(client)
    async with site.client(headers={"X-API-Key": KEYS["bob"]}) as bob:
        other = await bob.post(ROOT, data={"name": "garden"}, files=PHOTOS)
        assert error_of(other, 409) == ("in_the_making", "name")
        assert job not in other.text
    fields = {"operation": "reconstructions", "request": json.dumps({"name": "garden"})}
    assert error_of(await client.post("/v1/jobs", data=fields, files=PHOTOS), 409) == ("in_the_making", "name")
    await submit(client, name="yard")
    ok(await client.post(f"{ROOT}/{job}/cancel"))
    await submit(client)


async def test_of_two_reconstructions_of_one_name_the_last_one_told_to_replace_stays(
    client: httpx.AsyncClient, site: ReconstructionSite
) -> None:
    jobs = [await submit(client), await submit(client, replace="true")]
    async with site.runner().started():
        ended = [await until(client, job, lambda found: found["status"] == "succeeded") for job in jobs]
    assert ended[1]["result"]["scene"]["name"] == "garden"
    assert set(site.scenes.scenes) <= {"garden", "garden-2"}


async def test_a_scene_whose_name_is_taken_meanwhile_gets_one_like_it(
    client: httpx.AsyncClient, site: ReconstructionSite
) -> None:
    job = await submit(client, name="g" * 63)
    for name in ("g" * 63, f"{'g' * 60}-2"):
        site.scenes.put_scene(name, b"uploaded")
    async with site.runner().started():
        found = await until(client, job, lambda found: found["status"] == "succeeded")
    name = f"{'g' * 60}-3"
    assert found["result"]["scene"]["name"] == name
    assert found["result"]["turntable"]["url"].startswith(f"/v1/scenes/{name}/artifacts/")
    assert [put["data"] for put in site.scenes.puts] == [b"uploaded", b"uploaded", b"scene"]


async def test_no_photos(client: httpx.AsyncClient) -> None:
    response = await client.post(ROOT, data={"name": "garden"}, files=[("name2", ("", b""))])
    assert response.status_code == 400
    response = await client.post(ROOT, json={"name": "garden"})
    assert error_of(response, 415) == ("unsupported_media_type", "content-type")


async def test_other_jobs_and_other_clients(client: httpx.AsyncClient, site: ReconstructionSite) -> None:
    job = await submit(client)
    async with site.client(headers={"X-API-Key": KEYS["bob"]}) as bob:
        for path in ("", "/preview"):
            assert error_of(await bob.get(f"{ROOT}/{job}{path}"), 404)[0] == "job_not_found"
        assert error_of(await bob.post(f"{ROOT}/{job}/cancel"), 404)[0] == "job_not_found"
    fields = {"operation": "classify", "request": {"labels": ["a", "b"], "images": []}}
    other = await client.post("/v1/jobs", json=fields)
    assert other.status_code == 400
    assert error_of(await client.get(f"{ROOT}/{job}/preview"), 404)[0] == "reconstruction_not_found"


async def test_a_cluster_without_the_model() -> None:
    site = Site()
    async with site.client() as client:
        response = await client.post(ROOT, data={"name": "garden"}, files=PHOTOS)
        assert error_of(response, 404)[0] == "not_configured"


def events_of(text: str) -> list[tuple[str, dict[str, Any]]]:
    blocks = [dict(line.split(": ", 1) for line in block.split("\n")) for block in text.strip().split("\n\n")]
    return [(block["event"], json.loads(block["data"])) for block in blocks if "event" in block]


async def test_progress_and_previews_come_as_events(
    client: httpx.AsyncClient, site: ReconstructionSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve.protocol.reconstructions._LOOK_S", 0.005)
    site.reconstruction.last = 0
    there = site.reconstruction.call
    shown: set[int] = set()

    async def call(method: str, context: RequestContext, *args: Any, **kwargs: Any) -> Any:
        found = await there(method, context, *args, **kwargs)
        if method == "status":
            shown.add(site.reconstruction.at[args[0]])
        return found

    monkeypatch.setattr(site.reconstruction, "call", call)
    job = ok(await client.post(ROOT, files=PHOTOS, data={"name": "toy"}), 202)
    async with site.runner().started():
        watching = asyncio.create_task(client.get(f"{ROOT}/{job['id']}/events"))
        last = len(site.reconstruction.script) - 1
        for step in range(last):
            # The reader has been shown the step before the next one.
            async with asyncio.timeout(60):
                while step not in shown:  # noqa: ASYNC110 - what is waited for is another task's call
                    await asyncio.sleep(0.005)
            site.reconstruction.at[job["id"]] = step + 1
        answer = await watching
    assert answer.headers["content-type"].startswith("text/event-stream")
    found = events_of(answer.text)
    works = [content["work"] for name, content in found if name == "progress" and content["work"]]
    # The last step may be over before it is looked at.
    steps = dict.fromkeys((work["stage"], work["percent"]) for work in works if work["stage"] != "export")
    assert list(steps) == [("intake", 0.0), ("features", 5.0), ("training", 50.0)]
    assert next(work for work in works if work["stage"] == "training")["eta_s"] == 12.3
    (preview,) = [content for name, content in found if name == "preview"]
    assert (preview["preview"], base64.b64decode(preview["data"])) == (3, b"\xff\xd8\xffpreview")
    assert found[-1][0] == "result" and found[-1][1]["result"]["scene"]["name"] == "toy"


async def test_events_are_its_owners(client: httpx.AsyncClient, site: ReconstructionSite) -> None:
    job = ok(await client.post(ROOT, files=PHOTOS, data={"name": "toy"}), 202)
    other = await client.get(f"{ROOT}/{job['id']}/events", headers={"X-API-Key": KEYS["bob"]})
    assert other.status_code == 404


async def test_events_end_with_the_readers_time_and_with_the_jobs_error(
    client: httpx.AsyncClient, site: ReconstructionSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve.protocol.reconstructions._LOOK_S", 0.005)
    job = ok(await client.post(ROOT, files=PHOTOS, data={"name": "toy"}), 202)
    waiting = await client.get(f"{ROOT}/{job['id']}/events", headers={"X-Argus-Timeout-Ms": "1500"})
    *before, (last, said) = events_of(waiting.text)
    assert {name for name, _ in before} == {"progress"}
    assert (last, said["object"]) == ("reconnect", "stream.end")
    ok(await client.post(f"{ROOT}/{job['id']}/cancel"))
    ((name, content),) = events_of((await client.get(f"{ROOT}/{job['id']}/events")).text)
    assert (name, content["error"]["code"]) == ("error", "job_cancelled")


async def test_events_go_on_while_the_model_is_away(
    client: httpx.AsyncClient, site: ReconstructionSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve.protocol.reconstructions._LOOK_S", 0.005)
    job = ok(await client.post(ROOT, files=PHOTOS, data={"name": "toy"}), 202)
    there = site.reconstruction.call
    refused = 0

    async def call(method: str, context: RequestContext, *args: Any, **kwargs: Any) -> Any:
        nonlocal refused
        if method == "status" and refused < 8:  # more than a call is tried again
            refused += 1
            raise Unavailable("replaced")
        return await there(method, context, *args, **kwargs)

    monkeypatch.setattr(site.reconstruction, "call", call)
    watching = asyncio.create_task(client.get(f"{ROOT}/{job['id']}/events"))
    for _ in range(1000):
        if refused == 8:
            break
        await asyncio.sleep(0.01)
    async with site.runner().started():
        found = events_of((await watching).text)
    assert refused == 8 and "error" not in dict(found)
    assert found[-1][0] == "result"
