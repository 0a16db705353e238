"""Where replicas go on nodes of two kinds: the table of each replica's node and GPU, and what of each GPU is taken."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, Final

from rich.console import Console

from benchmarks.report import Column, Report, this_command
from benchmarks.scaling.files import file, model
from benchmarks.scaling.site import Site, site
from benchmarks.scaling.state import State
from serve.config.budget import problems
from serve.config.cluster import ClusterFile
from serve.config.load import parse
from serve.config.placement_checks import gpu_share

GOAL = (
    "every replica is on the first of its pools with room, no GPU holds more than one, what does not fit is refused, "
    "and after the loss of a node every replica is back on another"
)
_WAIT_S = 120.0
_NODES: Final = {"t4": 2, "a100": 1}
# On two T4s of 16 GB and an A100 node with two of 40 GB. `assist` takes a quarter of either card, and is preferably on
# an A100; LLaVA and BLIP-2 leave a tenth of each.
MODELS: Final[dict[str, Any]] = {
    "clip": model(4, "t4", replicas=2),
    "florence": model(8, "t4"),
    "llava": model(24, "a100", replicas=2),
    "blip": model(12, "a100", replicas=2),
    "assist": model(4, "a100", "t4"),
    "index": model(0, "t4"),
}
_COLUMNS = (
    Column("step", "step"),
    Column("model", "model"),
    Column("gb", "GB", "g"),
    Column("share", "of a GPU", ".4g"),
    Column("pools", "pools, preferred first"),
    Column("node", "node"),
    Column("gpu", "GPU"),
    Column("right", "as it should be"),
)


def run(progress: Console) -> Report:
    """Places everything, makes room, asks for too much, and takes a node away."""
    report = Report(
        this_command(),
        "Replicas on 2 nodes with a T4 (16 GB) and 1 node with two A100s (40 GB); GPUs are counted, not there",
        GOAL,
        _COLUMNS,
        {"nodes": dict(_NODES), "models": MODELS},
    )
    everything = file(MODELS)
    with site(everything, _NODES) as nodes:
        progress.print("  all models", highlight=False)
        state = nodes.deployed(everything, seconds=_WAIT_S)
        _rows(report, "all", parse(everything), state, {"assist": ["t4"]})
        progress.print("  without LLaVA", highlight=False)
        rest = {name: one for name, one in MODELS.items() if name != "llava"}
        nodes.deployed(file(rest), seconds=_WAIT_S)
        fewer = file(rest | {"assist": model(4, "a100", "t4", replicas=2)})
        state = nodes.deployed(fewer, seconds=_WAIT_S)
        # One stays where it is; the new one finds its preferred card free.
        _rows(report, "LLaVA gone, assist x 2", parse(fewer), state, {"assist": ["a100", "t4"]}, only="assist")
        progress.print("  too much", highlight=False)
        _refused(report, nodes)
        progress.print("  a T4 node is killed", highlight=False)
        state = nodes.deployed(fewer, seconds=_WAIT_S)
        # The one with `assist`: the other T4 has room for the rest, an A100 for `assist`.
        lost = next(one.node for one in state.deployments["assist"].running if one.pool == "t4")
        nodes.remove(lost)
        state = nodes.until("recovered", lambda found: lost not in _ids(found) and found.all_run(), seconds=_WAIT_S)
        _rows(report, "a T4 node killed", parse(fewer), state, {"assist": ["a100", "a100"]})
    return report


def _ids(state: State) -> set[str]:
    return {node.id for node in state.nodes}


def _rows(
    report: Report,
    step: str,
    cluster: ClusterFile,
    state: State,
    expected: dict[str, list[str]],
    only: str | None = None,
) -> None:
    """A line for each replica, and misses for what is wrong."""
    names, taken = _names(state), defaultdict[tuple[str, int], float](float)
    for name, one in cluster.models.items():
        share = gpu_share(cluster, name) if one.gpu_memory_gb else 0.0
        replicas = sorted(state.deployments[name].running, key=lambda replica: (names[replica.node], replica.gpus))
        pools = expected.get(name)
        for replica in replicas:
            for gpu in replica.gpus:
                taken[replica.node, gpu] += share
            right = replica.pool in cluster.pools_of(name) and len(replica.gpus) == bool(share)
            if not right:
                report.misses.append(f"{step}: {name} is on {names[replica.node]}, GPU {replica.gpus}")
            if only in (None, name):
                report.rows.append(
                    {
                        "step": step,
                        "model": name,
                        "gb": one.gpu_memory_gb or None,
                        "share": share or None,
                        "pools": ", ".join(cluster.pools_of(name)),
                        "node": names[replica.node],
                        "gpu": ", ".join(map(str, replica.gpus)) or "-",
                        "right": "yes" if right else "no",
                    }
                )
        if pools is not None and sorted(replica.pool for replica in replicas) != pools:
            report.misses.append(f"{step}: {name} should be on {pools}")
    sums = ", ".join(f"{names[node]} GPU {gpu} {share:.4g}" for (node, gpu), share in sorted(taken.items()))
    report.notes.append(f"{step}: of each GPU is taken: {sums}")
    full = 1 + 1e-9
    report.misses += [f"{step}: GPU {g} of {names[n]} holds {held:g}" for (n, g), held in taken.items() if held > full]


def _names(state: State) -> dict[str, str]:
    """`t4-1` and so on, in the order of the nodes' ids."""
    found: dict[str, str] = {}
    counts: dict[str, int] = defaultdict(int)
    for node in sorted(state.nodes, key=lambda node: node.id):
        counts[node.pool] += 1
        found[node.id] = f"{node.pool}-{counts[node.pool]}" if node.pool else "head"
    return found


def _refused(report: Report, nodes: Site) -> None:
    """The check before, and the running cluster's own word."""
    content = file(MODELS | {"llava": model(24, "a100", replicas=3)})
    found = problems(parse(content))
    nodes.deploy(content)
    state = nodes.until("refused", lambda state: state.application == "DEPLOY_FAILED", seconds=_WAIT_S)
    if len(found) != 1 or found[0] not in state.message:
        report.misses.append(f"too much: the check says {found}, the cluster {state.message!r}")
    running = sum(len(one.running) for one in state.deployments.values())
    report.notes.append(f"LLaVA x 3: refused by the check and by the cluster ({'; '.join(found)}); {running} run on")
