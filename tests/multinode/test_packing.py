"""`pack_nodes`: what fits by the check's sum is placed, although replicas that are spread would leave it no room."""

from __future__ import annotations

import pytest

from benchmarks.scaling.files import file, model, pools
from benchmarks.scaling.site import site
from benchmarks.scaling.state import State

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]
WAIT_S = 240.0


@pytest.mark.parametrize("packed", [True, False])
def test_two_halves_and_three_quarters_on_two_gpus(packed: bool) -> None:
    """Spread, the halves take one GPU each, and the rest finds no room. All at once: a configuration that changes
    replaces every replica, which takes room of its own."""
    content = file({"small": model(8, "t4", replicas=2), "large": model(12, "t4")}, pools(2, 0), pack_nodes=packed)
    with site(content, {"t4": 2}) as nodes:
        nodes.deploy(content)

        def settled(found: State) -> bool:
            large = found.deployments.get("large")
            return large is not None and (found.all_run() if packed else "to be scheduled" in large.message)

        state = nodes.until("all that has room", settled, seconds=WAIT_S)
        assert len(state.deployments["large"].running) == packed
        assert len({one.node for one in state.deployments["small"].running}) == (1 if packed else 2)
