from __future__ import annotations

import json
import re
import struct
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.server.api.kserve.samples import (
    HEADER,
    answered,
    binary,
    framed,
    refused,
    tensor,
    text_request,
)
from tests.server.conftest import MAX_IMAGES

TEXT = "/v2/models/tiny-text/infer"
IMAGE = "/v2/models/tiny/infer"


def with_parameters(**parameters: Any) -> dict[str, Any]:
    return text_request("w1", parameters=parameters)


def with_input(**fields: Any) -> dict[str, Any]:
    return {"inputs": [{**tensor("text", "BYTES", [1], ["w1"]), **fields}]}


BAD: list[tuple[str, dict[str, Any] | str, str]] = [
    ("no JSON", "{", "is not JSON"),
    ("no object", "[]", "must be an object"),
    ("bytes", "\xff\xfe", "is not JSON"),
    ("deep", '{"inputs": ' + "[" * 5000, "is not JSON"),
    ("no inputs", {}, "inputs: Field required"),
    ("empty inputs", {"inputs": []}, "at least 1 item"),
    ("unknown field", text_request("w1", budget=1), "budget is not a field; allowed: id,"),
    ("id as number", text_request("w1", id=7), "id=7 must be a valid string"),
    ("unknown budget", with_parameters(budget_watts=1), "budget_watts is not a field"),
    ("unknown name", with_parameters(sequence_id=1), "sequence_id is not a field; allowed: "),
    ("budget 0", with_parameters(budget_flops=0), "budget_flops=0 must be greater than 0"),
    ("budget as text", with_parameters(budget_macs="9"), "budget_macs='9' must be a valid number"),
    ("budget as truth", with_parameters(budget_macs=True), "budget_macs=True must be"),
    ("budget too small", with_parameters(budget_macs=1), "the cheapest subnet needs"),
    ("strict as number", with_parameters(budget_strict=1), "budget_strict=1 must be a valid bool"),
    ("nested", with_parameters(budget_flops={"a": 1}), "a dict of 1 must be"),
    ("timeout -1", with_parameters(timeout=-1), "timeout=-1 must be greater than or equal to 0"),
    ("timeout huge", with_parameters(timeout=10**400), "timeout=1000.* must be less than"),
    ("priority huge", with_parameters(priority=10**4000), "priority=1000.* must be less than"),
    ("dimensions huge", with_parameters(dimensions=10**4000), "must be less than"),
    ("budget huge", with_parameters(budget_flops=10**400), "must be a valid number"),
    ("shape huge", with_input(shape=[10**4000]), "must be less than"),
    ("rows huge", with_input(shape=[2**63 - 1]), "at most 6"),
    ("priority 0.5", with_parameters(priority=0.5), "priority=0.5 must be a valid integer"),
    ("odd preference", with_parameters(preference_bird=1), "the task is not asked for"),
    ("preference as text", with_parameters(preference_similarity="1"), "must be a number"),
    ("preference -1", with_parameters(preference_similarity=-1), "must be finite and at least 0"),
    ("preference huge", with_parameters(preference_similarity=10**400), "must be finite"),
    ("binary output 1", with_parameters(binary_data_output=1), "must be true or false"),
    ("odd truncation", with_parameters(truncate="middle"), "truncate='middle' must be 'left'"),
    ("unknown prompt", with_parameters(prompt="x"), "prompt 'x' is not known; one of"),
    ("odd dimensions", with_parameters(dimensions=5), "dimensions=5 is not allowed; one of"),
    ("unknown input", with_input(name="x"), r"name='x' is no input of 'tiny-text'; one of"),
    ("input twice", {"inputs": 2 * with_input()["inputs"]}, "input 'text' is given twice"),
    ("type", with_input(datatype="FP32"), "datatype='FP32' must be BYTES"),
    ("shape", with_input(shape=[1, 2]), r"shape=\[1, 2\] must be \[-1\]"),
    ("no rows", with_input(shape=[0], data=[]), r"shape=\[0\] must be \[-1\]"),
    ("shape -1", with_input(shape=[-1]), "greater than or equal to 0"),
    ("shape and data", with_input(shape=[2]), r"has 1 elements of data; its shape \[2\] says 2"),
    (
        "no data",
        {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1]}]},
        "must have data",
    ),
    ("number as text", with_input(data=[1]), r"data\[0\]=1 must be text"),
    ("empty text", with_input(data=[""]), "the text is empty"),
    ("too many", text_request(*["w1"] * 7), "has 7 entries; at most 6"),
    ("size without header", with_input(data=None, parameters={"binary_data_size": 4}), "no Inf"),
    ("size and data", with_input(parameters={"binary_data_size": 4}), "and not both"),
    ("shared memory", with_input(parameters={"shared_memory_region": "x"}), "is not a field"),
    ("mask alone", {"inputs": [tensor("attention_mask", "INT64", [1, 1], [1])]}, "must be one of"),
    (
        "mask with text",
        {"inputs": [*with_input()["inputs"], tensor("attention_mask", "INT64", [1, 1], [1])]},
        "must have the shape of input_ids",
    ),
    (
        "mask with a hole",
        {
            "inputs": [
                tensor("input_ids", "INT64", [1, 3], [1, 2, 3]),
                tensor("attention_mask", "INT64", [1, 3], [1, 0, 1]),
            ]
        },
        "must be 0 but for one run of 1",
    ),
    ("id unknown", {"inputs": [tensor("input_ids", "INT64", [1, 1], [60])]}, "60 is not in 0..59"),
    ("id a float", {"inputs": [tensor("input_ids", "INT64", [1, 1], [1.5])]}, "is no INT64"),
    ("unknown output", text_request("w1", outputs=[{"name": "x"}]), "output 'x' is none of"),
    ("output twice", text_request("w1", outputs=[{"name": "embedding"}] * 2), "names one twice"),
    (
        "classes of a vector",
        text_request("w1", outputs=[{"name": "embedding", "parameters": {"classification": 1}}]),
        "classification=1 of 0 classes",
    ),
]


