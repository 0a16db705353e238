"""`/v1/jobs` over fake models and a real store: submitted, watched, asked for, cancelled, and what is refused."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from deployments.jobs.replica import JobStoreReplica
from deployments.jobs.types import Progress
from serve.config.models import JobStoreModel
from serve.context import RequestContext
from serve.errors import ArgusError, InvalidMedia, ModelFailed, NotFound, PayloadTooLarge, Unavailable
from serve.jobs.operation import JobInput
from serve.jobs.runner import JobRunner
from serve.media.source import MediaBytes
from serve.protocol.job_operations import ClassifyImages, WatchVideo, operations
from serve.videos import types as videos
from tests.unit.fakes import KEYS, Site, bodies_of_head, cluster, png
from tests.unit.local_stores import LocalStore

ROOT = "/v1/jobs"
URL = "https://pictures.example/a.png"
MODELS = {
    "clip": {"kind": "clip", "checkpoint": "openai/clip-vit-large-patch14"},
    "jobs": {"kind": "job_store", "max_jobs": 20, "max_active_jobs": 4, "max_ttl_s": 100_000, "lease_s": 600},
}
COLOURS = ("red", "green", "blue")
URIS = ["data:image/png;base64," + base64.b64encode(png(colour)).decode() for colour in COLOURS]
CLASSIFY = {"operation": "classify", "request": {"labels": ["red", "green"], "images": URIS}}


class Clock:
    now = 1_700_000_000.25

    def __call__(self) -> float:
        return self.now

    def pass_ten_seconds(self) -> None:
        self.now += 10


class JobSite(Site):
    """A site with jobs; a new store for each test, and a runner while a test wants one."""

    def __init__(self) -> None:
        self.jobs = LocalStore(None)
        self.clock = Clock()
        super().__init__(cluster(models=MODELS, keys=True), more={"jobs": self.jobs})

    def open(self, folder: Path, **settings: Any) -> None:
        model = JobStoreModel.model_validate({**MODELS["jobs"], "path": str(folder), **settings})
        self.clock.now = Clock.now
        self.jobs.__init__(JobStoreReplica(model, self.clock))  # type: ignore[misc]

    def runner(self) -> JobRunner:
        return JobRunner(self.services.jobs, operations(self.services), look_s=0.02, beat_s=0.02)


@pytest.fixture(scope="module")
def built() -> JobSite:
    return JobSite()


@pytest.fixture
async def site(built: JobSite, tmp_path: Path) -> AsyncIterator[JobSite]:
    built.reset()
    built.pages[URL] = png("blue")
    built.open(tmp_path)
    yield built
    await built.jobs.replica.close()


@pytest.fixture
async def client(site: JobSite) -> AsyncIterator[httpx.AsyncClient]:
    async with site.client(headers={"X-API-Key": KEYS["alice"]}) as made:
        yield made


async def done(response: httpx.Response, status: int = 200) -> dict[str, Any]:
    assert response.status_code == status, response.text
    answer: dict[str, Any] = response.json()
    return answer


def error_of(response: httpx.Response, status: int) -> tuple[str, str | None]:
    assert response.status_code == status, response.text
    error = response.json()["error"]
    return error["code"], error["param"]


async def submit(client: httpx.AsyncClient, **fields: Any) -> str:
    return str((await done(await client.post(ROOT, json={**CLASSIFY, **fields}), 202))["id"])


async def until(
    client: httpx.AsyncClient, job: str, *statuses: str, meanwhile: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    async with asyncio.timeout(60):
        while True:
            found = await done(await client.get(f"{ROOT}/{job}"))
            if found["status"] in statuses:
                return found
            meanwhile()
            await asyncio.sleep(0.01)


def events_of(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.status_code == 200 and response.headers["content-type"].startswith("text/event-stream")
    found = []
    for block in response.text.strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n"))
        if "data" in fields:
            found.append({**fields, "data": json.loads(fields["data"])})
    return found


async def test_a_job_is_what_its_route_would_have_answered(client: httpx.AsyncClient, site: JobSite) -> None:
    response = await client.post(ROOT, json=CLASSIFY)
    job = await done(response, 202)
    assert response.headers["location"] == f"{ROOT}/{job['id']}" and job["id"].startswith("job_")
    assert (job["object"], job["operation"], job["status"], job["attempts"]) == ("job", "classify", "queued", 0)
    assert job["created_at"] == "2023-11-14T22:13:20.250Z" and job["result"] is None and job["error"] is None
    datetime.fromisoformat(job["created_at"])
    async with site.runner().started():
        job = await until(client, job["id"], "succeeded")
    assert job["progress"] == {"stage": "classifying", "done": 3, "total": 3}
    assert (job["attempts"], job["expires_at"]) == (1, "2023-11-15T22:13:20.250Z")
    direct = await done(await client.post("/v1/classify", json=CLASSIFY["request"]))
    del direct["request_id"]
    assert job["result"] == direct
    assert await done(await client.get(f"{ROOT}/{job['id']}/result")) == direct


async def test_files_go_beside_the_request_and_urls_are_fetched_at_once(
    client: httpx.AsyncClient, site: JobSite
) -> None:
    request = {"labels": ["red", "green"], "image": URL}
    files = [("image", ("a.png", png("red"), "image/png")), ("image", ("b.png", png("green"), "image/png"))]
    response = await client.post(
        ROOT, data={"operation": "classify", "request": json.dumps(request), "ttl_s": "60"}, files=files
    )
    job = await done(response, 202)
    site.pages.clear()  # what the job is about cannot change any more
    async with site.runner().started():
        job = await until(client, job["id"], "succeeded")
    direct = await done(await client.post("/v1/classify", json=CLASSIFY["request"]))
    assert job["result"]["results"] == direct["results"] and job["expires_at"] == "2023-11-14T22:14:20.250Z"


async def test_progress_is_sent_as_events_and_gone_on_with(client: httpx.AsyncClient, site: JobSite) -> None:
    job = await submit(client)
    site.model.gate.clear()
    async with site.runner().started():
        reading = asyncio.create_task(client.get(f"{ROOT}/{job}/events"))
        await until(client, job, "running")
        site.model.gate.set()
        events = events_of(await reading)
    assert [event["event"] for event in events] == ["progress"] * (len(events) - 1) + ["result"]
    ids = [int(event["id"]) for event in events]
    assert ids == sorted(set(ids)) and events[0]["data"]["status"] in ("queued", "running")
    last = events[-1]["data"]
    assert last == await done(await client.get(f"{ROOT}/{job}")) and last["result"]["results"][2]["index"] == 2

    async def again(last_event_id: str) -> httpx.Response:
        return await client.get(f"{ROOT}/{job}/events", headers={"Last-Event-ID": last_event_id.encode("latin-1")})

    assert (await again(str(ids[-1]))).status_code == 204  # nothing is left to be told
    for seen in ("0", str(ids[-2]), "999", "x", "²"):
        assert [event["event"] for event in events_of(await again(seen))] == ["result"]


async def test_events_end_at_the_deadline_and_before_that_only_with_the_job(
    client: httpx.AsyncClient, site: JobSite
) -> None:
    job = await submit(client)
    response = await client.get(f"{ROOT}/{job}/events", headers={"X-Argus-Timeout-Ms": "3000"})
    assert response.text.startswith("retry: 1000\n\n")
    event, last = events_of(response)
    assert (event["event"], event["data"]["status"]) == ("progress", "queued")
    assert (last["event"], last["data"]["object"], "id" in last) == ("reconnect", "stream.end", False)
    reading = asyncio.create_task(client.get(f"{ROOT}/{job}/events", headers={"Last-Event-ID": event["id"]}))
    await asyncio.sleep(0)
    await client.post(f"{ROOT}/{job}/cancel")
    (event,) = events_of(await reading)
    assert (event["event"], event["data"]["error"]["code"]) == ("error", "job_cancelled")


async def test_head_of_events_waits_for_none(client: httpx.AsyncClient, site: JobSite) -> None:
    path, key = f"{ROOT}/{await submit(client)}/events", {"X-API-Key": KEYS["alice"]}
    assert await bodies_of_head(site.app, path, key | {"X-Argus-Timeout-Ms": "3000"}) == [b""]
    response = await client.head(path)
    assert response.status_code == 200 and response.headers["content-type"].startswith("text/event-stream")


async def test_a_store_that_goes_away_ends_the_events(client: httpx.AsyncClient, site: JobSite) -> None:
    job = await submit(client)
    site.jobs.failing["get"] = [NotFound("gone", code="job_not_found")]  # as when the job is deleted
    events = events_of(await client.get(f"{ROOT}/{job}/events"))
    assert [event["event"] for event in events] == ["progress", "error"]
    assert events[1]["data"]["error"]["code"] == "job_not_found"
    assert (site.recorder.requests[-1].outcome, site.recorder.requests[-1].fault) == ("job_not_found", "client")


async def test_a_running_job_is_cancelled_and_a_deleted_one_is_gone(client: httpx.AsyncClient, site: JobSite) -> None:
    site.model.gate.clear()
    async with site.runner().started():
        job = await submit(client)
        await until(client, job, "running")
        assert error_of(await client.get(f"{ROOT}/{job}/result"), 409) == ("job_not_ended", "id")
        asked = await done(await client.post(f"{ROOT}/{job}/cancel"))
        assert (asked["status"], asked["cancel_requested"]) in (("running", True), ("cancelled", True))
        ended = await until(client, job, "cancelled")
        assert (ended["error"]["code"], ended["result"]) == ("job_cancelled", None)
        assert error_of(await client.get(f"{ROOT}/{job}/result"), 409) == ("job_cancelled", "id")
        assert (await done(await client.post(f"{ROOT}/{job}/cancel")))["status"] == "cancelled"
        assert (await done(await client.delete(f"{ROOT}/{job}")))["deleted"] is True
        assert error_of(await client.get(f"{ROOT}/{job}"), 404) == ("job_not_found", "id")


async def test_a_failed_job_answers_as_its_route_would_have(client: httpx.AsyncClient, site: JobSite) -> None:
    site.model.raises = Unavailable("The model is away.")
    async with site.runner().started():
        job = await submit(client)
        found = await until(client, job, "failed", meanwhile=site.clock.pass_ten_seconds)
    assert found["error"]["code"] == "unavailable" and found["attempts"] == 5
    assert error_of(await client.get(f"{ROOT}/{job}/result"), 503)[0] == "unavailable"


async def test_an_image_that_fails_beside_the_model_fails_alone(client: httpx.AsyncClient, site: JobSite) -> None:
    site.model.failing[png("green")] = InvalidMedia("truncated", code="truncated_image")
    async with site.runner().started():
        job = await until(client, await submit(client), "succeeded")
    results = job["result"]["results"]
    assert [result["index"] for result in results] == [0, 1, 2] and "label" in results[0] and "label" in results[2]
    assert (results[1]["error"]["code"], results[1]["error"]["param"]) == ("truncated_image", "images[1]")


async def test_images_that_all_fail_fail_the_job_as_they_would_have_failed_the_route(
    client: httpx.AsyncClient, site: JobSite
) -> None:
    for colour in ("red", "green", "blue"):
        site.model.failing[png(colour)] = PayloadTooLarge(f"A {colour} image is too large.", code="image_too_large")
    async with site.runner().started():
        job = await submit(client)
        found = await until(client, job, "failed")
    assert (found["error"]["code"], found["error"]["param"]) == ("image_too_large", "images[0]")
    assert error_of(await client.get(f"{ROOT}/{job}/result"), 413) == ("image_too_large", "images[0]")
    assert error_of(await client.post("/v1/classify", json=CLASSIFY["request"]), 413)[0] == "image_too_large"


async def test_images_that_an_earlier_run_finished_are_not_asked_about_again(site: JobSite) -> None:
    operation = ClassifyImages(site.plane)
    context = RequestContext("r", "ann", asyncio.get_running_loop().time() + 60)
    given = await operation.admit(CLASSIFY["request"], [], context)  # type: ignore[arg-type]
    kept: dict[str, Any] = {}
    told: list[Progress] = []

    async def report(progress: Progress, key: str | None = None, value: Any = None) -> None:
        told.append(progress)
        if key is not None:
            kept[key] = value

    whole = await operation.run(given, context, report, {})
    assert [progress.done for progress in told] == [0, 1, 2, 3] and set(kept) == {"0", "1", "2"}
    del kept["1"]
    asked = len(site.model.requests("classify"))
    assert json.dumps(await operation.run(given, context, report, dict(kept)), default=float) == json.dumps(
        whole, default=float
    )
    assert len(site.model.requests("classify")) == asked + 1 and told[4].done == 2


async def test_results_expire(client: httpx.AsyncClient, site: JobSite) -> None:
    async with site.runner().started():
        job = await submit(client, ttl_s=60)
        await until(client, job, "succeeded")
    site.clock.now += 61
    found = await done(await client.get(f"{ROOT}/{job}"))
    assert (found["status"], found["result"], found["error"]["code"]) == ("expired", None, "result_expired")
    assert error_of(await client.get(f"{ROOT}/{job}/result"), 404) == ("result_expired", "id")


async def test_a_list_is_of_ones_own_and_has_pages(client: httpx.AsyncClient, site: JobSite) -> None:
    made = []
    for _ in range(3):
        made.append(await submit(client))
        site.clock.now += 1
    first = await done(await client.get(ROOT, params={"limit": 2}))
    assert [job["id"] for job in first["data"]] == made[:0:-1] and first["has_more"] is True
    rest = await done(await client.get(ROOT, params={"after": made[1]}))
    assert [job["id"] for job in rest["data"]] == made[:1] and rest["has_more"] is False
    assert error_of(await client.get(ROOT, params={"limit": 0}), 400) == ("invalid_field", "limit")
    # The last one is where the list ends, and one that is gone is not.
    assert (await done(await client.get(ROOT, params={"after": made[0]})))["data"] == []
    assert (await client.delete(f"{ROOT}/{made[1]}")).status_code == 200
    for gone in (made[1], "job_of-nobody"):
        assert error_of(await client.get(ROOT, params={"after": gone}), 404) == ("job_not_found", "after")
    async with site.client(headers={"X-API-Key": KEYS["bob"]}) as bob:
        assert (await done(await bob.get(ROOT)))["data"] == []
        for response in (
            await bob.get(f"{ROOT}/{made[0]}"),
            await bob.get(f"{ROOT}/{made[0]}/result"),
            await bob.get(f"{ROOT}/{made[0]}/events"),
            await bob.post(f"{ROOT}/{made[0]}/cancel"),
            await bob.delete(f"{ROOT}/{made[0]}"),
        ):
            assert error_of(response, 404) == ("job_not_found", "id")


async def test_a_key_makes_a_request_one_job(client: httpx.AsyncClient, site: JobSite) -> None:
    request = {"labels": ["red"], "image": URL}
    body = {"operation": "classify", "request": request}
    first = await done(await client.post(ROOT, json={**body, "idempotency_key": "k"}), 202)
    site.pages.clear()  # the second time nothing is fetched
    assert await done(await client.post(ROOT, json=body, headers={"Idempotency-Key": "k"}), 202) == first
    other = {**CLASSIFY, "idempotency_key": "k"}
    assert error_of(await client.post(ROOT, json=other), 409) == ("idempotency_conflict", "idempotency_key")
    assert len((await done(await client.get(ROOT)))["data"]) == 1


@pytest.mark.parametrize(
    ("fields", "status", "code", "param"),
    [
        ({"operation": "sing"}, 404, "unknown_operation", "operation"),
        ({"operation": None}, 400, "invalid_field", "operation"),
        ({"request": {"labels": ["a"]}}, 400, "missing_field", "request.image"),
        ({"request": {"images": URIS}}, 400, "missing_field", "request.labels"),
        ({"request": {"labels": ["a", "a"], "images": URIS}}, 400, "duplicate_label", "request.labels"),
        ({"request": {"labels": ["a"], "images": URIS, "model": "no"}}, 404, "model_not_found", "request.model"),
        ({"request": {"labels": ["a"], "images": URIS, "x": 1}}, 400, "unknown_field", "request.x"),
        ({"request": {"labels": ["a"], "images": [*URIS, "AAAA"]}}, 400, "not_an_image", "request.images[3]"),
        ({"request": {"labels": ["a"], "image": "https://no.example/"}}, 403, "url_not_allowed", "request.image"),
        ({"request": "{"}, 400, "invalid_field", "request"),
        ({"request": []}, 400, "invalid_field", "request"),
        ({"ttl_s": 0}, 400, "invalid_field", "ttl_s"),
        ({"ttl_s": 100_001}, 400, "invalid_field", "ttl_s"),
        ({"idempotency_key": ""}, 400, "invalid_field", "idempotency_key"),
        ({"when": "now"}, 400, "unknown_field", "when"),
    ],
)
async def test_what_can_be_no_job_is_refused_at_once(
    client: httpx.AsyncClient, fields: dict[str, Any], status: int, code: str, param: str
) -> None:
    assert error_of(await client.post(ROOT, json={**CLASSIFY, **fields}), status) == (code, param)
    assert (await done(await client.get(ROOT)))["data"] == []


async def test_forms_that_are_wrong(client: httpx.AsyncClient) -> None:
    request = json.dumps({"labels": ["a"]})
    picture = ("image", ("a.png", png(), "image/png"))
    for data, file, expected in (
        ({"operation": "classify", "request": request}, ("sound", ("a", b"x")), ("unknown_field", "sound")),
        ({"operation": "classify", "request": request}, ("image", ("a", b"x")), ("not_an_image", "image")),
        ({"operation": "classify", "request": "{"}, picture, ("invalid_field", "request")),
        ({"operation": ["classify", "classify"], "request": request}, picture, ("invalid_field", "operation")),
        ({"request": request}, picture, ("missing_field", "operation")),
    ):
        assert error_of(await client.post(ROOT, data=data, files=[file]), 400) == expected


async def test_bounds_are_said(client: httpx.AsyncClient, site: JobSite, tmp_path: Path) -> None:
    for _ in range(4):
        await submit(client)
    response = await client.post(ROOT, json=CLASSIFY)
    assert error_of(response, 429)[0] == "too_many_jobs" and response.headers["retry-after"]
    big = {"operation": "classify", "request": {"labels": ["a"], "image": "A" * 70_000}}
    assert error_of(await client.post(ROOT, json=big), 413) == ("payload_too_large", "body")
    await site.jobs.replica.close()
    site.open(tmp_path / "small", max_jobs=1)
    await submit(client)
    async with site.client(headers={"X-API-Key": KEYS["bob"]}) as bob:
        assert error_of(await bob.post(ROOT, json=CLASSIFY), 507)[0] == "out_of_capacity"


async def test_without_a_store_there_are_no_jobs() -> None:
    site = Site(cluster(models={"clip": MODELS["clip"]}))
    async with site.client() as client:
        for response in (await client.post(ROOT, json=CLASSIFY), await client.get(ROOT), await client.get(f"{ROOT}/x")):
            assert error_of(response, 404) == ("not_configured", None)


async def test_the_application_runs_jobs_while_it_is_up(client: httpx.AsyncClient, site: JobSite) -> None:
    """Its ASGI life span, as the server runs it."""
    inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    outbox: asyncio.Queue[Any] = asyncio.Queue()
    running = asyncio.create_task(site.app({"type": "lifespan", "state": {}}, inbox.get, outbox.put))
    await inbox.put({"type": "lifespan.startup"})
    assert (await outbox.get())["type"] == "lifespan.startup.complete"
    await until(client, await submit(client), "succeeded")
    site.model.gate.clear()
    held = await submit(client)
    await until(client, held, "running")
    await inbox.put({"type": "lifespan.shutdown"})
    assert (await outbox.get())["type"] == "lifespan.shutdown.complete"
    await running
    assert (await until(client, held, "queued"))["attempts"] == 1


async def test_the_document_names_the_operations(client: httpx.AsyncClient) -> None:
    document = await done(await client.get("/openapi.json"))
    content = document["paths"][ROOT]["post"]["requestBody"]["content"]
    for kind in ("application/json", "multipart/form-data"):
        assert {"classify", "videos.summary"} <= set(content[kind]["schema"]["properties"]["operation"]["enum"])


class FakeVideos:
    """Stands for `VideoService`: what a job hands to it, and what it reports."""

    def __init__(self) -> None:
        self.ran: list[tuple[videos.VideoRequest, Mapping[str, Any]]] = []
        self.failure: ArgusError | None = None

    async def admit(self, source: Any, context: RequestContext, param: str) -> bytes:
        if isinstance(source, MediaBytes):
            return source.data
        if source.text == "bad":
            raise InvalidMedia("no video", code="invalid_video", param=param)
        return f"fetched {source.text}".encode()

    def check(self, request: videos.VideoRequest) -> None:
        if request.model == "no":
            raise NotFound("no such model", code="model_not_found", param="model")

    async def run(self, request: Any, context: RequestContext, on_progress: Any, done: Mapping[str, Any]) -> Any:
        self.ran.append((request, done))
        await on_progress(videos.Progress("reading", 0, 0))
        if self.failure is not None:
            await on_progress(videos.Progress("watching", 1, 2, failure=self.failure))
        await on_progress(videos.Progress("watching", 1, 2, videos.ChunkResult("0:0-10", {"text": "a"})))
        return {"answer": "b"}


async def test_a_video_is_handed_to_its_service_part_by_part() -> None:
    fake = FakeVideos()
    ask = WatchVideo(fake, "ask")  # type: ignore[arg-type]
    context = RequestContext("r", "ann", asyncio.get_running_loop().time() + 60)
    given = await ask.admit({"video": "https://v", "question": "what", "chunk_s": 5}, [], context)
    assert given.media == (b"fetched https://v",) and json.loads(json.dumps(given.fields)) == given.fields
    beside = await ask.admit({"question": "what"}, [("video", MediaBytes(b"file", None))], context)
    assert beside.media == (b"file",)
    told: list[Any] = []

    async def report(progress: Progress, key: str | None = None, value: Any = None) -> None:
        told.append((progress, key, value))

    kept = {"0:0-10": {"text": "a"}}
    assert await ask.run(JobInput(given.fields, given.media), context, report, kept) == {"answer": "b"}
    ((request, seen),) = fake.ran
    assert isinstance(request, videos.Ask) and (request.question, request.chunk_s) == ("what", 5)
    assert request.video == b"fetched https://v" and seen == kept
    assert told == [
        (Progress("reading", 0, 0), None, None),
        (Progress("watching", 1, 2), "0:0-10", {"text": "a"}),
    ]


async def test_a_chunk_that_fails_for_now_ends_the_attempt_and_not_the_job() -> None:
    fake = FakeVideos()
    ask = WatchVideo(fake, "ask")  # type: ignore[arg-type]
    context = RequestContext("r", "ann", asyncio.get_running_loop().time() + 60)
    given = await ask.admit({"video": "https://v", "question": "what"}, [], context)

    async def report(progress: Progress, key: str | None = None, value: Any = None) -> None: ...

    fake.failure = Unavailable("The model is away.")
    with pytest.raises(Unavailable):
        await ask.run(given, context, report, {})
    fake.failure = ModelFailed("It broke on this chunk.")
    assert await ask.run(given, context, report, {}) == {"answer": "b"}


@pytest.mark.parametrize(
    ("fields", "files", "code", "param"),
    [
        ({"question": "q"}, 0, "missing_field", "video"),
        ({"question": "q", "video": "v"}, 1, "too_many_videos", "video"),
        ({"question": "q", "video": 1}, 0, "invalid_field", "video"),
        ({"video": "v"}, 0, "missing_field", "question"),
        ({"question": "q", "video": "bad"}, 0, "invalid_video", "video"),
        ({"question": "q", "video": "v", "stream": True}, 0, "unknown_field", "stream"),
        ({"question": "q", "video": "v", "model": "no"}, 0, "model_not_found", "model"),
    ],
)
async def test_a_video_that_can_be_no_job(fields: dict[str, Any], files: int, code: str, param: str) -> None:
    context = RequestContext("r", "ann", asyncio.get_running_loop().time() + 60)
    with pytest.raises(ArgusError) as caught:
        await WatchVideo(FakeVideos(), "ask").admit(  # type: ignore[arg-type]
            fields, [("video", MediaBytes(b"x", None))] * files, context
        )
    assert (caught.value.code, caught.value.param) == (code, param)
