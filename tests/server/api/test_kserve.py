from __future__ import annotations

import gzip
import json
import re
import struct
import zlib
from typing import Any

import httpx2
import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.backends.torch import TorchBackend
from models.core import Subnet
from models.families.exits import Exits
from server.catalog import Served
from tests.server.api.kserve_samples import (
    HEADER,
    IDS,
    IMAGES,
    MASK,
    TEXTS,
    binary,
    framed,
    pixels,
    tensor,
    text_request,
)
from tests.server.conftest import MAX_BODY_BYTES, MAX_IMAGES
from tests.server.samples import text_of
from tests.tiny_text import embed

TEXT = "/v2/models/tiny-text/infer"
IMAGE = "/v2/models/tiny/infer"


def refused(response: httpx2.Response, status: int = 400) -> str:
    """Return what an error says; its body is a sentence and nothing else."""
    assert response.status_code == status, response.text[:500]
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert set(body) == {"error"}
    message = body["error"]
    assert isinstance(message, str)
    assert len(message) < 1000
    return message


def answered(response: httpx2.Response) -> dict[str, NDArray[Any]]:
    """Return the outputs of an answer, wherever they stand in it."""
    assert response.status_code == 200, response.text[:500]
    size = int(response.headers.get(HEADER, len(response.content)))
    body, behind = json.loads(response.content[:size]), response.content[size:]
    found = {}
    for output in body["outputs"]:
        num_bytes = output.get("parameters", {}).get("binary_data_size")
        if num_bytes is None:
            flat = np.array(output["data"])
        else:
            flat, behind = np.frombuffer(behind[:num_bytes], "<f4"), behind[num_bytes:]
        found[output["name"]] = flat.reshape(output["shape"])
    assert not behind
    return found


def expected(served: Served, images: list[bytes], subnet: str) -> dict[str, NDArray[Any]]:
    """Run images without the server; the subnet is as a receipt spells it."""
    values = (entry.split("=") for entry in subnet.split())
    chosen = {axis: float(value) for axis, value in values}
    plan = served.elastic.plan(Subnet(chosen), served.model.input.shape, served.elastic.tasks)
    batch = torch.stack([served.model.input.decode(data) for data in images])
    outputs = TorchBackend().run(plan, {"image": batch})
    paths = {step.emits: step.path for step in plan}
    return {task: outputs[paths[task]].numpy() for task in served.elastic.tasks}


def vectors(model: Exits, rows: list[list[int]]) -> NDArray[Any]:
    found: NDArray[Any] = torch.cat(
        [embed(model, [torch.tensor(row)], 4, 16) for row in rows]
    ).numpy()
    return found


def test_the_server_says_what_it_is(client: TestClient) -> None:
    said = client.get("/v2").json()
    assert said["name"] == "rheostat"
    assert set(said) == {"name", "version", "extensions"}
    assert "binary_tensor_data" in said["extensions"]


def test_health_is_json_and_a_models_readiness_is_its_own(client: TestClient) -> None:
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    for path in ("/v2/models/tiny/ready", "/v2/models/tiny/versions/1/ready"):
        assert client.get(path).json() == {"name": "tiny", "ready": True}


def test_metadata_names_each_tensor_with_type_and_shape(text_client: TestClient) -> None:
    said = text_client.get("/v2/models/tiny").json()
    assert (said["name"], said["versions"]) == ("tiny", ["1"])
    assert said["inputs"] == [
        {"name": "image", "datatype": "BYTES", "shape": [-1]},
        {"name": "rgb", "datatype": "UINT8", "shape": [-1, -1, -1, 3]},
        {"name": "pixel_values", "datatype": "FP32", "shape": [-1, 3, 16, 16]},
    ]
    assert said["outputs"][0] == {"name": "fish", "datatype": "FP32", "shape": [-1, 4]}
    said = text_client.get("/v2/models/tiny-text/versions/1").json()
    assert [tensor["name"] for tensor in said["inputs"]] == ["text", "input_ids", "attention_mask"]
    assert said["outputs"] == [{"name": "embedding", "datatype": "FP32", "shape": [-1, -1]}]


def test_the_configuration_tells_how_to_prepare_inputs_and_read_outputs(
    text_client: TestClient,
) -> None:
    said = text_client.get("/v2/models/tiny/config").json()
    assert said["parameters"]["mean"] == {"string_value": "0.5,0.5,0.5"}
    assert said["parameters"]["labels_flowers"] == {"string_value": "orchid,poppy,rose"}
    said = text_client.get("/v2/models/tiny-text/versions/1/config").json()
    assert said["max_batch_size"] == 6
    assert said["parameters"]["dimensions"] == {"string_value": "4,8,16"}