@pytest.mark.parametrize(("name", "request_", "message"), BAD, ids=[case[0] for case in BAD])
def test_bad_input_is_400_and_says_what_is_wrong(
    text_client: TestClient, name: str, request_: dict[str, Any] | str, message: str
) -> None:
    body = request_.encode("latin-1") if isinstance(request_, str) else json.dumps(request_)
    found = refused(text_client.post(TEXT, content=body))
    assert re.search(message, found), found


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (
            np.full((1, 3, 16, 16), 255, "<f4"),
            r"pixel_values\[0\]: channel 0 holds 255; .* -6 and 6",
        ),
        (np.full((1, 3, 16, 16), np.nan, "<f4"), "channel 0 holds nan; normalised"),
        (np.full((1, 3, 8, 8), 0, "<f4"), r"shape=\[1, 3, 8, 8\] must be \[-1, 3, 16, 16\]"),
        (np.zeros((MAX_IMAGES + 1, 3, 16, 16), "<f4"), "has 5 entries; at most 4"),
    ],
)
def test_what_is_not_normalised_as_the_model_wants_is_refused(
    client: TestClient, array: NDArray[Any], message: str
) -> None:
    request = {"inputs": [binary("pixel_values", "FP32", list(array.shape), array.nbytes)]}
    body, headers = framed(request, array.tobytes())
    found = refused(client.post(IMAGE, content=body, headers=headers))
    assert re.search(message, found), found


@pytest.mark.parametrize("length", ["-1", "x", "", "1e3", "9" * 30, "100000", "\u0661"])
def test_a_header_length_that_is_none_is_400(client: TestClient, length: str) -> None:
    headers = {HEADER.encode(): length.encode()}
    assert HEADER in refused(client.post(IMAGE, content=b"{}", headers=headers))


_RAW = struct.pack("<I", 2) + b"w1" + struct.pack("<I", 5) + b"w2 w3"


@settings(max_examples=300, deadline=None)
@given(
    cut=st.integers(0, len(_RAW)),
    behind=st.binary(max_size=5),
    claimed=st.integers(0, 30),
    shift=st.integers(-40, 40),
    shape=st.lists(st.integers(0, 3), max_size=3),
    datatype=st.sampled_from(["BYTES", "UINT8", "INT64", "FP32", "FP16", "x"]),
    name=st.sampled_from(["text", "input_ids", "attention_mask", "image"]),
)
def test_a_binary_tensor_is_answered_or_the_clients_fault(
    text_client: TestClient,
    cut: int,
    behind: bytes,
    claimed: int,
    shift: int,
    shape: list[int],
    datatype: str,
    name: str,
) -> None:
    body, headers = framed(
        {"inputs": [binary(name, datatype, shape, claimed)]}, _RAW[:cut] + behind
    )
    headers[HEADER] = str(int(headers[HEADER]) + shift)
    response = text_client.post(TEXT, content=body, headers=headers)
    if response.status_code == 200:
        assert len(answered(response)["embedding"]) == shape[0]
    else:
        refused(response)


@settings(max_examples=200, deadline=None)
@given(body=st.binary(max_size=80), length=st.none() | st.integers(0, 90))
def test_any_body_is_answered_or_the_clients_fault(
    text_client: TestClient, body: bytes, length: int | None
) -> None:
    headers = {} if length is None else {HEADER: str(length)}
    response = text_client.post(TEXT, content=body, headers=headers)
    if response.status_code == 200:
        assert length == 0  # any text is one
    else:
        refused(response)


@settings(max_examples=200, deadline=None)
@given(
    raw=st.binary(min_size=0, max_size=120),
    shape=st.lists(st.integers(0, 5), min_size=4, max_size=4),
)
def test_any_pixels_are_answered_or_the_clients_fault(
    client: TestClient, raw: bytes, shape: list[int]
) -> None:
    size = int(np.prod(shape))
    raw = (raw * 50)[:size] if len(raw) % 2 else raw
    body, headers = framed({"inputs": [binary("rgb", "UINT8", shape, len(raw))]}, raw)
    response = client.post(IMAGE, content=body, headers=headers)
    if response.status_code == 200:
        assert len(answered(response)["fish"]) == shape[0]
    else:
        refused(response)
