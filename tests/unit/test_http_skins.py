"""`/v1/classify`: one answer however the image and the fields arrive, and errors that name the field."""

from __future__ import annotations

import base64
from typing import Any

import httpx
import numpy as np
import pytest

from deployments.templates import TEMPLATE_SETS
from serve.errors import InvalidMedia, ModelFailed
from tests.unit.fakes import MAX_BODY, TEMPERATURE, Site, png

PNG = png("red")
OTHER = png("blue")
BASE64 = base64.b64encode(PNG).decode()
DATA_URI = f"data:image/png;base64,{BASE64}"
LABELS = ["cat", "dog", "a red hat"]
PATH = "/v1/classify"


def body_of(response: httpx.Response, status: int = 200) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    answer: dict[str, Any] = response.json()
    return answer


def error_of(response: httpx.Response, status: int) -> dict[str, Any]:
    """The one error object, its shape checked."""
    body = body_of(response, status)
    assert set(body) == {"error"}
    error: dict[str, Any] = body["error"]
    assert set(error) == {"code", "message", "param", "type", "request_id"}
    assert error["request_id"]
    assert error["type"].endswith("_error")
    return error


async def classify(client: httpx.AsyncClient, **fields: Any) -> httpx.Response:
    return await client.post(PATH, json={"labels": LABELS, "image": BASE64} | fields)


async def test_an_answer(client: httpx.AsyncClient) -> None:
    body = body_of(await client.post(PATH, json={"labels": LABELS, "image": BASE64}, headers={"x-request-id": "id-7"}))
    assert (body["object"], body["model"], body["temperature"], body["request_id"]) == (
        "classification",
        "clip",
        TEMPERATURE,
        "id-7",
    )
    [result] = body["results"]
    probabilities = [score["probability"] for score in result["scores"]]
    assert probabilities == sorted(probabilities, reverse=True)
    assert sum(probabilities) == pytest.approx(1)
    assert {score["label"] for score in result["scores"]} == set(LABELS)
    assert result["label"] == result["scores"][0]["label"]
    assert result["index"] == 0


REQUESTS: dict[str, dict[str, Any]] = {
    "base64": {"json": {"labels": LABELS, "image": BASE64}},
    "data URI": {"json": {"labels": LABELS, "image": DATA_URI}},
    "URL": {"json": {"labels": LABELS, "image": "https://example.com/red.png"}},
    "one of images": {"json": {"labels": LABELS, "images": [BASE64]}},
    "raw": {"content": PNG, "headers": {"content-type": "image/png"}, "params": {"labels": LABELS}},
    "octets": {
        "content": PNG,
        "headers": {"content-type": "application/octet-stream"},
        "params": {"labels": ",".join(LABELS)},
    },
    "file": {"files": {"image": ("red.png", PNG, "image/png")}, "data": {"labels": LABELS}},
    "file, commas": {"files": {"file": ("red.png", PNG)}, "data": {"labels": " cat , dog,a red hat"}},
    "file, JSON": {"files": {"images": ("x", PNG, "image/png")}, "data": {"labels": '["cat","dog","a red hat"]'}},
    "file, brackets": {"files": {"images[]": ("x", PNG, "image/png")}, "data": {"labels[]": LABELS}},
    "form field": {"files": {"labels": (None, "cat,dog,a red hat"), "image": (None, BASE64)}},
    "JSON, commas": {"json": {"labels": "cat, dog, a red hat", "image": BASE64}},
    "JSON by another name": {
        "content": b'{"labels": ["cat", "dog", "a red hat"], "image": "%s"}' % BASE64.encode(),
        "headers": {"content-type": "application/vnd.api+json; charset=utf-8"},
    },
}


