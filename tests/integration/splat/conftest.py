"""What tests of the splat deployment's class share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.splat_site import OnGpu, Site, Slow


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Slow:
    rasteriser = Slow()
    monkeypatch.setattr("deployments.splat.rasteriser.make_rasteriser", lambda backend, threads: rasteriser)
    return rasteriser


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> OnGpu:
    rasteriser = OnGpu()
    monkeypatch.setattr("deployments.splat.rasteriser.make_rasteriser", lambda backend, threads: rasteriser)
    return rasteriser
