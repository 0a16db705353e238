"""`argus cascade`: what it draws and lists."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from serve.cascade.explain import explain
from serve.cli import app
from serve.errors import NotFound
from tests.unit.cascade_fakes import file, guard
from tests.unit.test_cascade_config import calibration

GEARS = [{"name": "busy", "above_queue_wait_ms": 50, "thresholds": {"screen": 0.5}, "max_tokens": 9}]
CURVE = [
    {"threshold": 0.8, "accepted": 0.7, "agreement": 0.99, "lower": 0.96},
    {"threshold": 0.5, "accepted": 0.9, "agreement": 0.93, "lower": 0.9},
]
DRAWN = """\
it: answers with a label, within 10 s
  labels: safe, knife, gun
  allow: safe
  block: knife, gun
  review: whatever no step accepted, and answers below 0.4

  request
     |
  +- screen: clip classify
  |    accepts confidence >= 0.8000 (calibrated: 95% agreement at 95% confidence, from 100 samples,
  |      temperature 2.000)
  |    expected: answers 70% itself, goes on with 30%
  |    otherwise, or when it fails: analyse
     |
  +- analyse: llava choose   expected: 30% of requests
  |    accepts every answer
  |    falls back to gpt on unavailable, timeout
     |
    end: the last answer; when a later step failed, the one before it, marked degraded

  calibration: of 2026-11-01
  shadow: 2% of accepted answers are checked by the next step; alarm when more than 5% of them are
    wrong
  gear busy: while calls wait over 50 ms: screen from 0.5, at most 9 tokens; screen then answers 90%
    instead of 70%, right in 93% (at least 90%)
"""


def test_a_calibrated_cascade() -> None:
    cascade = guard(
        calibration={**calibration(curve=CURVE), "cascade": "it"},
        policy={"allow": ["safe"], "block": ["knife", "gun"], "review_below": 0.4},
        shadow={"share": 0.02},
        gears=GEARS,
    )
    assert explain("it", file(it=cascade).cascades["it"]) == DRAWN


def test_what_is_not_calibrated_is_said_to_be_so() -> None:
    drawn = explain("it", file(it=guard(gears=GEARS)).cascades["it"])
    assert "confidence >= 0.9 (NOT calibrated)" in drawn
    assert "calibration: none" in drawn
    assert "unknown for screen" in drawn
    assert "expected" not in drawn


def test_what_could_not_be_certified() -> None:
    cascade = guard(calibration={**calibration(threshold=1.01), "cascade": "it"})
    drawn = explain("it", file(it=cascade).cascades["it"])
    assert "nothing: no threshold could be certified for 95% agreement" in drawn
    assert "goes on with 100%" in drawn


@pytest.mark.parametrize("profile", ["demo", "gpu", "cluster"])
def test_every_shipped_cascade_can_be_drawn(profile: str) -> None:
    run = CliRunner().invoke(app, ["cascade", "list", "--profile", profile, "--json"])
    names = [row["name"] for row in json.loads(run.output)]
    assert {"moderation", "vqa", "product-caption", "product-attributes"} <= set(names)
    for name in names:
        drawn = CliRunner().invoke(app, ["cascade", "explain", name, "--profile", profile])
        assert drawn.exit_code == 0
        assert drawn.output.startswith(f"{name}: answers with")
        assert drawn.output.isascii()


def test_a_name_that_does_not_exist() -> None:
    run = CliRunner().invoke(app, ["cascade", "explain", "nothing"])
    assert isinstance(run.exception, NotFound)
    assert "there are moderation, vqa" in run.exception.message