@pytest.mark.parametrize("request_name", REQUESTS)
async def test_the_same_answer_whatever_the_shape(client: httpx.AsyncClient, site: Site, request_name: str) -> None:
    site.pages["https://example.com/red.png"] = PNG
    expected = body_of(await client.post(PATH, **REQUESTS["base64"]))
    answer = body_of(await client.post(PATH, **REQUESTS[request_name]))
    assert answer["results"] == expected["results"]
    other = body_of(await client.post(PATH, json={"labels": LABELS, "image": base64.b64encode(OTHER).decode()}))
    assert other["results"] != expected["results"]


async def test_several_images_in_order(client: httpx.AsyncClient) -> None:
    alone = [body_of(await classify(client, image=base64.b64encode(image).decode())) for image in (PNG, OTHER)]
    expected = [{**answer["results"][0], "index": i} for i, answer in enumerate(alone)]
    named = {"labels": LABELS, "images": [BASE64, base64.b64encode(OTHER).decode()]}
    assert body_of(await client.post(PATH, json=named))["results"] == expected
    files = [("image", ("a.png", PNG, "image/png")), ("image", ("b.png", OTHER, "image/png"))]
    assert body_of(await client.post(PATH, files=files, data={"labels": LABELS}))["results"] == expected


async def test_a_label_with_a_comma_goes_as_a_list(client: httpx.AsyncClient, site: Site) -> None:
    await classify(client, labels=["black, white", "red"])
    assert site.model.requests("classify")[-1].labels == ("black, white", "red")


async def test_top_k(client: httpx.AsyncClient) -> None:
    everything = body_of(await classify(client))["results"][0]["scores"]
    for k in (1, 2, 3, 99):
        assert body_of(await classify(client, top_k=k))["results"][0]["scores"] == everything[:k]
    raw = await client.post(
        PATH, content=PNG, headers={"content-type": "image/png"}, params={"labels": LABELS, "top_k": "1"}
    )
    assert body_of(raw)["results"][0]["scores"] == everything[:1]


async def test_multi_label(client: httpx.AsyncClient) -> None:
    scores = body_of(await classify(client, multi_label=True))["results"][0]["scores"]
    for score in scores:
        assert score["probability"] == pytest.approx(1 / (1 + np.exp(-score["logit"])), rel=1e-5)
    files = {"image": ("x", PNG, "image/png")}
    form = await client.post(PATH, files=files, data={"labels": LABELS, "multi_label": "true"})
    assert body_of(form)["results"][0]["scores"] == scores


@pytest.mark.parametrize(
    ("given", "resolved"),
    [
        ("plain", ("{}",)),
        ("default", ("a photo of a {}.",)),
        (["a {}", "the {}"], ("a {}", "the {}")),
        ("a drawing of a {}, in ink.", ("a drawing of a {}, in ink.",)),
        ('["a {}", "the {}, again"]', ("a {}", "the {}, again")),
    ],
)
async def test_templates(client: httpx.AsyncClient, site: Site, given: Any, resolved: tuple[str, ...]) -> None:
    body_of(await classify(client, templates=given))
    assert site.model.requests("classify")[-1].templates == resolved


async def test_templates_in_a_form(client: httpx.AsyncClient, site: Site) -> None:
    files = {"image": ("x", PNG, "image/png")}
    body_of(await client.post(PATH, files=files, data={"labels": "a,b", "templates": ["a {}", "the {}"]}))
    assert site.model.requests("classify")[-1].templates == ("a {}", "the {}")
    body_of(await client.post(PATH, files=files, data={"labels": "a,b", "templates": "plain"}))
    assert site.model.requests("classify")[-1].templates == ("{}",)


