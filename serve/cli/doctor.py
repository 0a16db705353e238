"""`argus doctor`: what on this machine would keep Argus from running well, and how to mend it."""

from __future__ import annotations

import typer
from rich.table import Table

from serve.cli.console import ConfigOption, JsonOption, ProfileOption, cluster_file, output
from serve.runtime.checks import Level, run_checks


def doctor(profile: ProfileOption = None, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Check versions, accelerator, ports, memory and known traps. Exit 1 when something must be mended first."""
    findings = run_checks(cluster_file(profile, config))
    if as_json:
        import json
        from dataclasses import asdict

        typer.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        colours = {Level.OK: "green", Level.WARNING: "yellow", Level.ERROR: "red"}
        table = Table("", "check", "found", "what to do")
        for finding in findings:
            mark = f"[{colours[finding.level]}]{finding.level.value}[/]"
            table.add_row(mark, finding.check, finding.found, finding.fix)
        output.print(table)
    if any(finding.level is Level.ERROR for finding in findings):
        raise typer.Exit(1)
