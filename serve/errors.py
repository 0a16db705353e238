"""The one error tree of Argus.

Every error that can reach a client is an `ArgusError`. It carries what each protocol skin needs to answer: an HTTP
status, a gRPC status code, a stable machine code, the name of the offending field, and whether (and after how many
seconds) the same request may be tried again. Skins translate; they decide nothing.

Errors cross actor boundaries, so each survives pickling with all its fields (`__reduce__`).
gRPC codes follow https://grpc.github.io/grpc/core/md_doc_statuscodes.html; we keep their integer values here so that
this module needs no grpc import.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Any, ClassVar, Literal

Fault = Literal["none", "client", "server", "gone"]
"""Whose fault it is that a request failed: what objectives count is the server's. `gone`: the client left before there
was an answer, which is ours when it had waited longer than is promised, and else nobody's."""

_OURS = frozenset({"provider_not_found", "provider_rate_limited", "provider_refused_key", "service_budget_exceeded"})


class GrpcCode(IntEnum):
    """Integer values of the gRPC status codes that Argus uses."""

    CANCELLED = 1
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


class ArgusError(Exception):
    """Root of the tree.

    Args:
        message: one sentence for a person; says what was wrong and what would be right.
        code: stable machine code; the class's own when omitted.
        param: the request field, or the configuration key, that caused it.
        retry_after_s: seconds after which a retry can succeed; sent as `Retry-After`.
    """

    status: ClassVar[int] = 500
    grpc_code: ClassVar[GrpcCode] = GrpcCode.INTERNAL
    default_code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False
    blame: ClassVar[Fault] = "server"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.param = param
        self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self.code, self.param, self.retry_after_s)

    @property
    def fault(self) -> Fault:
        """Whose it is: what a provider holds against us is no fault of the client."""
        return "server" if self.code in _OURS else self.blame

    def at(self, param: str) -> ArgusError:
        """The same error, blamed on `param`; used where the field's name is known only to the caller."""
        return type(self)(self.message, code=self.code, param=param, retry_after_s=self.retry_after_s)


def _rebuild(
    kind: type[ArgusError], message: str, code: str, param: str | None, retry_after_s: float | None
) -> ArgusError:
    return kind(message, code=code, param=param, retry_after_s=retry_after_s)


class InvalidRequest(ArgusError):
    """The request can never succeed as it stands."""

    status = 400
    grpc_code = GrpcCode.INVALID_ARGUMENT
    default_code = "invalid_request"
    blame = "client"


class InvalidMedia(InvalidRequest):
    """An image, video or document that cannot be used: truncated, mislabelled, too large in pixels, not an image."""

    default_code = "invalid_image"


class UnsupportedMedia(InvalidRequest):
    """A format that Argus does not read."""

    status = 415
    default_code = "unsupported_media_type"


class UnsupportedEncoding(UnsupportedMedia):
    """A content coding that Argus does not undo."""

    default_code = "unsupported_content_encoding"


class PayloadTooLarge(InvalidRequest):
    """More bytes than the limit allows."""

    status = 413
    grpc_code = GrpcCode.RESOURCE_EXHAUSTED
    default_code = "payload_too_large"


class Unauthenticated(ArgusError):
    """No key, or a key that we do not know."""

    status = 401
    grpc_code = GrpcCode.UNAUTHENTICATED
    default_code = "unauthenticated"
    blame = "client"


class Forbidden(ArgusError):
    """Known caller, not allowed."""

    status = 403
    grpc_code = GrpcCode.PERMISSION_DENIED
    default_code = "forbidden"
    blame = "client"


class NotFound(ArgusError):
    """The named model, index, item or route does not exist."""

    status = 404
    grpc_code = GrpcCode.NOT_FOUND
    default_code = "not_found"
    blame = "client"


class MethodNotAllowed(ArgusError):
    """The route exists, the HTTP method does not."""

    status = 405
    grpc_code = GrpcCode.UNIMPLEMENTED
    default_code = "method_not_allowed"
    blame = "client"


class Conflict(ArgusError):
    """The request contradicts what is stored (same name, other dimension)."""

    status = 409
    grpc_code = GrpcCode.ALREADY_EXISTS
    default_code = "conflict"
    blame = "client"


class Unsupported(ArgusError):
    """Understood, but this model or build does not offer it."""

    status = 400
    grpc_code = GrpcCode.UNIMPLEMENTED
    default_code = "unsupported"
    blame = "client"


class Overloaded(ArgusError):
    """A queue, pool or rate limit is full. Nothing ran."""

    status = 429
    grpc_code = GrpcCode.RESOURCE_EXHAUSTED
    default_code = "overloaded"
    retryable = True


class RateLimited(Overloaded):
    """A rate of requests or tokens is used up: a client's at the edge, or ours at a provider."""

    default_code = "rate_limited"
    blame = "client"


class BudgetExceeded(Overloaded):
    """The money of a tenant, or of all together, is spent for this period; nothing was called."""

    default_code = "budget_exceeded"
    blame = "client"


class ContentRefused(ArgusError):
    """A provider's policy refused the content, in the prompt or in the answer."""

    status = 422
    grpc_code = GrpcCode.FAILED_PRECONDITION
    default_code = "content_refused"
    blame = "client"


class ContextTooLong(InvalidRequest):
    """More tokens than the model's context window takes."""

    default_code = "prompt_too_long"


class InvalidOutput(ArgusError):
    """A model or provider answered with something that is not what was asked for, or cannot be read."""

    status = 502
    default_code = "invalid_output"


class Unavailable(ArgusError):
    """A model or a dependency is not there now: loading, restarting, unreachable."""

    status = 503
    grpc_code = GrpcCode.UNAVAILABLE
    default_code = "unavailable"
    retryable = True


class DeadlineExceeded(ArgusError):
    """The request's deadline passed, or would pass before the work could end."""

    status = 504
    grpc_code = GrpcCode.DEADLINE_EXCEEDED
    default_code = "deadline_exceeded"


class RequestTooSlow(DeadlineExceeded):
    """The client sends its request so slowly that its deadline passes before all of it is there."""

    status = 408
    default_code = "request_too_slow"
    blame = "client"


class ViewerSilent(DeadlineExceeded):
    """Whoever looks at a live view says nothing, or does not read what is sent."""

    default_code = "viewer_idle"
    blame = "client"


class Cancelled(ArgusError):
    """The client went away. 499 is nginx's convention; nobody is left to read it, but logs and metrics are."""

    status = 499
    grpc_code = GrpcCode.CANCELLED
    default_code = "cancelled"
    blame = "gone"


class ModelFailed(ArgusError):
    """The model raised on this item after a retry on its own."""

    status = 500
    default_code = "model_failed"


class OutOfCapacity(ArgusError):
    """A store (index, cache, disk) has reached its configured bound."""

    status = 507
    grpc_code = GrpcCode.RESOURCE_EXHAUSTED
    default_code = "out_of_capacity"


class ConfigError(ArgusError):
    """The cluster file or a flag is wrong. Never sent to clients; shown by `argus config check`."""

    status = 500
    grpc_code = GrpcCode.FAILED_PRECONDITION
    default_code = "invalid_config"


def raise_if_all_failed(results: Sequence[object]) -> None:
    """One bad item among good ones is reported in its place; when none is good, the request failed.

    Raises:
        ArgusError: the first one's error.
    """
    failed = [result for result in results if isinstance(result, ArgusError)]
    if failed and len(failed) == len(results):
        raise failed[0]
