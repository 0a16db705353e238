"""The `argus` command."""

from __future__ import annotations

import sys

import typer
from rich.markup import escape

from serve.cli import (
    bench,
    calibrate,
    call,
    cascade,
    config,
    doctor,
    k8s,
    load,
    observability,
    plan,
    profile,
    reconstruct,
    simulate,
    status,
    top,
    up,
    update,
    validate,
)
from serve.cli.console import errors
from serve.config.load import ConfigErrors
from serve.errors import ArgusError

app = typer.Typer(
    help="Argus serves vision models: one cluster file, one request path, HTTP and gRPC.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(up.up)
app.command()(up.down)
app.command()(update.update)
app.command()(status.status)
app.command()(status.models)
app.command()(top.top)
app.command()(doctor.doctor)
app.command()(load.load)
app.command()(plan.plan)
app.command()(simulate.simulate)
app.command()(profile.profile)
app.command()(validate.validate)
app.command()(calibrate.calibrate)
app.command()(reconstruct.reconstruct)
app.add_typer(call.app, name="call")
app.add_typer(cascade.app, name="cascade")
app.add_typer(config.app, name="config")
app.add_typer(observability.app, name="observability")
app.add_typer(k8s.app, name="k8s")
app.add_typer(bench.app, name="bench")


def main() -> None:
    """Runs the command; an error of ours is one line a problem, never a traceback."""
    try:
        app()
    except ConfigErrors as error:
        for problem in error.problems:
            errors.print(f"[red]error[/red] {escape(problem)}", highlight=False)
        sys.exit(2)
    except ArgusError as error:
        where = f" ({error.param})" if error.param else ""
        errors.print(f"[red]error[/red] {escape(error.message + where)}", highlight=False)
        sys.exit(1)
