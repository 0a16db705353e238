"""A router over fakes, and a client of it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from tests.unit.fakes import Site


@pytest.fixture(scope="session")
def _shared_site() -> Site:
    return Site()


@pytest.fixture
def site(_shared_site: Site) -> Site:
    _shared_site.reset()
    return _shared_site


@pytest.fixture
async def client(site: Site) -> AsyncIterator[httpx.AsyncClient]:
    async with site.client() as made:
        yield made
