"""What is asked of a reconstruction and what is said of it: plain dataclasses that travel, and lie on disk as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Literal

from deployments.jobs.types import Failure

Method = Literal["3dgs", "nerf"]
Quality = Literal["preview", "standard", "high"]
Matching = Literal["auto", "exhaustive", "sequential"]
Mapper = Literal["incremental", "global"]
# Where up is, in the frame that structure from motion gives; `auto` takes it from how the cameras were held.
Up = Literal["auto", "x", "y", "z", "-x", "-y", "-z"]
Stage = Literal["intake", "features", "matching", "mapping", "views", "training", "evaluation", "export"]
State = Literal["queued", "running", "paused", "succeeded", "failed"]

# In the order in which they run, with the part of the whole time that each is expected to take.
STAGES: Final[Mapping[Stage, float]] = {
    "intake": 0.03,
    "features": 0.08,
    "matching": 0.06,
    "mapping": 0.08,
    "views": 0.02,
    "training": 0.66,
    "evaluation": 0.02,
    "export": 0.05,
}


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how finely a scene is trained.

    Attributes:
        side: longest side of the pictures trained on, in pixels.
        steps: of the optimiser, one picture each.
        count: most Gaussians; of no meaning to a radiance field.
        sh_degree: of their colours, 0 to 3; likewise.
    """

    side: int
    steps: int
    count: int
    sh_degree: int


# Sized so that a preview is minutes and `high` hours: on a few cores, and on one GPU.
CPU_PLANS: Final[Mapping[Method, Mapping[Quality, Plan]]] = {
    "3dgs": {
        "preview": Plan(side=200, steps=1_000, count=6_000, sh_degree=0),
        "standard": Plan(side=400, steps=4_000, count=30_000, sh_degree=1),
        "high": Plan(side=800, steps=15_000, count=150_000, sh_degree=2),
    },
    "nerf": {
        "preview": Plan(side=128, steps=500, count=0, sh_degree=0),
        "standard": Plan(side=256, steps=2_500, count=0, sh_degree=0),
        "high": Plan(side=512, steps=10_000, count=0, sh_degree=0),
    },
}
# No more than a million Gaussians: at degree 3 one is 59 numbers of 4 bytes, so the file has 236 MB, and it must
# go from the worker to the store in one message (`serve.config.cluster.MAX_MESSAGE_BYTES`), beside the film.
CUDA_PLANS: Final[Mapping[Method, Mapping[Quality, Plan]]] = {
    "3dgs": {
        "preview": Plan(side=800, steps=3_000, count=200_000, sh_degree=1),
        "standard": Plan(side=1600, steps=15_000, count=1_000_000, sh_degree=3),
        "high": Plan(side=2400, steps=30_000, count=1_000_000, sh_degree=3),
    },
    "nerf": {
        "preview": Plan(side=400, steps=2_000, count=0, sh_degree=0),
        "standard": Plan(side=800, steps=10_000, count=0, sh_degree=0),
        "high": Plan(side=1600, steps=30_000, count=0, sh_degree=0),
    },
}


@dataclass(frozen=True, slots=True)
class Spec:
    """One reconstruction.

    Attributes:
        max_photos: most photos used; of a video, so many frames are chosen.
        max_side: longest side at which photos are matched and aligned, in pixels.
        threads: of every stage.
        gpu_memory_gb: that training may take of a GPU, in GB; with 0 it runs on the CPU, None is all there is.
        seed: of everything that draws lots.
        side, steps, count: in place of those of the quality's plan for the machine's device; see `Plan`.
    """

    method: Method = "3dgs"
    quality: Quality = "standard"
    matching: Matching = "auto"
    mapper: Mapper = "incremental"
    up: Up = "auto"
    max_photos: int = 300
    max_side: int = 1600
    threads: int = 1
    gpu_memory_gb: float | None = 0.0
    seed: int = 1
    side: int | None = None
    steps: int | None = None
    count: int | None = None

    def plan(self, *, cuda: bool) -> Plan:
        """For a GPU, or for a CPU."""
        usual = (CUDA_PLANS if cuda else CPU_PLANS)[self.method][self.quality]
        own = {"side": self.side, "steps": self.steps, "count": self.count}
        return replace(usual, **{name: value for name, value in own.items() if value is not None})

    def to_json(self) -> dict[str, Any]:
        """What `from_json` reads."""
        return asdict(self)

    @staticmethod
    def from_json(fields: Mapping[str, Any]) -> Spec:
        """Of `to_json`."""
        return Spec(**fields)


@dataclass(frozen=True, slots=True)
class Status:
    """How far a reconstruction is.

    Attributes:
        stage: what is being done; the last stage when it has ended.
        done, total: within the stage; total is 0 where it is not known.
        fraction: of the whole, from 0 to 1.
        eta_s: seconds to its end, as far as can be told; None when it cannot.
        elapsed_s: seconds worked, over all starts.
        preview: number of the newest preview picture; 0 when there is none.
        starts: times that a worker began or resumed it.
        failure: set when it has failed.
        advice: what the photographer could do better, as far as is known by now.
    """

    state: State
    stage: Stage = "intake"
    done: int = 0
    total: int = 0
    fraction: float = 0.0
    eta_s: float | None = None
    elapsed_s: float = 0.0
    preview: int = 0
    starts: int = 0
    failure: Failure | None = None
    advice: tuple[str, ...] = ()

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen."""
        return self.state in ("succeeded", "failed")

    @staticmethod
    def from_json(fields: Mapping[str, Any]) -> Status:
        """Of `dataclasses.asdict`."""
        failure = fields.get("failure")
        advice = tuple(fields.get("advice", ()))
        return Status(**{**fields, "failure": Failure(**failure) if failure else None, "advice": advice})


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """What a reconstruction made.

    Attributes:
        scene: the scene's file as the store takes it.
        turntable: an MP4.
        report: capture, alignment, training and evaluation, as JSON.
        count: Gaussians; 0 for a radiance field.
        up: unit vector in the scene's frame.
    """

    kind: Literal["gaussians", "nerf"]
    scene: bytes
    turntable: bytes
    report: dict[str, Any]
    count: int
    up: tuple[float, float, float]
