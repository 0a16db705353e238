"""The overlays that are committed in `k8s/`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from serve.config.cluster import ClusterFile
from serve.config.load import load_file, load_profile
from serve.kubernetes.settings import Settings

_FOLDER = Path(__file__).parent / "clusters"
_VERSION = version("argus-serve")

# Placeholders with a real version: `--image`, or `images` of your own kustomization, names where yours are.
IMAGE = f"registry.example.com/argus:{_VERSION}-gpu"
CPU_IMAGE = f"registry.example.com/argus:{_VERSION}-cpu"
LOAD_IMAGE = f"registry.example.com/argus:{_VERSION}-load"


@dataclass(frozen=True, slots=True)
class Shipped:
    """An overlay of ours.

    Attributes:
        profile: the cluster file, if it is a profile; else it is in the folder `clusters`.
        load: see `Settings`.
        local: see `Settings`.
    """

    load: tuple[str, str, int]
    profile: str | None = None
    local: bool = False


SHIPPED: Mapping[str, Shipped] = {
    "t4": Shipped(("classification", "t4", 4)),
    "a100": Shipped(("llava_chat", "a100", 2)),
    "mixed": Shipped(("moderation", "t4+a100", 4), profile="cluster"),
    "dev": Shipped(("classification", "cpu-demo", 1), profile="demo", local=True),
}


def settings(overlay: str) -> Settings:
    """How an overlay of ours is rendered."""
    one = SHIPPED[overlay]
    image = CPU_IMAGE if one.local else IMAGE
    return Settings(_cluster(overlay, one), overlay, image, LOAD_IMAGE, local=one.local, load=one.load)


def overlay_of(profile: str) -> str:
    """The overlay that a profile is committed as; else the profile's own name."""
    return next((name for name, one in SHIPPED.items() if one.profile == profile), profile)


def _cluster(overlay: str, one: Shipped) -> ClusterFile:
    return load_file(_FOLDER / f"{overlay}.yaml") if one.profile is None else load_profile(one.profile)
