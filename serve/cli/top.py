"""`argus top`: a running cluster, live, in the terminal."""

from __future__ import annotations

import json
import os
import select
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import Annotated

import httpx
import typer
from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live as Screen
from rich.table import Table
from rich.text import Text

from serve.cli.console import JsonOption, NameOption, errors, output
from serve.errors import Unavailable
from serve.live import WANTED, CascadeUse, Live, ModelUse, Route, TargetUse, live
from serve.runtime import state
from serve.scrape import Delta, Scrape, Window

_TIMEOUT_S = 10.0
_FILE_WIDTH = 140
# Bytes of keys that are read at once.
_MOST_KEYS = 64
# Share of failures from which a figure is red.
_BAD_SHARE = 0.01
_BREAKER_STYLES = {"closed": "", "resting": "yellow"}


def top(
    name: NameOption = "demo",
    once: Annotated[bool, typer.Option("--once", help="Measure one window, print, and end.")] = False,
    as_json: JsonOption = False,
    window: Annotated[
        float,
        typer.Option(min=10, max=600, help="Seconds that rates and quantiles are over; Ray takes in values every ten."),
    ] = 30.0,
    every: Annotated[float, typer.Option(min=0.5, max=60, help="Seconds between two looks.")] = 2.0,
) -> None:
    """Show requests, cascades, models, providers and cache of a running cluster, live; q or Ctrl-C ends it."""
    running = state.load(state.run_dir(name))
    if running is None or running.phase != "ready":
        raise Unavailable(f"Cluster {name!r} does not run; start it with: argus up --detach")
    with httpx.Client(timeout=_TIMEOUT_S, trust_env=False) as client:
        if once or as_json:
            _print_once(client, running, window, as_json)
        else:
            _watch(client, running, window, every)


def _print_once(client: httpx.Client, running: state.Instance, window: float, as_json: bool) -> None:
    before = _scrape(client, running.metrics)
    with errors.status(f"Measuring for {window:g} s"):
        time.sleep(window)
    found = live(Delta(before, _scrape(client, running.metrics)))
    if as_json:
        typer.echo(json.dumps(asdict(found), indent=2))
    elif output.is_terminal:
        output.print(screen(found, running.name))
    else:  # a file has no width to keep to
        Console(width=_FILE_WIDTH).print(screen(found, running.name))


def _watch(client: httpx.Client, running: state.Instance, window: float, every: float) -> None:
    seen = Window(window)
    full = Screen(console=output, screen=output.is_terminal, auto_refresh=False)
    with suppress(KeyboardInterrupt), _keyboard() as left, full as shown:
        while True:
            lost = _look(client, running, seen)
            shown.update(_shown(seen, running.name, lost), refresh=True)
            if left(every):
                return


def _look(client: httpx.Client, running: state.Instance, seen: Window) -> str | None:
    """Takes a scrape, or says why there is none: one that is lost while the cluster runs is a gap, no reason to end.

    Raises:
        Unavailable: the cluster has ended.
    """
    try:
        seen.add(_scrape(client, running.metrics))
    except Unavailable as error:
        if not running.alive():
            raise Unavailable(f"Cluster {running.name!r} has stopped.") from None
        return error.message
    return None


def _shown(seen: Window, name: str, lost: str | None) -> RenderableType:
    """The last figures that there are and, when they are not of now, since when."""
    delta = seen.delta()
    parts: list[RenderableType] = []
    if lost is not None:
        since = "yet" if seen.newest is None else f"for {time.monotonic() - seen.newest.at_s:.0f} s"
        parts.append(Text(f"no answer {since}: {lost}", "bold red"))
    if delta is not None:
        parts.append(screen(live(delta), name))
    return Group(*parts)


def _scrape(client: httpx.Client, address: str) -> Scrape:
    """One look at the metrics endpoint.

    Raises:
        Unavailable: it does not answer, or with something else.
    """
    try:
        answer = client.get(address).raise_for_status()
    except httpx.HTTPError as error:
        raise Unavailable(f"{address} does not answer: {error}") from None
    try:
        return Scrape.parse(answer.text, time.monotonic(), WANTED)
    except ValueError as error:
        raise Unavailable(f"{address} answers with something other than metrics: {error}") from None


@contextmanager
def _keyboard() -> Iterator[Callable[[float], bool]]:
    """A function that waits so many seconds, and tells whether q was pressed; without a terminal it only waits."""
    if not sys.stdin.isatty():
        yield _only_wait
        return
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)

    def left(seconds: float) -> bool:
        until = time.monotonic() + seconds
        while (rest := until - time.monotonic()) > 0:
            ready, _, _ = select.select([terminal], [], [], rest)
            if not ready:
                return False
            # Past Python's buffer, of which `select` knows nothing.
            keys = os.read(terminal, _MOST_KEYS)
            if not keys or b"q" in keys:  # no keys: the terminal has gone
                return True
        return False

    try:
        tty.setcbreak(terminal)
        yield left
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def _only_wait(seconds: float) -> bool:
    time.sleep(seconds)
    return False


