"""`argus plan`: the cheapest cluster that holds its objectives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from serve.cli.console import ConfigOption, JsonOption, ProfileOption, check_output, cluster_file, errors, output
from serve.errors import ConfigError

if TYPE_CHECKING:
    from benchmarks.capacity.planner.plan import Plan
    from benchmarks.capacity.planner.question import Traffic
    from benchmarks.traffic.arrivals import Arrivals


def plan(
    workload: Annotated[
        list[str] | None, typer.Option(help="Of benchmarks/targets.yaml; several are planned onto one cluster.")
    ] = None,
    hardware: Annotated[
        str | None, typer.Option(help="Which of the workload's places is the base: t4+a100, ...")
    ] = None,
    profile: ProfileOption = None,
    config: ConfigOption = None,
    flow: Annotated[
        list[str] | None,
        typer.Option(help="With --config: ENTRY, or name=search,entry=clip,share=0.5,escalated.screen=0.05."),
    ] = None,
    rate: Annotated[
        float | None, typer.Option(min=1e-6, max=1e6, help="Requests a second; by default the goal's.")
    ] = None,
    arrivals: Annotated[
        str | None, typer.Option(help="Arrival process: poisson:100, gamma:100,cv=2, mmpp:..., trace:FILE,rate=100.")
    ] = None,
    trace: Annotated[
        Path | None, typer.Option(help="Recorded arrivals, as --arrivals trace:FILE; at the goal's rate, or at --rate.")
    ] = None,
    slo: Annotated[
        list[str] | None,
        typer.Option(help="In place of the goal's: p99=200ms, mean=30ms, failed=0.1%, chat.p95=2s; in ms or s."),
    ] = None,
    catalogue: Annotated[Path | None, typer.Option(help="Nodes and prices; by default the shipped ones.")] = None,
    node: Annotated[list[str] | None, typer.Option(help="Only these nodes of the catalogue.")] = None,
    price: Annotated[str, typer.Option(help="on_demand, reserved or spot, where the catalogue has it.")] = "on_demand",
    confidence: Annotated[float, typer.Option(min=0.5, max=0.9999, help="Of holding each objective.")] = 0.95,
    seeds: Annotated[int, typer.Option(min=2, max=100, help="Runs of each candidate.")] = 5,
    duration: Annotated[
        float | None, typer.Option(min=10, max=1e9, help="Seconds of a run; by default as the rate asks.")
    ] = None,
    max_use: Annotated[
        float, typer.Option(min=0.05, max=0.99, help="Greatest use of a stage's capacity (rho).")
    ] = 0.85,
    survive_node_loss: Annotated[
        bool, typer.Option("--survive-node-loss", "--n-plus-one", help="Hold while any one node is lost.")
    ] = False,
    availability: Annotated[
        float | None, typer.Option(min=0.5, max=0.999999, help="Rent spare nodes so that enough are up so often.")
    ] = None,
    min_agreement: Annotated[
        float | None, typer.Option(min=0.5, max=0.9999, help="Certified agreement down to which thresholds may go.")
    ] = None,
    apis: Annotated[
        bool, typer.Option("--apis/--no-apis", help="Let hosted models stand in where the file does.")
    ] = True,
    growth: Annotated[float, typer.Option(min=1, max=10, help="Maxima of replicas and nodes, beyond the plan.")] = 1.0,
    what_ifs: Annotated[
        bool, typer.Option("--what-ifs/--no-what-ifs", help="Sensitivity, break-even and curves as well.")
    ] = True,
    out: Annotated[
        Path | None,
        typer.Option(file_okay=False, help="Folder for cluster.yaml, report.md, plots, rules and plan.json."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Find the cheapest nodes, replicas, batch limits and API calls that hold latency objectives. Exit 1 if none do."""
    # Simulation and search are slow to import, and no other command needs them.
    from benchmarks.capacity.planner.catalogue import SHIPPED, load_catalogue
    from benchmarks.capacity.planner.objectives import parse_objective
    from benchmarks.capacity.planner.problem import Wishes
    from benchmarks.capacity.planner.question import problem
    from benchmarks.capacity.planner.solve import solve
    from benchmarks.capacity.planner.write import write
    from benchmarks.capacity.profiles import shipped_profiles

    known = load_catalogue(catalogue or SHIPPED)
    known = known.only(tuple(node)) if node else known
    if left_out := sorted(known.nodes.keys() - known.rented(price).nodes.keys()):
        errors.print(f"Left out, having no price {price!r} nor on demand: {', '.join(left_out)}", highlight=False)
    question = problem(
        _traffic(workload, hardware, profile, config, flow),
        rate_per_s=rate,
        arrivals=_process(arrivals, trace),
        slo=[parse_objective(one) for one in slo or ()],
        catalogue=known,
        profiles=shipped_profiles(),
        wishes=Wishes(
            price=price,
            most_use=max_use,
            confidence=confidence,
            seeds=seeds,
            seconds=duration,
            survive_node_loss=survive_node_loss,
            availability=availability,
            apis=apis,
        ),
    )
    # A search may take minutes.
    check_output(None if out is None else out / "plan.json", "out")
    with _progress() as tell:
        solution = solve(question, agreement=min_agreement, what_ifs=what_ifs, growth=growth, tell=tell)
    # First of all: whatever fails from here on, the plan has been seen.
    if as_json:
        typer.echo(solution.plan.model_dump_json(indent=2))
    else:
        _show(solution.plan)
    if out is not None:
        try:
            written = write(solution, out)
        except OSError as error:
            raise ConfigError(f"{out}: cannot be written: {error.strerror}", param="out") from None
        for path in [] if as_json else written:
            output.print(f"Wrote {path}", highlight=False, soft_wrap=True)
    if not solution.plan.feasible:
        raise typer.Exit(1)


