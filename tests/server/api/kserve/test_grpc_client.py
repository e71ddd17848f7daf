"""Triton's own gRPC clients against a server that listens."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from models.families.exits import Exits
from server.app import create_app
from server.settings import Settings
from tests.server.api.kserve.samples import IDS, IMAGES, MASK, TEXTS, pixels
from tests.server.listening import free_port, listening
from tests.tiny_text import embed

grpc = pytest.importorskip("tritonclient.grpc")
aio = pytest.importorskip("tritonclient.grpc.aio")
InferenceServerException = pytest.importorskip("tritonclient.utils").InferenceServerException


@pytest.fixture(scope="module")
def address(text_settings: Settings) -> Iterator[str]:
    port = free_port()
    with listening(create_app(text_settings.model_copy(update={"grpc_port": port}))):
        yield f"127.0.0.1:{port}"


@pytest.fixture(scope="module")
def client(address: str) -> Iterator[Any]:
    with grpc.InferenceServerClient(address) as client:
        yield client


def tensor(name: str, array: NDArray[Any]) -> Any:
    datatype = {"O": "BYTES", "u": "UINT8", "i": "INT64", "f": "FP32"}[array.dtype.kind]
    found = grpc.InferInput(name, list(array.shape), datatype)
    found.set_data_from_numpy(array)
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
    assert client.is_model_ready("tiny")
    assert client.is_model_ready("tiny-text", "1")
    assert client.get_server_metadata().name == "rheostat"
    metadata = client.get_model_metadata("tiny")
    assert [tensor.name for tensor in metadata.inputs] == ["image", "rgb", "pixel_values"]
    assert list(metadata.inputs[2].shape) == [-1, 3, 16, 16]
    assert [tensor.name for tensor in metadata.outputs] == ["fish", "flowers", "people"]


def test_texts_get_the_vectors_of_single_runs(client: Any, text_model: Exits) -> None:
    answer = client.infer("tiny-text", [tensor("text", texts(*TEXTS))], request_id="mine")
    np.testing.assert_allclose(answer.as_numpy("embedding"), alone(text_model, *TEXTS), atol=1e-5)
    assert answer.get_response().id == "mine"


def test_padded_token_ids(client: Any, text_model: Exits) -> None:
    inputs = [tensor("input_ids", np.array(IDS)), tensor("attention_mask", np.array(MASK))]
    found = client.infer("tiny-text", inputs).as_numpy("embedding")
    rows = [torch.tensor(row) for row in (IDS[0][:3], IDS[1])]
    expected = torch.cat([embed(text_model, [row], 4, 16) for row in rows])
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)


def test_pixels_and_encoded_images_give_the_same_logits(client: Any) -> None:
    raw = np.stack([pixels(IMAGES[0]), pixels(IMAGES[2])])
    answer = client.infer("tiny", [tensor("rgb", raw)])
    encoded = np.array([IMAGES[0], IMAGES[2]], dtype=np.object_)
    same = client.infer("tiny", [tensor("image", encoded)])
    for task in ("fish", "flowers", "people"):
        np.testing.assert_allclose(answer.as_numpy(task), same.as_numpy(task), atol=1e-5)


def test_only_the_outputs_asked_for_come_back_also_as_classes(client: Any) -> None:
    wanted = [
        grpc.InferRequestedOutput("people", class_count=2),
        grpc.InferRequestedOutput("fish"),
    ]
    images = np.array([IMAGES[0]], dtype=np.object_)
    answer = client.infer("tiny", [tensor("image", images)], outputs=wanted)
    assert answer.as_numpy("flowers") is None
    assert answer.as_numpy("fish").shape == (1, 4)
    labels = [entry.decode().split(":")[2] for entry in answer.as_numpy("people")[0]]
    assert len(set(labels)) == 2
    assert set(labels) <= {"baby", "man", "woman", "boy", "girl"}


def test_budget_priority_and_timeout_travel_as_parameters(client: Any) -> None:
    inputs = [tensor("text", texts("w1 w2"))]
    whole = client.infer("tiny-text", inputs).get_response().parameters["flops"].int64_param
    answer = client.infer(
        "tiny-text",
        inputs,
        parameters={"budget_flops": whole / 2, "budget_strict": True, "truncate": "left"},
        priority=1,
        timeout=10**7,
        client_timeout=20,
    )
    assert answer.get_response().parameters["flops"].int64_param <= whole / 2


@pytest.mark.parametrize("compression", ["gzip", "deflate"])
def test_compressed_calls(client: Any, compression: str) -> None:
    inputs = [tensor("text", texts("w1"))]
    answer = client.infer("tiny-text", inputs, compression_algorithm=compression)
    assert answer.as_numpy("embedding").shape == (1, 16)


def test_the_client_can_read_every_error(client: Any) -> None:
    text = [tensor("text", texts("w1"))]
    cases = [
        ("huge", text, {}, "NOT_FOUND", "model='huge' is not served"),
        ("tiny-text", [tensor("text", texts(""))], {}, "INVALID_ARGUMENT", "the text is empty"),
        ("tiny-text", [tensor("x", texts("w1"))], {}, "INVALID_ARGUMENT", "is no input of"),
        ("tiny-text", text, {"budget_macs": 1}, "INVALID_ARGUMENT", "cheapest subnet"),
        ("tiny-text", text, {"budget_ms": 1}, "INVALID_ARGUMENT", "is not a field"),
        ("tiny", [tensor("image", texts("x"))], {}, "INVALID_ARGUMENT", "not an image"),
    ]
    for model, inputs, parameters, code, message in cases:
        with pytest.raises(InferenceServerException, match=message) as caught:
            client.infer(model, inputs, parameters=parameters)
        assert caught.value.status() == f"StatusCode.{code}"
    with pytest.raises(InferenceServerException) as caught:
        client.infer("tiny-text", text, timeout=1)
    assert caught.value.status() == "StatusCode.DEADLINE_EXCEEDED"
    with pytest.raises(InferenceServerException) as caught:
        client.get_inference_statistics("tiny")
    assert caught.value.status() == "StatusCode.UNIMPLEMENTED"


def test_many_at_once_each_get_their_own(client: Any, text_model: Exits) -> None:
    given = [f"w{i} w{i + 1}" for i in range(16)]
    done: SimpleQueue[tuple[int, Any, Any]] = SimpleQueue()
    for i, text in enumerate(given):
        client.async_infer(
            "tiny-text",
            [tensor("text", texts(text))],
            lambda result, error, i=i: done.put((i, result, error)),
        )
    answers = sorted((done.get(timeout=30) for _ in given), key=lambda answer: answer[0])
    assert not any(error for _, _, error in answers)
    found = [result.as_numpy("embedding")[0] for _, result, _ in answers]
    np.testing.assert_allclose(found, alone(text_model, *given), atol=1e-5)


def test_the_asyncio_client(address: str, text_model: Exits) -> None:
    async def scenario() -> None:
        async with aio.InferenceServerClient(address) as client:
            assert await client.is_server_ready()
            inputs = [tensor("text", texts(*TEXTS))]
            answers = await asyncio.gather(*(client.infer("tiny-text", inputs) for _ in range(8)))
            for answer in answers:
                found = answer.as_numpy("embedding")
                np.testing.assert_allclose(found, alone(text_model, *TEXTS), atol=1e-5)
            with pytest.raises(InferenceServerException, match="is not served"):
                await client.infer("huge", inputs)

    asyncio.run(asyncio.wait_for(scenario(), 60))
