"""Who leads a run and who sends in it: a driver with users that do wrong, and what the coordinator says in the end."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import gevent
import grpc
import pytest

from benchmarks.loadtest import coordinator as leading
from benchmarks.loadtest import messages, user
from benchmarks.loadtest.coordinator import Coordinator
from benchmarks.loadtest.drive import Driver
from benchmarks.loadtest.messages import Ended, Piece, Pong, Ready
from benchmarks.loadtest.record import LoadRecord
from benchmarks.loadtest.request import Answer, Due, Failed
from benchmarks.loadtest.schedule import schedule
from benchmarks.loadtest.shape import ScheduledShape
from benchmarks.loadtest.user import OpenLoopUser
from serve.errors import ArgusError
from tests.unit.load_records import recorder, settings


class Sender:
    """A user whose `send` is a function."""

    max_in_flight = 100

    def __init__(self, send: Callable[[Due], Any]) -> None:
        self.send = send

    def kind(self, due: Due) -> str:
        return "ask"


def driven(send: Callable[[Due], Any], *, rate: int = 50, seconds: float = 0.2, grace_s: float = 5.0) -> Driver:
    chosen = settings(f"constant:{rate}", seconds=seconds, warm_up_s=0.0)
    user: Any = Sender(send)
    driver = Driver(user, schedule(chosen), grace_s, lambda *_: None)
    driver.run(time.monotonic(), chosen.end_s)
    return driver


@pytest.mark.parametrize(
    ("answer", "code", "says"),
    [
        (None, "no_answer", "send returned None"),
        ({"label": "cat"}, "no_answer", "send returned {'label': 'cat'}"),
        (Answer("ask", usd=0.5, tokens="many"), "ValueError", "many"),  # type: ignore[arg-type]
        (Answer("ask", usd="dear", tokens=7, escalated=True), "ValueError", "dear"),  # type: ignore[arg-type]
        (Answer("ask", usd=math.nan), "ValueError", "usd is nan"),
        (Answer("ask", tokens=-5), "ValueError", "tokens is -5"),
        (Answer("ask", first_s=math.inf), "ValueError", "first_s is inf"),
        (Answer(None), "ValueError", "kind is None"),  # type: ignore[arg-type]
        (Answer("ask", path=3), "ValueError", "path is 3"),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_answer_says_so_and_is_not_unanswered(answer: Any, code: str, says: str) -> None:
    driver = driven(lambda _due: answer)
    columns = driver.recorder.columns()
    assert columns.errors == (code,)
    assert says in driver.recorder.examples[code]
    assert (driver.done, driver.failed) == (0, 10)
    assert not columns.usd.any() and not columns.tokens.any() and not columns.escalated.any()


def test_a_users_own_time_limit_is_its_failure() -> None:
    def send(_due: Due) -> Answer:
        with gevent.Timeout(0.01):
            gevent.sleep(5.0)
        return Answer("ask")

    driver = driven(send)
    assert driver.recorder.columns().errors == ("Timeout",)
    assert "0.01 seconds" in driver.recorder.examples["Timeout"]


def test_a_user_that_cannot_say_what_it_sent_is_measured_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_self: Sender, _due: Due) -> str:
        raise RuntimeError("what was it")

    def send(due: Due) -> Answer:
        if due.number % 2:
            raise Failed("refused")
        return Answer("ask")

    monkeypatch.setattr(Sender, "kind", broken)
    driver = driven(send)
    columns = driver.recorder.columns()
    assert (driver.done, driver.failed) == (5, 5)
    assert (set(columns.kinds), columns.errors) == ({"ask", "request"}, ("refused",))


def _may_go_first() -> bool:
    usual = os.getpriority(os.PRIO_PROCESS, 0)
    try:
        os.setpriority(os.PRIO_PROCESS, 0, usual - 1)
    except PermissionError:
        return False
    os.setpriority(os.PRIO_PROCESS, 0, usual)
    return True


def test_who_sends_goes_first_for_as_long_as_it_sends() -> None:
    """Where that is allowed; where not, everything is sent all the same."""
    usual, seen = os.getpriority(os.PRIO_PROCESS, 0), []

    def send(_due: Due) -> Answer:
        seen.append(os.getpriority(os.PRIO_PROCESS, 0))
        return Answer("ask")

    assert driven(send).done == 10
    assert all(one < usual for one in seen) if _may_go_first() else seen == [usual] * 10
    assert os.getpriority(os.PRIO_PROCESS, 0) == usual


def test_processor_time_is_shared_out_over_the_part_that_sends() -> None:
    """A core that is busy until the end is busy, however long the last answer takes."""

    def send(due: Due) -> Answer:
        ends = time.process_time() + 0.02
        while time.process_time() < ends:
            pass
        if due.number == 0:
            gevent.sleep(2.0)
        return Answer("ask")

    driver = driven(send, seconds=0.4)
    ended = driver.recorder.columns().ended_s
    assert ended[0] > 2.0
    # 20 requests of 20 ms are 0.4 s of processor time, up to the end of the last one that was sent.
    assert driver.cpu_share > 0.6 * 0.4 / max(0.4, float(ended[1:].max()))


class Workers:
    """Stands in for Locust's runner: one worker that answers as a test wants.

    Args:
        reply: gives what is said back to a message, as pairs of name and message.
    """

    shape_greenlet = None

    def __init__(self, reply: Callable[[str, Any], list[tuple[str, Any]]]) -> None:
        self._reply = reply
        self._listeners: dict[str, Callable[..., None]] = {}
        self.told: list[str] = []

    def register_message(self, name: str, listener: Callable[..., None]) -> None:
        self._listeners[name] = listener

    def send_message(self, name: str, data: Any, _worker: str) -> None:
        self.told.append(name)
        for answer, message in self._reply(name, data):
            self._listeners[answer](SimpleNamespace(node_id="local", data=message.model_dump()))


def worker(name: str, data: Any, *, columns: bytes | None = None) -> list[tuple[str, Any]]:
    """One that does everything right at once, but perhaps for its columns."""
    if name == messages.BEGIN:
        return [(messages.READY, Ready(run=data["run"], index=0, requests=1000))]
    if name == messages.PING:
        return [(messages.PONG, Pong(sent=data["sent"], clock=time.time()))]
    if name == messages.GO:
        packed = recorder(settings()).columns().pack() if columns is None else columns
        ended = Ended(run=data["run"], index=0, examples={}, cpu_share=0.1, truth=False)
        return [(messages.COLUMNS, Piece(run=data["run"], index=0, data=packed)), (messages.ENDED, ended)]
    return []


def led(
    reply: Callable[[str, Any], list[tuple[str, Any]]],
    meanwhile: Callable[[Coordinator], None] = lambda _leads: None,
    *,
    on_end: Callable[[Any], None] = lambda _result: None,
) -> list[LoadRecord | ArgusError]:
    """What a run ends with."""
    ends: list[LoadRecord | ArgusError] = []

    def end(result: LoadRecord | ArgusError) -> None:
        on_end(result)
        ends.append(result)

    environment = SimpleNamespace(runner=Workers(reply))
    leads = Coordinator(environment, lambda _progress: None, end)
    leads.attach()
    leads.start(settings())
    gevent.sleep(0)
    meanwhile(leads)
    assert leads.finished.wait(30)
    return ends


def test_a_run_that_is_well_has_a_record() -> None:
    (record,) = led(worker)
    assert isinstance(record, LoadRecord)
    assert record.generator.scheduled == 1000
    assert len(record.columns()) > 1000  # with its warm-up
    assert record.truth is False


def test_a_run_that_is_ended_while_it_is_prepared_says_that() -> None:
    (error,) = led(lambda _name, _data: [], Coordinator.cancel)
    assert isinstance(error, ArgusError)
    assert error.message == "the run was ended before its first request"


def test_an_error_of_the_run_before_is_not_this_ones() -> None:
    def reply(name: str, data: Any) -> list[tuple[str, Any]]:
        late = [(messages.READY, Ready(run="before", index=0, error="was never ready"))]
        return (late if name == messages.BEGIN else []) + worker(name, data)

    (record,) = led(reply)
    assert isinstance(record, LoadRecord)


def test_a_worker_that_is_not_ready_in_time_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leading, "_PREPARE_S", 0.2)
    (error,) = led(lambda _name, _data: [])
    assert isinstance(error, ArgusError)
    assert "were not ready in 0 s: local" in error.message


def test_columns_that_are_damaged_are_a_reason() -> None:
    (error,) = led(lambda name, data: worker(name, data, columns=b"no columns"))
    assert isinstance(error, ArgusError)
    assert "are not the columns of a load test" in error.message


def test_a_record_that_cannot_be_written_is_a_reason() -> None:
    def full(result: object) -> None:
        if isinstance(result, LoadRecord):
            raise OSError(28, "No space left on device")

    (error,) = led(worker, on_end=full)
    assert isinstance(error, ArgusError)
    assert "No space left on device" in error.message


def test_a_second_run_begins_after_the_first() -> None:
    leads = Coordinator(SimpleNamespace(runner=Workers(worker)), lambda _progress: None, lambda _result: None)
    shape = ScheduledShape(leads)
    shape.runner = leads.environment.runner
    leads.finished.set()
    assert shape.tick() is None
    shape.reset_time()
    assert shape.tick() is not None


def test_a_run_that_ended_at_once_stays_ended_when_the_master_resets_the_time_in_its_loop() -> None:
    leads = Coordinator(SimpleNamespace(runner=Workers(worker)), lambda _progress: None, lambda _result: None)
    shape = ScheduledShape(leads)
    runner: Any = leads.environment.runner
    shape.runner, runner.shape_greenlet = runner, gevent.getcurrent()
    leads.finished.set()
    shape.reset_time()
    assert shape.tick() is None


class Connections:
    """Keeps what channels were made."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: list[tuple[str, str, dict[str, Any]]] = []
        plain, secure = grpc.insecure_channel, grpc.secure_channel

        def insecure(target: str, options: Any) -> grpc.Channel:
            self.made.append(("plain", target, dict(options)))
            return plain(target, options=options)

        def tls(target: str, credentials: grpc.ChannelCredentials, options: Any) -> grpc.Channel:
            self.made.append(("tls", target, dict(options)))
            return secure(target, credentials, options=options)

        monkeypatch.setattr(grpc, "insecure_channel", insecure)
        monkeypatch.setattr(grpc, "secure_channel", tls)
        monkeypatch.setattr("grpc.experimental.gevent.init_gevent", lambda: None)


