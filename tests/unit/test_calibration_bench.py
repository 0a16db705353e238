"""What the calibration benchmarks rest on: populations whose truth is known, methods, and their verdicts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import calibration, calibration_populations, calibration_scenes
from benchmarks.calibration import Draw, Found, draw, naive, ours, summary
from benchmarks.calibration_populations import Population
from demo.scenes import COLOURS, SHAPES
from serve.calibration.bounds import Promise
from serve.calibration.certify import NEVER
from serve.errors import ConfigError

PROMISE = Promise(0.95, 0.95)


def _population(scores: list[float], right: list[bool]) -> Population:
    return Population("any", np.array(scores), np.array(right))


def test_a_population_tells_what_a_threshold_is_worth() -> None:
    one = _population([0.9, 0.9, 0.5, 0.1], [True, False, True, True])
    assert one.above(0.9) == (0.5, 0.5)
    assert one.above(0.95) == (0.0, 1.0)
    assert one.above(0.0) == (1.0, 0.75)
    assert one.best(0.7) == 1.0
    assert one.best(0.8) == 0.0


def test_populations_are_the_same_every_time_and_hold_what_their_names_say() -> None:
    first, again = (list(calibration_populations.synthetic(PROMISE)) for _ in range(2))
    assert all((a.right == b.right).all() and (a.scores == b.scores).all() for a, b in zip(first, again, strict=True))
    named = {one.name: one for one in first}
    below = named["just below the target"]
    assert below.above(0.0)[1] == pytest.approx(0.946, abs=0.003)
    assert below.best(PROMISE.target) < 0.05
    assert len(np.unique(named["ties"].scores)) < 12
    wavy = named["agreement falls and rises"]
    assert wavy.above(0.6)[1] < PROMISE.target < wavy.above(0.0)[1]


def test_draws_are_independent_of_each_other_and_repeatable() -> None:
    one = next(calibration_populations.synthetic(PROMISE))
    assert (draw(one, 3, 100).scores == draw(one, 3, 100).scores).all()
    assert (draw(one, 3, 100).scores != draw(one, 4, 100).scores).any()


def test_the_empirical_rule_takes_whole_ties() -> None:
    scores = np.array([0.9, 0.8, 0.8, 0.7])
    assert naive(Draw(0, scores, np.array([True, True, False, False])), Promise(0.6, 0.9)).threshold == 0.8
    assert naive(Draw(0, scores, np.array([False, True, False, False])), Promise(0.6, 0.9)).threshold == NEVER


def test_ours_sees_no_label_of_the_records_that_give_the_thresholds() -> None:
    one = next(calibration_populations.synthetic(PROMISE))
    drawn = draw(one, 0, 2000)
    turned = Draw(0, drawn.scores, np.concatenate([~drawn.right[:200], drawn.right[200:]]))
    for saving in (False, True):
        assert ours(drawn, PROMISE, saving=saving) == ours(turned, PROMISE, saving=saving)


def test_a_row_counts_thresholds_that_break_the_promise() -> None:
    one = _population([0.9, 0.5], [True, False])
    row = summary(one, PROMISE, [Found(0.9, 10), Found(0.1, 20), Found(NEVER, 30)])
    assert row["violations"] == pytest.approx(1 / 3)
    assert row["accepted"] == pytest.approx(0.5)
    assert row["agreement"] == pytest.approx(0.75)
    assert row["labels"] == 20
    assert row["own_violations"] is None
    assert summary(one, PROMISE, [Found(0.9, 1, True), Found(0.9, 1, False)])["own_violations"] == 0.5


def test_what_the_peer_keeps_becomes_a_threshold() -> None:
    drawn = Draw(0, np.array([0.9, 0.8, 0.7, 0.6]), np.array([True, False, True, True]))
    found = calibration._of_peer(drawn, {"kept": [0, 1, 3], "labels": 7}, PROMISE, "P")
    assert (found.threshold, found.labels, found.own) == (0.8, 7, False)
    assert calibration._of_peer(drawn, {"kept": [], "labels": 7}, PROMISE, "A").threshold == NEVER
    assert calibration._of_peer(drawn, {"kept": [0, 2], "labels": 7}, PROMISE, "A").own


def test_scenes_are_mixed_as_stated_and_labelled(tmp_path: Path) -> None:
    scenes = calibration_scenes.mixture("val", 2000)
    shares = [np.mean([s.difficulty == level for s in scenes]) for level in ("easy", "medium", "hard")]
    assert shares == pytest.approx(calibration_scenes.SHARES, abs=0.04)
    assert calibration_scenes.mixture("val", 10) == calibration_scenes.mixture("val", 10)
    assert calibration_scenes.asked_for(COLOURS[::-1]) == "colour"
    assert calibration_scenes.asked_for(SHAPES) == "shape"
    with pytest.raises(ConfigError, match="neither"):
        calibration_scenes.asked_for(("cat", "dog"))
    calibration_scenes.write(tmp_path, scenes[:2], "shape")
    lines = (tmp_path / "labels.csv").read_text().splitlines()
    assert lines == ["image,label", *(f"0000{i}.png,{scenes[i].subject.shape}" for i in range(2))]


def test_the_record_of_a_run_is_json() -> None:
    row = summary(_population([0.9], [True]), PROMISE, [Found(NEVER, 3)])
    assert json.loads(json.dumps(row))["agreement"] is None