def _traffic(
    workload: list[str] | None, hardware: str | None, profile: str | None, config: Path | None, flow: list[str] | None
) -> Traffic:
    from benchmarks.capacity.planner.question import of_cluster, of_workloads
    from benchmarks.targets import load_targets

    if bool(workload) == bool(flow):
        raise ConfigError("Give either --workload, or --config (or --profile) with --flow.")
    if flow:
        return of_cluster(cluster_file(profile, config), flow, hardware)
    if profile is not None or config is not None:
        raise ConfigError("A workload brings its own cluster file; --config and --profile go with --flow.")
    return of_workloads(load_targets(), workload or (), hardware)


def _process(arrivals: str | None, trace: Path | None) -> Arrivals | None:
    from benchmarks.traffic.arrivals import parse_arrivals
    from benchmarks.traffic.replay import Replay

    if arrivals is not None and trace is not None:
        raise ConfigError("Give either --arrivals or --trace, not both.")
    if trace is not None:
        return Replay(file=trace)  # its path may hold commas
    return None if arrivals is None else parse_arrivals(arrivals)


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=errors, transient=True) as bar:
        task = bar.add_task("bounds")

        def tell(text: str) -> None:
            bar.update(task, description=text)

        yield tell


def _show(plan: Plan) -> None:
    if not plan.feasible:
        errors.print("[red]No cluster of this catalogue holds the objectives.[/red]")
        for reason in plan.reasons:
            errors.print(f"  {reason}", highlight=False, markup=False, soft_wrap=True)
        if plan.nearest is not None:
            errors.print(f"Nearest that can be had: {plan.nearest}", highlight=False, markup=False, soft_wrap=True)
        return
    table = Table("model", "node", "replicas", "GPU", "batch", "rho", title=_headline(plan))
    for stage in plan.stages:
        gpu = f"{stage.gpu_fraction:.3g}" if stage.gpu_fraction else "CPU"
        table.add_row(stage.name, stage.node, f"{stage.replicas}", gpu, f"{stage.max_items}", f"{stage.use:.2f}")
    for call in plan.providers:
        table.add_row(call.stands_in_for or "", f"API {call.provider}", "", "", "", f"{call.calls_per_s:.3g}/s")
    output.print(table)
    held = Table("objective", "bound", "allowed", "value")
    for one in plan.findings:
        value = "" if one.value_s is None else f"{1e3 * one.value_s:.1f} ms"
        held.add_row(one.objective, f"{one.bound:.4g}", f"{one.allowed:.4g}", value)
    output.print(held)
    if plan.what_if:
        changes = Table("when", "held", "$/h to hold it")
        for change in plan.what_if:
            cost = "none found" if change.usd_per_hour_to_hold is None else f"{change.usd_per_hour_to_hold:.2f}"
            changes.add_row(change.change, "yes" if change.held else "no", cost)
        output.print(changes)
    output.print(
        f"{plan.candidates_simulated} candidates, {plan.requests_simulated:,} requests simulated in "
        f"{plan.search_seconds:.1f} s; with what-ifs {plan.total_seconds:.1f} s",
        highlight=False,
    )


def _headline(plan: Plan) -> str:
    nodes = " + ".join(f"{one.rented} x {one.name}" for one in plan.nodes)
    return f"{nodes}: {plan.usd_per_hour:.2f} $/h, {plan.usd_per_1000:.4f} $ for 1,000 requests"
