"""`argus load`: a load test against its target."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from serve.cli.console import check_output, errors, output
from serve.errors import ConfigError

if TYPE_CHECKING:
    from benchmarks.loadtest.drift import Slope
    from benchmarks.loadtest.messages import Progress as Where
    from benchmarks.loadtest.record import LoadRecord
    from benchmarks.loadtest.run import Processes
    from benchmarks.loadtest.settings import Settings
    from benchmarks.loadtest.subject import Subject
    from benchmarks.loadtest.target import Target
    from benchmarks.loadtest.verdict import Row

_UI_PORT = 8089
_DURATION, _SOAK_DURATION = "60s", "20m"
# Answers are kept for five minutes (`resilience.cache.ttl_s`): before that, memory grows because a cache fills.
_WARM_UP, _SOAK_WARM_UP = "5s", "6m"
# Options of a worker; the others are its master's.
_OF_A_WORKER = frozenset({"workload", "profile", "worker", "workers"})
_MET = {True: "[green]met[/green]", False: "[red]missed[/red]", None: ""}


@dataclass(frozen=True, slots=True)
class _Place:
    """What the options say about where requests go."""

    host: str | None
    grpc: str
    name: str | None


def load(
    context: typer.Context,
    workload: Annotated[str, typer.Argument(help="Workload of benchmarks/targets.yaml, or a file with your own user.")],
    profile: Annotated[str, typer.Option(help="Class of hardware whose targets count.")] = "cpu-demo",
    duration: Annotated[str | None, typer.Option(help="Measured part: 90s, 5m; 60s, or 20m with --soak.")] = None,
    rate: Annotated[float | None, typer.Option(help="Requests a second; the target's by default.")] = None,
    arrivals: Annotated[
        str | None, typer.Option(help="Process: poisson:100, gamma:100,cv=2, step:10/20/40, trace:FILE,rate=100 ...")
    ] = None,
    host: Annotated[str | None, typer.Option(help="URL of a server; by default the workload's own is started.")] = None,
    grpc: Annotated[str, typer.Option(help="host:port of the server's gRPC.")] = "",
    key_env: Annotated[str, typer.Option(help="Environment variable with the API key.")] = "",
    name: Annotated[str | None, typer.Option(help="A cluster that runs on this machine.")] = None,
    workers: Annotated[int, typer.Option(min=0, max=256, help="Processes that send; one for all by default.")] = 0,
    master: Annotated[
        str, typer.Option(help="host:port at which to wait for --workers on other machines; with --host.")
    ] = "",
    worker: Annotated[str, typer.Option(help="host:port of a master: send for it, with --workers processes.")] = "",
    ui: Annotated[bool, typer.Option("--ui", help=f"Locust's web interface at 127.0.0.1:{_UI_PORT}.")] = False,
    soak: Annotated[bool, typer.Option("--soak", help="20 minutes at the target's rate; report drift.")] = False,
    warm_up: Annotated[str | None, typer.Option(help="Before the measured part; 5s, or 6m with --soak.")] = None,
    grace: Annotated[str, typer.Option(help="How long answers are waited for after it.")] = "30s",
    seed: Annotated[int, typer.Option(min=0, help="Of the arrivals.")] = 1,
    max_in_flight: Annotated[int, typer.Option(min=1, help="Requests in progress a worker; more are not sent.")] = 2000,
    html: Annotated[Path | None, typer.Option(help="Write the report with its plots.")] = None,
    json: Annotated[Path | None, typer.Option("--json", help="Write the record, with every request.")] = None,
) -> None:
    """Load a server on an open-loop schedule and compare with the target. Exit 1 when it is missed.

    Requests are sent when the schedule says so, however slow the answers are, and latency counts from that moment.
    """
    from benchmarks.loadtest import subject as subjects
    from benchmarks.loadtest.run import run_worker
    from benchmarks.loadtest.settings import checked, parse_seconds
    from benchmarks.loadtest.target import Target
    from benchmarks.targets import load_targets

    subject = subjects.find(workload, profile, load_targets())
    if worker:
        _only_a_worker(context)
        raise typer.Exit(run_worker(subject.file, worker, workers))
    processes = _processes(workers, master, host, ui)
    process = subjects.arrivals(subject, arrivals, rate)
    seconds = parse_seconds(duration or (_SOAK_DURATION if soak else _DURATION))

    def settings(target: Target) -> Settings:
        return checked(
            workload=subject.name,
            host=target.http,
            grpc=target.grpc,
            key_env=key_env,
            arrivals=process,
            seconds=seconds,
            warm_up_s=parse_seconds(warm_up or (_SOAK_WARM_UP if soak else _WARM_UP), "warm-up"),
            grace_s=parse_seconds(grace, "grace"),
            seed=seed,
            max_in_flight=max_in_flight,
        )

    # What is wrong, cannot be drawn or cannot be written is said before anything is started for it.
    settings(Target(host or "http://127.0.0.1:1", grpc))
    process.times(seconds, seed)
    for path, option in ((json, "json"), (html, "html")):
        check_output(path, option)
    with _target(subject, profile, _Place(host, grpc, name)) as target:
        record = _run(subject, settings(target), processes, target)
    _report(subject, profile, record, html, json, drift=soak)


def _only_a_worker(context: typer.Context) -> None:
    """Raises `ConfigError` for what the master decides: Locust tells its workers where and what to send."""
    for name in context.params:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE" and name not in _OF_A_WORKER:
            option = "--" + name.replace("_", "-")
            raise ConfigError(f"A --worker sends what its master says; give {option} to the master", param=name)


def _processes(workers: int, master: str, host: str | None, ui: bool) -> Processes:
    """Raises `ConfigError` where a master would wait for nobody, or workers would send to their own machines."""
    from benchmarks.loadtest.run import Processes, address

    if master:
        address(master, "master")
        if host is None:
            raise ConfigError(
                "--master needs --host: workers on other machines cannot reach a cluster that listens on 127.0.0.1; "
                "give the URL by which they do",
                param="host",
            )
        if workers < 1:
            raise ConfigError("--master waits for --workers on other machines; say how many", param="workers")
        return Processes(bind=master, remote=workers, ui_port=_UI_PORT if ui else None)
    return Processes(local=workers if workers > 1 else 0, ui_port=_UI_PORT if ui else None)


@contextmanager
def _target(subject: Subject, profile: str, place: _Place) -> Iterator[Target]:
    """Where requests go."""
    from benchmarks.loadtest.target import Target, running, started

    if place.host is not None and place.name is not None:
        raise ConfigError("Give either --host or --name, not both.")
    if place.host is not None:
        yield Target(place.host, place.grpc)
    elif place.name is not None:
        yield running(place.name)
    elif subject.workload is None:
        raise ConfigError(f"{subject.file.name} has no cluster of its own; give --host or --name", param="host")
    else:
        errors.print(f"Starting the cluster of {subject.name} ...", highlight=False)
        with started(subject.name, subject.workload, profile) as target:
            yield target


def _run(subject: Subject, settings: Settings, processes: Processes, target: Target) -> LoadRecord:
    """The run, with a progress bar."""
    from benchmarks.loadtest.run import run_load
    from benchmarks.loadtest.watched import run_watched

    if processes.ui_port is not None:
        errors.print(f"Web interface: http://127.0.0.1:{processes.ui_port}", highlight=False)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[counts]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=errors) as bar:
        task = bar.add_task(subject.name, total=settings.end_s, counts="preparing")

        def show(where: Where) -> None:
            counts = f"{where.done} answered, {where.failed} failed, {where.in_flight} in progress"
            bar.update(task, completed=max(0.0, where.elapsed_s), counts=counts)

        if target.pid is not None:
            return run_watched(settings, subject.file, processes, target.pid, on_progress=show)
        return run_load(settings, subject.file, processes, on_progress=show)


def _report(
    subject: Subject, profile: str, record: LoadRecord, html: Path | None, json: Path | None, *, drift: bool
) -> None:
    """Table, files and exit status."""
    from benchmarks.loadtest.drift import slopes
    from benchmarks.loadtest.html import write_html
    from benchmarks.loadtest.verdict import misses, rows

    # First of all: whatever fails from here on, the run is kept.
    written = json is None or _written("Record", json, record.save)
    table = rows(record, subject.goal)
    found = slopes(record) if drift else []
    title = f"{subject.name} on {profile}"
    _show(title, table, found, record)
    if html is not None:
        written &= _written("Report", html, lambda path: write_html(path, record, table, found, title))
    for fault in record.generator.faults:
        output.print(f"[red]invalid[/red] {fault}", highlight=False, soft_wrap=True)
    for miss in (missed := misses(table)):
        output.print(f"[red]missed[/red] {miss}", highlight=False, soft_wrap=True)
    if missed or not record.generator.valid or not written:
        raise typer.Exit(1)


def _written(what: str, path: Path, write: Callable[[Path], None]) -> bool:
    """Writes a file; says where it is, or why there is none."""
    try:
        write(path)
    except OSError as error:
        errors.print(f"[red]error[/red] {path}: cannot be written: {error.strerror}", highlight=False, soft_wrap=True)
        return False
    output.print(f"{what}: {path}", highlight=False)
    return True


def _show(title: str, rows: list[Row], slopes: list[Slope], record: LoadRecord) -> None:
    shown = Table("figure", "target", "result", "", title=title, title_justify="left")
    for row in rows:
        shown.add_row(row.name, row.target, row.result, _MET[row.met])
    output.print(shown)
    if (pace := record.extra.get("pace")) is not None:
        output.print(f"  The cores had a pace of {pace:.2f}; goals of cpu-demo are stated for one.", highlight=False)
    for code, one in record.errors.items():
        output.print(f"  {one.count} failed with {code}: {one.example}", highlight=False, markup=False, soft_wrap=True)
    if not slopes:
        return
    drifts = Table("drift of", "median", "an hour", "95 % interval")
    for slope in slopes:
        interval = f"{slope.low:+.2f} to {slope.high:+.2f}"
        drifts.add_row(slope.name, f"{slope.level:.1f}", f"{slope.per_hour:+.2f}", interval)
    output.print(drifts)
