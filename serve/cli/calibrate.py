"""`argus calibrate`: certify a cascade's threshold on labelled images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import Progress
from rich.table import Table

from serve.calibration.file import Calibration
from serve.cli.console import cluster_file, errors, output
from serve.cli.status import address, auth_headers
from serve.errors import ConfigError

if TYPE_CHECKING:
    from serve.calibration.bounds import Promise
    from serve.calibration.job import Outcome, Wish

ClusterOption = Annotated[
    Path | None, typer.Option("--cluster", "--config", help="The cluster file that has the cascade.")
]


def calibrate(
    cascade: Annotated[str, typer.Argument(help="Name of the cascade.")],
    data: Annotated[Path, typer.Option(help="Folder with labels.csv or one sub-folder a label, or JSON lines.")],
    profile: Annotated[str | None, typer.Option("--profile", help="Shipped cluster file that has the cascade.")] = None,
    cluster: ClusterOption = None,
    step: Annotated[str | None, typer.Option(help="Step; by default the first that has a confidence rule.")] = None,
    target: Annotated[float, typer.Option(help="Wanted agreement of accepted answers, between 0 and 1.")] = 0.98,
    confidence: Annotated[float, typer.Option(help="Confidence of the certificate, between 0 and 1.")] = 0.95,
    reference: Annotated[
        str, typer.Option(help="What is right: `labels` of the data, or the answers of the next step's `model`.")
    ] = "labels",
    save_labels: Annotated[
        bool, typer.Option("--save-labels", help="Test in several looks, so that fewer labels are needed.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Calibration file; by default the one that the cascade names.")
    ] = None,
    diagram: Annotated[
        Path | None, typer.Option(help="Reliability diagram, a PNG; by default beside the file.")
    ] = None,
    check_next: Annotated[
        int, typer.Option(min=0, help="Escalated samples that the next step is asked about, for its accuracy.")
    ] = 0,
    offline: Annotated[bool, typer.Option("--offline", help="Load the step's model here; no cluster needed.")] = False,
    url: Annotated[str | None, typer.Option("--url", help="Address of the cluster, when it runs elsewhere.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the parting into fitting and certifying samples.")] = 0,
) -> None:
    """Fit a temperature and certify the lowest threshold that keeps a step's promise; exit 3 when there is none."""
    # numpy's and scipy's part of it all is slow to import, and no other command needs it.
    from serve.calibration import job
    from serve.calibration.diagram import draw
    from serve.calibration.fit import why_nothing

    loaded = cluster_file(profile, cluster, calibrations=False)
    chosen = job.cascade_of(loaded, cascade)
    by_model = _one_of("--reference", reference, ("labels", "model")) == "model"
    path = out or (Path(chosen.calibration) if isinstance(chosen.calibration, str) else None)
    if path is None:
        raise ConfigError(f"--out: is missing, and cascades.{cascade}.calibration names no file", param="out")
    wish = job.wish_of(
        loaded, chosen, step, data, _promise(target, confidence), by_model, save_labels, check_next, seed
    )
    steps = job.other_steps(path, cascade, wish)
    where = None if offline else url or address(loaded.name)
    with _progress(wish) as (tick, next_tick):
        outcome = job.run(wish, where, auth_headers(), tick, next_tick)
    found = outcome.found
    steps[wish.step.name] = found.step
    job.write(path, Calibration(version=1, cascade=cascade, made=date.today(), steps=steps))
    picture = diagram or path.with_suffix(".png")
    draw(found.evidence, f"{cascade}: step {wish.step.name}", picture, threshold=found.step.threshold)
    output.print(_table(cascade, wish, outcome))
    output.print(f"Calibration: {path}\nDiagram: {picture}", highlight=False, soft_wrap=True)
    if problem := why_nothing(found, wish.promise):
        errors.print(f"[red]error[/red] No threshold could be certified: {problem}.", highlight=False)
        raise typer.Exit(3)


def _promise(target: float, confidence: float) -> Promise:
    from serve.calibration.bounds import Promise

    try:
        return Promise(target, confidence)
    except ValueError as error:
        raise ConfigError(f"--{error}") from None


def _one_of(option: str, given: str, known: tuple[str, ...]) -> str:
    if given not in known:
        raise ConfigError(f"{option}: got {given!r}; it must be one of {', '.join(known)}")
    return given


@contextmanager
def _progress(wish: Wish) -> Iterator[tuple[Callable[[], None], Callable[[], None]]]:
    """What to call after each answer of the step, and of the next one."""
    with Progress(console=errors, transient=True) as progress:
        asking = progress.add_task(f"asking {wish.step.use}", total=len(wish.samples))
        following = progress.add_task("asking the next step", total=None, visible=wish.by_model or wish.check_next > 0)
        yield partial(progress.advance, asking), partial(progress.advance, following)


def _table(cascade: str, wish: Wish, outcome: Outcome) -> Table:
    found, step = outcome.found, outcome.found.step
    best = found.certificate.best
    table = Table("", "", title=f"{cascade}, step {wish.step.name} ({step.checkpoint})", show_header=False)
    table.add_row("reference", f"answers of {wish.next.use}" if wish.by_model and wish.next else "labels of the data")
    table.add_row("samples", f"{step.samples}: {found.fitted_on} to fit, {found.certified_on} to certify")
    table.add_row("labels used", f"{step.labels_used}")
    table.add_row("temperature", f"{step.temperature:.4f}")
    table.add_row("ECE before / after", f"{step.ece_before:.4f} / {step.ece_after:.4f}")
    wanted = f"agreement >= {step.target:g} with confidence {step.confidence:g}"
    if best is None:
        table.add_row("threshold", f"none: {wanted} could not be certified, so every request goes on")
    else:
        table.add_row("threshold", f"{step.threshold:.6f}, certified: {wanted}")
        table.add_row("measured agreement", f"{best.labels - best.errors} of {best.labels} ({found.agreement:.2%})")
    table.add_row("expected escalation", f"{1 - found.accepted:.1%} of requests")
    table.add_row(
        "accuracy lost by accepting", f"{found.loss:.2%} expected, at most {found.accepted * (1 - step.target):.2%}"
    )
    if outcome.next_right is not None:
        expected = found.accepted * found.agreement + (1 - found.accepted) * outcome.next_right
        table.add_row("expected accuracy", f"{expected:.2%} ({outcome.next_right:.1%} of escalated answers are right)")
    table.add_row("cost", _cost(wish, outcome))
    return table


def _cost(wish: Wish, outcome: Outcome) -> str:
    calls = 1000 * (1 - outcome.found.accepted)
    name = wish.next.use if wish.next else "the end"
    text = f"{calls:.0f} calls to {name} in 1000 requests"
    if outcome.spent.calls:
        each = outcome.spent.usage.usd / outcome.spent.calls
        text += f", {outcome.spent.seconds / outcome.spent.calls:.2f} s each"
        text += f", {calls * each:.4f} USD" if each else ""
    return text
