"""What belongs to one client, asked for and changed by another: sessions, jobs, reconstructions, idempotency keys.

Scenes, indexes and knowledge bases belong to the cluster: every key may read and change them.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from functools import partial

from benchmarks.security.bombs import small
from benchmarks.security.case import Case, Got, answered
from benchmarks.security.site import Site

GROUP = "isolation"


def cases(site: Site) -> Iterator[Case]:
    """The attempts; what is attacked is made first, by the first client."""
    session = site.ask("POST", "/v1/sessions", json={"system": "A private matter."}).json()["id"]
    for method, path, body in (
        ("GET", f"/v1/sessions/{session}", None),
        ("GET", f"/v1/sessions/{session}/messages", None),
        ("POST", f"/v1/sessions/{session}/messages", {"content": "What was said?", "max_tokens": 4}),
        ("DELETE", f"/v1/sessions/{session}", None),
    ):
        shown = f"{method} {path.replace(session, 'ID')} with another client's key"
        yield Case(
            GROUP, shown, "404 session_not_found", partial(_other, site, method, path, body, "session_not_found")
        )
    yield Case(
        GROUP, "another client's list of sessions", "without it", partial(_absent, site, "/v1/sessions", session)
    )
    yield Case(GROUP, "the session afterwards, for its owner", "200", partial(_own, site, f"/v1/sessions/{session}"))
    job = _submit(site, site.key)
    for method, path in (
        ("GET", f"/v1/jobs/{job}"),
        ("GET", f"/v1/jobs/{job}/result"),
        ("GET", f"/v1/jobs/{job}/events"),
        ("POST", f"/v1/jobs/{job}/cancel"),
        ("DELETE", f"/v1/jobs/{job}"),
        ("GET", f"/v1/reconstructions/{job}"),
        ("GET", f"/v1/reconstructions/{job}/events"),
        ("GET", f"/v1/reconstructions/{job}/preview"),
        ("POST", f"/v1/reconstructions/{job}/cancel"),
    ):
        shown = f"{method} {path.replace(job, 'ID')} with another client's key"
        yield Case(GROUP, shown, "404 job_not_found", partial(_other, site, method, path, None, "job_not_found"))
    yield Case(GROUP, "another client's list of jobs", "without it", partial(_absent, site, "/v1/jobs", job))
    yield Case(
        GROUP, "the same idempotency key with another client's key", "a job of its own", partial(_key, site, job)
    )
    yield Case(GROUP, "the job afterwards, for its owner", "200", partial(_own, site, f"/v1/jobs/{job}"))
    yield Case(GROUP, "ids of sessions and jobs", "at least 96 random bits", partial(_ids, site, session, job))


def _submit(site: Site, key: str) -> str:
    picture = base64.b64encode(small("PNG")).decode()
    body = {"operation": "classify", "request": {"image": picture, "labels": ["a", "b"]}}
    answer = site.ask("POST", "/v1/jobs", key=key, json=body, headers={"Idempotency-Key": "drill"})
    return str(answer.json().get("id"))


def _other(site: Site, method: str, path: str, body: object, code: str) -> Got:
    answer = site.ask(method, path, key=site.other_key, **({} if body is None else {"json": body}))
    return answered(answer, (404,), (code,), without="private")


def _absent(site: Site, path: str, id: str) -> Got:
    answer = site.ask("GET", path, key=site.other_key)
    return Got(f"{answer.status_code}", answer.status_code == 200 and id not in answer.text)


def _own(site: Site, path: str) -> Got:
    return answered(site.ask("GET", path), (200,))


def _key(site: Site, job: str) -> Got:
    other = _submit(site, site.other_key)
    return Got("another job" if other != job else "the same job", other.startswith("job_") and other != job)


def _ids(site: Site, session: str, job: str) -> Got:
    lengths = [len(id.partition("_")[2]) for id in (session, job)]
    return Got(f"{lengths} characters of base64 or hexadecimal", min(lengths) >= 16)