def sending(host: str, target: str = "argus:9000", max_in_flight: int = 250) -> OpenLoopUser:
    """A user of ours without Locust."""
    kind = type("Sending", (OpenLoopUser,), {"host": host, "grpc_target": target, "max_in_flight": max_in_flight})
    made: OpenLoopUser = object.__new__(kind)
    return made


@pytest.mark.parametrize(("host", "kind"), [("https://argus", "tls"), ("http://argus", "plain")])
def test_a_key_goes_over_tls_where_the_host_has_it(host: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    connections = Connections(monkeypatch)
    assert sending(host).grpc.ServerLive
    assert {made[:2] for made in connections.made} == {(kind, "argus:9000")}


def test_calls_take_connections_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    connections = Connections(monkeypatch)
    sends = sending("http://argus", max_in_flight=2 * user._CALLS_A_CONNECTION + 50)
    stubs = [sends.grpc for _ in range(7)]
    assert len(connections.made) == 3
    assert all(options["grpc.use_local_subchannel_pool"] == 1 for *_, options in connections.made)
    assert len({id(stub) for stub in stubs[:3]}) == 3
    assert stubs[3:] == [*stubs[:3], stubs[0]]


def test_grpc_needs_its_target() -> None:
    with pytest.raises(Failed, match="give --grpc"):
        sending("http://argus", target="").grpc  # noqa: B018
