"""Two scrapes together: what grew, what stands, and quantiles as Prometheus finds them."""

from __future__ import annotations

import math
from collections.abc import Iterable

import pytest

from serve.scrape import Delta, Scrape, Window, quantile, sum_of

BEFORE = """
# TYPE ray_argus_requests_total counter
ray_argus_requests_total{route="/a",outcome="ok",WorkerId="1"} 10.0
ray_argus_requests_total{route="/a",outcome="ok",WorkerId="2"} 100.0
ray_argus_requests_total{route="/b",outcome="ok",WorkerId="1"} 5.0
ray_argus_seconds_bucket{le="0.1",WorkerId="1"} 1.0
ray_argus_seconds_bucket{le="1.0",WorkerId="1"} 2.0
ray_argus_seconds_bucket{le="+Inf",WorkerId="1"} 2.0
ray_other_total{route="/a"} 1.0
"""
NOW = """
ray_argus_requests_total{route="/a",outcome="ok",WorkerId="1"} 30.0
ray_argus_requests_total{route="/a",outcome="ok",WorkerId="2"} 4.0
ray_argus_requests_total{route="/a",outcome="late",WorkerId="1"} 6.0
ray_argus_requests_total{route="/b",outcome="ok",WorkerId="1"} 5.0
ray_argus_seconds_bucket{le="0.1",WorkerId="1"} 3.0
ray_argus_seconds_bucket{le="1.0",WorkerId="1"} 6.0
ray_argus_seconds_bucket{le="+Inf",WorkerId="1"} 6.0
ray_argus_limit{target="x",WorkerId="1"} 4.0
ray_argus_limit{target="x",WorkerId="2"} 6.0
"""


@pytest.fixture
def delta() -> Delta:
    return Delta(Scrape.parse(BEFORE, 100.0, ["argus_"]), Scrape.parse(NOW, 110.0, ["argus_"]))


@pytest.mark.parametrize("page", ["<html>log in</html>", "\n  please log in\n", '{"status": "ok"}'])
def test_a_page_that_is_no_metrics_is_refused(page: str) -> None:
    with pytest.raises(ValueError):
        Scrape.parse(page, 1.0, ["argus_"])


@pytest.mark.parametrize("text", ["", "# HELP other Something.\n", 'other{a="1"} 3\n'])
def test_metrics_without_ours_are_none_of_ours(text: str) -> None:
    assert Scrape.parse(text, 1.0, ["argus_"]).samples == {}


def test_what_is_no_finite_number_is_left_out() -> None:
    text = 'ray_argus_jobs{state="a"} NaN\nray_argus_jobs{state="b"} +Inf\nray_argus_jobs{state="c"} 2\n'
    assert Scrape.parse(text, 1.0, ["argus_"]).samples == {"argus_jobs": {frozenset({("state", "c")}): 2.0}}


def test_rates_are_summed_by_labels(delta: Delta) -> None:
    """The second worker was restarted, so its 4 all count; the error is new, so it began at zero."""
    assert delta.rates("argus_requests_total", "route") == {("/a",): pytest.approx(3.0), ("/b",): 0.0}
    assert delta.increases("argus_requests_total", "outcome", route="/a") == {("ok",): 24.0, ("late",): 6.0}
    assert delta.rates("argus_requests_total") == {(): pytest.approx(3.0)}


def test_levels_are_merged_as_asked(delta: Delta) -> None:
    assert delta.levels("argus_limit", "target") == {("x",): 6.0}
    assert delta.levels("argus_limit", "target", merge=sum_of) == {("x",): 10.0}
    assert delta.levels("argus_limit", "target", merge=min) == {("x",): 4.0}
    assert delta.levels("argus_limit", "target", WorkerId="1") == {("x",): 4.0}
    assert delta.levels("argus_nothing") == {}


def test_quantiles_are_of_what_came_between(delta: Delta) -> None:
    """Two of four new ones were below 0.1 s, the other two below 1 s."""
    assert delta.quantiles(0.5, "argus_seconds") == {(): pytest.approx(0.1)}
    assert delta.quantiles(0.75, "argus_seconds") == {(): pytest.approx(0.55)}


def test_one_scrape_tells_levels_and_no_rates() -> None:
    delta = Delta(None, Scrape.parse(NOW, 110.0, ["argus_"]))
    assert delta.seconds == 0
    assert delta.rates("argus_requests_total", "route") == {}
    assert delta.quantiles(0.5, "argus_seconds") == {}
    assert delta.levels("argus_limit") == {(): 6.0}


def test_only_what_is_wanted_is_read() -> None:
    assert set(Scrape.parse(BEFORE, 0.0, ["argus_req"]).samples) == {"argus_requests_total"}
    assert set(Scrape.parse(BEFORE, 0.0, ["other"]).samples) == {"other_total"}


def test_labels_that_ray_gives_to_all_series_are_left_out() -> None:
    """Wherever they stand, and also where a value looks like one of them."""
    text = (
        r'ray_argus_a{Component="core_worker",route="/x,Version=\"1\"",SessionName="s",WorkerId="1",Version="2.60.0"} 1'
        "\n"
        'ray_argus_a{SessionName="s",Version="2.60.0"} 2\n'
        'ray_argus_a{MyVersion="3"} 3\n'
    )
    [series] = Scrape.parse(text, 0.0, ["argus_"]).samples.values()
    assert series == {
        frozenset({("route", '/x,Version="1"'), ("WorkerId", "1")}): 1,
        frozenset(): 2,
        frozenset({("MyVersion", "3")}): 3,
    }


def seen(times: Iterable[float]) -> Window:
    window = Window(600)
    for at_s in times:
        window.add(Scrape(at_s, {"argus_requests_total": {frozenset(): at_s}}))
    return window


def test_a_window_keeps_few_scrapes_and_compares_with_the_newest() -> None:
    window = seen(second / 2 for second in range(4001))
    assert len(window) <= 32
    delta = window.delta()
    assert window.newest is not None and window.newest.at_s == 2000
    assert delta is not None and 600 <= delta.seconds <= 620
    assert delta.rates("argus_requests_total") == {(): pytest.approx(1.0)}


def test_a_window_that_has_just_begun_compares_with_its_first_scrape() -> None:
    assert seen(()).delta() is None
    first, second = seen((5.0,)).delta(), seen((5.0, 7.0)).delta()
    assert first is not None and first.seconds == 0 and first.rates("argus_requests_total") == {}
    assert second is not None and second.seconds == 2 and second.rates("argus_requests_total") == {(): 1.0}


def test_a_pause_longer_than_the_window_is_bridged() -> None:
    delta = seen((0.0, 1000.0, 1001.0)).delta()
    assert delta is not None and delta.seconds == 1001


def test_what_is_no_metric_is_refused() -> None:
    with pytest.raises(ValueError, match="could not convert"):
        Scrape.parse('ray_argus_requests_total{route="/a} ten', 0.0, ["argus_"])


@pytest.mark.parametrize(
    ("share", "expected"),
    [(0.5, 0.1), (0.25, 0.05), (0.9, 1.0), (0.99, 1.0)],
)
def test_quantile_interpolates_and_stops_at_the_last_bound(share: float, expected: float) -> None:
    assert quantile(share, {0.1: 5.0, 1.0: 9.0, math.inf: 10.0}) == pytest.approx(expected)


def test_quantile_of_nothing_is_not_a_number() -> None:
    assert math.isnan(quantile(0.5, {}))
    assert math.isnan(quantile(0.5, {0.1: 0.0, math.inf: 0.0}))
    assert math.isnan(quantile(0.5, {0.1: 1.0}))
