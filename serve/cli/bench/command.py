"""What all benchmarks' commands have: their application, options, and end."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from serve.cli.console import check_output, output
from serve.errors import ConfigError

if TYPE_CHECKING:
    from benchmarks.report import Report

app = typer.Typer(help="Measure Argus beside its alternatives.", no_args_is_help=True)


def _writable(path: Path | None) -> Path | None:
    """A run is long: that its record cannot be written is said before it."""
    check_output(path, "json")
    return path


JsonFile = Annotated[
    Path | None, typer.Option("--json", help="Write the record of this run to a file.", callback=_writable)
]
Check = Annotated[bool, typer.Option("--check", help="Exit with status 1 when the goal is missed.")]
Quick = Annotated[bool, typer.Option("--quick", help="A short run that shows whether it works; figures mean little.")]


def one_of(option: str, given: str, known: tuple[str, ...]) -> None:
    """Raises `ConfigError` when an option has a value that is not known."""
    if given not in known:
        raise ConfigError(f"{option}: got {given!r}; it must be one of {', '.join(known)}")


def finish(report: Report, json: Path | None, check: bool) -> None:
    """Shows a report and writes its record.

    Raises:
        typer.Exit: with status 1, when the goal is missed and `check` is set.
    """
    report.show(output)
    if json is not None:
        report.save(json)
        output.print(f"Record: {json}", highlight=False)
    if check and not report.met:
        raise typer.Exit(1)