@pytest.mark.parametrize(
    ("field", "sent", "resolved"),
    [
        ("templates", "a drawing of a {}.", ("a drawing of a {}.",)),
        ("templates[]", "a {}, in ink", ("a {}, in ink",)),
        ("templates", '["a {}", "the {}, again"]', ("a {}", "the {}, again")),
        ("templates", "ensemble", TEMPLATE_SETS["ensemble"]),
    ],
)
async def test_own_templates_by_form_and_query(
    client: httpx.AsyncClient, site: Site, field: str, sent: str, resolved: tuple[str, ...]
) -> None:
    raw = {"content": PNG, "headers": {"content-type": "image/png"}, "params": {"labels": "a,b", field: sent}}
    form = {"files": {"image": ("x", PNG, "image/png")}, "data": {"labels": "a,b", field: sent}}
    for request in (raw, form):
        body_of(await client.post(PATH, **request))
        assert site.model.requests("classify")[-1].templates == resolved


async def test_an_unknown_template_set_says_what_may_be_sent(client: httpx.AsyncClient) -> None:
    message = error_of(await classify(client, templates="drawings"), 400)["message"]
    assert "'drawings'" in message and "default, plain, ensemble" in message
    assert "prompts of your own, with one {}" in message


async def test_the_named_model_answers(client: httpx.AsyncClient, site: Site) -> None:
    assert body_of(await classify(client, model="judge"))["model"] == "judge"
    assert (len(site.judge.calls), len(site.model.calls)) == (1, 0)


WRONG: dict[str, tuple[dict[str, Any], int, str, str]] = {
    "unknown field": ({"label": "x"}, 400, "unknown_field", "label"),
    "labels missing": ({"labels": None}, 400, "invalid_field", "labels"),
    "no labels": ({"labels": []}, 400, "no_labels", "labels"),
    "too many labels": ({"labels": list("abcdef")}, 400, "too_many_labels", "labels"),
    "a label twice": ({"labels": ["a", "b", "a"]}, 400, "duplicate_label", "labels"),
    "an empty label": ({"labels": ["a", "  "]}, 400, "empty_text", "labels[1]"),
    "an empty label by commas": ({"labels": "a,,b"}, 400, "empty_text", "labels[1]"),
    "a long label": ({"labels": ["a", "x" * 61]}, 400, "text_too_long", "labels[1]"),
    "a label of another type": ({"labels": ["a", 5]}, 400, "invalid_field", "labels[1]"),
    "labels of another type": ({"labels": {"a": 1}}, 400, "invalid_field", "labels"),
    "no image": ({"image": None}, 400, "missing_field", "image"),
    "no images": ({"image": None, "images": []}, 400, "missing_field", "image"),
    "both ways": ({"images": [BASE64]}, 400, "invalid_field", "body"),
    "too many images": ({"image": None, "images": [BASE64] * 7}, 400, "too_many_inputs", "images"),
    "not base64": ({"image": "hello!"}, 400, "invalid_base64", "image"),
    "no picture": ({"image": base64.b64encode(b"hello").decode()}, 400, "not_an_image", "image"),
    "broken data URI": ({"image": "data:image/png,abc"}, 400, "invalid_data_uri", "image"),
    "another type": ({"image": DATA_URI.replace("png", "jpeg")}, 400, "image_type_mismatch", "image"),
    "cut": ({"image": base64.b64encode(PNG[:40]).decode()}, 400, "truncated_image", "image"),
    "small": ({"image": base64.b64encode(png(size=(3, 3))).decode()}, 400, "image_too_small", "image"),
    "large": ({"image": base64.b64encode(png(size=(513, 8))).decode()}, 400, "image_too_large", "image"),
    "forbidden URL": ({"image": "http://169.254.169.254/"}, 403, "url_not_allowed", "image"),
    "file URL": ({"image": "file:///etc/passwd"}, 403, "url_not_allowed", "image"),
    "unknown model": ({"model": "gpt-4"}, 404, "model_not_found", "model"),
    "store as a model": ({"model": "index"}, 404, "model_not_found", "model"),
    "top_k too small": ({"top_k": 0}, 400, "invalid_field", "top_k"),
    "top_k of another type": ({"top_k": "many"}, 400, "invalid_field", "top_k"),
    "multi_label of another type": ({"multi_label": "perhaps"}, 400, "invalid_field", "multi_label"),
    "unknown templates": ({"templates": "nope"}, 400, "unknown_template_set", "templates"),
    "bad template": ({"templates": ["no place"]}, 400, "invalid_template", "templates"),
    "two places in a template": ({"templates": "a {} on a {}"}, 400, "invalid_template", "templates"),
    "half a list of templates": ({"templates": '["a {}"'}, 400, "unknown_template_set", "templates"),
    "a template of another type": ({"templates": '["a {}", 5]'}, 400, "invalid_field", "templates[1]"),
    "no template": ({"templates": []}, 400, "invalid_request", "templates"),
    "long template": ({"templates": ["x" * 60 + "{}"]}, 400, "text_too_long", "templates[0]"),
}


