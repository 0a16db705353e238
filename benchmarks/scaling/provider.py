"""Nodes on this machine for Ray's autoscaler, which take their time to come up as machines do."""

from __future__ import annotations

import time
from typing import Any

from ray.autoscaler._private.fake_multi_node.node_provider import FakeMultiNodeProvider


class BootingNodes(FakeMultiNodeProvider):  # type: ignore[misc]
    """Ray's own provider of nodes on one machine; `boot_s` seconds pass before Ray starts on a node."""

    def create_node_with_resources_and_labels(
        self, node_config: Any, tags: Any, count: Any, resources: Any, labels: Any
    ) -> None:
        """Called in a thread of its own for each order of nodes."""
        time.sleep(self.provider_config["boot_s"])
        super().create_node_with_resources_and_labels(node_config, tags, count, resources, labels)
