"""Models behind an Open Inference Protocol v2 server (Triton, KServe, another Argus), through tritonclient.

The protocol knows tensors only, so the cluster file names those of the model (`oip`). Its HTTP client does not pass on
the headers of a refusal, so no Retry-After is known here.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import AsyncGenerator, Sequence
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import numpy as np
import numpy.typing as npt
from tritonclient.utils import InferenceServerException

from deployments.generation.messages import Answer, ChatEvent, ChatRequest, ImagePart
from deployments.messages import ClassifyRequest, ClassifyResult, Scores
from serve import tracing
from serve.config.providers import Provider as Settings
from serve.errors import ArgusError, InvalidOutput, InvalidRequest, Unsupported
from serve.providers import faults, output, spans, tokens
from serve.providers.hosted import Conversation, Counted, HostedProvider, Reply, now
from serve.providers.images import SentImage, prepare
from serve.providers.prices import Price
from serve.tracing.spans import outgoing

# gRPC's codes as the HTTP statuses that `faults` knows.
_GRPC_STATUS = {
    "StatusCode.INVALID_ARGUMENT": 400,
    "StatusCode.OUT_OF_RANGE": 400,
    "StatusCode.FAILED_PRECONDITION": 400,
    "StatusCode.UNIMPLEMENTED": 400,
    "StatusCode.UNAUTHENTICATED": 401,
    "StatusCode.PERMISSION_DENIED": 403,
    "StatusCode.NOT_FOUND": 404,
    "StatusCode.RESOURCE_EXHAUSTED": 429,
    "StatusCode.DEADLINE_EXCEEDED": 408,
}
_LEAST_PROBABILITY = 1e-12


class OipProvider(HostedProvider):
    """See the module's text. Besides chat it offers `classify` (`serve.providers.base.Classifier`)."""

    def __init__(self, name: str, settings: Settings, price: Price) -> None:
        super().__init__(name, settings, price)
        # The library of one protocol loads much that the other does not need.
        self._library: Any = importlib.import_module(f"tritonclient.{settings.oip.protocol}.aio")

    async def classify(self, request: ClassifyRequest, timeout_s: float) -> ClassifyResult:
        """Probabilities of the request's labels, which must be among those of the cluster file.

        With fewer of them, the others' share is given to these in proportion. Templates mean nothing to the server.
        """
        columns = self._columns(request)
        with tracing.span("classify", tracing.Kind.CLIENT) as span:
            if span is not None:
                spans.asked(span, self.name, self._settings, None, stream=False)
            async with self._within(now() + timeout_s):
                sent = await prepare([ImagePart(image) for image in request.images], self._settings.images)
                rows = await self._infer([self._image_tensor(sent)], {}, timeout_s)
        table = np.asarray(rows, np.float32).reshape(-1, np.shape(rows)[-1])
        if table.shape != (len(sent), len(self._settings.oip.labels)) or not np.isfinite(table).all():
            raise InvalidOutput(f"{self.name} gave no probability of each label.", code="wrong_shape")
        return ClassifyResult(tuple(_scores(row[columns], request.multi_label) for row in table), 1.0)

    async def close(self) -> None:
        """See `Provider.close`."""
        if self._client is not None:
            await self._client.close()

    async def _ask(self, conversation: Conversation, timeout_s: float) -> Reply:
        sampling, oip = conversation.sampling, self._settings.oip
        if sampling.constraint is not None:
            conversation = conversation.told(output.instruction(sampling.constraint))
        images = [part for message in conversation.messages for part in message.parts if isinstance(part, SentImage)]
        inputs = [(oip.prompt_input, [_prompt(conversation).encode()])]
        if images:
            inputs.append(self._image_tensor(images))
        parameters: dict[str, Any] = {"max_tokens": sampling.max_tokens or self._settings.max_tokens}
        if self._settings.sends_sampling:
            parameters |= {"temperature": sampling.temperature, "top_p": sampling.top_p}
        if sampling.seed is not None:
            parameters["seed"] = sampling.seed
        values = np.ravel(await self._infer(inputs, parameters, timeout_s))
        if not values.size or not isinstance(values[0], bytes | str):
            raise InvalidOutput(f"{self.name} gave no text.", code="wrong_datatype")
        text = values[0] if isinstance(values[0], str) else values[0].decode()
        return Reply((Answer(_until(text, sampling.stop), (), (), "stop"),), Counted())

    async def _stream(self, conversation: Conversation, timeout_s: float) -> AsyncGenerator[ChatEvent | Counted, None]:
        """The answer in one piece: the protocol has streams over gRPC only, and what is in them differs by model."""
        reply = await self._ask(conversation, timeout_s)
        yield reply.counted
        yield ChatEvent(0, reply.answers[0].text, finish_reason=reply.answers[0].finish_reason)

    def _image_tokens(self, width: int, height: int, detail: tokens.Detail) -> int:
        return tokens.openai_image_tokens(width, height, detail, self._settings.model)

    def _said(self, error: Exception) -> ArgusError | None:
        if isinstance(error, aiohttp.ClientError):
            return faults.lost(self.name)
        if not isinstance(error, InferenceServerException):
            return None
        given = error.status()
        if given is None:  # the client's own checks of what came
            return faults.unreadable(self.name)
        status = _GRPC_STATUS.get(given, 503) if given.startswith("StatusCode") else int(given)
        if status == 408:
            return self._late()
        return faults.error_of(self.name, status, self._secret.hide_in(error.message() or ""))

    def _check(self, request: ChatRequest) -> None:
        super()._check(request)
        if self._settings.oip.task != "chat":
            raise Unsupported(f"{self.name} classifies images; it does not chat.", code="unsupported_task")
        if request.sampling.n != 1:
            raise Unsupported(f"{self.name} gives one answer.", code="unsupported_parameter", param="n")

    def _columns(self, request: ClassifyRequest) -> list[int]:
        known = self._settings.oip.labels
        if self._settings.oip.task != "classify":
            raise Unsupported(f"{self.name} chats; it does not classify.", code="unsupported_task")
        for label in request.labels:
            if label not in known:
                message = f"{self.name} does not know label {label[:80]!r}; it knows {', '.join(known)[:300]}."
                raise InvalidRequest(message, code="unknown_label", param="labels")
        return [known.index(label) for label in request.labels]

    def _image_tensor(self, images: Sequence[SentImage]) -> tuple[str, list[bytes]]:
        return self._settings.oip.image_input, [image.data for image in images]

    async def _infer(
        self, inputs: Sequence[tuple[str, list[bytes]]], parameters: dict[str, Any], timeout_s: float
    ) -> npt.NDArray[Any]:
        """The values of the output tensor."""
        oip = self._settings.oip
        library, client = self._library, await self._connected()
        sent = []
        for name, values in inputs:
            shape = [1, len(values)] if oip.batch_dimension else [len(values)]
            tensor = library.InferInput(name, shape, "BYTES")
            tensor.set_data_from_numpy(np.array(values, dtype=np.object_).reshape(shape))
            sent.append(tensor)
        more: dict[str, Any] = {"client_timeout": timeout_s} if oip.protocol == "grpc" else {}
        result = await client.infer(
            self._settings.model,
            sent,
            model_version=oip.version,
            outputs=[library.InferRequestedOutput(oip.output)],
            headers=self._headers(),
            parameters=parameters or None,
            **more,
        )
        values = result.as_numpy(oip.output)
        if values is None:
            raise InvalidOutput(f"{self.name} gave no output {oip.output}.", code="missing_output")
        return np.asarray(values)

    def _headers(self) -> dict[str, str] | None:
        headers = outgoing() if self.propagates else {}
        if self._settings.api_key_env is not None or self._settings.api_key_file is not None:
            headers["authorization"] = f"Bearer {self._secret.reveal()}"
        return headers or None

    async def _make_client(self, secret: faults.Secret) -> Any:
        return self._new_client(secret)  # it is bound to the event loop on which it is made

    def _new_client(self, secret: faults.Secret) -> Any:
        parts = urlsplit(self._settings.base_url or "")
        # Our own clock ends calls; the HTTP client's would end them after a minute.
        more: dict[str, Any] = {} if self._settings.oip.protocol == "grpc" else {"conn_timeout": None}
        return self._library.InferenceServerClient(parts.netloc + parts.path, ssl=parts.scheme == "https", **more)


def _prompt(conversation: Conversation) -> str:
    """One text: the user's, if that is all; else every message behind its role."""
    messages = [message for message in conversation.messages if message.text]
    if len(messages) == 1:
        return messages[0].text
    return "\n".join(f"{message.role}: {message.text}" for message in messages)


def _until(text: str, stops: Sequence[str]) -> str:
    """The text before the first stop."""
    return text[: min((at for stop in stops if (at := text.find(stop)) >= 0), default=len(text))]


def _scores(probabilities: npt.NDArray[np.float32], multi_label: bool) -> Scores:
    total = float(probabilities.sum())
    shares = probabilities if multi_label or not math.isfinite(total) or total <= 0 else probabilities / total
    return Scores(shares, np.log(np.maximum(shares, np.float32(_LEAST_PROBABILITY))))