@pytest.mark.parametrize("name", WRONG)
async def test_what_is_wrong_is_named(client: httpx.AsyncClient, site: Site, name: str) -> None:
    fields, status, code, param = WRONG[name]
    error = error_of(await classify(client, **fields), status)
    assert (error["code"], error["param"]) == (code, param)
    assert (error["type"] == "invalid_request_error") == (status == 400)
    assert site.model.calls == [], "the model was asked all the same"


BODIES: dict[str, tuple[bytes, str | None, int, str, str | None]] = {
    "empty": (b"", "application/json", 400, "invalid_json", "body"),
    "bad JSON": (b'{"labels": ', "application/json", 400, "invalid_json", "body"),
    "not UTF-8": (b'{"labels": "\xff"}', "application/json", 400, "invalid_json", "body"),
    "NaN": (b'{"top_k": NaN}', "application/json", 400, "invalid_json", "body"),
    "list": (b"[1]", "application/json", 400, "invalid_json", "body"),
    "string": (b'"x"', "application/json", 400, "invalid_json", "body"),
    "no field": (b"{}", "application/json", 400, "missing_field", "labels"),
    "deep": (b'{"labels":' * 5000, "application/json", 400, "invalid_json", "body"),
    "form": (b"labels=a", "application/x-www-form-urlencoded", 415, "unsupported_media_type", "content-type"),
    "text": (b"{}", "text/plain", 415, "unsupported_media_type", "content-type"),
    "no type": (b"{}", None, 415, "unsupported_media_type", "content-type"),
    "no boundary": (b"--x", "multipart/form-data", 400, "invalid_multipart", "content-type"),
    "no part": (b"hello", "multipart/form-data; boundary=x", 400, "invalid_multipart", None),
    "a part without a name": (
        b"--x\r\nContent-Type: image/png\r\n\r\nabc\r\n--x--\r\n",
        "multipart/form-data; boundary=x",
        400,
        "invalid_multipart",
        None,
    ),
    "an empty image": (b"", "image/png", 400, "missing_field", "labels"),
}


@pytest.mark.parametrize("name", BODIES)
async def test_a_body_that_is_none(client: httpx.AsyncClient, name: str) -> None:
    content, content_type, status, code, param = BODIES[name]
    headers = {} if content_type is None else {"content-type": content_type}
    error = error_of(await client.post(PATH, content=content, headers=headers), status)
    assert (error["code"], error["param"]) == (code, param)


@pytest.mark.parametrize(
    ("content", "content_type", "code"),
    [
        (b"", "image/png", "empty_image"),
        (b"hello", "image/png", "not_an_image"),
        (PNG, "image/gif", "image_type_mismatch"),
    ],
)
async def test_a_raw_body_that_is_no_image(
    client: httpx.AsyncClient, content: bytes, content_type: str, code: str
) -> None:
    headers = {"content-type": content_type}
    error = error_of(await client.post(PATH, content=content, headers=headers, params={"labels": "a,b"}), 400)
    assert (error["code"], error["param"]) == (code, "body")


