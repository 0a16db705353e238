"""Gauges that last: each last value is set again, by itself."""

from __future__ import annotations

import pickle
import threading
from typing import Any

import pytest

from deployments import gauges

Set = tuple[float, dict[str, str]]


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> list[Set]:
    """What Ray is told, in order."""
    told: list[Set] = []

    def record(self: Any, value: float, tags: dict[str, str] | None = None) -> None:
        told.append((value, dict(tags or {})))

    monkeypatch.setattr(gauges.metrics.Gauge, "_record", record)
    return told


def test_the_last_value_of_each_label_set_is_set_again(exported: list[Set]) -> None:
    gauge = gauges.Gauge("argus_test_state", "A state.", tag_keys=("target",))
    gauge.set(1, {"target": "a"})
    gauge.set(2, {"target": "a"})
    gauge.set(3, {"target": "b"})
    exported.clear()
    gauge.again()
    assert sorted(exported, key=lambda one: one[0]) == [(2, {"target": "a"}), (3, {"target": "b"})]


def test_what_was_never_set_is_not_exported(exported: list[Set]) -> None:
    gauge = gauges.Gauge("argus_test_unset", "Nothing.")
    gauge.set(None)
    gauge.again()
    assert exported == []


def test_it_happens_by_itself(exported: list[Set], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gauges, "AGAIN_S", 0.01)
    monkeypatch.setattr(gauges, "_KEEPER", gauges._Keeper())
    thrice = threading.Event()
    again = gauges.Gauge.again

    def counted(self: gauges.Gauge) -> None:
        again(self)
        if exported.count((7, {})) >= 3:
            thrice.set()

    monkeypatch.setattr(gauges.Gauge, "again", counted)
    gauge = gauges.Gauge("argus_test_kept", "Kept.")
    gauge.set(7)
    assert thrice.wait(60)


def test_a_misuse_is_refused_and_not_repeated() -> None:
    misused = gauges.Gauge("argus_test_misused", "Misused.", tag_keys=("target",))
    with pytest.raises(ValueError, match="tag"):
        misused.set(1, {"no_such_label": "a"})
    misused.again()


def test_a_gauge_that_fails_costs_no_other_its_life(exported: list[Set], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gauges, "AGAIN_S", 0.01)
    monkeypatch.setattr(gauges, "_KEEPER", gauges._Keeper())
    broken, well = gauges.Gauge("argus_test_broken", "Broken."), gauges.Gauge("argus_test_well", "Well.")
    thrice = threading.Event()
    again = gauges.Gauge.again

    def failing(self: gauges.Gauge) -> None:
        if self is broken:
            raise ValueError("no")
        again(self)
        if exported.count((9, {})) >= 4:
            thrice.set()

    monkeypatch.setattr(gauges.Gauge, "again", failing)
    well.set(9)
    assert thrice.wait(30)


def test_it_travels_to_another_process_as_itself() -> None:
    gauge = pickle.loads(pickle.dumps(gauges.Gauge("argus_test_sent", "Sent.", tag_keys=("model",))))
    assert isinstance(gauge, gauges.Gauge)
    assert gauge.info["name"] == "argus_test_sent"
