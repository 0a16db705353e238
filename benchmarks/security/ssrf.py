"""URLs: on every field that takes one, in every form by which an address hides; name servers and redirects that lie."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Final

from benchmarks.security.case import Case, Got, answered, code_of
from benchmarks.security.sink import Reached, Sink
from benchmarks.security.site import Site
from serve.errors import ArgusError
from serve.media.fetch import FetchPolicy, MediaFetcher, Resolver

GROUP = "ssrf"
INDEX: Final = "drill-ssrf"
_NOT_ALLOWED: Final = ("url_not_allowed", "url_fetch_disabled")
_QUESTION: Final = {"type": "text", "text": "What is it?"}


def _chat(part: dict[str, Any], model: str) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": [part, _QUESTION]}]}


def _image(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def _video(url: str) -> dict[str, Any]:
    return {"type": "video_url", "video_url": {"url": url}}


def _tensor(url: str) -> dict[str, Any]:
    return {"inputs": [{"name": "IMAGE", "datatype": "BYTES", "shape": [1], "data": [url]}]}


FIELDS: Final[Mapping[str, Callable[[str], dict[str, Any]]]] = {
    "/v1/classify": lambda url: {"image": url, "labels": ["a", "b"]},
    "/v1/classify#images": lambda url: {"images": [url], "labels": ["a", "b"]},
    "/v1/embeddings": lambda url: {"model": "clip", "input": [_image(url)]},
    "/v1/chat/completions#image_url": lambda url: _chat(_image(url), "llava"),
    "/v1/chat/completions#video_url": lambda url: _chat(_video(url), "video_llava"),
    "/v1/chat/completions#cascade": lambda url: _chat(_image(url), "vqa"),
    "/v1/caption": lambda url: {"image": url},
    "/v1/vqa": lambda url: {"image": url, "question": "What is it?"},
    "/v1/vision": lambda url: {"image": url, "tasks": [{"task": "caption"}]},
    "/v1/vision/caption": lambda url: {"image": url},
    "/v1/moderate": lambda url: {"image": url},
    "/v1/cascades/vqa": lambda url: {"image": url, "question": "What is it?"},
    "/v1/compare": lambda url: {"models": ["llava"], "prompt": "What is it?", "images": [url]},
    "/v1/products/analyze": lambda url: {"image": url},
    "/v1/videos/describe": lambda url: {"video": url},
    "/v1/videos/summary": lambda url: {"video": url},
    "/v1/videos/ask": lambda url: {"video": url, "question": "What is it?"},
    "/v1/videos/keyframes": lambda url: {"video": url},
    "/v1/videos/classify": lambda url: {"video": url},
    "/v1/videos/actions": lambda url: {"video": url},
    "/v1/videos/features": lambda url: {"video": url},
    "/v1/documents/text": lambda url: {"document": url},
    "/v1/documents/table": lambda url: {"document": url},
    "/v1/documents/summary": lambda url: {"document": url},
    "/v1/jobs#classify": lambda url: {"operation": "classify", "request": {"image": url, "labels": ["a", "b"]}},
    "/v1/jobs#videos.describe": lambda url: {"operation": "videos.describe", "request": {"video": url}},
    "/v1/jobs#documents.text": lambda url: {"operation": "documents.text", "request": {"document": url}},
    "/v1/indexes/{index}/items": lambda url: {"items": [{"id": "a", "image": url}]},
    "/v1/indexes/{index}/search": lambda url: {"image": url, "k": 1},
    "/v1/search/products": lambda url: {"index": INDEX, "image": url},
    "/v1/sessions/{session}/messages": lambda url: {"content": [_image(url), _QUESTION], "max_tokens": 4},
    "/v2/models/clip.image_embedding/infer": _tensor,
}
"""Bodies with a URL in them, by path; what follows `#` tells those of one path apart."""


def urls(trap: Sink) -> dict[str, str]:
    """Ways to name what is inside, by what they try; those on loopback lead to the trap."""
    port = trap.port
    return {
        "loopback": f"http://127.0.0.1:{port}/",
        "loopback, a port that is allowed": "http://127.0.0.1/",
        "all of 127/8": "http://127.8.8.8/",
        "localhost": f"http://localhost:{port}/",
        "localhost with the root's dot": "http://localhost./",
        "decimal": "http://2130706433/",
        "octal": "http://0177.0.0.1/",
        "hexadecimal": "http://0x7f.0.0.1/",
        "hexadecimal in one": "http://0x7f000001/",
        "short": "http://127.1/",
        "zero": "http://0/",
        "unspecified": "http://0.0.0.0/",
        "full-width digits": "http://１２７.０.０.１/",
        "circled digits": "http://①②⑦.⓪.⓪.①/",
        "IPv6 loopback": f"http://[::1]:{port}/",
        "IPv6 unspecified": "http://[::]/",
        "IPv4-mapped": "http://[::ffff:127.0.0.1]/",
        "IPv4-mapped in hexadecimal": "http://[::ffff:7f00:1]/",
        "IPv4-compatible": "http://[::127.0.0.1]/",
        "NAT64": "http://[64:ff9b::7f00:1]/",
        "6to4": "http://[2002:7f00:1::]/",
        "link-local with a zone": "http://[fe80::1%25lo]/",
        "unique local": "http://[fd00::1]/",
        "private": "http://10.0.0.1/",
        "carrier-grade NAT": "http://100.64.0.1/",
        "metadata service": "http://169.254.169.254/latest/meta-data/",
        "metadata service in decimal": "http://2852039166/",
        "metadata service by IPv6": "http://[fd00:ec2::254]/",
        "Azure's host": "http://168.63.129.16/",
        "user name": "http://outside.invalid@127.0.0.1/",
        "user name and password": f"http://a:b@127.0.0.1:{port}/",
        "fragment before the host": "http://outside.invalid#@127.0.0.1/",
        "backslash": "http://127.0.0.1\\@outside.invalid/",
        "another port": "http://outside.invalid:22/",
        "file": "file:///etc/passwd",
        "ftp": "ftp://127.0.0.1/",
        "gopher": f"gopher://127.0.0.1:{port}/_GET",
        "dict": "dict://127.0.0.1:11211/stats",
        "unix socket": "http+unix://%2Fvar%2Frun%2Fdocker.sock/info",
        "no scheme": "//127.0.0.1/",
        "line break in the URL": f"http://127.0.0.1:{port}/\r\nX: y",
        "NUL in the host": "http://127.0.0.1\x00.outside.invalid/",
    }


# No URL, another host, and a name that not every machine resolves.
_OTHERWISE: Final = frozenset({"no scheme", "fragment before the host", "localhost with the root's dot"})


def cases(site: Site) -> Iterator[Case]:
    """The attempts."""
    yield Case(
        GROUP, "fields that take a URL, by the API's description", "all are in this drill", partial(_covered, site)
    )
    site.ask("PUT", f"/v1/indexes/{INDEX}", json={"model": "clip"})
    names = {"index": INDEX, "session": site.ask("POST", "/v1/sessions", json={}).json()["id"]}
    for field in FIELDS:
        expected = "4xx url_not_allowed, nothing is asked"
        yield Case(GROUP, f"loopback and metadata in {field}", expected, partial(_field, site, field, names))
    planted = "an address in an index's metadata, when its hits are described"
    yield Case(GROUP, planted, "nothing is asked", partial(_second_order, site))
    site.ask("DELETE", f"/v1/indexes/{INDEX}")
    for name, url in urls(site.trap).items():
        codes = () if name in _OTHERWISE else _NOT_ALLOWED
        expected = f"4xx{' url_not_allowed' if codes else ''}, nothing is asked"
        yield Case(GROUP, f"{name}: {url!r}", expected, partial(_form, site, url, codes))
    yield Case(GROUP, "a URL in a JSON schema's $ref", "4xx, nothing is asked", partial(_schema, site))
    yield Case(
        GROUP,
        "a name with a public and an inner address",
        "url_not_allowed",
        partial(_names, ["93.184.216.34", "127.0.0.1"]),
    )
    yield Case(GROUP, "a name server that changes its answer", "asked once, and that answer used", _rebinding)
    yield Case(GROUP, "a redirect to loopback", "url_not_allowed", partial(_redirect, "http://127.0.0.1:{port}/"))
    yield Case(
        GROUP, "a redirect to a name inside", "url_not_allowed", partial(_redirect, "http://inside.example:{port}/")
    )
    yield Case(GROUP, "a redirect to file:", "url_not_allowed", partial(_redirect, "file:///etc/passwd"))
    yield Case(GROUP, "redirects without end", "url_not_allowed", partial(_redirect, "/again"))


def _covered(site: Site) -> Got:
    """Every path whose schema has a field of media, as the OpenAPI document describes it."""
    document = site.ask("GET", "/openapi.json").json()
    schemas = document.get("components", {}).get("schemas", {})
    taking = set()
    for path, methods in document["paths"].items():
        for described in methods.values():
            body = described.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
            if _takes_media(body, schemas, set()):
                taking.add(path)
    known = {field.partition("#")[0] for field in FIELDS}
    missing = sorted(path for path in taking if path not in known and not _elsewhere(path, known))
    return Got(f"{len(taking)} paths, not tried: {', '.join(missing) or 'none'}", bool(taking) and not missing)


def _elsewhere(path: str, known: set[str]) -> bool:
    """Paths with a parameter are tried with a value in its place."""
    pattern = path.split("/")
    alike = (one.split("/") for one in known)
    return any(
        len(one) == len(pattern) and all(a == b or b.startswith("{") for a, b in zip(one, pattern, strict=True))
        for one in alike
    )


def _takes_media(schema: Any, schemas: Mapping[str, Any], seen: set[str]) -> bool:
    if isinstance(schema, list):
        return any(_takes_media(one, schemas, seen) for one in schema)
    if not isinstance(schema, dict):
        return False
    if (reference := schema.get("$ref")) is not None:
        name = reference.rpartition("/")[2]
        return name not in seen and _takes_media(schemas.get(name), schemas, seen | {name})
    names = set(schema.get("properties", {}))
    if names & {"image", "images", "video", "document", "image_url", "video_url"}:
        return True
    return any(_takes_media(one, schemas, seen) for one in schema.values())


def _field(site: Site, field: str, names: Mapping[str, str]) -> Got:
    addresses = (f"{site.trap.url}/", "http://169.254.169.254/latest/meta-data/")
    got = [_refused(site, field, names, url) for url in addresses]
    return Got(" / ".join(dict.fromkeys(one.text for one in got)), all(one.ok for one in got))


def _refused(site: Site, field: str, names: Mapping[str, str], url: str) -> Got:
    before = len(site.trap.requests)
    answer = site.ask("POST", field.partition("#")[0].format(**names), json=FIELDS[field](url))
    reached = len(site.trap.requests) - before
    refused = code_of(answer) in _NOT_ALLOWED and 400 <= answer.status_code < 500
    text = f"{answer.status_code} {code_of(answer)}" + (f", {reached} requests came through" if reached else "")
    return Got(text, refused and not reached)


def _second_order(site: Site) -> Got:
    """One client puts an address into what another one's question leads to."""
    before = len(site.trap.requests)
    item = {"id": "planted", "text": "a red star", "metadata": {"image": f"{site.trap.url}/"}}
    added = site.ask("POST", f"/v1/indexes/{INDEX}/items", key=site.other_key, json={"items": [item]})
    answer = site.ask("POST", "/v1/search/products", json={"index": INDEX, "text": "a red star", "describe": 1})
    reached = len(site.trap.requests) - before
    ok = added.status_code == 200 and "url_not_allowed" in answer.text and not reached
    return Got(f"{added.status_code}, {answer.status_code}, {reached} requests came through", ok)


