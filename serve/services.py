"""Everything behind the protocol skins, put together once for each router."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from serve.auth import Authenticator
from serve.calls import Calls
from serve.cascade.drift import DriftTest
from serve.cascade.gears import GearBox
from serve.cascade.recorder import CascadeRecorder, Silent
from serve.cascade.service import CascadeService
from serve.chat import ChatService
from serve.compare import CompareService
from serve.config.cluster import ClusterFile, Limits
from serve.config.model_base import StoreModel
from serve.config.models import JobStoreModel, KnowledgeStoreModel, SessionStoreModel, VectorIndexModel
from serve.config.scene_models import SceneStoreModel
from serve.dataplane import DataPlane
from serve.documents.service import DocumentService
from serve.handles import ModelHandle
from serve.indexes import IndexService
from serve.jobs.service import JobService
from serve.knowledge import KnowledgeService
from serve.media.admit import Fetcher, MediaDoor
from serve.media.image import ImageLimits
from serve.metrics import Recorder
from serve.products import ProductService
from serve.reconstructions import ReconstructionService
from serve.resilience.admission import Admission
from serve.resilience.tenants import TenantRates
from serve.scenes.service import SceneService
from serve.sessions import SessionService
from serve.support import SupportService
from serve.videos.service import VideoService
from serve.vision import VisionService

S = TypeVar("S", bound=StoreModel)


@dataclass(frozen=True, slots=True)
class Services:
    """What a skin may call, and what guards it.

    Attributes:
        version: of Argus.
    """

    limits: Limits
    plane: DataPlane
    search: IndexService
    chat: ChatService
    sessions: SessionService
    knowledge: KnowledgeService
    support: SupportService
    cascades: CascadeService
    products: ProductService
    compare: CompareService
    vision: VisionService
    jobs: JobService
    videos: VideoService
    documents: DocumentService
    scenes: SceneService
    reconstructions: ReconstructionService
    authenticator: Authenticator
    admission: Admission
    tenants: TenantRates
    recorder: Recorder
    version: str


def build_services(
    cluster: ClusterFile,
    handles: Mapping[str, ModelHandle],
    calls: Calls,
    fetcher: Fetcher,
    admission: Admission,
    tenants: TenantRates,
    recorder: Recorder,
    version: str,
    cascade_recorder: CascadeRecorder | None = None,
    entered: Callable[[str, str, bool], None] = lambda cascade, step, plain: None,
) -> Services:
    """The services of one router.

    Args:
        handles: one for each served model, by name.
        calls: over these and the providers; their waits are the admission's.
        entered: told each cascade and step that a request enters, and whether in the normal gear.
    """
    door = MediaDoor(image_limits(cluster), fetcher)
    plane = DataPlane(cluster, handles, calls, door)
    chat = ChatService(cluster, plane, calls, door)
    search = IndexService(plane, _store(cluster, handles, VectorIndexModel)[0])
    sessions = SessionService(cluster, plane, chat, *_store(cluster, handles, SessionStoreModel))
    knowledge = _knowledge(cluster, search, handles)
    cascades = CascadeService(
        cluster,
        calls,
        chat,
        image_limits(cluster),
        cascade_recorder or Silent(),
        load=admission.load,
        gears=lambda cascade: GearBox(cascade.gears, cascade.gear_hold_s),
        drift=lambda shadow: DriftTest(shadow.alarm_error),
        entered=entered,
    )
    return Services(
        cluster.limits,
        plane,
        search,
        chat,
        sessions,
        knowledge,
        SupportService(plane, chat, sessions, knowledge, cluster.support),
        cascades,
        ProductService(plane, search, cascades),
        CompareService(cluster, plane, chat, calls),
        VisionService(plane, calls),
        JobService(*_store(cluster, handles, JobStoreModel)),
        VideoService(cluster, plane, chat, calls, door),
        DocumentService(cluster, calls, chat, door),
        _scenes(cluster, plane, handles, calls),
        ReconstructionService(cluster, handles),
        Authenticator(cluster.auth),
        admission,
        tenants,
        recorder,
        version,
    )


def _knowledge(cluster: ClusterFile, search: IndexService, handles: Mapping[str, ModelHandle]) -> KnowledgeService:
    """Over the store that the `support` section names."""
    name = None if cluster.support is None else cluster.support.knowledge
    settings = None if name is None else cluster.models[name]
    assert settings is None or isinstance(settings, KnowledgeStoreModel), "the cluster file was checked"
    return KnowledgeService(cluster.limits, search, None if name is None else handles[name], settings, cluster.support)


def _scenes(cluster: ClusterFile, plane: DataPlane, handles: Mapping[str, ModelHandle], calls: Calls) -> SceneService:
    """Over the cluster's first scene store, and the models that draw its scenes."""
    names = [name for name in handles if isinstance(cluster.models[name], SceneStoreModel)]
    return SceneService(cluster, plane, calls, *((handles[names[0]], names[0]) if names else (None, None)))


def _store(
    cluster: ClusterFile, handles: Mapping[str, ModelHandle], kind: type[S]
) -> tuple[ModelHandle, S] | tuple[None, None]:
    """The cluster's first store of a kind, and its settings."""
    for name, handle in handles.items():
        model = cluster.models[name]
        if isinstance(model, kind):
            return handle, model
    return None, None


def image_limits(cluster: ClusterFile) -> ImageLimits:
    """Bounds of one image."""
    limits = cluster.limits
    return ImageLimits(limits.max_body_bytes, limits.max_image_pixels, limits.max_image_side, limits.min_image_side)
