"""One decision for an application whose deployments Ray Serve (2.60) asks one by one.

An application has a policy of its own only where a configuration file deploys it; and there Ray gives all deployments
one version, so that any change replaces every replica. On a machine of its own Argus deploys by Ray's Python API, which
keeps a version for each deployment. So there each deployment has a policy of its own (`deployment_policy`), and all of
them, which live in the one process of Ray's controller, ask the same object, which is here.

One thing is lost by it: of a model without replicas for which a call waits, Ray decides by itself and asks nobody until
one runs. How long such a start took is not learnt; `start_s` of the file stands for it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

from serve.autoscaling.ray_policy import CascadePolicy

# A deployment of which nothing was heard for so long is not asked about: it has gone, or Ray scales it from none.
_SEEN_S = 3.0


class Together:
    """What the deployments of one application are asked for, put together for its policy."""

    def __init__(self, policy: CascadePolicy) -> None:
        self._policy = policy
        self._contexts: dict[Any, Any] = {}
        self._seen_at: dict[Any, float] = {}

    def __call__(self, context: Any) -> int:
        """Replicas that a deployment is to have: those that it is to have now where nothing is decided of it."""
        now = time.monotonic()
        key = context.deployment_id
        self._contexts[key], self._seen_at[key] = context, now
        for other in [other for other, at in self._seen_at.items() if now - at > _SEEN_S]:
            del self._contexts[other], self._seen_at[other]
        decided, _ = self._policy(self._contexts)
        return decided.get(key, int(context.target_num_replicas))


_of_application: dict[str, tuple[str, Together]] = {}


def together(application: str, arguments: Mapping[str, Any]) -> Together:
    """The one of an application, made anew when the plan has changed: what was learnt is of the old plan's models."""
    plan = json.dumps(arguments, sort_keys=True)
    known = _of_application.get(application)
    if known is None or known[0] != plan:
        known = _of_application[application] = (plan, Together(CascadePolicy(**arguments)))
    return known[1]
