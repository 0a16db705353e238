"""What an index is, what it holds and what it answers: the vocabulary of the vector index.

Nothing here imports FAISS or SQLite, so the router can build these objects and send them to the actor.
Every dataclass is frozen, slotted and picklable.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Final, Literal, get_args

import numpy as np
import numpy.typing as npt

from serve.errors import Conflict, InvalidRequest

Scalar = str | int | float | bool | None
"""One JSON value that is neither a list nor an object."""

Metadata = dict[str, Scalar | list[Scalar]]
"""What an item carries beside its vector; filters look at it."""

Float32s = npt.NDArray[np.float32]
Int64s = npt.NDArray[np.int64]

Metric = Literal["cosine", "dot", "l2"]
Kind = Literal["flat", "hnsw", "ivf"]

MAX_DIMENSION: Final = 8192
MAX_K: Final = 1000

INDEX_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_PARAMETER_BOUNDS: Final = {
    "dimension": (1, MAX_DIMENSION),
    "hnsw_m": (4, 64),
    "ef_construction": (8, 1000),
    "ef_search": (1, 4096),
    "nlist": (1, 65_536),
    "nprobe": (1, 65_536),
}


@dataclass(frozen=True, slots=True)
class IndexSpec:
    """How one index is built. Fixed for its life.

    Attributes:
        name: `[a-z0-9][a-z0-9_-]{0,62}`; also the index's folder, which is why nothing else is allowed.
        dimension: length of each vector, 1 to 8192.
        metric: what a score means; higher is better for all three.
            `cosine`: inner product of the normalised vectors, in [-1, 1].
            `dot`: inner product. HNSW recall falls when norms differ widely; use `cosine` or `flat` then.
            `l2`: minus the squared Euclidean distance, at most 0.
        kind: `flat` (exact), `hnsw` (graph) or `ivf` (inverted lists; exact until there are 39 * nlist vectors to
            train on).
        hnsw_m: neighbours of a node in the graph, 4 to 64.
        ef_construction: candidates kept while a node is linked, 8 to 1000.
        ef_search: candidates kept while searching, 1 to 4096; k when k is larger.
        nlist: number of inverted lists.
        nprobe: lists read by a search, at most nlist.
        model: the embedding model whose vectors the index holds, if the caller wants that recorded.
        checkpoint: of that model when the index was made (`serve.config.checkpoints.checkpoint_mark`); vectors of two
            checkpoints cannot be compared. None without a model, and of indexes older than this field.

    Raises:
        InvalidRequest: a value outside its bounds; `param` names the field.
    """

    name: str
    dimension: int
    metric: Metric = "cosine"
    kind: Kind = "flat"
    hnsw_m: int = 16
    ef_construction: int = 128
    ef_search: int = 64
    nlist: int = 256
    nprobe: int = 16
    model: str | None = None
    checkpoint: str | None = None

    def __post_init__(self) -> None:
        check_index_name(self.name, param="name")
        for name, (low, high) in _PARAMETER_BOUNDS.items():
            value = getattr(self, name)
            if type(value) is not int or not low <= value <= high:
                raise InvalidRequest(f"{name} must be an integer from {low} to {high}", param=name)
        for name, allowed in (("metric", get_args(Metric)), ("kind", get_args(Kind))):
            if getattr(self, name) not in allowed:
                raise InvalidRequest(f"{name} must be one of {', '.join(allowed)}", param=name)
        if self.nprobe > self.nlist:
            raise InvalidRequest(f"nprobe must be at most nlist, {self.nlist}", param="nprobe")
        if self.model is not None and not (isinstance(self.model, str) and 0 < len(self.model) <= 256):
            raise InvalidRequest("model must be a name of 1 to 256 characters", param="model")


@dataclass(frozen=True, slots=True)
class IndexInfo:
    """An index as it stands now.

    Attributes:
        spec: how it was created.
        count: items that a search can find.
        bytes: memory that counts against the store's `max_bytes`: vectors, graph or lists, and what deleted items
            still occupy until the next compaction.
    """

    spec: IndexSpec
    count: int
    bytes: int


@dataclass(frozen=True, slots=True, eq=False)
class Item:
    """One stored vector.

    Attributes:
        id: 1 to 512 bytes of UTF-8 without control characters; adding an id again replaces the item.
        vector: (dimension,) float32, kept as given: `cosine` normalises only its copy in memory.
        metadata: at most 16 KiB as JSON; scalars and lists of scalars.
    """

    id: str
    vector: Float32s
    metadata: Metadata = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Hit:
    """One answer to a query.

    Attributes:
        id: the item's id.
        score: higher is better; see `IndexSpec.metric`.
        metadata: the item's metadata.
        vector: (dimension,) float32 as it was added, when the search asked for vectors.
    """

    id: str
    score: float
    metadata: Metadata
    vector: Float32s | None = None


def check_index_name(name: Any, *, param: str) -> str:
    """`name` if it is a valid index name; it then cannot leave the store's folder.

    Raises:
        InvalidRequest: anything else.
    """
    if not isinstance(name, str) or INDEX_NAME.fullmatch(name) is None:
        raise InvalidRequest(
            "an index name is 1 to 63 characters of a-z, 0-9, '_' and '-' and starts with a letter or digit",
            code="invalid_index_name",
            param=param,
        )
    return name


def another_checkpoint(spec: IndexSpec, now: str | None, *, param: str) -> Conflict:
    """The error of whoever would mix vectors of two checkpoints in one index."""
    return Conflict(
        f"index {spec.name!r} holds vectors of {spec.checkpoint}, and its model {spec.model!r} is {now} now; vectors "
        "of the two cannot be compared: fill a new index, or send vectors",
        code="index_of_another_checkpoint",
        param=param,
    )
