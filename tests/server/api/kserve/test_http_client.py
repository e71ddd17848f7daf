"""Triton's own HTTP clients against a server that listens, with every default of theirs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from models.families.exits import Exits
from server.app import create_app
from server.settings import Settings
from tests.server.api.kserve.samples import IDS, IMAGES, MASK, TEXTS, pixels
from tests.server.listening import listening
from tests.tiny_text import embed

http = pytest.importorskip("tritonclient.http")
aio = pytest.importorskip("tritonclient.http.aio")
InferenceServerException = pytest.importorskip("tritonclient.utils").InferenceServerException


@pytest.fixture(scope="module")
def address(text_settings: Settings) -> Iterator[str]:
    with listening(create_app(text_settings)) as address:
        yield address


@pytest.fixture(scope="module")
def client(address: str) -> Iterator[Any]:
    with http.InferenceServerClient(address) as client:
        yield client


def tensor(name: str, array: NDArray[Any], is_binary: bool = True, kind: Any = http) -> Any:
    datatype = {"O": "BYTES", "u": "UINT8", "i": "INT64", "f": "FP32"}[array.dtype.kind]
    found = kind.InferInput(name, list(array.shape), datatype)
    found.set_data_from_numpy(array, binary_data=is_binary)
    return found


def texts(*given: str) -> NDArray[Any]:
    return np.array([text.encode() for text in given], dtype=np.object_)


def alone(model: Exits, *given: str) -> NDArray[Any]:
    rows = [model.text.encode(text) for text in given]
    found: NDArray[Any] = torch.cat([embed(model, [row], 4, 16) for row in rows]).numpy()
    return found


def test_it_is_live_ready_and_described(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    for name in ("tiny", "tiny-text"):
        assert client.is_model_ready(name)
        assert client.is_model_ready(name, "1")
    assert not client.is_model_ready("huge")
    assert client.get_server_metadata()["name"] == "rheostat"
    assert client.get_model_metadata("tiny-text")["outputs"][0]["name"] == "embedding"
    assert client.get_model_config("tiny")["max_batch_size"] == 64
    index = client.get_model_repository_index()
    assert [model["name"] for model in index] == ["tiny", "tiny-text"]


def test_the_clients_defaults_are_binary_both_ways(client: Any, text_model: Exits) -> None:
    # MLServer fails on these.
    answer = client.infer("tiny-text", [tensor("text", texts(*TEXTS))])
    np.testing.assert_allclose(answer.as_numpy("embedding"), alone(text_model, *TEXTS), atol=1e-5)
    assert answer.get_response()["outputs"][0]["parameters"]["binary_data_size"] == 2 * 16 * 4


@pytest.mark.parametrize("into", [True, False])
@pytest.mark.parametrize("out", [True, False])
def test_json_and_binary_mix_as_the_client_likes(
    client: Any, text_model: Exits, into: bool, out: bool
) -> None:
    wanted = [http.InferRequestedOutput("embedding", binary_data=out)]
    answer = client.infer("tiny-text", [tensor("text", texts(*TEXTS), into)], outputs=wanted)
    np.testing.assert_allclose(answer.as_numpy("embedding"), alone(text_model, *TEXTS), atol=1e-5)


@pytest.mark.parametrize("is_binary", [True, False])
def test_pixels_and_encoded_images_give_the_same_logits(client: Any, is_binary: bool) -> None:
    raw = np.stack([pixels(IMAGES[0]), pixels(IMAGES[2])])
    answer = client.infer("tiny", [tensor("rgb", raw, is_binary)])
    encoded = np.array([IMAGES[0], IMAGES[2]], dtype=np.object_)
    same = client.infer("tiny", [tensor("image", encoded)])
    for task in ("fish", "flowers", "people"):
        np.testing.assert_allclose(answer.as_numpy(task), same.as_numpy(task), atol=1e-5)
        assert answer.as_numpy(task).dtype == np.float32


def test_padded_token_ids(client: Any, text_model: Exits) -> None:
    inputs = [tensor("input_ids", np.array(IDS)), tensor("attention_mask", np.array(MASK))]
    found = client.infer("tiny-text", inputs).as_numpy("embedding")
    (first, second) = (torch.tensor(row) for row in (IDS[0][:3], IDS[1]))
    rows = torch.cat([embed(text_model, [row], 4, 16) for row in (first, second)])
    np.testing.assert_allclose(found, rows.numpy(), atol=1e-5)


def test_classes_are_read_as_tritons(client: Any) -> None:
    wanted = [http.InferRequestedOutput("people", class_count=2)]
    images = np.array([IMAGES[0]], dtype=np.object_)
    (row,) = client.infer("tiny", [tensor("image", images)], outputs=wanted).as_numpy("people")
    labels = [entry.decode().split(":")[2] for entry in row]
    assert len(set(labels)) == 2
    assert set(labels) <= {"baby", "man", "woman", "boy", "girl"}


def test_an_answer_without_an_id_has_none_and_one_with_it_the_same(client: Any) -> None:
    # KServe's Python server ends such a request in 500 or a reset when its handler echoes the id.
    inputs = [tensor("text", texts("w1"))]
    assert "id" not in client.infer("tiny-text", inputs).get_response()
    assert client.infer("tiny-text", inputs, request_id="mine").get_response()["id"] == "mine"


def test_a_budget_travels_as_parameters(client: Any) -> None:
    inputs = [tensor("text", texts("w1 w2"))]
    whole = client.infer("tiny-text", inputs).get_response()["parameters"]
    asked = {"budget_flops": whole["flops"] / 2, "budget_strict": True, "dimensions": 8}
    less = client.infer("tiny-text", inputs, parameters=asked).get_response()["parameters"]
    assert less["flops"] <= whole["flops"] / 2
    assert "dim=8" in less["subnet"]


@pytest.mark.parametrize("request_form", [None, "gzip", "deflate"])
@pytest.mark.parametrize("response_form", [None, "gzip", "deflate"])
def test_compression_both_ways(
    client: Any, request_form: str | None, response_form: str | None
) -> None:
    images = np.array([IMAGES[0]] * 8, dtype=np.object_)
    answer = client.infer(
        "tiny",
        [tensor("image", images)],
        request_compression_algorithm=request_form,
        response_compression_algorithm=response_form,
    )
    plain = client.infer("tiny", [tensor("image", images)])
    np.testing.assert_allclose(answer.as_numpy("fish"), plain.as_numpy("fish"), atol=1e-5)


def test_timeout_and_priority_are_taken(client: Any) -> None:
    answer = client.infer("tiny-text", [tensor("text", texts("w1"))], timeout=10**7, priority=2)
    assert answer.as_numpy("embedding").shape == (1, 16)


def test_a_timeout_that_has_passed_is_an_error(client: Any) -> None:
    with pytest.raises(InferenceServerException, match="deadline passed") as caught:
        client.infer("tiny-text", [tensor("text", texts("w1"))], timeout=1)
    assert caught.value.status() == "504"


def test_the_client_can_read_every_error(client: Any) -> None:
    # MLServer's and FastAPI's bodies end in "an exception occurred in the client".
    cases = [
        ("huge", [tensor("text", texts("w1"))], {}, "404", "model='huge' is not served"),
        ("tiny-text", [tensor("text", texts(""))], {}, "400", "the text is empty"),
        ("tiny-text", [tensor("x", texts("w1"))], {}, "400", "is no input of 'tiny-text'"),
        ("tiny-text", [tensor("text", texts(*["w1"] * 7))], {}, "400", "at most 6"),
        ("tiny-text", [tensor("text", texts("w1"))], {"budget_macs": 1}, "400", "cheapest subnet"),
        ("tiny-text", [tensor("text", texts("w1"))], {"budget_ms": 1}, "400", "not a field"),
        ("tiny-text", [tensor("input_ids", np.array([[99]]))], {}, "400", "99 is not in 0..59"),
        ("tiny", [tensor("image", texts("no image"))], {}, "400", "image.0.: not an image"),
    ]
    for model, inputs, parameters, status, message in cases:
        with pytest.raises(InferenceServerException, match=message) as caught:
            client.infer(model, inputs, parameters=parameters)
        assert caught.value.status() == status
    with pytest.raises(InferenceServerException, match="model='tiny/stats' is not served"):
        client.get_inference_statistics("tiny")


def test_many_at_once_each_get_their_own(client: Any, address: str, text_model: Exits) -> None:
    given = [f"w{i} w{i + 1}" for i in range(16)]
    with http.InferenceServerClient(address, concurrency=4) as parallel:
        waiting = [
            parallel.async_infer("tiny-text", [tensor("text", texts(text))]) for text in given
        ]
        found = [one.get_result().as_numpy("embedding")[0] for one in waiting]
    np.testing.assert_allclose(found, alone(text_model, *given), atol=1e-5)


def test_the_asyncio_client(address: str, text_model: Exits) -> None:
    async def scenario() -> None:
        async with aio.InferenceServerClient(address) as client:
            assert await client.is_server_ready()
            assert await client.is_model_ready("tiny-text")
            inputs = [tensor("text", texts(*TEXTS), kind=aio)]
            answers = await asyncio.gather(
                client.infer("tiny-text", inputs),
                client.infer("tiny-text", inputs, response_compression_algorithm="gzip"),
                client.infer("tiny-text", inputs, request_compression_algorithm="deflate"),
            )
            for answer in answers:
                found = answer.as_numpy("embedding")
                np.testing.assert_allclose(found, alone(text_model, *TEXTS), atol=1e-5)
            with pytest.raises(InferenceServerException, match="is not served"):
                await client.infer("huge", inputs)

    asyncio.run(asyncio.wait_for(scenario(), 60))
