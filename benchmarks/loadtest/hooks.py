"""Ties the open loop to Locust's events, for any locustfile that defines an `OpenLoopUser`."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from functools import cache
from pathlib import Path
from typing import Any

import gevent

from benchmarks.loadtest.coordinator import Coordinator
from benchmarks.loadtest.locust_api import MasterRunner, WorkerRunner, events
from benchmarks.loadtest.messages import Progress
from benchmarks.loadtest.record import LoadRecord
from benchmarks.loadtest.settings import add_arguments, from_options
from benchmarks.loadtest.shape import ScheduledShape
from benchmarks.loadtest.user import OpenLoopUser
from benchmarks.loadtest.worker import Worker
from serve.errors import ArgusError, ConfigError

_log = logging.getLogger(__name__)
# Set by `run_load`: number of an open file to which progress and the end are written, one JSON object a line.
PROGRESS_FD = "ARGUS_LOAD_PROGRESS_FD"
_EXIT_NO_RECORD = 2


@cache
def register() -> None:
    """Adds our arguments and our part of a test to Locust, once."""
    events.init_command_line_parser.add_listener(add_arguments)
    events.init.add_listener(_on_init)


def _on_init(environment: Any, **_locust: Any) -> None:
    try:
        user_class = only_user(environment.user_classes, environment.locustfile or "")
    except ConfigError as error:
        _log.error("%s", error.message)
        sys.exit(_EXIT_NO_RECORD)
    if user_class is None:
        return
    environment.user_classes = [user_class]
    if not isinstance(environment.runner, WorkerRunner):
        _coordinate(environment)
    if not isinstance(environment.runner, MasterRunner):
        Worker(environment, user_class).attach()


def _coordinate(environment: Any) -> None:
    options = environment.parsed_options

    def on_end(result: LoadRecord | ArgusError) -> None:
        if isinstance(result, ArgusError):
            environment.process_exit_code = _EXIT_NO_RECORD
            _tell({"error": result.message})
            return
        _summarise(result)
        if options.record:
            result.save(Path(options.record))
        if not result.generator.valid:
            environment.process_exit_code = 1

    def on_progress(progress: Progress) -> None:
        _tell(progress.model_dump())

    coordinator = Coordinator(environment, on_progress, on_end)
    coordinator.attach()
    shape = ScheduledShape(coordinator)
    shape.runner = environment.runner
    environment.shape_class = shape

    def on_start(**_locust: Any) -> None:
        name = Path(environment.locustfile or "workload").stem
        try:
            coordinator.start(from_options(environment.parsed_options, environment.host or "", name))
        except ConfigError as error:
            _log.error("%s (%s)", error.message, error.param)
            on_end(error)
            coordinator.finished.set()

    # Python raises KeyboardInterrupt in whichever greenlet runs, and that may be the one that collects the record.
    gevent.signal_handler(signal.SIGINT, _interrupt)
    environment.events.test_start.add_listener(on_start)
    environment.events.test_stopping.add_listener(lambda **_locust: coordinator.cancel())


def _interrupt() -> None:
    """Where gevent calls it, this reaches the main greenlet alone, where Locust waits for it."""
    raise KeyboardInterrupt


def only_user(classes: list[type[Any]], locustfile: str) -> type[OpenLoopUser] | None:
    """The one user that is to send; None when the file has none of ours.

    A file that builds on another workload's user has that one in sight as well; its own comes first.

    Raises:
        ConfigError: which one is meant cannot be told.
    """
    ours = [one for one in classes if issubclass(one, OpenLoopUser)]
    own = [one for one in ours if one.__module__ == Path(locustfile).stem]
    chosen = own or ours
    if len(chosen) > 1:
        names = ", ".join(sorted(one.__name__ for one in chosen))
        raise ConfigError(f"{locustfile} has several users: {names}; name one of them behind the file")
    return chosen[0] if chosen else None


def _summarise(record: LoadRecord) -> None:
    """One line of Locust's log."""
    figures, generator = record.outcome().summary(), record.generator
    _log.info(
        "Open loop: %d requests, %.1f/s answered, %.2f %% failed, P50 %.1f ms, P99 %.1f ms from the intended time",
        figures.requests,
        figures.done_per_s,
        100 * figures.failed_share,
        1000 * figures.p50_s,
        1000 * figures.p99_s,
    )
    for fault in generator.faults:
        _log.error("Not a measurement of the server: %s", fault)


def _tell(event: dict[str, Any]) -> None:
    """One line for whoever started this process, if anybody wants it."""
    if fd := os.environ.get(PROGRESS_FD):
        try:
            os.write(int(fd), json.dumps(event).encode() + b"\n")
        except OSError:
            # Whoever listened has gone; the run goes on.
            del os.environ[PROGRESS_FD]