def _form(site: Site, url: str, codes: tuple[str, ...]) -> Got:
    before = len(site.trap.requests)
    answer = site.ask("POST", "/v1/classify", json={"image": url, "labels": ["a", "b"]})
    got = answered(answer, codes=codes, without="root:")
    reached = len(site.trap.requests) - before
    return Got(got.text, got.ok and not reached)


def _schema(site: Site) -> Got:
    before = len(site.trap.requests)
    schema = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"$ref": f"{site.trap.url}/schema.json"}}}
    body = {**_chat(_QUESTION, "llava"), "response_format": schema, "max_tokens": 4}
    got = answered(site.ask("POST", "/v1/chat/completions", json=body))
    return Got(got.text, got.ok and len(site.trap.requests) == before)


def _names(addresses: list[str]) -> Got:
    async def resolver(host: str, port: int) -> list[str]:
        return addresses

    return _fetch("http://a.example/", resolver)


def _rebinding() -> Got:
    """The first answer passes the check and leads nowhere; the second would lead to the trap."""
    asked: list[str] = []
    with Sink() as trap:

        async def resolver(host: str, port: int) -> list[str]:
            asked.append(host)
            return ["192.0.2.1"] if len(asked) == 1 else ["127.0.0.1"]

        # Exempt, so that an address for documentation may stand for a public one.
        got = _fetch(f"http://a.example:{trap.port}/", resolver, allow=("a.example",), connect_timeout_s=0.3)
        return Got(
            f"{got.text}, asked {len(asked)} time(s), trap reached {len(trap.requests)} times",
            len(asked) == 1 and not trap.requests,
        )


def _redirect(location: str) -> Got:
    with Sink() as trap, Sink() as first:
        target = location.format(port=trap.port)

        def answer(request: Reached) -> tuple[int, dict[str, str], bytes]:
            return 302, {"location": target}, b""

        first.answer = answer

        async def resolver(host: str, port: int) -> list[str]:
            return ["127.0.0.1"]

        got = _fetch(f"http://first.example:{first.port}/", resolver, allow=(f"first.example:{first.port}",))
        return Got(f"{got.text}, trap reached {len(trap.requests)} times", got.ok and not trap.requests)


def _fetch(url: str, resolver: Resolver, *, allow: tuple[str, ...] = (), connect_timeout_s: float = 3.0) -> Got:
    """With the fetcher of the cluster, and a name server of our own."""

    async def fetch() -> str:
        policy = FetchPolicy(allow_hosts=allow, connect_timeout_s=connect_timeout_s, timeout_s=10)
        fetcher = MediaFetcher(policy, resolver=resolver)
        try:
            await fetcher.fetch(url)
        except ArgusError as error:
            return error.code
        finally:
            await fetcher.aclose()
        return "fetched"

    code = asyncio.run(fetch())
    return Got(code, code == "url_not_allowed")