@pytest.mark.parametrize("body", ["", "{}", '{"ready": true}'])
def test_the_repository_lists_the_models(text_client: TestClient, body: str) -> None:
    listed = text_client.post("/v2/repository/index", content=body).json()
    assert [(one["name"], one["version"], one["state"]) for one in listed] == [
        ("tiny", "1", "READY"),
        ("tiny-text", "1", "READY"),
    ]


@pytest.mark.parametrize(
    "path", ["", "/ready", "/config", "/infer", "/versions/7", "/versions/7/ready"]
)
def test_an_unknown_model_or_version_is_404(client: TestClient, path: str) -> None:
    names = ["tiny"] if "versions" in path else ["huge", "x" * 5000]
    for name in names:
        method = "POST" if path.endswith("infer") else "GET"
        request = json.dumps(text_request("w1"))
        message = refused(client.request(method, f"/v2/models/{name}{path}", content=request), 404)
        assert "is not served" in message


def test_a_path_or_method_that_is_none_is_told_in_the_protocols_form(client: TestClient) -> None:
    assert refused(client.get("/v2/models"), 404) == "nothing answers at this path"
    assert refused(client.get(IMAGE), 405) == "this path answers other methods"


@pytest.mark.parametrize("spelling", ["image", "rgb", "pixel_values", "binary", "binary image"])
def test_images_in_every_spelling_get_the_logits_of_a_run_without_the_server(
    client: TestClient, served: Served, spelling: str
) -> None:
    same = [IMAGES[0], IMAGES[2]]
    stacked = np.stack([pixels(data) for data in same])
    normalised = np.stack([served.model.input.decode(data).numpy() for data in same])
    headers: dict[str, str] = {}
    request: dict[str, Any] = {"inputs": []}
    tail: tuple[bytes, ...] = ()
    if spelling == "image":
        request["inputs"] = [tensor("image", "BYTES", [2], [text_of(data) for data in same])]
    elif spelling == "rgb":
        request["inputs"] = [tensor("rgb", "UINT8", [2, 16, 16, 3], stacked.tolist())]
    elif spelling == "pixel_values":
        flat = normalised.ravel().tolist()
        request["inputs"] = [tensor("pixel_values", "FP32", [2, 3, 16, 16], flat)]
    elif spelling == "binary":
        tail = (stacked.tobytes(),)
        request["inputs"] = [binary("rgb", "UINT8", [2, 16, 16, 3], stacked.nbytes)]
        request["parameters"] = {"binary_data_output": True}
    else:
        tail = tuple(struct.pack("<I", len(data)) + data for data in same)
        request["inputs"] = [binary("image", "BYTES", [2, 1], sum(map(len, tail)))]
    body, headers = framed(request, *tail) if tail else (json.dumps(request).encode(), {})
    response = client.post(IMAGE, content=body, headers=headers)
    outputs = answered(response)
    assert (HEADER in response.headers) == (spelling == "binary")
    subnet = response.headers["x-rheostat-subnet"]
    for task, logits in expected(served, same, subnet).items():
        np.testing.assert_allclose(outputs[task], logits, atol=1e-4)


def test_pixels_of_any_size_are_scaled_as_those_of_encoded_images(client: TestClient) -> None:
    array = pixels(IMAGES[1])
    raw = {"inputs": [tensor("rgb", "UINT8", [1, *array.shape], array.ravel().tolist())]}
    encoded = {"inputs": [tensor("image", "BYTES", [1], [text_of(IMAGES[1])])]}
    for name, logits in answered(client.post(IMAGE, json=raw)).items():
        same = answered(client.post(IMAGE, json=encoded))[name]
        np.testing.assert_allclose(logits, same, atol=1e-5)


def test_a_raw_body_is_one_image_or_one_text(text_client: TestClient, text_model: Exits) -> None:
    raw = {HEADER: "0"}
    first = answered(text_client.post(IMAGE, content=IMAGES[0], headers=raw))
    again = {"inputs": [tensor("image", "BYTES", [1], [text_of(IMAGES[0])])]}
    np.testing.assert_allclose(
        first["fish"], answered(text_client.post(IMAGE, json=again))["fish"], atol=1e-5
    )
    vector = answered(text_client.post(TEXT, content=TEXTS[0].encode(), headers=raw))["embedding"]
    ids = [text_model.input.encode(TEXTS[0]).tolist()]
    np.testing.assert_allclose(vector, vectors(text_model, ids), atol=1e-5)


