"""The error tree: every class survives a pickle, and says the same thing over HTTP and over gRPC."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator

import grpc
import pytest

from serve import errors
from serve.errors import ArgusError, GrpcCode, InvalidMedia, InvalidRequest, Overloaded


def tree(root: type[ArgusError] = ArgusError) -> Iterator[type[ArgusError]]:
    yield root
    for kind in root.__subclasses__():
        yield from tree(kind)


KINDS = [kind for kind in tree() if kind.__module__ == errors.__name__]
FIELDS = {"code": "some_code", "param": "images[3]", "retry_after_s": 2.5}

# What each status may be over gRPC; https://grpc.github.io/grpc/core/md_doc_statuscodes.html.
ALLOWED = {
    400: {GrpcCode.INVALID_ARGUMENT, GrpcCode.UNIMPLEMENTED},
    401: {GrpcCode.UNAUTHENTICATED},
    403: {GrpcCode.PERMISSION_DENIED},
    404: {GrpcCode.NOT_FOUND},
    405: {GrpcCode.UNIMPLEMENTED},
    408: {GrpcCode.DEADLINE_EXCEEDED},
    409: {GrpcCode.ALREADY_EXISTS},
    413: {GrpcCode.RESOURCE_EXHAUSTED},
    415: {GrpcCode.INVALID_ARGUMENT},
    429: {GrpcCode.RESOURCE_EXHAUSTED},
    422: {GrpcCode.FAILED_PRECONDITION},
    499: {GrpcCode.CANCELLED},
    500: {GrpcCode.INTERNAL, GrpcCode.FAILED_PRECONDITION},
    502: {GrpcCode.INTERNAL},
    503: {GrpcCode.UNAVAILABLE},
    504: {GrpcCode.DEADLINE_EXCEEDED},
    507: {GrpcCode.RESOURCE_EXHAUSTED},
}


def fields(error: ArgusError) -> dict[str, object]:
    return {**vars(error), "text": str(error), "kind": type(error)}


def test_the_tree_is_all_there() -> None:
    assert len(KINDS) >= 18
    assert {kind.__name__ for kind in KINDS} >= {"ArgusError", "InvalidMedia", "Overloaded", "ConfigError"}


@pytest.mark.parametrize("kind", KINDS)
def test_survives_a_pickle_with_all_fields(kind: type[ArgusError]) -> None:
    error = kind("Something is wrong.", **FIELDS)
    assert fields(error)["code"] == "some_code"
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        assert fields(pickle.loads(pickle.dumps(error, protocol))) == fields(error)
    assert fields(copy.copy(error)) == fields(error)


@pytest.mark.parametrize("kind", KINDS)
def test_defaults(kind: type[ArgusError]) -> None:
    error = kind("Something is wrong.")
    assert str(error) == error.message == "Something is wrong."
    assert (error.code, error.param, error.retry_after_s) == (kind.default_code, None, None)
    assert fields(pickle.loads(pickle.dumps(error))) == fields(error)


@pytest.mark.parametrize("kind", KINDS)
def test_http_and_grpc_agree(kind: type[ArgusError]) -> None:
    assert kind.grpc_code in ALLOWED[kind.status]
    assert issubclass(kind, InvalidRequest) == (kind.status in (400, 413, 415) and kind.default_code != "unsupported")


@pytest.mark.parametrize("kind", KINDS)
def test_only_what_never_ran_may_be_retried(kind: type[ArgusError]) -> None:
    assert kind.retryable == (kind.status in (429, 503))


@pytest.mark.parametrize("code", GrpcCode)
def test_grpc_codes_are_those_of_grpc(code: GrpcCode) -> None:
    assert grpc.StatusCode[code.name].value[0] == code


def test_machine_codes_are_distinct_and_stable_in_form() -> None:
    codes = [kind.default_code for kind in KINDS]
    assert len(set(codes)) == len(codes)
    assert all(code.isidentifier() and code == code.lower() for code in codes)


@pytest.mark.parametrize("kind", KINDS)
def test_at_blames_a_field_and_keeps_the_rest(kind: type[ArgusError]) -> None:
    error = kind("Something is wrong.", **FIELDS)
    blamed = error.at("image")
    assert fields(blamed) == {**fields(error), "param": "image"}
    assert error.param == "images[3]"


def test_catching_a_parent_catches_its_children() -> None:
    with pytest.raises(InvalidRequest):
        raise InvalidMedia("Not an image.")
    assert not isinstance(Overloaded("Full."), InvalidRequest)
