"""The cluster on which the attempts are made, as its attacker and its operator know it."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx

from benchmarks.security.sink import Sink

WRONG: Final = "wrong-key-0123456789"
# Longer than the deadline of any request: what takes long is the cluster's to end, not ours.
_TIMEOUT_S: Final = 120.0
# After an answer, in seconds: the other end may have kept the connection for a next request.
_SILENCE_S: Final = 2.0
_READY_S: Final = 120.0
# So that a slow machine refuses what is wrong with a request, and not that it took long.
_DEADLINE = {"X-Argus-Timeout-Ms": "100000"}


@dataclass(frozen=True, slots=True)
class Planted:
    """Secrets that the cluster was given, and the servers that it sends them to.

    Attributes:
        secrets: what each is, and the secret; API keys of clients included.
        collector: of traces.
        provider: hosts a model, and fails in words that hold the key it was sent.
        provider_model: name of that provider in the cluster file.
    """

    secrets: Mapping[str, str]
    collector: Sink
    provider: Sink
    provider_model: str


@dataclass(slots=True)
class Site:
    """A running cluster.

    Attributes:
        http, grpc, metrics: addresses.
        key, other_key: of two clients.
        run_dir: the folder of the cluster's state and logs.
        pid: of the process that started it.
        trap: a server on loopback that must never be reached.
        planted: None where no secrets were planted.
        environment: for the command line.
        answers: every answer that was got, for the search for secrets.
    """

    name: str
    http: str
    grpc: str
    metrics: str
    key: str
    other_key: str
    run_dir: Path
    trap: Sink
    environment: Mapping[str, str]
    config: Path
    planted: Planted | None = None
    answers: list[bytes] = field(default_factory=list)
    _client: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        self._client = httpx.Client(
            base_url=self.http, timeout=_TIMEOUT_S, trust_env=False, event_hooks={"response": [self._keep]}
        )

    def close(self) -> None:
        """Ends the attacker's connections."""
        self._client.close()

    @property
    def pid(self) -> int:
        """Of the process that started the cluster."""
        return int(json.loads((self.run_dir / "instance.json").read_text())["pid"])

    @property
    def port(self) -> int:
        """Of HTTP."""
        return int(self.http.rpartition(":")[2])

    def pids(self) -> set[int]:
        """Every process of the cluster."""
        import psutil

        parent = psutil.Process(self.pid)
        return {parent.pid, *(child.pid for child in parent.children(recursive=True))}

    def ask(self, method: str, path: str, *, key: str | None = "", **options: Any) -> httpx.Response:
        """A request.

        Args:
            key: empty for the first client's; None for none.
        """
        headers = _DEADLINE | options.pop("headers", {})
        if key is not None:
            headers.setdefault("X-API-Key", key or self.key)
        return self._client.request(method, path, headers=headers, **options)

    def raw(self, method: str, target: str, headers: Mapping[str, str] | None = None) -> httpx.Response:
        """A request whose target is sent as it is, with the first client's key."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_TIMEOUT_S)
        try:
            connection.putrequest(method, target, skip_accept_encoding=True)
            for name, value in {"X-API-Key": self.key, "Content-Length": "0", **(headers or {})}.items():
                connection.putheader(name, value)
            connection.endheaders()
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        self.answers.append(content)
        return httpx.Response(answer.status, headers=answer.getheaders(), content=content)

    def send(self, data: bytes) -> bytes:
        """Bytes to the HTTP port; what came back before the other end closed, or fell silent after an answer."""
        received = b""
        with (
            socket.create_connection(("127.0.0.1", self.port), timeout=_TIMEOUT_S) as connection,
            suppress(TimeoutError, ConnectionResetError),
        ):
            connection.sendall(data)
            while chunk := connection.recv(65536):
                received += chunk
                connection.settimeout(_SILENCE_S)
        self.answers.append(received)
        return received

    def readiness(self) -> httpx.Response:
        """The probe's answer, once it is good; the last one where it does not become so within `_READY_S`.

        What was tried may still be ending, and a model that is at it answers late.
        """
        deadline = time.monotonic() + _READY_S
        while True:
            answer = self.ask("GET", "/v1/readyz", key=None)
            if answer.is_success or time.monotonic() > deadline:
                return answer
            time.sleep(0.5)

    def _keep(self, response: httpx.Response) -> None:
        self.answers.append(response.read())
        self.answers.append(repr(response.headers.raw).encode())
