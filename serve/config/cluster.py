"""The cluster file: which models, providers and cascades exist, where they run, and every limit.

Everything else (the Serve application, budgets, status) is derived from it. `argus config schema` prints its JSON
schema, `argus config check` says what is wrong with one.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field, field_validator, model_validator

from serve.config.autoscaling import ReplicaPolicy
from serve.config.cascades import Cascade
from serve.config.documents import Documents
from serve.config.kubernetes import PoolOnKubernetes
from serve.config.model_base import Name, Section
from serve.config.models import Model
from serve.config.objectives import Objectives
from serve.config.overload import Overload, Tenant
from serve.config.providers import Provider
from serve.config.resilience import Resilience
from serve.config.support import Support
from serve.config.tracing import Tracing
from serve.config.videos import Videos

MIB = 1024 * 1024
MAX_MESSAGE_BYTES: Final = 256 * MIB
"""Largest message between two deployments; Ray's default of 4 MiB refuses a large photo on its way to a model."""
_MOST_UPLOAD: Final = 240 * MIB


class NodePool(Section):
    """A kind of node."""

    gpu: str | None = Field(None, description="Ray's accelerator name, such as T4, A10G, L4, A100, H100; none on CPU.")
    gpus: int = Field(0, ge=0, description="GPUs a node.")
    gpu_memory_gb: float = Field(0, ge=0, description="Memory of one GPU, in GB (1e9 bytes).")
    cpus: int = Field(2, ge=1, description="CPU cores a node.")
    memory_gb: float = Field(8, gt=0, description="Main memory a node, in GB.")
    min_nodes: int = Field(1, ge=0, description="Fewest nodes; what must fit is checked against these.")
    max_nodes: int = Field(1, ge=1, description="Most nodes.")
    kubernetes: PoolOnKubernetes = Field(PoolOnKubernetes(), description="Its nodes on Kubernetes.")

    @model_validator(mode="after")
    def _consistent(self) -> NodePool:
        if self.gpus and not self.gpu_memory_gb:
            raise ValueError(f"gpus is {self.gpus} but gpu_memory_gb is 0; state the memory of one GPU")
        if self.min_nodes > self.max_nodes:
            raise ValueError(f"min_nodes is {self.min_nodes}, max_nodes is {self.max_nodes}; min must not exceed max")
        return self


class Router(Section):
    """The router deployment."""

    replicas: int = Field(1, ge=1, le=64, description="Router replicas.")
    num_cpus: float = Field(1, ge=0, description="CPU cores that Ray reserves for a router replica.")
    max_ongoing_requests: int = Field(256, ge=1, description="Requests in progress a router replica.")


class Server(Section):
    """Addresses. Nothing listens beyond loopback unless a public host is named here or by `argus up --host`."""

    host: str = Field("127.0.0.1", description="Address of HTTP and gRPC; 0.0.0.0 for all, which needs keys.")
    http_port: int = Field(8000, ge=1, le=65535, description="HTTP port.")
    grpc_port: int = Field(9000, ge=1, le=65535, description="gRPC port.")
    metrics_port: int = Field(9090, ge=1, le=65535, description="Prometheus metrics of this node, on loopback.")
    tuned_ingress: bool = Field(
        True, description="HAProxy and Ray Serve's throughput flags; falls back to the plain proxy without the binary."
    )

    @model_validator(mode="after")
    def _a_port_each(self) -> Server:
        ports = (self.http_port, self.grpc_port, self.metrics_port)
        if len(set(ports)) < len(ports):
            raise ValueError(
                f"http_port, grpc_port and metrics_port are {', '.join(map(str, ports))}; each needs one of its own"
            )
        return self


