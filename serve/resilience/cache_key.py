"""What distinguishes one call from another: a digest of everything that can change its answer (DESIGN rule 8).

Answers are looked up by this digest alone, so two calls that differ in anything must never share one:

* a value is encoded with its type and its length, so that two neighbours cannot be read as two others;
* a dataclass is encoded field by field, found at run time: a field that is added later cannot be forgotten;
* media are replaced by the digest of their bytes, taken in a domain of its own: no text can pose as an image.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from deployments.generation.messages import ChatRequest
from deployments.messages import ClassifyRequest, EmbedRequest
from serve.config.cluster import ClusterFile
from serve.config.load import checkpoint_label
from serve.config.model_base import CheckpointModel
from serve.config.models import GenerativeModel
from serve.context import RequestContext

# BLAKE2 (RFC 7693) separates domains by its `person` parameter, of at most 16 bytes.
_CALL, _MEDIUM, _IDENTITY = b"argus-call-1", b"argus-medium-1", b"argus-identity-1"
_DIGEST_BYTES = 32
# Settings of a model that move no answer.
_NOT_ANSWERS = frozenset(
    {"autoscaling", "batching", "placement", "gpu_memory_gb", "api_key_env", "api_key_file", "prices"}
)
_MOST_FILES = 256


class _Hash(Protocol):
    def update(self, data: bytes, /) -> None: ...


class CacheKeys:
    """Keys of the calls of one cluster.

    Args:
        identities: digest of each model's and provider's identity, by name; see `identities_of`.
    """

    def __init__(self, identities: Mapping[str, bytes]) -> None:
        self._identities = identities

    def chat(self, name: str, request: ChatRequest, context: RequestContext, *, gear: str = "") -> bytes | None:
        """None unless decoding is greedy: an answer that was drawn by lot is not to be everybody's answer."""
        return self._key(name, "chat", request, context, gear) if request.sampling.temperature == 0 else None

    def classify(self, name: str, request: ClassifyRequest, context: RequestContext, *, gear: str = "") -> bytes | None:
        """The key of a classification."""
        return self._key(name, "classify", request, context, gear)

    def embed(self, name: str, request: EmbedRequest, context: RequestContext, *, gear: str = "") -> bytes | None:
        """The key of embeddings."""
        return self._key(name, "embed", request, context, gear)

    def _key(self, name: str, task: str, request: object, context: RequestContext, gear: str) -> bytes | None:
        identity = self._identities.get(name)
        return None if identity is None else call_key(identity, task, request, tenant=context.client, gear=gear)


def call_key(identity: bytes, task: str, request: object, *, tenant: str, gear: str = "") -> bytes:
    """32 bytes that differ whenever an argument does.

    Args:
        identity: of the model, its revision and its preprocessing.
        request: a dataclass of plain values, nested dataclasses, tuples and arrays; it has the decode parameters.
        gear: name of the cascade's gear.

    Raises:
        TypeError: `request` holds something that has no encoding.
    """
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES, person=_CALL)
    for value in (identity, tenant, gear, task, request):
        _feed(digest, value)
    return digest.digest()


def identities_of(cluster: ClusterFile) -> dict[str, bytes]:
    """Who would answer, for each model and provider: every setting that can move an answer, and a checkpoint's files.

    A local checkpoint has no revision, so its files' names, sizes and times stand for one: weights that are trained
    again in place are another model.
    """
    identities = {}
    for name, section in {**cluster.providers, **cluster.models}.items():
        digest = hashlib.blake2b(digest_size=_DIGEST_BYTES, person=_IDENTITY)
        _feed(digest, (name, section.model_dump_json(exclude=set(_NOT_ANSWERS))))
        if isinstance(section, CheckpointModel):
            _feed(digest, (checkpoint_label(section.checkpoint), _files(Path(section.checkpoint))))
        identities[name] = digest.digest()
    return identities


def kept(cluster: ClusterFile) -> frozenset[str]:
    """Models and providers whose answers are kept; see `serve.config.resilience.Target.cache`."""
    writers = {name for name, model in cluster.models.items() if isinstance(model, GenerativeModel)}
    said = {name: target.cache for name, target in cluster.resilience.targets.items() if target.cache is not None}
    usual = dict.fromkeys((*writers, *cluster.providers), True)
    return frozenset(name for name, keep in {**usual, **said}.items() if keep)


def _files(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Name, bytes and time (ns) of a folder's files; empty for a name on a hub, which has a revision."""
    try:
        with os.scandir(folder) as entries:
            found = sorted((entry for entry in entries if entry.is_file()), key=lambda entry: entry.name)
            return tuple((e.name, e.stat().st_size, e.stat().st_mtime_ns) for e in found[:_MOST_FILES])
    except OSError:
        return ()


def _feed(digest: _Hash, value: Any) -> None:
    """Type, length, value. A number is its value: 0 and 0.0 mean the same temperature."""
    if isinstance(value, bytes):
        _piece(digest, b"m", hashlib.blake2b(value, digest_size=_DIGEST_BYTES, person=_MEDIUM).digest())
    elif isinstance(value, str):
        _piece(digest, b"s", value.encode("utf-8", "surrogatepass"))
    elif value is None or isinstance(value, bool):
        _piece(digest, b"c", repr(value).encode())
    elif isinstance(value, int | float):
        whole = isinstance(value, int) or value.is_integer()
        _piece(digest, b"n", repr(int(value) if whole else value).encode())
    elif isinstance(value, np.ndarray):
        _piece(digest, b"a", f"{value.dtype.str}{value.shape}".encode())
        _feed(digest, value.tobytes())
    elif isinstance(value, tuple):
        _piece(digest, b"t", str(len(value)).encode())
        for item in value:
            _feed(digest, item)
    elif is_dataclass(value):
        names = fields(value)
        _piece(digest, b"d", f"{type(value).__name__}/{len(names)}".encode())
        for field in names:
            _feed(digest, field.name)
            _feed(digest, getattr(value, field.name))
    else:
        raise TypeError(f"A {type(value).__name__} has no encoding in a cache key.")


def _piece(digest: _Hash, kind: bytes, data: bytes) -> None:
    digest.update(kind + len(data).to_bytes(8, "big"))
    digest.update(data)
