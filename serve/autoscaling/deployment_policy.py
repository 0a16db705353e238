"""What Ray Serve's controller calls for one deployment (ray.serve.config.AutoscalingPolicy, 2.60).

Ray pickles this module by value, so each deployment has classes of its own: what they share is in `together`.
"""

from __future__ import annotations

from typing import Any

from serve.autoscaling.together import together


class DeploymentPolicy:
    """The application's decision, as far as it is one deployment's.

    Args:
        arguments: of `serve.autoscaling.ray_policy.CascadePolicy`.
    """

    def __init__(self, **arguments: Any) -> None:
        self._arguments = arguments

    def __call__(self, context: Any) -> tuple[int, dict[str, Any]]:
        """The number of replicas, and no state of Ray's keeping."""
        return together(context.app_name or "", self._arguments)(context), {}