def test_texts_get_the_vectors_of_single_runs(text_client: TestClient, text_model: Exits) -> None:
    ids = [text_model.input.encode(text).tolist() for text in TEXTS]
    found = answered(text_client.post(TEXT, json=text_request(*TEXTS)))["embedding"]
    np.testing.assert_allclose(found, vectors(text_model, ids), atol=1e-5)


@pytest.mark.parametrize("is_binary", [False, True])
def test_padded_ids_run_without_their_padding(
    text_client: TestClient, text_model: Exits, is_binary: bool
) -> None:
    if is_binary:
        both = [np.array(rows, dtype="<i8").tobytes() for rows in (IDS, MASK)]
        inputs = [
            binary(name, "INT64", [2, 4], len(raw))
            for name, raw in zip(("input_ids", "attention_mask"), both, strict=True)
        ]
        body, headers = framed({"inputs": inputs}, *both)
        response = text_client.post(TEXT, content=body, headers=headers)
    else:
        inputs = [
            tensor("attention_mask", "INT64", [2, 4], MASK),
            tensor("input_ids", "INT64", [2, 4], [*IDS[0], *IDS[1]]),
        ]
        response = text_client.post(TEXT, json={"inputs": inputs})
    unpadded = [IDS[0][:3], IDS[1]]
    found = answered(response)["embedding"]
    np.testing.assert_allclose(found, vectors(text_model, unpadded), atol=1e-5)


def test_only_the_outputs_asked_for_are_run_and_in_their_order(client: TestClient) -> None:
    inputs = [tensor("image", "BYTES", [1], [text_of(IMAGES[0])])]
    all_of_it = client.post(IMAGE, json={"inputs": inputs}).json()["parameters"]
    some = client.post(
        IMAGE, json={"inputs": inputs, "outputs": [{"name": "people"}, {"name": "fish"}]}
    )
    assert list(answered(some)) == ["people", "fish"]
    parameters = some.json()["parameters"]
    assert parameters["macs"] < all_of_it["macs"]
    assert "decoder.flowers" not in parameters["subnet"]


def test_classes_are_spelled_as_triton_does(client: TestClient) -> None:
    inputs = [tensor("image", "BYTES", [2], [text_of(IMAGES[0]), text_of(IMAGES[2])])]
    asked = [{"name": "flowers", "parameters": {"classification": 2}}, {"name": "fish"}]
    response = client.post(IMAGE, json={"inputs": inputs, "outputs": asked})
    classes, logits = (output["data"] for output in response.json()["outputs"])
    assert len(logits) == 2 * 4
    plain = client.post(IMAGE, json={"inputs": inputs, "outputs": [{"name": "flowers"}]})
    first = answered(plain)["flowers"][0]
    labels = ("orchid", "poppy", "rose")
    best = sorted(range(3), key=lambda i: -first[i])[:2]
    for text, i in zip(classes[:2], best, strict=True):
        value, index, label = text.split(":")
        assert (int(index), label) == (i, labels[i])
        assert float(value) == pytest.approx(first[i], abs=1e-5)


def test_each_output_goes_where_it_is_asked_to(client: TestClient) -> None:
    inputs = [tensor("image", "BYTES", [1], [text_of(IMAGES[0])])]
    outputs = [
        {"name": "fish", "parameters": {"binary_data": False}},
        {"name": "people"},
        {"name": "flowers", "parameters": {"classification": 1, "binary_data": True}},
    ]
    request = {
        "inputs": inputs,
        "outputs": outputs,
        "parameters": {"binary_data_output": True},
    }
    response = client.post(IMAGE, json=request)
    size = int(response.headers[HEADER])
    said = json.loads(response.content[:size])["outputs"]
    assert "data" in said[0]
    sizes = [output["parameters"]["binary_data_size"] for output in said[1:]]
    assert sizes[0] == 4 * 5
    assert size + sum(sizes) == len(response.content)
    (length,) = struct.unpack_from("<I", response.content, size + sizes[0])
    assert length == sizes[1] - 4


