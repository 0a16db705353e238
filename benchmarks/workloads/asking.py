"""What the workloads share: users that follow a mix, requests over HTTP and gRPC, and the truth of their answers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar
from urllib.parse import urlencode

import grpc
import numpy as np
import numpy.typing as npt
from tritonclient.grpc import service_pb2

from benchmarks.loadtest.user import Answer, Due, Failed, OpenLoopUser
from benchmarks.workloads.mix import chosen, mix_of

JPEG = {"Content-Type": "image/jpeg"}
JSON = {"Content-Type": "application/json"}
WRONG = "wrong_answer"
INVALID = "invalid"
_TIMEOUT_S = 60.0


class Requests:
    """One workload's requests.

    Args:
        client: the user that sends them; requests of several workloads may share one.

    Attributes:
        truth: see `OpenLoopUser.truth`.
    """

    truth: bool = True

    def __init__(self, client: OpenLoopUser) -> None:
        self.client = client

    def prepare(self) -> None:
        """See `OpenLoopUser.prepare`."""

    @abstractmethod
    def send(self, kind: str, due: Due) -> Answer:
        """Sends one request of a kind of the workload's mix; see `OpenLoopUser.send`."""


class MixUser(OpenLoopUser):
    """A user of the workload `workload` of the targets file: which kind a request is follows from its number.

    Attributes:
        requests: its requests.
    """

    abstract = True
    workload: ClassVar[str]
    requests: ClassVar[type[Requests]]

    def prepare(self) -> None:
        """See `OpenLoopUser.prepare`."""
        self._requests = self.requests(self)
        self._requests.prepare()
        self.truth = self._requests.truth

    def kind(self, due: Due) -> str:
        """See `OpenLoopUser.kind`; all that must be refused are of one kind."""
        mix = mix_of(self.workload)
        kind = chosen(mix, self.workload, due.number)
        return kind if mix[kind].refused is None else INVALID

    def send(self, due: Due) -> Answer:
        """See `OpenLoopUser.send`."""
        return self._requests.send(chosen(mix_of(self.workload), self.workload, due.number), due)


def knows_scenes(client: OpenLoopUser, model: str) -> bool:
    """Whether a model's answers about scenes can be told right from wrong: those of the demo checkpoints can.

    Other checkpoints have not learnt the scene world; their answers are checked for their form alone.

    Raises:
        Failed: the target has no such model.
    """
    cards = client.accept(client.http.get("/v1/models"))["data"]
    card = next((card for card in cards if card["id"] == model), None)
    if card is None:
        there = ", ".join(str(card["id"]) for card in cards)
        raise Failed("model_not_found", f"the target has no model {model!r}; it has {there}")
    return str(card["checkpoint"]).startswith("demo:")


def check(right: bool, said: object, wanted: object) -> None:
    """Raises `Failed` with `wrong_answer` unless an answer is right."""
    if not right:
        raise Failed(WRONG, f"said {said!r}, which should have been {wanted!r}")


def post_jpeg(client: OpenLoopUser, path: str, image: bytes, **query: str | int | bool) -> Any:
    """The JSON that a route answers to a picture as raw body, with the other fields in the query."""
    said = {name: str(value).lower() if isinstance(value, bool) else value for name, value in query.items()}
    return client.accept(post(client, f"{path}?{urlencode(said)}" if said else path, image, JPEG))


def post(
    client: OpenLoopUser, path: str, body: bytes, headers: Mapping[str, str] = JSON, *, stream: bool = False
) -> Any:
    """Locust's response to a body as it is."""
    http: Any = client.http  # whose types know no bytes
    return http.post(path, data=body, headers=headers, stream=stream)


def infer(
    client: OpenLoopUser,
    model: str,
    inputs: Mapping[str, Sequence[bytes]],
    parameters: Mapping[str, str | int | bool] | None = None,
) -> dict[str, npt.NDArray[Any]]:
    """Asks over the Open Inference Protocol's gRPC.

    Args:
        inputs: BYTES tensors of one axis.

    Returns:
        FP32, INT32 and BYTES outputs by their names, of one axis; BYTES as arrays of bytes objects.

    Raises:
        Failed: Argus' own code, or the status of gRPC where there is none.
    """
    request = service_pb2.ModelInferRequest(model_name=model)
    for name, values in inputs.items():
        request.inputs.add(name=name, datatype="BYTES", shape=[len(values)])
        request.raw_input_contents.append(b"".join(len(value).to_bytes(4, "little") + value for value in values))
    for name, value in (parameters or {}).items():
        if isinstance(value, bool):
            request.parameters[name].bool_param = value
        elif isinstance(value, int):
            request.parameters[name].int64_param = value
        else:
            request.parameters[name].string_param = value
    try:
        response = client.grpc.ModelInfer(request, timeout=_TIMEOUT_S, metadata=client.metadata)
    except grpc.RpcError as error:
        raise Failed(_code(error), error.details() or "") from None
    return {
        tensor.name: _values(tensor.datatype, raw)
        for tensor, raw in zip(response.outputs, response.raw_output_contents, strict=True)
    }


def _code(error: Any) -> str:
    """`argus-code` of the trailers; the status' name without one."""
    for key, value in error.trailing_metadata() or ():
        if key == "argus-code":
            return str(value)
    return str(error.code().name.lower())


def _values(datatype: str, raw: bytes) -> npt.NDArray[Any]:
    if datatype == "FP32":
        return np.frombuffer(raw, "<f4")
    if datatype == "INT32":
        return np.frombuffer(raw, "<i4")
    texts: list[bytes] = []
    position = 0
    while position < len(raw):
        start = position + 4
        position = start + int.from_bytes(raw[position:start], "little")
        texts.append(raw[start:position])
    found = np.empty(len(texts), object)
    found[:] = texts
    return found
