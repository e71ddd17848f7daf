"""The shipped models, served by the command, asked by Triton's clients."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.server.listening import free_port, unread

http = pytest.importorskip("tritonclient.http")
grpc = pytest.importorskip("tritonclient.grpc")

pytestmark = pytest.mark.slow

CLOSE = ("A man is playing a guitar.", "Someone plays the guitar.")
FAR = "The stock market fell sharply on Monday."


class Addresses(NamedTuple):
    """Where the server listens."""

    http: str
    grpc: str


@pytest.fixture(scope="module")
def addresses(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Addresses]:
    """Start the command; yield once it listens."""
    ports = free_port(), free_port()
    options = ["--port", str(ports[0]), "--grpc-port", str(ports[1])]
    command = [str(Path(sys.executable).parent / "rheostat"), "serve", *options]
    # A new folder: the first start times every step of the models.
    with unread(command, RHEOSTAT_PROFILES=str(tmp_path_factory.mktemp("profiles"))):
        yield Addresses(*(f"127.0.0.1:{port}" for port in ports))


@pytest.fixture(scope="module", params=["http", "grpc"])
def client(request: pytest.FixtureRequest, addresses: Addresses) -> Iterator[Any]:
    kind = {"http": http, "grpc": grpc}[request.param]
    with kind.InferenceServerClient(getattr(addresses, request.param)) as client:
        client.kind = kind
        yield client


def tensor(client: Any, name: str, datatype: str, array: NDArray[Any]) -> Any:
    found = client.kind.InferInput(name, list(array.shape), datatype)
    found.set_data_from_numpy(array)
    return found


def parameters(answer: Any) -> dict[str, Any]:
    response = answer.get_response()
    if isinstance(response, dict):
        found: dict[str, Any] = response["parameters"]
        return found
    return {
        name: getattr(value, value.WhichOneof("parameter_choice"))
        for name, value in response.parameters.items()
    }


def test_both_models_are_ready(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("minilm-2d")
    assert client.is_model_ready("cifar100-mtl")


def test_close_sentences_are_closer_than_far_ones_at_any_budget(client: Any) -> None:
    texts = np.array([text.encode() for text in (*CLOSE, FAR)], dtype=np.object_)
    spent = []
    for fraction in (1.0, 0.4, 0.2):
        answer = client.infer(
            "minilm-2d",
            [tensor(client, "text", "BYTES", texts)],
            parameters={"budget_fraction": fraction, "budget_strict": True},
        )
        vectors = answer.as_numpy("embedding")
        assert vectors.shape == (3, 384)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
        assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.2
        assert parameters(answer)["fraction"] <= fraction
        spent.append(parameters(answer)["flops"])
    assert spent == sorted(spent, reverse=True)
    assert spent[2] < 0.3 * spent[0]


def test_an_image_of_pixels_and_one_of_normalised_values_get_the_same_logits(
    client: Any, addresses: Addresses
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    wanted = [client.kind.InferRequestedOutput("fish")]
    raw = client.infer("cifar100-mtl", [tensor(client, "rgb", "UINT8", pixels)], outputs=wanted)
    config = httpx.get(f"http://{addresses.http}/v2/models/cifar100-mtl/config").json()
    mean, std = (
        np.array(config["parameters"][name]["string_value"].split(","), dtype=np.float64)
        for name in ("mean", "std")
    )
    values = ((pixels / 255 - mean) / std).transpose(0, 3, 1, 2).astype(np.float32)
    same = client.infer(
        "cifar100-mtl", [tensor(client, "pixel_values", "FP32", values)], outputs=wanted
    )
    assert raw.as_numpy("fish").shape == (2, 5)
    np.testing.assert_allclose(raw.as_numpy("fish"), same.as_numpy("fish"), atol=1e-3)
