"""Tensors on the wire, against what tritonclient writes and reads; and bytes that nobody meant."""

from __future__ import annotations

from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from tritonclient import grpc as triton
from tritonclient import http as triton_http
from tritonclient.grpc import service_pb2 as pb
from tritonclient.utils import deserialize_bytes_tensor, np_to_triton_dtype, serialize_byte_tensor

from serve.config.cluster import Limits
from serve.errors import ArgusError, InvalidRequest, PayloadTooLarge
from serve.protocol.oip_messages import from_message, to_message
from serve.protocol.tensors import InferResponse, Tensor, array_from_bytes, bytes_elements, check_shape
from tests.unit.fakes import Site, png

LIMITS = Limits()
# hypothesis' own budget a test; the whole file takes a few seconds.
settings.register_profile("codec", max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
CODEC = settings.get_profile("codec")

DATATYPES = ["BOOL", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64", "FP16", "FP32", "FP64"]
DTYPES = st.sampled_from([np.bool_, *(f"<{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)), "<f2", "<f4", "<f8"])
ARRAYS = npst.arrays(DTYPES, npst.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
ELEMENTS = st.lists(st.binary(max_size=40), max_size=12)


def equal(first: Any, second: Any) -> bool:
    first, second = np.asarray(first), np.asarray(second)
    return first.shape == second.shape and first.dtype == second.dtype and first.tobytes() == second.tobytes()


@CODEC
@given(ELEMENTS)
def test_bytes_elements_read_what_tritonclient_writes(elements: list[bytes]) -> None:
    raw = serialize_byte_tensor(np.array(elements, np.object_)).item() if elements else b""
    assert bytes_elements("X", raw) == elements
    if elements:
        assert list(deserialize_bytes_tensor(raw)) == elements


@CODEC
@given(st.binary(max_size=60))
def test_bytes_elements_of_anything(raw: bytes) -> None:
    """Either all bytes are accounted for, or the request is refused."""
    try:
        elements = bytes_elements("X", raw)
    except InvalidRequest as error:
        assert (error.code, error.param) == ("invalid_tensor_data", "X")
    else:
        assert b"".join(len(element).to_bytes(4, "little") + element for element in elements) == raw


@CODEC
@given(ARRAYS)
def test_arrays_from_their_bytes(array: np.ndarray[Any, Any]) -> None:
    datatype = np_to_triton_dtype(array.dtype)
    assert datatype in DATATYPES
    assert equal(array_from_bytes("X", datatype, array.shape, array.tobytes()), array)


@CODEC
@given(
    st.sampled_from([*DATATYPES, "BYTES", "BF16", "", "INT128", "fp32"]),
    st.lists(st.integers(-2, 70), max_size=4),
    st.binary(max_size=64),
)
def test_arrays_from_anything(datatype: str, shape: list[int], raw: bytes) -> None:
    try:
        array = array_from_bytes("X", datatype, shape, raw)
    except ArgusError as error:
        assert error.status == 400
        assert error.param == "X"
    else:
        assert array.shape == tuple(shape)
        assert array.tobytes() == raw


@pytest.mark.parametrize(("shape", "count"), [((), 1), ((0,), 0), ((2, 3), 6), ((5, 0, 7), 0), ((1, 1, 4), 4)])
def test_a_shape_that_holds_its_elements(shape: tuple[int, ...], count: int) -> None:
    assert check_shape("X", list(shape), count) == shape
    with pytest.raises(InvalidRequest) as caught:
        check_shape("X", list(shape), count + 1)
    assert caught.value.code == "invalid_shape"


def inference(*inputs: triton.InferInput, **fields: Any) -> Any:
    """The message that tritonclient would send."""
    message = pb.ModelInferRequest(model_name="m", model_version="1", id="r-1")
    for given_input in inputs:
        message.inputs.append(given_input._get_tensor())
        if given_input._get_content() is not None:
            message.raw_input_contents.append(given_input._get_content())
    for name, value in fields.items():
        kind = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}[type(value)]
        setattr(message.parameters[name], kind, value)
    return message


def sent(name: str, array: np.ndarray[Any, Any]) -> triton.InferInput:
    made = triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    made.set_data_from_numpy(array)
    return made


@CODEC
@given(ARRAYS, st.lists(st.binary(max_size=20), min_size=1, max_size=5))
def test_messages_of_tritonclient(array: np.ndarray[Any, Any], elements: list[bytes]) -> None:
    request = from_message(inference(sent("A", array), sent("B", np.array(elements, np.object_))), LIMITS)
    assert (request.model, request.version, request.id, list(request.inputs)) == ("m", "1", "r-1", ["A", "B"])
    first, second = request.inputs["A"], request.inputs["B"]
    assert equal(first.data, array)
    assert (first.datatype, first.shape) == (np_to_triton_dtype(array.dtype), array.shape)
    assert (second.datatype, second.shape, list(second.data)) == ("BYTES", (len(elements),), elements)


CONTENTS = {
    "BOOL": ("bool_contents", [True, False]),
    "INT8": ("int_contents", [-128, 127]),
    "INT16": ("int_contents", [-32768, 32767]),
    "INT32": ("int_contents", [-(2**31), 2**31 - 1]),
    "INT64": ("int64_contents", [-(2**63), 2**63 - 1]),
    "UINT8": ("uint_contents", [0, 255]),
    "UINT16": ("uint_contents", [0, 65535]),
    "UINT32": ("uint_contents", [0, 2**32 - 1]),
    "UINT64": ("uint64_contents", [0, 2**64 - 1]),
    "FP32": ("fp32_contents", [-0.5, 3.25]),
    "FP64": ("fp64_contents", [-0.5, 1e300]),
    "BYTES": ("bytes_contents", [b"a", b"\xff"]),
}


def typed(datatype: str, field: str, values: list[Any], shape: list[int]) -> Any:
    message = pb.ModelInferRequest(model_name="m")
    contents = pb.InferTensorContents(**{field: values})
    message.inputs.add(name="A", datatype=datatype, shape=shape, contents=contents)
    return message


@pytest.mark.parametrize("datatype", CONTENTS)
def test_typed_contents(datatype: str) -> None:
    field, values = CONTENTS[datatype]
    tensor = from_message(typed(datatype, field, values, [2]), LIMITS).inputs["A"]
    assert list(tensor.data) == values
    assert (tensor.datatype, tensor.shape) == (datatype, (2,))


@pytest.mark.parametrize(
    ("datatype", "field", "values", "code"),
    [
        ("UINT8", "uint_contents", [256, 0], "invalid_tensor_data"),
        ("INT8", "int_contents", [128, 0], "invalid_tensor_data"),
        ("INT16", "int_contents", [40_000, 0], "invalid_tensor_data"),
        ("UINT16", "uint_contents", [65_536, 0], "invalid_tensor_data"),
        ("FP16", "fp32_contents", [1, 2], "unknown_datatype"),
        ("BF16", "fp32_contents", [1, 2], "unknown_datatype"),
        ("", "fp32_contents", [1, 2], "unknown_datatype"),
        ("FP32", "fp32_contents", [1, 2, 3], "invalid_shape"),
        ("FP32", "fp64_contents", [1, 2], "invalid_shape"),  # values in another type's place are no values
        ("BYTES", "bytes_contents", [b"a"], "invalid_shape"),
    ],
)
def test_typed_contents_that_do_not_fit(datatype: str, field: str, values: list[Any], code: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        from_message(typed(datatype, field, values, [2]), LIMITS)
    assert (caught.value.code, caught.value.param) == (code, "A")


def test_parameters_and_outputs() -> None:
    message = inference(sent("A", np.zeros(1, np.float32)), multi_label=True, priority=3, template_set="plain", x=0.5)
    message.outputs.add(name="LOGITS")
    message.parameters["nothing"].SetInParent()
    request = from_message(message, LIMITS)
    assert request.parameters == {
        "multi_label": True,
        "priority": 3,
        "template_set": "plain",
        "x": 0.5,
        "nothing": None,
    }
    assert request.outputs == ("LOGITS",)


def test_what_does_not_add_up() -> None:
    message = inference(sent("A", np.zeros(1, np.float32)), sent("B", np.zeros(1, np.float32)))
    del message.raw_input_contents[1]
    with pytest.raises(InvalidRequest) as caught:
        from_message(message, LIMITS)
    assert caught.value.param == "raw_input_contents"
    with pytest.raises(InvalidRequest) as caught:
        from_message(inference(*[sent("A", np.zeros(1, np.float32))] * 2), LIMITS)
    assert (caught.value.code, caught.value.param) == ("duplicate_input", "A")


def test_a_message_over_the_limit() -> None:
    with pytest.raises(PayloadTooLarge) as caught:
        from_message(inference(sent("A", np.zeros(2000, np.uint8))), Limits(max_body_bytes=1024))
    assert caught.value.param == "inputs"


@CODEC
@given(st.binary(max_size=80))
def test_messages_of_anything(raw: bytes) -> None:
    message = pb.ModelInferRequest()
    try:
        message.ParseFromString(raw)
    except Exception:  # not a message: gRPC itself answers
        return
    try:
        from_message(message, LIMITS)
    except ArgusError as error:
        assert error.status in (400, 413)


@CODEC
@given(
    st.sampled_from([*DATATYPES, "BYTES", "BF16", "x"]),
    st.lists(st.integers(-2, 6), max_size=3),
    st.binary(max_size=48),
    st.booleans(),
)
def test_tensors_of_anything(datatype: str, shape: list[int], raw: bytes, typed_too: bool) -> None:
    message = pb.ModelInferRequest(raw_input_contents=[raw])
    contents = pb.InferTensorContents(fp32_contents=[1.0]) if typed_too else None
    message.inputs.add(name="A", datatype=datatype, shape=shape, contents=contents)
    try:
        tensor = from_message(message, LIMITS).inputs["A"]
    except ArgusError as error:
        assert error.status == 400
    else:
        assert tensor.shape == tuple(shape)
        assert np.size(tensor.data) == np.prod(shape, dtype=int)


@CODEC
@given(npst.arrays("<f4", npst.array_shapes(min_dims=1, max_dims=3, max_side=5)), st.text("abc-", max_size=5))
def test_tritonclient_reads_our_answers(array: np.ndarray[Any, Any], request_id: str) -> None:
    answer = InferResponse(
        "m", request_id, (Tensor("A", "FP32", array.shape, array), Tensor("B", "FP32", (1,), array.ravel()[:1]))
    )
    message = pb.ModelInferResponse.FromString(to_message(answer).SerializeToString())
    result = triton.InferResult(message)
    assert equal(result.as_numpy("A"), array)
    assert equal(result.as_numpy("B"), array.ravel()[:1])
    assert (message.model_name, message.model_version, message.id) == ("m", "1", request_id)


async def test_tritonclient_over_http(client: httpx.AsyncClient, site: Site) -> None:
    """Bodies made and read by tritonclient, both ways binary."""
    inputs = []
    for name, values in (("IMAGE", [png("red"), png("blue")]), ("LABELS", [b"cat", b"dog", "größer".encode()])):
        made = triton_http.InferInput(name, [len(values)], "BYTES")
        made.set_data_from_numpy(np.array(values, np.object_), binary_data=True)
        inputs.append(made)
    outputs = [
        triton_http.InferRequestedOutput("PROBABILITIES"),
        triton_http.InferRequestedOutput("LOGITS", binary_data=False),
    ]
    body, header_length = triton_http.InferenceServerClient.generate_request_body(
        inputs, outputs=outputs, request_id="7"
    )
    response = await client.post(
        "/v2/models/clip.classify/infer",
        content=body,
        headers={"Inference-Header-Content-Length": str(header_length)},
    )
    result = triton_http.InferenceServerClient.parse_response_body(
        response.content, header_length=int(response.headers["Inference-Header-Content-Length"])
    )
    assert result.get_response()["id"] == "7"
    assert result.as_numpy("PROBABILITIES").shape == result.as_numpy("LOGITS").shape == (2, 3)
    assert result.as_numpy("PROBABILITIES").sum(axis=1) == pytest.approx([1, 1])
    assert site.model.requests("classify")[-1].labels == ("cat", "dog", "größer")
