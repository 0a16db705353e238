"""A router over fakes, and a client of it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from tests.unit.fakes import Site
from tests.unit.scene_site import SceneSite


@pytest.fixture(scope="session")
def _shared_site() -> Site:
    return Site()


@pytest.fixture
def site(_shared_site: Site) -> Site:
    _shared_site.reset()
    return _shared_site


@pytest.fixture(scope="session")
def _shared_scene_site() -> SceneSite:
    return SceneSite()


@pytest.fixture
def scene_site(_shared_scene_site: SceneSite) -> SceneSite:
    """A router with scenes; a test about them calls it `site`, so that `client` is one of it."""
    _shared_scene_site.reset()
    return _shared_scene_site


@pytest.fixture
async def client(site: Site) -> AsyncIterator[httpx.AsyncClient]:
    async with site.client() as made:
        yield made
