"""`argus profile`: what a model costs on this machine, for the simulator and the planner."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer
from rich.table import Table

from serve.cli.console import ConfigOption, JsonOption, ProfileOption, check_output, cluster_file, errors, output
from serve.errors import ConfigError

if TYPE_CHECKING:
    from benchmarks.capacity.profiles import HardwareClass, HardwareProfile, ModelProfile


def profile(
    model: Annotated[str | None, typer.Argument(help="Name of a model of the cluster file.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Every model of the file that can be profiled.")] = False,
    profile: ProfileOption = None,
    config: ConfigOption = None,
    hardware: Annotated[str, typer.Option(help="Class of this machine's hardware.")] = "cpu-demo",
    out: Annotated[
        Path | None, typer.Option(help="Profile to write; entries of other models stay as they are.")
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=0.2, help="About how long each part lasts: alone, idle, and each loaded run.")
    ] = 20.0,
    as_json: JsonOption = False,
) -> None:
    """Measure a model alone and served: passes by batch, preprocessing, hop, memory, start, an engine's coefficients.

    Nothing else should run on the machine meanwhile; how much did is written beside the figures. Without --out, what
    was measured is only shown.
    """
    from benchmarks.capacity.profiler import build
    from benchmarks.capacity.profiles import load_profile, save_profile

    loaded = cluster_file(profile, config, calibrations=False)
    wish = build.Wish(loaded, _hardware(hardware), seconds, lambda text: errors.print(f"  {text}", highlight=False))
    found = load_profile(out) if out is not None and out.exists() else None
    if found is not None and found.hardware != hardware:
        raise ConfigError(
            f"--out: {out} is of {found.hardware}, --hardware says {hardware}; give another file", param="out"
        )
    names = _names(model, every, build.profilable(loaded))
    check_output(out, "out")
    for name in names:
        found = build.combined(found, build.profile(wish, name, found))
        if out is not None:
            save_profile(out, found, _head(found))
    assert found is not None
    if as_json:
        typer.echo(json.dumps(found.model_dump(mode="json")))
        return
    output.print(_table(found))
    if out is not None:
        output.print(f"Profile: {out}", highlight=False)


def _hardware(given: str) -> HardwareClass:
    from benchmarks.capacity.profiles import HardwareClass

    known: tuple[HardwareClass, ...] = get_args(HardwareClass)
    if given not in known:
        raise ConfigError(f"--hardware: got {given!r}; it must be one of {', '.join(known)}", param="hardware")
    return known[known.index(given)]


def _head(found: HardwareProfile) -> str:
    """First line of the file: whether all of it was measured."""
    origins = [found.router.provenance]
    origins += [model.provenance for model in found.models.values()]
    origins += [provider.provenance for provider in found.providers.values()]
    if all(origin.kind == "measured" for origin in origins):
        return "Measured by argus profile; each entry's provenance has its command."
    return "Partly measured by argus profile, partly estimated: each entry's provenance says which."


def _names(model: str | None, every: bool, known: tuple[str, ...]) -> tuple[str, ...]:
    if (model is not None) == every:
        raise ConfigError("Give either a model's name or --all.", param="model")
    return known if model is None else (model,)


def _table(found: HardwareProfile) -> Table:
    router = found.router
    title = (
        f"{found.hardware}: router {1e3 * router.latency.mean:.2f} ms there and back, "
        f"{1e3 * router.cpu.mean:.2f} ms of a core a request, {1e3 * router.wake_s:.2f} a wake-up"
    )
    table = Table(*("model", "preprocess ms", "hop ms", "pass or step", "memory GB", "start s"), title=title)
    for name, one in found.models.items():
        table.add_row(
            name,
            f"{1e3 * one.preprocess.mean:.2f}",
            f"{1e3 * one.overhead.mean:.2f}",
            _work(one),
            f"{one.memory_gb:.2f}",
            f"{one.start_s:.1f}",
        )
    return table


def _work(one: ModelProfile) -> str:
    made = one.generation
    if made is None:
        return ", ".join(f"{each.items}: {1e3 * each.seconds.mean:.1f}" for each in one.forward) + " ms"
    return (
        f"encode {1e3 * made.encode_s:.1f} ms, step {1e3 * made.step_s:.2f} + {1e3 * made.sequence_s:.3f} a sequence "
        f"+ {1e3 * made.prompt_token_s:.3f} a prompt token"
    )