async def test_a_file_under_an_unknown_name(client: httpx.AsyncClient) -> None:
    response = await client.post(PATH, files={"picture": ("x.png", PNG, "image/png")}, data={"labels": "a,b"})
    error = error_of(response, 400)
    assert (error["code"], error["param"]) == ("unknown_field", "picture")


async def test_an_error_tells_which_file(client: httpx.AsyncClient) -> None:
    files = [("images", ("a.png", PNG, "image/png")), ("images", ("b.png", b"junk", "image/png"))]
    results = body_of(await client.post(PATH, files=files, data={"labels": LABELS}))["results"]
    assert "scores" in results[0]
    assert (results[1]["error"]["param"], results[1]["error"]["code"]) == ("images[1]", "not_an_image")


async def test_a_body_that_says_it_is_too_large(client: httpx.AsyncClient) -> None:
    content = b"x" * (MAX_BODY + 1)
    error = error_of(await client.post(PATH, content=content, headers={"content-type": "image/png"}), 413)
    assert (error["code"], error["param"]) == ("payload_too_large", "body")


async def test_a_body_that_does_not_say_is_cut_off(client: httpx.AsyncClient) -> None:
    sent = []

    async def chunks() -> Any:
        for _ in range(100):
            sent.append(MAX_BODY // 4)
            yield b"x" * (MAX_BODY // 4)

    response = await client.post(PATH, content=chunks(), headers={"content-type": "image/png"})
    assert "content-length" not in response.request.headers
    assert error_of(response, 413)["code"] == "payload_too_large"
    assert len(sent) < 10, "the whole body was read"


async def test_a_body_of_just_the_limit(client: httpx.AsyncClient) -> None:
    padded = b'{"labels": ["a"], "image": "x"}'.ljust(MAX_BODY)
    response = await client.post(PATH, content=padded, headers={"content-type": "application/json"})
    assert error_of(response, 400)["code"] == "invalid_base64"


async def test_one_bad_image_among_good_ones(client: httpx.AsyncClient, site: Site) -> None:
    good = body_of(await classify(client))["results"][0]
    images = [BASE64, "hello!", base64.b64encode(OTHER).decode(), "data:,"]
    body = body_of(await client.post(PATH, json={"labels": LABELS, "images": images}, headers={"x-request-id": "id-7"}))
    assert [result["index"] for result in body["results"]] == [0, 1, 2, 3]
    assert body["results"][0] == good
    assert "scores" in body["results"][2]
    for i, code in ((1, "invalid_base64"), (3, "invalid_data_uri")):
        error = body["results"][i]["error"]
        assert (error["code"], error["param"], error["request_id"]) == (code, f"images[{i}]", "id-7")
    assert len(site.model.requests("classify")[-1].images) == 2


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (InvalidMedia("The pixels end early.", code="truncated_image"), "truncated_image"),
        (ValueError("x"), "model_failed"),
    ],
)
async def test_an_image_that_fails_in_the_model(
    client: httpx.AsyncClient, site: Site, failure: Exception, code: str
) -> None:
    site.model.failing[OTHER] = failure
    images = [base64.b64encode(OTHER).decode(), "hello!", BASE64]
    first, second, third = body_of(await client.post(PATH, json={"labels": LABELS, "images": images}))["results"]
    assert (first["error"]["code"], first["error"]["param"]) == (code, "images[0]")
    assert second["error"]["code"] == "invalid_base64"
    assert "scores" in third


async def test_when_no_image_is_good_the_request_failed(client: httpx.AsyncClient, site: Site) -> None:
    site.model.failing = {PNG: InvalidMedia("The pixels end early."), OTHER: ModelFailed("Not a number.")}
    both = [BASE64, base64.b64encode(OTHER).decode()]
    error = error_of(await client.post(PATH, json={"labels": LABELS, "images": both}), 400)
    assert (error["code"], error["param"]) == ("invalid_image", "images[0]")
    assert (
        error_of(await client.post(PATH, json={"labels": LABELS, "images": both[::-1]}), 500)["code"] == "model_failed"
    )
