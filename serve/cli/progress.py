"""Visible progress of a start: what is loading, for how long, and what is done."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from rich.console import Console

from serve.errors import Unavailable
from serve.runtime.local import Starting

_HEALTHY = "HEALTHY"
# A deployment that has not changed for this long, in seconds, is mentioned again.
_REMIND_S = 15.0


class Progress:
    """Prints one line a step, and a spinner where there is a terminal."""

    def __init__(self, console: Console, stop: threading.Event) -> None:
        self._console = console
        self._stop = stop

    def note(self, text: str) -> None:
        """A line by itself."""
        self._console.print(f"  [yellow]note[/yellow] {text}", highlight=False)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Times a step."""
        started = time.monotonic()
        with self._console.status(f"{name} ..."):
            yield
        self._done(name, time.monotonic() - started)

    def deployments(self, updates: Iterable[list[Starting]]) -> None:
        """Follows deployments until all run, or the user stops.

        Raises:
            Unavailable: a replica fails to start again and again; the message says why.
        """
        started = time.monotonic()
        done: set[str] = set()
        reminded = started
        with self._console.status("Loading ...") as spinner:
            for states in updates:
                elapsed = time.monotonic() - started
                for state in states:
                    if state.status == _HEALTHY and state.name not in done:
                        done.add(state.name)
                        self._done(state.name, elapsed)
                    elif state.status == "DEPLOY_FAILED":
                        raise Unavailable(f"{state.name}: {state.message}")
                waiting = [state for state in states if state.name not in done]
                names = ", ".join(state.name for state in waiting)
                spinner.update(f"Loading {names} ({elapsed:.0f} s)")
                if waiting and time.monotonic() - reminded > _REMIND_S:
                    reminded = time.monotonic()
                    for state in waiting:
                        self._console.print(f"  [dim]...[/dim]  {state.name}, {elapsed:.0f} s {state.message}")
                if self._stop.is_set():
                    return

    def _done(self, name: str, seconds: float) -> None:
        self._console.print(f"  [green]done[/green] {name:<12} {seconds:5.1f} s", highlight=False)
