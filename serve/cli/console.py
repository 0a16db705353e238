"""Output of the command line: results on stdout, progress and errors on stderr."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from serve.config.cluster import ClusterFile
from serve.config.load import PROFILES, load_file, load_profile
from serve.errors import ConfigError

output = Console()
errors = Console(stderr=True)

ProfileOption = Annotated[
    str | None, typer.Option("--profile", help=f"Shipped cluster file: {', '.join(PROFILES)}; demo by default.")
]
ConfigOption = Annotated[Path | None, typer.Option("--config", help="Your own cluster file.")]
NameOption = Annotated[str, typer.Option("--name", help="Name of the running cluster, as in its cluster file.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def cluster_file(profile: str | None, config: Path | None, *, calibrations: bool = True) -> ClusterFile:
    """The cluster file that the options name.

    Args:
        calibrations: see `load_file`.

    Raises:
        ConfigError: both are given, or the file is wrong.
    """
    if profile is not None and config is not None:
        raise ConfigError("Give either --profile or --config, not both.")
    if config is not None:
        return load_file(config, calibrations=calibrations)
    return load_profile(profile or "demo", calibrations=calibrations)


def check_output(path: Path | None, option: str) -> None:
    """Makes the folder of a file that is to be written.

    Raises:
        ConfigError: the file could not be written.
    """
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        was_there = path.exists()
        with path.open("ab"):
            pass
        if not was_there:
            path.unlink()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}", param=option) from None
