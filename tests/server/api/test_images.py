"""Every way in takes an image as it is displayed, and none changes raw pixels."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from numpy.typing import NDArray
from PIL import Image

from server.app import create_app
from server.settings import Settings
from tests.models.inputs.image_files import chunk, encoded, exif_of, stored_for
from tests.server.api.kserve.samples import HEADER, answered, binary, framed, tensor
from tests.server.listening import free_port, listening
from tests.server.samples import Connection, form, run, text_of

PIXELS = np.random.default_rng(3).integers(0, 256, (16, 16, 3), np.uint8)
UPRIGHT = encoded(PIXELS)
HALF = np.tile(np.array([0, 255], np.uint8), (16, 8))
ON_WHITE = np.where(HALF[..., None] == 255, PIXELS, np.uint8(255))
GREY = np.asarray(Image.fromarray(PIXELS).convert("L"))
TURNED_WEBP = encoded(stored_for(PIXELS, 7), "WEBP", lossless=True, exif=exif_of(7))
PAIRS = {
    "turned": (encoded(stored_for(PIXELS, 6), exif=exif_of(6)), UPRIGHT),
    "turned WebP": (
        encoded(stored_for(PIXELS, 7), "WEBP", lossless=True, exif=exif_of(7)),
        UPRIGHT,
    ),
    "transparent": (encoded(np.dstack([PIXELS, HALF])), encoded(ON_WHITE)),
    "sixteen bits": (encoded(GREY.astype(np.uint16) * 257), encoded(GREY)),
}
Ask = Callable[[TestClient, bytes], NDArray[Any]]


def by_task(outputs: Any) -> NDArray[Any]:
    return np.concatenate([list(one["probabilities"].values()) for one in outputs[0].values()])


def logits(response: Any) -> NDArray[Any]:
    return np.concatenate([one.ravel() for one in answered(response).values()])


def as_json(client: TestClient, file: bytes) -> NDArray[Any]:
    return by_task(client.post("/v1/infer", json={"image": text_of(file)}).json()["outputs"])


def as_url(client: TestClient, file: bytes) -> NDArray[Any]:
    url = f"data:image/png;base64,{text_of(file)}"
    return by_task(client.post("/v1/infer", json={"images": [url]}).json()["outputs"])


def as_form(client: TestClient, file: bytes) -> NDArray[Any]:
    body = form(('name="image"; filename="a.png"', file))
    headers = {"content-type": "multipart/form-data; boundary=edge"}
    return by_task(client.post("/v1/infer", content=body, headers=headers).json()["outputs"])


def as_kserve(client: TestClient, file: bytes) -> NDArray[Any]:
    request = {"inputs": [tensor("image", "BYTES", [1], [text_of(file)])]}
    return logits(client.post("/v2/models/tiny/infer", json=request))


def as_bytes(client: TestClient, file: bytes) -> NDArray[Any]:
    element = struct.pack("<I", len(file)) + file
    request = {"inputs": [binary("image", "BYTES", [1], len(element))]}
    body, headers = framed(request, element)
    return logits(client.post("/v2/models/tiny/infer", content=body, headers=headers))


def as_raw_body(client: TestClient, file: bytes) -> NDArray[Any]:
    return logits(client.post("/v2/models/tiny/infer", content=file, headers={HEADER: "0"}))


@pytest.mark.parametrize("pair", list(PAIRS))
@pytest.mark.parametrize("ask", [as_json, as_url, as_form, as_kserve, as_bytes, as_raw_body])
def test_every_way_in_takes_the_image_as_it_is_displayed(
    client: TestClient, ask: Ask, pair: str
) -> None:
    shown, plain = PAIRS[pair]
    np.testing.assert_allclose(ask(client, shown), ask(client, plain), atol=1e-6)
    assert np.abs(ask(client, plain) - ask(client, encoded(PIXELS[::-1, ::-1]))).max() > 1e-4


def test_so_does_grpc(text_settings: Settings) -> None:
    grpc = pytest.importorskip("tritonclient.grpc")
    port = free_port()

    def ask(client: Any, file: bytes) -> NDArray[Any]:
        given = grpc.InferInput("image", [1], "BYTES")
        given.set_data_from_numpy(np.array([file], dtype=np.object_))
        answer = client.infer("tiny", [given])
        names = [output.name for output in answer.get_response().outputs]
        return np.concatenate([answer.as_numpy(name).ravel() for name in names])

    with (
        listening(create_app(text_settings.model_copy(update={"grpc_port": port}))),
        grpc.InferenceServerClient(f"127.0.0.1:{port}") as client,
    ):
        for shown, plain in PAIRS.values():
            np.testing.assert_allclose(ask(client, shown), ask(client, plain), atol=1e-6)


def test_raw_pixels_are_what_they_are(client: TestClient) -> None:
    request = {"inputs": [tensor("rgb", "UINT8", [1, 16, 16, 3], PIXELS.ravel().tolist())]}
    response = client.post("/v2/models/tiny/infer", json=request)
    np.testing.assert_allclose(logits(response), as_kserve(client, UPRIGHT), atol=1e-6)


def test_a_request_of_too_many_pixels_is_told_which_setting(folder_settings: Settings) -> None:
    with TestClient(create_app(folder_settings)) as client:
        body = {"images": [text_of(UPRIGHT)] * 3}
        response = client.post("/v1/infer", json=body)
        assert response.status_code == 422
        assert response.json()["error"]["field"] == "images[2]"
        assert response.json()["error"]["message"] == (
            "images[2]: with this image the request has 768 pixels; at most 600 are allowed "
            "(max_pixels)"
        )
        request = {"inputs": [tensor("image", "BYTES", [3], [text_of(UPRIGHT)] * 3)]}
        response = client.post("/v2/models/tiny/infer", json=request)
        assert response.status_code == 400
        assert "image[2]: with this image the request has 768 pixels" in response.text
        assert client.post("/v1/infer", json={"images": [text_of(UPRIGHT)] * 2}).status_code == 200


@pytest.fixture
def folder_settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"max_pixels": 600})


def test_no_broken_image_is_the_servers_fault(client: TestClient) -> None:
    rng = np.random.default_rng(0)
    files = [file for pair in PAIRS.values() for file in pair]
    files += [encoded(PIXELS, "JPEG", exif=exif_of(6)), encoded(PIXELS, "JPEG", progressive=True)]
    files += [UPRIGHT[:33] + chunk(b"zTXt", b"k\0\0" + bytes(99)) + UPRIGHT[33:]]
    for i in range(200):
        data = bytearray(files[i % len(files)])
        for at in rng.integers(0, len(data), rng.integers(1, 6)):
            data[at] = rng.integers(0, 256)
        response = client.post("/v1/infer", json={"image": text_of(bytes(data))})
        assert response.status_code in (200, 422), response.text
        if response.status_code == 422:
            assert response.json()["error"]["field"] == "image"


def test_nothing_more_is_decoded_for_a_client_that_left(folder: Any) -> None:
    """The engine's room is free at once, and so are the threads."""
    app = create_app(Settings(models=folder, max_images=64, max_pixels=10**9, policy="fixed"))
    large = text_of(encoded(np.zeros((2000, 3000), np.uint8), compress_level=9))
    headers = {"content-type": "application/json"}

    async def scenario() -> None:
        async with app.router.lifespan_context(app):
            leaving = Connection("/v1/infer", headers)
            leaving.body(json.dumps({"images": [large] * 64}).encode())
            serving = asyncio.ensure_future(leaving.serve(app))
            await asyncio.sleep(0.3)
            assert not serving.done()
            leaving.leave()
            await serving
            other = Connection("/v1/infer", headers)
            other.body(json.dumps({"image": text_of(UPRIGHT)}).encode())
            await asyncio.wait_for(other.serve(app), 5)
            assert other.status == 200

    run(scenario())