class Limits(Section):
    """Bounds at the edge, checked before anything queues."""

    max_body_bytes: int = Field(20 * MIB, ge=1024, le=1024 * MIB, description="Largest request body.")
    max_upload_bytes: int = Field(
        200 * MIB,
        ge=1024,
        description="Largest request body with files for a scene (`/v1/scenes`), a reconstruction or a job, in place "
        "of max_body_bytes. At most 240 MiB: it travels in one message, of 256 MiB at most, from the router to a store."
        " A router holds each that is under way in memory.",
    )
    max_uploads_bytes: int = Field(
        800 * MIB,
        ge=1024,
        description="Most bytes of such bodies that one router holds at once, from their arrival to their answer; who "
        "finds no room is answered 429 (`uploads_full`) before the body is read. While one is passed on, its router "
        "needs the memory of a second copy.",
    )
    max_image_pixels: int = Field(50_000_000, ge=1, description="Most pixels of an image, before any resize.")
    max_image_side: int = Field(16_384, ge=1, description="Longest side of an image, in pixels.")
    min_image_side: int = Field(4, ge=1, description="Shortest side of an image, in pixels.")
    max_inputs: int = Field(256, ge=1, description="Most images or texts in one request.")
    max_labels: int = Field(1000, ge=1, description="Most labels in one classification.")
    max_text_chars: int = Field(10_000, ge=1, description="Longest label, text or template, in characters.")
    max_prompt_chars: int = Field(200_000, ge=1, description="Most characters of all texts of a conversation.")
    default_timeout_s: float = Field(30, gt=0, description="Deadline of a request that states none, in seconds.")
    max_timeout_s: float = Field(300, gt=0, description="Longest deadline that a client may ask for, in seconds.")

    @field_validator("max_upload_bytes")
    @classmethod
    def _fits_a_message(cls, given: int) -> int:
        if given > _MOST_UPLOAD:
            raise ValueError(
                f"an upload travels in one message from the router to a store, and one has at most "
                f"{MAX_MESSAGE_BYTES // MIB} MiB; {_MOST_UPLOAD // MIB} MiB ({_MOST_UPLOAD}) leave room for what goes "
                "with it"
            )
        return given

    @model_validator(mode="after")
    def _ordered(self) -> Limits:
        if self.default_timeout_s > self.max_timeout_s:
            raise ValueError(
                f"default_timeout_s is {self.default_timeout_s:g}, max_timeout_s is {self.max_timeout_s:g}; "
                "the default must not exceed the maximum"
            )
        if self.max_uploads_bytes < 2 * self.max_upload_bytes:
            raise ValueError(
                f"max_uploads_bytes is {self.max_uploads_bytes}, max_upload_bytes is {self.max_upload_bytes}; the "
                "bound on all uploads together must be at least twice that of one, which may come compressed and is "
                "then there as it came and as it was"
            )
        return self


class UrlFetch(Section):
    """Whether and how an image may be named by URL."""

    enabled: bool = Field(False, description="Off by default: the server then fetches nothing on a client's word.")
    timeout_s: float = Field(10, gt=0, description="Seconds for a whole fetch.")
    max_redirects: int = Field(3, ge=0, le=10, description="Redirects followed, each checked like the first address.")
    allow_hosts: tuple[str, ...] = Field(
        (), description="`host` or `host:port` trusted although private, such as an internal object store."
    )


class ApiKey(Section):
    """One client."""

    name: Name = Field(description="Shown in logs and metrics.")
    sha256: str = Field(
        pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the key in hexadecimal: `argus config hash-key` makes it."
    )


class Auth(Section):
    """API keys. With none, every caller is `anonymous`."""

    keys: tuple[ApiKey, ...] = Field((), description="Accepted keys.")

    @model_validator(mode="after")
    def _unique(self) -> Auth:
        names = [key.name for key in self.keys]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two keys are named {name!r}; names must be unique")
        return self


class ClusterFile(Section):
    """The whole file."""

    name: Name = Field(description="Name of the cluster.")
    node_pools: dict[Name, NodePool] = Field(min_length=1, description="Kinds of nodes.")
    pack_nodes: bool = Field(
        False,
        description="Whether replicas fill one node after the other, the largest first, instead of being spread: more "
        "fits, nodes empty out as load falls, and a node that is lost takes more with it.",
    )
    models: dict[Name, Model] = Field(min_length=1, description="Models that we host.")
    providers: dict[Name, Provider] = Field({}, description="Models that others host.")
    cascades: dict[Name, Cascade] = Field({}, description="Compositions of models and providers.")
    support: Support | None = Field(None, description="Answers from knowledge bases; not offered when left out.")
    videos: Videos | None = Field(None, description="Who watches videos; not offered when left out.")
    documents: Documents | None = Field(
        None, description="Who reads documents; by default the first model of kind ocr."
    )
    resilience: Resilience = Field(Resilience(), description="Caches, budgets and limits of calls.")
    autoscaling: ReplicaPolicy = Field(ReplicaPolicy(), description="Who decides how many replicas there are.")
    overload: Overload = Field(Overload(), description="When the router sheds requests, and whose.")
    objectives: Objectives = Field(Objectives(), description="What is promised of the service, and when to alert.")
    tenants: dict[Name, Tenant] = Field({}, description="Clients by the name of their key; `default` for the others.")
    tracing: Tracing = Field(Tracing(), description="OpenTelemetry traces; none without an endpoint.")
    router: Router = Field(Router(), description="The router deployment.")
    server: Server = Field(Server(), description="Addresses and ports.")
    limits: Limits = Field(Limits(), description="Bounds at the edge.")
    url_fetch: UrlFetch = Field(UrlFetch(), description="Images by URL.")
    auth: Auth = Field(Auth(), description="API keys.")
    log_level: Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR"], Field(description="Least level logged.")] = (
        "INFO"
    )

    def pool_of(self, model: str) -> str:
        """The name of the pool on which `model` runs if it can: its own choice, else the only pool."""
        return self.models[model].placement.pool or next(iter(self.node_pools))

    def pools_of(self, model: str) -> tuple[str, ...]:
        """The pools on which replicas of `model` may run, the preferred one first."""
        return (self.pool_of(model), *self.models[model].placement.fallback_pools)
