"""Calls to model deployments: Ray's handles in, Ray's errors out as ours, the deadline kept."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any, Protocol

from ray.exceptions import RayError, RayTaskError
from ray.serve.context import _get_serve_request_context, _serve_request_context
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException
from ray.serve.handle import DeploymentHandle

from serve.context import RequestContext
from serve.errors import ArgusError, DeadlineExceeded, ModelFailed, Overloaded, Unavailable


class ModelHandle(Protocol):
    """One model, as the data plane sees it."""

    async def call(
        self, method: str, context: RequestContext, *args: Any, affinity: str | None = None, **kwargs: Any
    ) -> Any:
        """Calls a method of some replica.

        Args:
            affinity: calls with the same value go to the same replica while its load allows.

        Raises:
            ArgusError: whatever went wrong, already one of ours.
        """

    def stream(
        self, method: str, context: RequestContext, *args: Any, affinity: str | None = None
    ) -> AsyncGenerator[Any, None]:
        """What a generator method of some replica yields; see `call`. Closing it, or cancelling its reader, ends the
        call."""


class ServeHandle:
    """A Ray Serve deployment.

    Args:
        name: the model's name, for messages.
        handle: Ray's handle.
    """

    def __init__(self, name: str, handle: DeploymentHandle[Any]) -> None:
        self._name = name
        self._handle = handle
        self._methods: dict[tuple[str, bool], Any] = {}

    async def stream(
        self, method: str, context: RequestContext, *args: Any, affinity: str | None = None
    ) -> AsyncGenerator[Any, None]:
        """See `ModelHandle.stream`."""
        remote = self._method(method, affinity, stream=True)
        response: Any = None
        try:
            with _as_its_own():
                response = remote.remote(*args)
            while True:
                async with asyncio.timeout(context.left_s()):
                    try:
                        item = await anext(response)
                    except StopAsyncIteration:
                        return
                yield item
        except TimeoutError:
            raise DeadlineExceeded(f"Model {self._name!r} did not answer within the deadline.") from None
        except ArgusError:
            raise
        except Exception as error:
            raise self._translate(error, context) from error
        finally:
            # Of a call that has ended, this does nothing.
            if response is not None:
                with suppress(Exception):
                    response.cancel()

    async def call(
        self, method: str, context: RequestContext, *args: Any, affinity: str | None = None, **kwargs: Any
    ) -> Any:
        """See `ModelHandle.call`. A caller that is cancelled, or too late, cancels the call below it."""
        remote = self._method(method, affinity)
        remaining = context.remaining_s()
        try:
            with _as_its_own():
                response = remote.remote(*args, **kwargs)
            # asyncio.timeout cancels the await, and cancelling a response's await cancels the request at the replica.
            async with asyncio.timeout(remaining):
                return await response
        except TimeoutError:
            raise DeadlineExceeded(f"Model {self._name!r} did not answer within the deadline.") from None
        except ArgusError:
            raise
        except Exception as error:
            raise self._translate(error, context) from error

    def _method(self, name: str, affinity: str | None, *, stream: bool = False) -> Any:
        """A method's handle, kept where any call may use it: making one costs as much as using it."""
        if affinity is not None:
            return getattr(self._handle.options(stream=stream, session_id=affinity), name)
        if (name, stream) not in self._methods:
            self._methods[name, stream] = getattr(self._handle.options(stream=stream), name)
        return self._methods[name, stream]

    def _translate(self, error: Exception, context: RequestContext) -> ArgusError:
        cause = error.cause if isinstance(error, RayTaskError) else error
        if isinstance(cause, ArgusError):
            return cause
        if isinstance(cause, BackPressureError):
            return Overloaded(f"Every replica of {self._name!r} is busy and its queue is full.", retry_after_s=1.0)
        if isinstance(cause, DeploymentUnavailableError | RayServeException) or (
            isinstance(error, RayError) and not isinstance(error, RayTaskError)
        ):
            return Unavailable(f"Model {self._name!r} cannot be reached now.", retry_after_s=1.0)
        if time.monotonic() >= context.deadline:
            return DeadlineExceeded(f"Model {self._name!r} did not answer within the deadline.")
        return ModelFailed(f"Model {self._name!r} failed: {type(cause).__name__}: {cause}")


@contextmanager
def _as_its_own() -> Iterator[None]:
    """Around the start of a call: gives it an internal id of its own.

    Ray Serve (2.60) gives every call that a request's handler makes the request's own id
    (`ray.serve._private.default_impl.get_request_metadata`). Its routers know waiting calls by that id: of two calls of
    one request that wait for a replica of one model at the same time, one would wait for ever.
    """
    own = replace(_get_serve_request_context(), _internal_request_id="")
    token = _serve_request_context.set(own)  # type: ignore[arg-type]  # declared by its default, None
    try:
        yield
    finally:
        _serve_request_context.reset(token)
