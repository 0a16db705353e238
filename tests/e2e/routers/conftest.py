"""The cluster of two routers, for the tests of this folder: it costs a third of a core even when nobody asks it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.routers.site import Routers, running


@pytest.fixture(scope="package")
def two_routers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Routers]:
    with running(tmp_path_factory.mktemp("routers")) as made:
        yield made
