from __future__ import annotations

import gzip
import json
import struct
import zlib
from typing import Any

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from numpy.typing import NDArray

from models.backends.torch import TorchBackend
from models.families.exits import Exits
from models.space import Subnet
from server.served import Served
from tests.server.api.kserve.samples import (
    HEADER,
    IDS,
    IMAGES,
    MASK,
    TEXTS,
    answered,
    binary,
    framed,
    pixels,
    refused,
    tensor,
    text_request,
)
from tests.server.conftest import MAX_BODY_BYTES
from tests.server.samples import text_of
from tests.tiny_text import embed

TEXT = "/v2/models/tiny-text/infer"
IMAGE = "/v2/models/tiny/infer"


def expected(served: Served, images: list[bytes], subnet: str) -> dict[str, NDArray[Any]]:
    """Run images without the server; the subnet is as a receipt spells it."""
    values = (entry.split("=") for entry in subnet.split())
    chosen = {axis: float(value) for axis, value in values}
    plan = served.elastic.plan(
        Subnet(chosen), {"image": served.model.config.input.shape}, served.elastic.tasks
    )
    batch = torch.stack([served.model.config.input.from_file(data) for data in images])
    outputs = TorchBackend().run(plan, {"image": batch})
    return {task: outputs[task].numpy() for task in served.elastic.tasks}


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
    normalised = np.stack([served.model.config.input.from_file(data).numpy() for data in same])
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
    ids = [text_model.text.encode(TEXTS[0]).tolist()]
    np.testing.assert_allclose(vector, vectors(text_model, ids), atol=1e-5)


def test_texts_get_the_vectors_of_single_runs(text_client: TestClient, text_model: Exits) -> None:
    ids = [text_model.text.encode(text).tolist() for text in TEXTS]
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
