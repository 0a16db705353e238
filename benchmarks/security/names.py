"""Names that are paths: of scenes, indexes, sessions, jobs, knowledge bases, models, and of the viewer's files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Final

from benchmarks.security.bombs import archive
from benchmarks.security.case import REFUSED, Case, Got, answered
from benchmarks.security.site import Site

GROUP = "names"

NAMES: Final[Mapping[str, str]] = {
    "two dots": "..",
    "up and away": "../../../../../../etc/passwd",
    "encoded": "%2e%2e%2f%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    "encoded twice": "%252e%252e%252fetc%252fpasswd",
    "backslashes": "..%5c..%5c..%5cetc%5cpasswd",
    "absolute": "%2fetc%2fpasswd",
    "of Windows": "C:%5cWindows%5cwin.ini",
    "NUL": "table%00.ply",
    "overlong UTF-8": "%c0%ae%c0%ae%c0%afetc%c0%afpasswd",
    "one dot leaders": "%e2%80%a4%e2%80%a4%2fetc%2fpasswd",
    "full-width": "%ef%bc%8e%ef%bc%8e%ef%bc%8fetc%ef%bc%8fpasswd",
    "a path parameter": "..;/..;/etc/passwd",
    "a line break": "a%0d%0aSet-Cookie:%20a=b",
    "a colour": "%1b%5b31mred",
    "very long": "a" * 3000,
    "SQL": "x'%20OR%20'1'='1",
    "a format string": "%7b0.__class__%7d%25s%25n",
}
PLACES: Final = (
    ("GET", "/v1/scenes/{}"),
    ("DELETE", "/v1/scenes/{}"),
    ("GET", "/v1/scenes/{}/export"),
    ("GET", "/v1/scenes/{}/render"),
    ("GET", "/v1/indexes/{}"),
    ("PUT", "/v1/indexes/{}"),
    ("DELETE", "/v1/indexes/{}"),
    ("GET", "/v1/indexes/{}/items/x"),
    ("GET", "/v1/sessions/{}"),
    ("DELETE", "/v1/sessions/{}"),
    ("GET", "/v1/jobs/{}"),
    ("GET", "/v1/jobs/{}/result"),
    ("DELETE", "/v1/jobs/{}"),
    ("GET", "/v1/reconstructions/{}/preview"),
    ("GET", "/v1/knowledge/{}"),
    ("GET", "/v1/knowledge/x/documents/{}"),
    ("GET", "/v1/cascades/{}"),
    ("GET", "/v1/models/{}"),
    ("GET", "/v2/models/{}"),
    ("GET", "/viewer/assets/{}"),
    ("GET", "/docs-assets/{}"),
)


def cases(site: Site) -> Iterator[Case]:
    """The attempts; every name in every place."""
    for name, text in NAMES.items():
        shown = text if len(text) < 60 else f"{text[:20]}..."
        yield Case(GROUP, f"{name} ({shown}) in {len(PLACES)} places", "4xx, no file", partial(_everywhere, site, text))
    for name, text in (
        ("up and away", "../../x"),
        ("NUL", "a\0b"),
        ("empty", ""),
        ("dots", "․․/x"),
        ("long", "a" * 200),
    ):
        yield Case(
            GROUP, f"a scene named {name}", "400 invalid_scene_name or invalid_field", partial(_scene, site, text)
        )
        yield Case(GROUP, f"a reconstruction named {name}", "4xx", partial(_reconstruction, site, text))
    yield Case(GROUP, "names of uploaded files", "taken for nothing", partial(_files, site))


def _everywhere(site: Site, text: str) -> Got:
    wrong = []
    seen = set()
    for method, place in PLACES:
        answer = site.raw(method, place.format(text))
        seen.add(answer.status_code)
        if answer.status_code not in REFUSED or "root:" in answer.text or "[fonts]" in answer.text:
            wrong.append(f"{method} {place}: {answer.status_code}")
        if "set-cookie" in answer.headers or b"\x1b" in repr(answer.headers.raw).encode() + answer.content:
            wrong.append(f"{method} {place}: it came back raw")
    return Got("; ".join(wrong[:3]) or ", ".join(map(str, sorted(seen))), not wrong)


def _scene(site: Site, name: str) -> Got:
    headers = {"Content-Type": "application/octet-stream"}
    return answered(
        site.ask("POST", "/v1/scenes", params={"name": name}, content=b"x" * 32, headers=headers),
        (400,),
        ("invalid_scene_name", "invalid_field", "missing_field"),
    )


def _reconstruction(site: Site, name: str) -> Got:
    photos = archive(*((f"{n}.png", b"x") for n in range(12)))
    headers = {"Content-Type": "application/zip"}
    return answered(site.ask("POST", "/v1/reconstructions", params={"name": name}, content=photos, headers=headers))


def _files(site: Site) -> Got:
    names = ("../../../../tmp/argus-evil.png", "/etc/passwd", "C:\\evil.png", 'a"\r\nX: y')
    got = [
        answered(site.ask("POST", "/v1/classify", files={"image": (name, b"no image")}, data={"labels": "a,b"}))
        for name in names
    ]
    return Got(" / ".join(dict.fromkeys(one.text for one in got)), all(one.ok for one in got))
