"""CLIP, and a hosted model for what CLIP is not sure of."""

from __future__ import annotations

from benchmarks.workloads.asking import MixUser
from benchmarks.workloads.moderation import Moderate


class Label(Moderate):
    """The same pictures as moderation's, and another cascade."""

    cascade = "clip-api"
    last_model = None


class ClipApi(MixUser):
    """See the module's text."""

    workload = "clip_api"
    requests = Label
