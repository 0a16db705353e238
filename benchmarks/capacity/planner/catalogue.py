"""The node catalogue: what can be rented or called, and at what price."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError, model_validator
from scipy import stats

from benchmarks.capacity.profiles import HardwareClass, Record
from serve.config.strict_yaml import read_yaml
from serve.errors import ConfigError

SHIPPED = Path(__file__).parent.parent / "catalogue.yaml"
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,62}$")]
# A node's is that of a node pool, and on Kubernetes of a worker group.
NodeName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]


class Price(Record):
    """What an hour of a node costs, one way of renting it."""

    usd_per_hour: float = Field(ge=0, description="In US dollars.")
    availability: float = Field(1.0, gt=0, le=1, description="Share of the time that such a node is up.")
    source: str = Field(min_length=1, description="Where the price stands.")
    date: date


class NodeType(Record):
    """A kind of node; in the planned cluster file a node pool of this name."""

    hardware: HardwareClass | None = Field(
        None, description="Class of the profiles that hold on it; none for nodes that host no model."
    )
    gpu: str | None = Field(None, description="Ray's accelerator name.")
    gpus: int = Field(0, ge=0, le=16, description="GPUs a node.")
    gpu_memory_gb: float = Field(0, ge=0, description="Of one GPU, in GB (1e9 bytes).")
    cpus: int = Field(ge=1, description="CPU cores a node.")
    memory_gb: float = Field(gt=0, description="Main memory a node, in GB.")
    max_nodes: int = Field(16, ge=1, le=1000, description="Most that can be had.")
    prices: dict[Name, Price] = Field(min_length=1, description="By the way of renting: on_demand, reserved, spot.")

    @model_validator(mode="after")
    def _consistent(self) -> NodeType:
        if bool(self.gpus) != bool(self.gpu_memory_gb):
            raise ValueError(f"gpus is {self.gpus} and gpu_memory_gb is {self.gpu_memory_gb:g}; state both or neither")
        if self.gpus and self.gpu is None:
            raise ValueError("has GPUs and no gpu; name Ray's accelerator type, such as T4")
        if self.gpus and self.hardware is None:
            raise ValueError("has GPUs and no hardware; name the class of profiles that holds on them")
        if self.hardware is not None and not self.gpus and self.max_nodes > 1:
            # The simulator knows one node whose cores everything shares.
            raise ValueError(
                f"hosts models without a GPU and max_nodes is {self.max_nodes}; such a node is planned alone, so it "
                "must be 1"
            )
        return self


class Api(Record):
    """A hosted model's price and limit, in place of those of the hardware profiles."""

    usd_per_call: float | None = Field(None, ge=0, description="Mean price of one call, in US dollars.")
    requests_per_minute: float | None = Field(None, gt=0, description="Our rate limit; none when left out.")
    tokens_per_minute: float | None = Field(None, gt=0, description="The same of tokens, those of images included.")
    source: str = Field(min_length=1, description="Where the figures stand.")
    date: date


class Catalogue(Record):
    """A file like the shipped `catalogue.yaml`."""

    version: int = Field(1, ge=1, le=1)
    nodes: dict[NodeName, NodeType] = Field(min_length=1, description="By name: lower-case letters, digits and -.")
    apis: dict[Name, Api] = Field({}, description="By the provider's name in the cluster file.")

    def only(self, names: tuple[str, ...]) -> Catalogue:
        """The same with these nodes alone.

        Raises:
            ConfigError: there is none of a name.
        """
        if unknown := [name for name in names if name not in self.nodes]:
            raise ConfigError(
                f"node {unknown[0]!r} is not in the catalogue; it has {', '.join(self.nodes)}", param="node"
            )
        return self.model_copy(update={"nodes": {name: self.nodes[name] for name in names}})

    def rented(self, kind: str) -> Catalogue:
        """Those nodes that can be rented in one way, or on demand.

        Raises:
            ConfigError: no node has that price.
        """
        if not any(kind in node.prices for node in self.nodes.values()):
            known = sorted({way for node in self.nodes.values() for way in node.prices})
            raise ConfigError(f"no node has a price {kind!r}; the catalogue has {', '.join(known)}", param="price")
        kept = {name: node for name, node in self.nodes.items() if self.way(name, kind) in node.prices}
        return self.model_copy(update={"nodes": kept})

    def priced(self, kind: str) -> dict[str, Price]:
        """Price of each node that can be rented in one way, or on demand where the catalogue does not have that way.

        Raises:
            ConfigError: no node has that price.
        """
        return {name: node.prices[self.way(name, kind)] for name, node in self.rented(kind).nodes.items()}

    def way(self, name: str, kind: str) -> str:
        """How a node is rented where `kind` is wished: that way, or on demand where the catalogue does not have it."""
        return kind if kind in self.nodes[name].prices else "on_demand"


def load_catalogue(path: Path = SHIPPED) -> Catalogue:
    """Reads a file.

    Raises:
        ConfigError: it cannot be read or is no catalogue; names the key and the value.
    """
    try:
        return Catalogue.model_validate(read_yaml(path, "catalogue"))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "file"
        raise ConfigError(
            f"{path}: {where}: {first['msg'].removeprefix('Value error, ')}, got {first['input']!r:.80}",
            param="catalogue",
        ) from None


def bought(working: int, availability: float, goal: float) -> int:
    """Nodes to rent so that at least `working` of them are up with probability `goal`; nodes fail independently."""
    if not working or availability >= 1:
        return working
    # So many more as are down, at most, before `working` are found that are up.
    return working + int(stats.nbinom.ppf(goal, working, availability))
