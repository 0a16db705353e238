"""The side that sends: a Locust worker, or the one process of a run without workers."""

from __future__ import annotations

import gc
import os
import time
from dataclasses import dataclass, field
from typing import Any

import gevent

from benchmarks.loadtest import messages
from benchmarks.loadtest.drive import Driver
from benchmarks.loadtest.messages import Begin, Ended, Go, Message, Piece, Ping, Pong, Progress, Ready
from benchmarks.loadtest.schedule import schedule
from benchmarks.loadtest.settings import Settings
from benchmarks.loadtest.user import OpenLoopUser
from serve.errors import ArgusError, ConfigError

_PROGRESS_S = 1.0


@dataclass(slots=True)
class Worker:
    """Does what the coordinator says; see `messages`."""

    environment: Any
    user_class: type[OpenLoopUser]
    _begin: Begin | None = None
    _settings: Settings | None = None
    _driver: Driver | None = None
    _user: OpenLoopUser | None = None
    _built_for: tuple[str, ...] = field(default=())

    def attach(self) -> None:
        """Listens to the coordinator."""
        runner = self.environment.runner
        for name, handle in (
            (messages.BEGIN, self._on_begin),
            (messages.PING, self._on_ping),
            (messages.GO, self._on_go),
            (messages.CANCEL, self._on_cancel),
        ):
            runner.register_message(name, handle)

    def _on_begin(self, msg: Any, **_locust: Any) -> None:
        self._begin = Begin.model_validate(msg.data)
        self._driver = None
        gevent.spawn(self._prepare, self._begin)

    def _on_ping(self, msg: Any, **_locust: Any) -> None:
        self._say(messages.PONG, Pong(sent=Ping.model_validate(msg.data).sent, clock=time.time()))

    def _on_go(self, msg: Any, **_locust: Any) -> None:
        go = Go.model_validate(msg.data)
        if self._begin is not None and go.run == self._begin.run:
            gevent.spawn(self._run, self._begin, go.start)

    def _on_cancel(self, msg: Any, **_locust: Any) -> None:
        if self._driver is not None:
            self._driver.cancel()

    def _say(self, name: str, message: Message) -> None:
        self.environment.runner.send_message(name, message.model_dump())

    def _prepare(self, begin: Begin) -> None:
        try:
            settings = Settings.model_validate_json(begin.settings)
            user = self._built(settings)
            part = schedule(settings).part(begin.index, begin.of)
        except ArgusError as error:
            self._say(messages.READY, Ready(run=begin.run, index=begin.index, error=error.message))
        except Exception as error:
            why = f"{self.user_class.__name__}.prepare: {type(error).__name__}: {error}"
            self._say(messages.READY, Ready(run=begin.run, index=begin.index, error=why))
        else:
            # What is built by now stays: the collector need not look at it again while requests are timed.
            gc.collect()
            gc.freeze()
            self._settings = settings
            self._driver = Driver(user, part, settings.grace_s, self._booked)
            self._say(messages.READY, Ready(run=begin.run, index=begin.index, requests=len(part)))

    def _built(self, settings: Settings) -> OpenLoopUser:
        """The user that sends, built anew only for another target."""
        built_for = (settings.host, settings.grpc, settings.key_env, str(settings.max_in_flight))
        if self._user is None or built_for != self._built_for:
            key = os.environ.get(settings.key_env) if settings.key_env else None
            if settings.key_env and not key:
                raise ConfigError(
                    f"environment variable {settings.key_env} with the API key is not set", param="key_env"
                )
            kind = self.user_class
            kind.host, kind.grpc_target, kind.key = settings.host.rstrip("/"), settings.grpc, key
            kind.max_in_flight = settings.max_in_flight
            user = kind(self.environment)
            user.prepare()
            self._user, self._built_for = user, built_for
        return self._user

    def _run(self, begin: Begin, start: float) -> None:
        driver, settings = self._driver, self._settings
        if driver is None or settings is None:
            return
        began = time.monotonic() + start - time.time()
        progress = gevent.spawn(self._report, begin, driver, began)
        driver.run(began, settings.end_s)
        ran = time.monotonic() - began
        progress.kill(block=True)
        self._say(messages.PROGRESS, _progress(begin, driver, ran))
        packed = driver.recorder.columns().pack()
        for first in range(0, len(packed), messages.PIECE):
            piece = packed[first : first + messages.PIECE]
            self._say(messages.COLUMNS, Piece(run=begin.run, index=begin.index, data=piece))
            gevent.sleep(0)
        ended = Ended(
            run=begin.run,
            index=begin.index,
            examples=driver.recorder.examples,
            cpu_share=driver.cpu_share,
            truth=driver.user.truth,
        )
        self._say(messages.ENDED, ended)

    def _report(self, begin: Begin, driver: Driver, began: float) -> None:
        while True:
            self._say(messages.PROGRESS, _progress(begin, driver, time.monotonic() - began))
            gevent.sleep(_PROGRESS_S)

    def _booked(self, kind: str, latency_s: float, error: Exception | None) -> None:
        """Locust's own statistics, for its web interface: with latency from the intended time."""
        self.environment.events.request.fire(
            request_type="open-loop",
            name=kind,
            response_time=1000 * latency_s,
            response_length=0,
            exception=error,
            context={},
        )


def _progress(begin: Begin, driver: Driver, elapsed_s: float) -> Progress:
    return Progress(
        run=begin.run,
        index=begin.index,
        elapsed_s=elapsed_s,
        requests=len(driver.part),
        sent=driver.recorder.rows,
        done=driver.done,
        failed=driver.failed,
        in_flight=driver.in_flight,
    )