@pytest.mark.parametrize("given_id", [None, "", "my-id", "ü" * 1000])
def test_the_id_comes_back_only_where_one_was_given(
    text_client: TestClient, given_id: str | None
) -> None:
    extra = {} if given_id is None else {"id": given_id}
    body = text_client.post(TEXT, json=text_request("w1", **extra)).json()
    assert body.get("id") == given_id
    assert (body["model_name"], body["model_version"]) == ("tiny-text", "1")


def test_a_budget_in_parameters_goes_before_one_in_headers(text_client: TestClient) -> None:
    whole = text_client.post(TEXT, json=text_request("w1")).json()["parameters"]
    limit = whole["flops"] / 2
    in_body = text_request("w1", parameters={"budget_flops": limit})
    for request, headers in (
        (in_body, {}),
        (text_request("w1"), {"x-rheostat-flops": str(limit)}),
        (in_body, {"x-rheostat-flops": "1e12"}),
    ):
        response = text_client.post(TEXT, json=request, headers=headers)
        parameters = response.json()["parameters"]
        assert parameters["flops"] <= limit
        assert response.headers["x-rheostat-flops"] == str(parameters["flops"])
        assert response.headers["x-rheostat-subnet"] == parameters["subnet"]


def test_the_receipt_is_flat(text_client: TestClient) -> None:
    parameters = text_client.post(TEXT, json=text_request(*TEXTS)).json()["parameters"]
    assert all(isinstance(value, bool | int | float | str) for value in parameters.values())
    assert parameters["retention_similarity"] == pytest.approx(parameters["quality"])
    assert parameters["total_flops"] == 2 * parameters["flops"]
    for name in ("macs", "fraction", "gap", "slimmed", "backend", "total_ms", "queue_ms"):
        assert name in parameters


def test_dimensions_prompt_and_truncation_are_parameters(text_client: TestClient) -> None:
    long = text_request(" ".join(["w1"] * 40), parameters={"truncate": "right", "dimensions": 8})
    assert answered(text_client.post(TEXT, json=long))["embedding"].shape == (1, 8)
    prompted = text_request("w7", parameters={"prompt": "query"})
    spelled_out = text_request("w0 w1 w7")
    np.testing.assert_allclose(
        answered(text_client.post(TEXT, json=prompted))["embedding"],
        answered(text_client.post(TEXT, json=spelled_out))["embedding"],
        atol=1e-5,
    )


@pytest.mark.parametrize("compress", [gzip.compress, zlib.compress])
def test_compressed_bodies_are_read_and_the_length_counts_plain_json(
    text_client: TestClient, compress: Any
) -> None:
    raw = struct.pack("<I", 2) + b"w1"
    body, headers = framed({"inputs": [binary("text", "BYTES", [1], len(raw))]}, raw)
    encoding = "gzip" if compress is gzip.compress else "deflate"
    headers |= {"Content-Encoding": encoding}
    found = answered(text_client.post(TEXT, content=compress(body), headers=headers))["embedding"]
    plain = answered(text_client.post(TEXT, json=text_request("w1")))["embedding"]
    np.testing.assert_allclose(found, plain, atol=1e-5)


@pytest.mark.parametrize("compress", [gzip.compress, zlib.compress])
def test_a_decompression_bomb_is_413(client: TestClient, compress: Any) -> None:
    bomb = compress(bytes(100 * MAX_BODY_BYTES))
    assert len(bomb) < MAX_BODY_BYTES
    encoding = "gzip" if compress is gzip.compress else "deflate"
    response = client.post(IMAGE, content=bomb, headers={"Content-Encoding": encoding})
    assert f"exceeds {MAX_BODY_BYTES} bytes once decompressed" in refused(response, 413)


def test_answers_are_compressed_for_who_wants_that(client: TestClient) -> None:
    inputs = [tensor("image", "BYTES", [4], [text_of(IMAGES[0])] * 4)]
    request = {"inputs": inputs, "parameters": {"binary_data_output": True}}
    sizes = {}
    for accepted in ("identity", "gzip", "deflate"):
        response = client.post(IMAGE, json=request, headers={"Accept-Encoding": accepted})
        encoding = response.headers.get("content-encoding", "identity")
        assert encoding == accepted
        sizes[accepted] = int(response.headers["content-length"])
        assert len(answered(response)["fish"]) == 4
    assert sizes["gzip"] < sizes["identity"]


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
    ("null", with_parameters(timeout=None), "timeout=None must be"),
    ("timeout -1", with_parameters(timeout=-1), "timeout=-1 must be greater than or equal to 0"),
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