def screen(found: Live, name: str = "") -> RenderableType:
    """Everything below one line that sums it up; parts of which the cluster has nothing are left out."""
    parts: list[RenderableType] = [_headline(found, name)]
    if found.routes:
        parts.append(_routes(found.routes))
    if found.cascades:
        parts.append(_cascades(found.cascades))
    parts.append(_models(found.models))
    if found.targets:
        parts.append(_targets(found.targets))
    return Group(*parts)


def _headline(found: Live, name: str) -> Text:
    over = f"over {found.seconds:.0f} s" if found.seconds else "first look: rates follow"
    line = Text.assemble((f"{name}  " if name else "", "bold"), f"{found.requests_per_s:.1f} requests/s")
    if found.failed is not None:
        line.append(f", {_percent(found.failed)} failed", style="red" if found.failed > _BAD_SHARE else "")
    line.append(f", {found.in_flight} in progress, {found.shed_per_s:.1f}/s shed, {over}")
    for tenant, usd in found.budget_left_usd.items():
        line.append(f"\nbudget left, {'all' if tenant == '*' else tenant}: {usd:.2f} USD", "red" if usd <= 0 else "")
    if waiting := {state: count for state, count in found.jobs.items() if count}:
        line.append("\njobs: " + ", ".join(f"{count} {state}" for state, count in waiting.items()))
    return line


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(columns[0], no_wrap=True)
    for column in columns[1:]:
        table.add_column(column, justify="right")
    return table


def _routes(routes: tuple[Route, ...]) -> Table:
    table = _table("Routes", "route", "requests/s", "errors/s", "p50", "p95", "p99")
    for one in routes:
        row = (f"{one.per_s:.1f}", f"{one.errors_per_s:.1f}", _time(one.p50_s), _time(one.p95_s), _time(one.p99_s))
        table.add_row(f"{one.protocol} {one.route}", *row)
    return table


def _cascades(cascades: tuple[CascadeUse, ...]) -> Table:
    table = _table("Cascades", "cascade", "requests/s", "escalated", "degraded", "p95", "gear", "saved/h", "threshold")
    for one in cascades:
        table.add_row(
            one.name,
            f"{one.per_s:.1f}",
            _percent(one.escalated),
            _percent(one.degraded),
            _time(one.p95_s),
            "" if one.gear is None else str(one.gear),
            _money(one.saved_usd_per_h),
            _trust(one),
        )
    return table


def _trust(one: CascadeUse) -> Text:
    if one.drifting:
        return Text("drift", "red")
    if one.calibrated is None:
        return Text("")
    return Text("certified", "green") if one.calibrated else Text("typed in", "yellow")


def _models(models: tuple[ModelUse, ...]) -> Table:
    heads = (
        "model",
        "replicas",
        "at work",
        "items/s",
        "batch",
        "queue p95",
        "forward p95",
        "tokens/s",
        "first token p95",
    )
    table = _table("Models", *heads, "GPU memory")
    for one in models:
        missing = one.replicas < one.wanted
        table.add_row(
            one.name,
            Text(f"{one.replicas} of {one.wanted}", "red" if missing else ""),
            str(one.in_flight),
            _number(one.items_per_s),
            "" if one.batch is None else f"{one.batch:.1f}",
            _time(one.queue_wait_p95_s),
            _time(one.forward_p95_s),
            _number(one.tokens_per_s),
            _time(one.first_token_p95_s),
            _percent(one.gpu_memory),
        )
    return table


def _targets(targets: tuple[TargetUse, ...]) -> Table:
    heads = ("target", "attempts/s", "failed", "p95", "in progress", "retries/s", "hedges/s", "breaker", "cached")
    table = _table("Calls to models and providers", *heads, "USD/h")
    for one in targets:
        table.add_row(
            one.name,
            f"{one.attempts_per_s:.1f}",
            Text(_percent(one.failed), "red" if (one.failed or 0) > _BAD_SHARE else ""),
            _time(one.p95_s),
            str(one.in_flight) if one.limit is None else f"{one.in_flight} of {one.limit}",
            _number(one.retries_per_s),
            _number(one.hedges_per_s),
            Text(one.breaker, _BREAKER_STYLES.get(one.breaker, "red")),
            _percent(one.cached),
            _money(one.usd_per_h),
        )
    return table


def _time(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.3g} ms"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"


def _number(value: float) -> str:
    return f"{value:.1f}" if value else ""


def _money(usd: float) -> str:
    return f"{usd:.3f}" if usd else ""
