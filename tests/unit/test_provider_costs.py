"""Tokens by the providers' published rules, prices from the table, and what of it a cluster file may say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from serve.config.load import ConfigErrors, parse
from serve.config.provider_checks import provider_notes
from serve.config.providers import Provider
from serve.errors import Forbidden
from serve.providers import output, tokens
from serve.providers.faults import Secret, duration_s, error_of, retry_after_s
from serve.providers.hosted import is_loopback
from serve.providers.keys import key_of
from serve.providers.prices import Price, Rates, cost, price_of, table
from tests.unit.fakes import cluster

# Examples of https://platform.openai.com/docs/guides/images-vision#calculating-costs.
OPENAI = [
    ((1024, 1024), "high", "gpt-4o", 765),
    ((2048, 4096), "high", "gpt-4o", 1105),
    ((4096, 8192), "low", "gpt-4o", 85),
    ((512, 512), "auto", "gpt-4o", 255),
    ((1024, 1024), "high", "gpt-4o-mini", 2833 + 4 * 5667),
    ((100, 100), "low", "gpt-4o-mini", 2833),
    ((1024, 1024), "high", "gpt-5", 70 + 4 * 140),
    ((1024, 1024), "high", "o3", 75 + 4 * 150),
    ((1024, 1024), "high", "gpt-4.1-mini", 1659),  # 1,024 patches x 1.62
    ((1800, 2400), "high", "gpt-4.1-mini", 2353),  # 1,452 patches once it is scaled
]


@pytest.mark.parametrize(("size", "detail", "model", "expected"), OPENAI)
def test_tokens_of_images_at_openai(size: tuple[int, int], detail: Any, model: str, expected: int) -> None:
    assert tokens.openai_image_tokens(*size, detail, model) == expected


@pytest.mark.parametrize(
    ("size", "expected"), [((384, 384), 258), ((10, 10), 258), ((385, 10), 258), ((769, 10), 516), ((1536, 1537), 1548)]
)
def test_tokens_of_images_at_gemini(size: tuple[int, int], expected: int) -> None:
    assert tokens.gemini_image_tokens(*size) == expected


def test_tokens_of_videos_at_gemini() -> None:
    assert tokens.gemini_video_tokens(10) == 2630
    assert tokens.gemini_video_tokens(10, fps=2) == 10 * (2 * 258 + 5)


# Examples of https://platform.claude.com/docs/en/build-with-claude/vision, "Calculate image costs".
@pytest.mark.parametrize(
    ("size", "model", "expected"),
    [
        ((200, 200), "claude-sonnet-4-5", 54),
        ((1000, 1000), "claude-sonnet-4-5", 1334),
        ((1092, 1092), "claude-sonnet-4-5-20250929", 1590),
        ((8000, 8000), "claude-haiku-4-5", 1600),
        ((8000, 8000), "claude-opus-5-5", 4784),
    ],
)
def test_tokens_of_images_at_anthropic(size: tuple[int, int], model: str, expected: int) -> None:
    assert tokens.anthropic_image_tokens(*size, model) == expected


sizes = st.integers(1, 20_000)


@given(sizes, sizes, st.sampled_from(["gpt-4o", "gpt-4o-mini", "gpt-4.1-mini", "o3"]))
def test_no_image_is_free_and_none_is_without_bound(width: int, height: int, model: str) -> None:
    low = tokens.openai_image_tokens(width, height, "low", model)
    high = tokens.openai_image_tokens(width, height, "high", model)
    assert 1 <= low <= high <= 2833 + 5667 * 20
    assert 1 <= tokens.anthropic_image_tokens(width, height, "claude-opus-5") <= 4784
    assert tokens.gemini_image_tokens(width, height) >= 258


@given(st.text())
def test_a_text_has_no_more_tokens_than_bytes(text: str) -> None:
    assert len(text) / 4 <= tokens.text_tokens(text) + 1
    assert tokens.text_tokens(text) <= len(text.encode())


def test_the_cost_of_a_call() -> None:
    price = Price(Rates(2.0, 10.0, 0.5), above_tokens=1000, above=Rates(4.0, 20.0, 1.0))
    assert cost(price, 1000, 100) == pytest.approx((1000 * 2 + 100 * 10) / 1e6)
    assert cost(price, 1000, 100, cached_tokens=400) == pytest.approx((600 * 2 + 400 * 0.5 + 100 * 10) / 1e6)
    assert cost(price, 1001, 100) == pytest.approx((1001 * 4 + 100 * 20) / 1e6)
    assert cost(price, 10, 0, cached_tokens=99) == pytest.approx(10 * 0.5 / 1e6)


def test_every_price_is_dated_and_caches_are_no_dearer() -> None:
    rows = [price for models in table().values() for price in models.values()]
    assert len(rows) > 20
    for price in rows:
        assert price.date is not None
        assert 0 < price.base.cached <= price.base.input < price.base.output
        assert (price.above is None) == (price.above_tokens is None)


def test_a_snapshot_has_the_price_of_its_model_and_the_file_goes_first() -> None:
    for kind, name in (("openai", "gpt-4o-2024-08-06"), ("anthropic", "claude-sonnet-4-5-20250929")):
        known = price_of(Provider.model_validate({"kind": kind, "model": name}))
        assert known is not None
    own = {"input_usd_per_mtok": 1, "output_usd_per_mtok": 2}
    assert price_of(Provider.model_validate({"kind": "openai", "model": "gpt-4o", "prices": own})) == Price(
        Rates(1, 2, 1)
    )
    served = {"kind": "oip", "model": "vlm", "base_url": "http://triton:8000"}
    assert price_of(Provider.model_validate(served)) == Price(Rates(0, 0, 0))


def hosted(**more: Any) -> Any:
    return {"gpt": {"kind": "openai", "model": "gpt-4o", **more}}


@pytest.mark.parametrize(
    ("provider", "said"),
    [
        (hosted(model="gpt-4oo"), ["providers.gpt.prices", "'gpt-4oo'", "did you mean 'gpt-4o'"]),
        (hosted(prices={"input_usd_per_mtok": 1}), ["providers.gpt.prices.output_usd_per_mtok: is missing"]),
        (hosted(prices={"input_usd_per_mtok": -1, "output_usd_per_mtok": 1}), ["input_usd_per_mtok: got -1"]),
        (hosted(base_url="ftp://x"), ["providers.gpt.base_url: got 'ftp://x'", "https://"]),
        (hosted(api_key_env="KEY", api_key_file="/run/key"), ["providers.gpt", "one place"]),
        (hosted(oip={"protocol": "grpc"}), ["oip is given, but kind is 'openai'"]),
        (hosted(json_output="tool"), ["'tool'", "anthropic"]),
        (hosted(kind="oip", model="m"), ["needs base_url"]),
        (hosted(kind="oip", base_url="http://t", oip={"task": "classify"}), ["labels"]),
        (hosted(images={"max_sidee": 1}), ["providers.gpt.images.max_sidee: unknown key", "max_side"]),
    ],
)
def test_what_a_file_may_not_say(provider: Any, said: list[str]) -> None:
    data = cluster().model_dump(mode="json", exclude_unset=True)
    with pytest.raises(ConfigErrors) as caught:
        parse({**data, "providers": provider})
    for words in said:
        assert words in caught.value.message


@pytest.mark.parametrize("url", ["https://user:sk-secret@host/v1", "https://host/v1?key=sk-secret"])
def test_an_address_that_holds_a_key_is_refused(url: str) -> None:
    with pytest.raises(ValidationError, match="credentials"):
        Provider.model_validate({"kind": "openai", "model": "gpt-4o", "base_url": url})


def test_a_key_that_is_not_set_here_is_a_note() -> None:
    file = cluster(providers=hosted(api_key_env="SOME_KEY"))
    assert "SOME_KEY" in next(provider_notes(file, {}))
    assert not list(provider_notes(file, {"SOME_KEY": "x"}))


def test_keys_from_the_environment_and_from_files(tmp_path: Path) -> None:
    secret = tmp_path / "key"
    secret.write_text("sk-from-file\n")
    from_file = Provider.model_validate(hosted(api_key_file=str(secret))["gpt"])
    assert key_of("gpt", from_file, {}).reveal() == "sk-from-file"
    from_environment = Provider.model_validate(hosted(api_key_env="K")["gpt"])
    assert key_of("gpt", from_environment, {"K": "sk-env"}).reveal() == "sk-env"
    with pytest.raises(Forbidden):
        key_of("gpt", from_environment, {"K": " "})
    secret.unlink()
    with pytest.raises(Forbidden) as caught:
        key_of("gpt", from_file, {})
    assert str(tmp_path) not in caught.value.message


def test_a_secret_shows_itself_to_nobody() -> None:
    secret = Secret("sk-abcdefgh-12345678")
    assert "abcdefgh" not in f"{secret} {secret!r} {[secret]}"
    for said in ("key sk-abcdefgh-12345678", "key sk-abcde*****", "ends in 12345678"):
        assert "***" in secret.hide_in(said)
        assert "12345678" not in secret.hide_in(said)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"Retry-After": "3"}, 3),
        ({"retry-after": "0.5"}, 0.5),
        ({"Retry-After": "9", "Retry-After-Ms": "1500"}, 1.5),
        ({"Retry-After": "Thu, 01 Jan 1970 00:01:40 GMT"}, 60),
        ({"Retry-After": "Thu, 01 Jan 1970 00:00:10 GMT"}, 0),
        ({"Retry-After": "-5"}, 0),
        ({"Retry-After": "1e99"}, 3600),
        ({"Retry-After": "nan"}, None),
        ({"Retry-After": "soon"}, None),
        ({}, None),
    ],
)
def test_how_long_a_provider_wants_us_to_wait(headers: dict[str, str], expected: float | None) -> None:
    assert retry_after_s(headers, now=40.0) == expected


@pytest.mark.parametrize(("text", "expected"), [("34.5s", 34.5), ("7s", 7), ("7", None), ("s", None), (7, None)])
def test_a_duration_of_protobuf(text: object, expected: float | None) -> None:
    assert duration_s(text) == expected


def test_a_providers_words_are_bounded() -> None:
    assert len(error_of("gpt", 400, "x" * 10_000).message) < 400


@pytest.mark.parametrize(
    ("url", "expected"),
    [("http://127.0.0.1:1/v1", True), ("http://localhost/v1", True), ("http://[::1]:80", True), ("https://a.b", False)],
)
def test_which_addresses_are_this_machine(url: str, expected: bool) -> None:
    assert is_loopback(url) is expected


def test_a_schema_cannot_make_us_try_a_pattern_or_fetch_anything() -> None:
    from deployments.generation.messages import Constraint
    from serve.errors import InvalidRequest

    slow = '{"type": "string", "pattern": "^(a+)+$"}'
    output.check('"' + "a" * 40 + '!"', Constraint(slow))
    with pytest.raises(InvalidRequest):
        output.check("{}", Constraint('{"$ref": "http://127.0.0.1:1/schema"}'))
    with pytest.raises(InvalidRequest):
        output.check("{}", Constraint('{"type": 3}'))
    with pytest.raises(InvalidRequest):
        output.check("{}", Constraint("[]"))


def test_only_declared_providers_are_loaded() -> None:
    """A router without providers must not pay for their SDKs, which take seconds to load."""
    code = (
        "import sys; from serve.providers.build import build_providers; from serve.config.providers import Provider\n"
        "build_providers({'c': Provider(kind='anthropic', model='claude-opus-5')})\n"
        "print(*({'openai', 'anthropic', 'google.genai', 'tritonclient'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["anthropic"]
